"""A bundle where it serves: checked, opened, asked.

Needs NumPy, Pillow and the engine's own library: no PyTorch, no onnx, nothing that draws reports. A test installs just
that and asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import msgspec
import numpy as np

from deploykit.backends import backend as find_backend
from deploykit.backends import installed
from deploykit.backends.adapters import Recorded
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.open import first
from deploykit.bundle.verify import check_files, golden
from deploykit.core.errors import BackendError, InputError, UsageError
from deploykit.core.values import CLASSES, Arrays, Batch, BatchRange, Engine, Parity, Prediction, Runner, TensorSpec
from deploykit.evaluate.parity.compare import compare, untrained
from deploykit.evaluate.parity.tolerances import for_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

Image: TypeAlias = "NDArray[np.uint8] | bytes | str | os.PathLike[str]"
"""Pixels, H×W×3, uint8, RGB, of any size; an encoded image, such as the bytes of a JPEG; or the path of one."""

COMPILE_WHILE_LOADING: Final = ("onnxruntime", "openvino")
"""Backends whose engine is a graph: they run any bundle's, whoever judged it."""


def load(bundle: str | os.PathLike[str], backend: str | None = None) -> LoadedBundle:
    """The bundle in the folder `bundle`, ready to answer: every file's digest is checked, then the engine that was
    judged is loaded, or else the first beside it that this machine runs. Its golden vectors are not asked:
    `LoadedBundle.self_test` does that.

    With `backend`, only engines of that one are taken; `onnxruntime` and `openvino` also run the graph of a bundle that
    was judged by another.

    InputError for a folder that is no bundle; CheckFailed where a file is missing or not what was written; BackendError
    where no engine runs here: for want of its library, or since it was built for another GPU or version; UsageError for
    a backend that does not exist.
    """
    folder = Path(bundle)
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    try:
        engine, runner, passed_over = first(folder, manifest, _engines(folder, manifest, backend))
    except BackendError as error:
        others = [name for name in COMPILE_WHILE_LOADING if backend is None and installed(name)]
        if not others:
            raise
        raise BackendError(error.what, f"{error.remedy}, or in Python load it with backend={others[0]!r}") from error
    return LoadedBundle(folder, manifest, engine, runner, passed_over)


def verify(bundle: str | os.PathLike[str]) -> Manifest:
    """The manifest of a bundle with the parity of its golden vectors on this machine, behind a check of every file's
    digest: `verify(bundle).parity.passed` says whether it computes here what it computed when it was exported.

    Raises what `load` raises.
    """
    loaded = load(bundle)
    return msgspec.structs.replace(loaded.manifest, parity=loaded.self_test())


def predict(bundle: str | os.PathLike[str], images: Sequence[Image], best: int = 5) -> tuple[Prediction, ...]:
    """The `best` classes of each image, best first. Raises what `load` and `LoadedBundle.predict` raise."""
    return load(bundle).predict(images, best)


def self_tested(folder: Path, manifest: Manifest, engine: Engine, runner: Runner) -> Parity:
    """An engine's answers to the bundle's golden inputs, beside eager PyTorch's."""
    inputs, outputs = golden(folder, manifest)
    count = manifest.golden.count
    parity = compare(
        Recorded(manifest.inputs, manifest.outputs, outputs),
        runner,
        [Batch(inputs, (None,) * count)],
        for_precision(manifest.precision, manifest.weights.trained),
        msgspec.structs.replace(manifest.parity.data, count=count, labelled=False),
        manifest.model.head,
        (*untrained(manifest.weights), *engine.statements),
    )
    return msgspec.structs.replace(parity, oracle=manifest.model.oracle)


