"""A network from an ONNX file. Its oracle is the original file in ONNX Runtime."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deploykit.core.errors import InputError, UsageError
from deploykit.core.shapes import format_shape
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
from deploykit.export.networks.images import is_image_input, resolve_preprocessing
from deploykit.export.networks.onnx_outputs import FileOutput, measure_outputs
from deploykit.export.networks.onnx_source import OnnxSource, open_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


ORACLE: Final = "onnxruntime"

LARGEST_SINGLE_FILE: Final = 2**31 - 2**20
"""Protobuf's limit of 2 GiB, less a mebibyte for the graph itself."""


class OnnxNetwork:
    """A graph of any producer. Its interface is kept, except for outputs that no engine returns so (`onnx_outputs`)."""

    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __init__(self, request: ExportRequest, find_backend: Callable[[str], Backend]) -> None:
        self.request = request
        self._find_backend = find_backend
        if request.weights.kind != "own" or request.arguments:
            raise UsageError(f"{request.model} contains its weights.", "Leave --weights and --model-arg out.")
        if request.options.exporter != "auto":
            raise UsageError(f"{request.model} is exported already.", "Leave --exporter out.")
        if request.preprocess_in == "graph" and self.source.inputs[0].dtype != "uint8":
            raise UsageError(
                f"--preprocess-in graph would change the inputs of {request.model}, which are kept as they are.",
                "Leave it out.",
            )

    @cached_property
    def source(self) -> OnnxSource:
        """Inputs, outputs, opset and producer of the file."""
        return open_source(self.request.model)

    @property
    def weights(self) -> WeightsRecord:
        """The weights in the file."""
        return WeightsRecord(self.source.path.name, trained=True, sha256=self.source.sha256)

    @cached_property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs with all sizes. Raises InputError where the file and the user both leave one open."""
        requested = {spec.name: spec for spec in self.request.inputs}
        names = [spec.name for spec in self.source.inputs]
        if unknown := sorted(set(requested) - set(names)):
            raise UsageError(f"{self.request.model} has no input {unknown[0]!r}.", f"It has {', '.join(names)}.")
        has_image_size = self.request.image is not None and self.request.image.height is not None
        if has_image_size and not any(len(spec.shape) == 3 for spec in self.source.inputs):
            raise UsageError(f"{self.request.model} has no image input.", "Leave --input-size out.")
        return tuple(self._resolve_sizes(spec, requested.get(spec.name)) for spec in self.source.inputs)

    def _resolve_sizes(self, declared: InputSpec, requested: InputSpec | None) -> InputSpec:
        image, shape = self.request.image, declared.shape
        size = (image.height, image.width) if image is not None and image.height and image.width else None
        if requested is None and size is not None and len(shape) == 3:
            channels_last = shape[2] in (1, 3)
            sizes = (*size, shape[2]) if channels_last else (shape[0], *size)
            requested = InputSpec(declared.name, sizes, declared.dtype)
        if requested is None:
            if 0 in shape:
                raise InputError(
                    f"{self.request.model} leaves sizes of its input {declared.name!r} open: "
                    f"{_format_input_shape(shape)}.",
                    "Engines have fixed sizes: give --input-size for images, or "
                    f"--input {declared.name}=SHAPE:{declared.dtype}.",
                )
            return declared
        pairs = zip(shape, requested.shape, strict=False)
        fits = len(requested.shape) == len(shape) and all(size in (0, wanted) for size, wanted in pairs)
        if not fits or requested.dtype != declared.dtype:
            raise UsageError(
                f"The input {declared.name!r} of {self.request.model} is {_format_input_shape(shape)} "
                f"{declared.dtype}, "
                f"not {_format_input_shape(requested.shape)} {requested.dtype}.",
                "Give the sizes that it has, or leave --input and --input-size out.",
            )
        return requested

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing that the user gave; None for a network without image preprocessing."""
        image, (first, *others) = self.request.image, self.inputs
        if image is None and first.dtype == "uint8" and not others and is_image_input(self.inputs):
            height, width = first.shape[:2]  # it normalizes by itself and takes raw pixels
            return Preprocessing(resize=max(height, width), height=height, width=width)
        return resolve_preprocessing(None, image, self.inputs, self.request.model)

    @cached_property
    def head(self) -> Head:
        """The kind of output: requested, or recognized from the graph's end."""
        requested, source = self.request.head, self.source
        if requested == "embedding":
            raise UsageError(
                f"--head embedding would change the outputs of {self.request.model}, which are kept as they are.",
                "Remove its classifier before the export, or leave --head out.",
            )
        if requested in ("logits", "probabilities") and len(source.outputs) > 1:
            raise UsageError(f"{self.request.model} has {len(source.outputs)} outputs.", "Leave --head out.")
        if requested is not None:
            return requested
        if not source.is_score_vector or self.preprocessing is None:
            return "tensors"
        return "probabilities" if source.ends_in_softmax else "logits"

    @cached_property
    def model(self) -> ModelSpec:
        """The exported function."""
        return ModelSpec(
            name=self.source.path.stem,
            family="ONNX file",
            paper=f"written by {self.source.producer}, opset {self.source.opset}",
            arguments={},
            preprocessing=self.preprocessing,
            head=self.head,
            preprocess_in="graph" if self.inputs[0].dtype == "uint8" and self.preprocessing is not None else "host",
            inputs=tuple(spec.name for spec in self.inputs),
            oracle=f"the original file in ONNX Runtime {self._find_backend(ORACLE).version}",
        )

    def write_graph(self, folder: Path) -> ExportedGraph:
        """Rewrite the file to the export contract and save it in `folder`."""
        from deploykit.export.networks.onnx_import import import_onnx

        options = self.request.options
        return import_onnx(self.source, self.inputs, self._outputs, options, self.weights, folder)

    def oracle(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Runner:
        """Return the original file in ONNX Runtime; with a fixed batch size, it is run as often as needed."""
        return _FixedBatchRunner(self._original_runner, self._rows, inputs, outputs, self._outputs)

    @cached_property
    def _original_runner(self) -> Runner:
        file, runtime = self.source.path, self._find_backend(ORACLE)
        if self.source.repaired:
            self._folder = tempfile.TemporaryDirectory(prefix="deploykit-")  # removed with this object
            file = _write_repaired(file, Path(self._folder.name))
        return runtime.load(runtime.compile(file, file.parent), file.parent)

    @property
    def _rows(self) -> int | None:
        """The number of rows that the file takes; None where it takes any."""
        batch = self.request.options.batch
        return self.source.batch or (batch.optimum if batch.static else None)

    @cached_property
    def _outputs(self) -> tuple[FileOutput, ...]:
        batch = self.request.options.batch
        rows = self._rows or max(2, batch.minimum)
        return measure_outputs(self.request.model, rows, self._run_original, self.source.batch is not None, batch)

    def _run_original(self, rows: int, seed: int) -> Arrays:
        """The file's outputs for zeros, or for values like those of normalized pixels; integers are 0."""
        random, inputs = np.random.default_rng(seed), {}
        for spec in self.inputs:
            shape = (rows, *spec.shape)
            zeros = seed == 0 or spec.dtype.startswith("int")
            inputs[spec.name] = (np.zeros(shape) if zeros else random.integers(-128, 128, shape) / 64).astype(
                spec.dtype
            )
        return self._original_runner.run(inputs)


def _write_repaired(file: Path, folder: Path) -> Path:
    import onnx

    from deploykit.export.networks.onnx_repair import repair_model
    from deploykit.export.networks.onnx_source import read_model

    proto, copy = read_model(file), folder / file.name
    repair_model(proto)
    onnx.save(proto, copy, save_as_external_data=proto.ByteSize() > LARGEST_SINGLE_FILE)
    return copy


class _FixedBatchRunner:
    """Runs any number of rows on a runner of one batch size; a size of None runs all rows at once."""

    def __init__(
        self,
        runner: Runner,
        size: int | None,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        converted: tuple[FileOutput, ...],
    ) -> None:
        self._converted = {output.name: output for output in converted}
        self.inputs = inputs
        self.outputs = outputs
        self._runner = runner
        self._size = size

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Return outputs by name, one row per input row. The last chunk is padded with its last row."""
        rows = len(next(iter(arrays.values())))
        size = self._size or rows
        chunks = []
        for start in range(0, rows, size):
            inputs = {name: array[start : start + size] for name, array in arrays.items()}
            padding = size - len(next(iter(inputs.values())))
            padded = {name: np.concatenate([array, *[array[-1:]] * padding]) for name, array in inputs.items()}
            returned = self._runner.run(padded)
            outputs = {name: output.convert(returned[name]) for name, output in self._converted.items()}
            chunks.append({name: array[: size - padding] for name, array in outputs.items()})
        return {spec.name: np.concatenate([chunk[spec.name] for chunk in chunks]) for spec in self.outputs}


def _format_input_shape(shape: tuple[int, ...]) -> str:
    return format_shape(("N", *(size or "?" for size in shape)))
