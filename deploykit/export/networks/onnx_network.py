"""A network that came as an ONNX file. What it computes is what ONNX Runtime makes of that file, untouched."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import (
    Arrays,
    Backend,
    ExportedGraph,
    ExportRequest,
    Head,
    InputSpec,
    ModelSpec,
    Preprocessing,
    Runner,
    TensorSpec,
    WeightsRecord,
)
from deploykit.export.networks.images import image_like, told
from deploykit.export.networks.onnx_source import Source, open_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


ORACLE: Final = "onnxruntime"


class OnnxNetwork:
    """Any producer's graph, with its own interface: names, order of axes and number of outputs stay."""

    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __init__(self, request: ExportRequest, find_backend: Callable[[str], Backend]) -> None:
        self.request = request
        self._find_backend = find_backend
        if request.weights.kind != "own" or request.arguments:
            raise UsageError(f"{request.model} holds its weights itself.", "Leave --weights and --arch out.")
        if request.options.exporter != "auto":
            raise UsageError(f"{request.model} is exported already.", "Leave --exporter out.")
        if request.preprocess == "graph" and self.source.inputs[0].dtype != "uint8":
            raise UsageError(
                f"{request.model} keeps the inputs that it has, and --preprocess graph would change them.",
                "Leave it out.",
            )

    @cached_property
    def source(self) -> Source:
        """What the file says of itself."""
        return open_source(self.request.model)

    @property
    def weights(self) -> WeightsRecord:
        """Those of the file."""
        return WeightsRecord(self.source.path.name, trained=True, sha256=self.source.sha256)

    @cached_property
    def inputs(self) -> tuple[InputSpec, ...]:
        """With every size. InputError where the file leaves one open and the user does not say it."""
        said = {each.name: each for each in self.request.inputs}
        if unknown := sorted(set(said) - {each.name for each in self.source.inputs}):
            names = ", ".join(each.name for each in self.source.inputs)
            raise UsageError(f"{self.request.model} has no input {unknown[0]!r}.", f"It has {names}.")
        sized = self.request.image is not None and self.request.image.height is not None
        if sized and not any(len(each.shape) == 3 for each in self.source.inputs):
            raise UsageError(f"{self.request.model} takes no image.", "Leave --input-size out.")
        return tuple(self._sized(each, said.get(each.name)) for each in self.source.inputs)

    def _sized(self, own: InputSpec, said: InputSpec | None) -> InputSpec:
        image = self.request.image
        shape = own.shape
        if (
            said is None
            and image is not None
            and image.height is not None
            and image.width is not None
            and len(shape) == 3
        ):
            sizes = (image.height, image.width)
            said = InputSpec(own.name, (*sizes, shape[2]) if shape[2] in (1, 3) else (shape[0], *sizes), own.dtype)
        if said is None:
            if 0 in shape:
                raise InputError(
                    f"{self.request.model} leaves sizes of its input {own.name!r} open: N×{_size(shape)}.",
                    f"Engines have fixed sizes: give --input {own.name}=SHAPE:{own.dtype}, or --input-size for images.",
                )
            return own
        pairs = zip(shape, said.shape, strict=False)
        fits = len(said.shape) == len(shape) and all(size in (0, given) for size, given in pairs)
        if not fits or said.dtype != own.dtype:
            raise UsageError(
                f"{own.name!r} of {self.request.model} is N×{_size(shape)} {own.dtype}, and N×{_size(said.shape)} "
                f"{said.dtype} was said.",
                "Say what it has, or nothing.",
            )
        return said

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """From an image to its input, as the user says; None: it takes tensors."""
        image, (first, *others) = self.request.image, self.inputs
        if image is None and first.dtype == "uint8" and not others and image_like(self.inputs):
            height, width = first.shape[:2]  # it normalises by itself: pixels are all that it wants
            return Preprocessing(resize=max(height, width), height=height, width=width)
        return told(None, image, self.inputs, self.request.model)

    @cached_property
    def head(self) -> Head:
        """What its output means, as far as the graph shows it."""
        asked, source = self.request.head, self.source
        if asked == "embedding":
            raise UsageError(f"{self.request.model} keeps its outputs.", "Cut it before, or leave --head out.")
        if asked in ("logits", "probabilities") and len(source.outputs) > 1:
            raise UsageError(f"{self.request.model} has {len(source.outputs)} outputs.", "Leave --head out.")
        if asked is not None:
            return asked
        if not source.scores or self.preprocessing is None:
            return "tensors"
        return "probabilities" if source.ends_in_softmax else "logits"

    @cached_property
    def model(self) -> ModelSpec:
        """The function that is exported."""
        return ModelSpec(
            name=self.source.path.stem,
            family="ONNX file",
            paper=f"written by {self.source.producer}, opset {self.source.opset}",
            arguments={},
            preprocessing=self.preprocessing,
            head=self.head,
            preprocess="graph" if self.inputs[0].dtype == "uint8" and self.preprocessing is not None else "host",
            inputs=tuple(each.name for each in self.inputs),
            oracle=f"the original file in ONNX Runtime {self._find_backend(ORACLE).version}",
        )

    def write(self, folder: Path) -> ExportedGraph:
        """The file, rewritten to the contract."""
        from deploykit.export.networks.onnx_import import import_onnx

        options = self.request.options
        return import_onnx(self.source, self.inputs, self._answer_shapes(), options, self.weights, folder)

    def oracle(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Runner:
        """The file as it is, in ONNX Runtime; one that takes a single batch size is asked as often as it needs."""
        return _InPieces(self._original, self.source.batch, inputs, outputs)

    @cached_property
    def _original(self) -> Runner:
        file, runtime = self.source.path, self._find_backend(ORACLE)
        return runtime.load(runtime.compile(file, file.parent), file.parent)

    def _answer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each output of one sample, seen: what shape inference makes of foreign graphs is often less than all."""
        rows = self.source.batch or max(2, self.request.options.batch.minimum)
        zeros = {each.name: np.zeros((rows, *each.shape), each.dtype) for each in self.inputs}
        found = self._original.run(zeros)
        for name, array in found.items():
            if array.ndim == 0 or len(array) != rows:
                raise InputError(
                    f"{self.request.model}: the output {name!r} has the shape {_size(array.shape)} for {rows} samples.",
                    "Each output must have one row per sample: leave out what comes behind, such as choosing boxes.",
                )
        return {name: tuple(array.shape[1:]) for name, array in found.items()}


class _InPieces:
    """A runner of one batch size, for any number of rows."""

    def __init__(
        self, runner: Runner, size: int | None, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._runner = runner
        self._size = size

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, a row for each of the arrays' rows; the last piece is filled up with its last row."""
        rows = len(next(iter(arrays.values())))
        size = self._size or rows
        pieces = []
        for start in range(0, rows, size):
            piece = {name: array[start : start + size] for name, array in arrays.items()}
            lacking = size - len(next(iter(piece.values())))
            full = {name: np.concatenate([array, *[array[-1:]] * lacking]) for name, array in piece.items()}
            found = self._runner.run(full)
            pieces.append({name: array[: size - lacking] for name, array in found.items()})
        return {spec.name: np.concatenate([piece[spec.name] for piece in pieces]) for spec in self.outputs}


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(str(size or "?") for size in shape) or "1"