@final
class LoadedBundle:
    """A bundle and the engine in it that runs here. It is a Runner, and may be asked from several threads at once."""

    def __init__(
        self, folder: Path, manifest: Manifest, engine: Engine, runner: Runner, passed_over: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.engine = engine
        """What answers: `engine.backend`, `engine.version`, and in `engine.statements` what its figures do not say."""
        self.passed_over = passed_over
        """Why each engine that was tried before does not run here."""
        self.inputs: tuple[TensorSpec, ...] = runner.inputs
        self.outputs: tuple[TensorSpec, ...] = runner.outputs
        self.batch: BatchRange = manifest.batch
        """How many rows a call takes."""
        self.labels: tuple[str, ...] = _labels(folder, manifest)
        """Names of the classes, by their number; none where the bundle has none."""
        self._runner = runner

    def __repr__(self) -> str:
        return f"<{self.folder}: {self.manifest.model.name} {self.manifest.precision}, {self.engine.backend}>"

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, from inputs by name, each with a leading batch axis of `batch.minimum` to `batch.maximum`
        rows. Types and other sizes are those of `inputs`; float32 serves for float16 too.

        InputError where the arrays are others: nothing is converted or cut.
        """
        _require_fit(self.inputs, arrays, self.batch)
        return self._runner.run(arrays)

    def preprocess(self, images: Sequence[Image]) -> dict[str, NDArray[Any]]:
        """Images of any sizes as `run` takes them: decoded, resized, cropped and normalised as the manifest says, to
        the pixel what the network was judged with. N images give N rows.

        InputError for an image that is none; UsageError where the bundle does not say how images become inputs.
        """
        from deploykit.core.calibration.batches import as_input

        if not images:
            raise InputError("a batch without images was asked for.", "Give at least one.")
        pixels = [_pixels(image, number) for number, image in enumerate(images)]
        return {self.inputs[0].name: as_input(pixels, self.manifest.model)}

    def predict(self, images: Sequence[Image], best: int = 5) -> tuple[Prediction, ...]:
        """The `best` classes of each image, best first, with probabilities. As many images as there are: they go
        through the engine in batches that it takes.

        UsageError where the network tells no classes apart, and what `preprocess` raises.
        """
        if isinstance(images, str | bytes | os.PathLike):
            raise InputError("one image was given where several are taken.", "Give a list: predict([image]).")
        if best < 1:
            raise UsageError(f"the best {best} classes were asked for.", "Ask for 1 or more.")
        if self.manifest.model.head not in CLASSES:
            gives = "embeddings" if self.manifest.model.head == "embedding" else "tensors"
            raise UsageError(f"{self.folder} gives {gives}, which have no classes.", "Export it with --head logits.")
        if len(self.outputs) != 1:
            what = f"{self.folder} gives {len(self.outputs)} outputs, and classes are told by one."
            raise UsageError(what, "In Python, run gives all of them.")
        found: list[Prediction] = []
        for start in range(0, len(images), self.batch.maximum):
            chunk = images[start : start + self.batch.maximum]
            arrays, short = self.preprocess(chunk), self.batch.minimum - len(chunk)
            if short > 0:  # the last row again, until there are enough
                arrays = {name: np.concatenate([rows, rows[-1:].repeat(short, 0)]) for name, rows in arrays.items()}
            (answers,) = self.run(arrays).values()
            for number, image in enumerate(chunk):
                name = os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {start + number}"
                found.append(self._prediction(name, answers[number], best))
        return tuple(found)

    def self_test(self) -> Parity:
        """The golden inputs through this engine, beside what eager PyTorch answered when the bundle was made, by the
        tolerances of its precision. A service asks this once, at its start: it costs one call.
        """
        return self_tested(self.folder, self.manifest, self.engine, self._runner)

    def _prediction(self, name: str, answer: NDArray[Any], best: int) -> Prediction:
        scores = answer.astype(np.float64).reshape(-1)  # classes×1×1 is as good
        if self.manifest.model.head == "logits":
            weights = np.exp(scores - scores.max())
            scores = weights / weights.sum()
        order = [int(index) for index in np.argsort(-scores, kind="stable")[:best]]
        names = tuple(self.labels[index] if index < len(self.labels) else f"class {index}" for index in order)
        return Prediction(name, tuple(order), names, tuple(float(scores[index]) for index in order))


def _engines(folder: Path, manifest: Manifest, backend: str | None) -> Iterator[Engine]:
    """Those that may answer, the one that was judged first."""
    if backend is None:
        yield from manifest.engines
        return
    find_backend(backend)
    own = [engine for engine in manifest.engines if engine.backend == backend]
    if not own and backend not in COMPILE_WHILE_LOADING:
        raise BackendError(
            f"{folder} has no engine of {backend}.", f"Build it here: deploykit compile {folder} --target {backend}"
        )
    graph = manifest.files[manifest.graph.file]
    unjudged = f"the bundle was judged by {manifest.engine.backend}, not by {backend}: the self-test says what holds"
    yield from own or [Engine(backend, "", graph, manifest.inputs, manifest.outputs, (unjudged,))]


def _labels(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    if manifest.labels is None:
        return ()
    return tuple((folder / manifest.labels).read_text(encoding="utf-8").splitlines())


def _pixels(image: Image, number: int) -> NDArray[Any]:
    from deploykit.core import calibration
    from deploykit.core.calibration.image import decode_bytes

    if isinstance(image, bytes):
        return decode_bytes(image, f"image {number}")
    if isinstance(image, str | os.PathLike):
        return calibration.decode(Path(image))
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"image {number} is of type {type(image).__name__}.",
            "Give an array, H×W×3, uint8, RGB; the bytes of an encoded image; or its path.",
        )
    return image


def _require_fit(specs: tuple[TensorSpec, ...], arrays: Arrays, batch: BatchRange) -> None:
    """InputError where the arrays are not what the engine takes."""
    if (problem := _misfit(specs, arrays, batch)) is not None:
        raise InputError(f"{problem}.", f"It takes {', '.join(map(_called, specs))}.")


def _misfit(specs: tuple[TensorSpec, ...], arrays: Arrays, batch: BatchRange) -> str | None:
    """What is wrong with them, as a sentence."""
    given: Any = arrays
    if not isinstance(given, Mapping):
        return f"inputs are of type {type(given).__name__}, and no dictionary of arrays by name"
    names = [spec.name for spec in specs]
    if unknown := [name for name in arrays if name not in names]:
        return f"the bundle has no input {unknown[0]!r}"
    if lacking := [name for name in names if name not in arrays]:
        return f"the input {lacking[0]!r} is missing"
    rows = set()
    for spec in specs:
        array: Any = arrays[spec.name]
        if not isinstance(array, np.ndarray):
            return f"{spec.name} is of type {type(array).__name__}, and no array"
        if array.dtype != spec.dtype and (spec.dtype, array.dtype.name) != ("float16", "float32"):
            return f"{spec.name} is {array.dtype}"
        pairs = zip(array.shape[1:], spec.shape[1:], strict=False)
        if array.ndim != len(spec.shape) or any(isinstance(wanted, int) and size != wanted for size, wanted in pairs):
            return f"{spec.name} is {'×'.join(map(str, array.shape)) or 'a single number'}"
        rows.add(len(array))
    if len(rows) > 1:
        return f"the inputs have {' and '.join(map(str, sorted(rows)))} rows"
    (count,) = rows
    if not batch.minimum <= count <= batch.maximum:
        wanted = f"{batch.minimum} to {batch.maximum}" if batch.minimum < batch.maximum else f"{batch.minimum}"
        return f"a call takes {wanted} rows, not {count}"
    return None


def _called(spec: TensorSpec) -> str:
    """`input: float32, batch×3×32×32`."""
    return f"{spec.name}: {spec.dtype}, {'×'.join(map(str, spec.shape))}"
