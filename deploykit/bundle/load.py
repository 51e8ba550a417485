"""Load a bundle and run it: verify checksums, load an engine, preprocess, predict, self-test.

Needs NumPy, Pillow and the engine's library, and neither PyTorch, onnx nor the report's packages. A test installs only
those and runs it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

import msgspec
import numpy as np

from deploykit.backends import is_installed
from deploykit.backends.adapters import ReplayRunner
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.open import GRAPH_BACKENDS, open_fastest
from deploykit.bundle.verify import check_files, read_golden
from deploykit.core.errors import BackendError, InputError, UsageError
from deploykit.core.input_check import find_input_mismatch
from deploykit.core.shapes import format_shape
from deploykit.core.values import (
    CLASSIFIER_HEADS,
    Arrays,
    Batch,
    BatchRange,
    Engine,
    Parity,
    Prediction,
    Runner,
    TensorSpec,
)
from deploykit.evaluate.parity.compare import compare_runners, untrained_caveats

if TYPE_CHECKING:
    from numpy.typing import NDArray

Image: TypeAlias = "NDArray[np.uint8] | bytes | str | os.PathLike[str]"
"""Pixels, H×W×3, uint8, RGB, of any size; the bytes of an encoded image, such as a JPEG; or its path."""


def load(bundle: str | os.PathLike[str], backend: str | None = None) -> LoadedBundle:
    """Load the bundle in the folder `bundle`: verify every file's checksum, then load the primary engine. Where
    that failed parity at export or does not run here, the fastest extra engine that passed and runs is loaded instead,
    and `LoadedBundle.skipped_engines` says why. The golden vectors are not run; `LoadedBundle.self_test` does that.

    With `backend`, only engines of that backend are considered, and none replaces them; `onnxruntime` and `openvino`
    also run the graph of a bundle that has no engine of theirs.

    InputError if the folder is not a bundle; CheckFailed if a file is missing or damaged; BackendError if no engine
    runs here, because its library is missing or because it was built for another GPU or version; UsageError for an
    unknown backend.
    """
    folder = Path(bundle)
    manifest = manifests.read_manifest(folder)
    check_files(folder, manifest)
    try:
        engine, runner, skipped = open_fastest(folder, manifest, backend)
    except BackendError as error:
        others = [name for name in GRAPH_BACKENDS if backend is None and is_installed(name)]
        if not others:
            raise
        raise BackendError(
            error.what, f"In Python, load it with backend={others[0]!r} instead. {error.remedy}"
        ) from error
    return LoadedBundle(folder, manifest, engine, runner, skipped)


def verify(bundle: str | os.PathLike[str], backend: str | None = None) -> Manifest:
    """Verify every file's checksum and run the golden vectors on this machine, in the engine that `load` chooses.
    Returns the manifest with `parity` replaced by the result: `verify(bundle).parity.passed` tells whether outputs
    match those of the export.

    Raises the errors of `load`.
    """
    loaded = load(bundle, backend)
    return msgspec.structs.replace(loaded.manifest, parity=loaded.self_test())


def predict(
    bundle: str | os.PathLike[str], images: Sequence[Image], best: int = 5, backend: str | None = None
) -> tuple[Prediction, ...]:
    """Predict the `best` most probable classes of each image. Raises the errors of `load` and `preprocess`."""
    return load(bundle, backend).predict(images, best)


def run_self_test(folder: Path, manifest: Manifest, engine: Engine, runner: Runner) -> Parity:
    """Compare an engine's outputs for the bundle's golden inputs with eager PyTorch's."""
    inputs, outputs = read_golden(folder, manifest)
    count = manifest.golden.count
    parity = compare_runners(
        ReplayRunner(manifest.inputs, manifest.outputs, outputs),
        runner,
        [Batch(inputs, (None,) * count)],
        manifest.parity.tolerance,
        msgspec.structs.replace(manifest.parity.data, count=count, labelled=False),
        manifest.model.head,
        (*untrained_caveats(manifest.weights), *engine.caveats),
    )
    return msgspec.structs.replace(parity, oracle=manifest.model.oracle)


@final
class LoadedBundle:
    """A bundle with a loaded engine. It is a Runner and can be called from several threads at once."""

    def __init__(
        self, folder: Path, manifest: Manifest, engine: Engine, runner: Runner, skipped_engines: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.engine = engine
        """The loaded engine: `engine.backend`, `engine.version`, and restrictions in `engine.caveats`."""
        self.skipped_engines = skipped_engines
        """Reason why each engine before this one was not loaded: it does not run here, or it failed at export."""
        self.inputs: tuple[TensorSpec, ...] = runner.inputs
        self.outputs: tuple[TensorSpec, ...] = runner.outputs
        self.batch: BatchRange = manifest.batch
        """Accepted batch sizes."""
        self.labels: tuple[str, ...] = _read_labels(folder, manifest)
        """Class names by index; empty if the bundle has none."""
        self._runner = runner

    def __repr__(self) -> str:
        return f"<{self.folder}: {self.manifest.model.name} {self.manifest.precision}, {self.engine.backend}>"

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Compute outputs by name from inputs by name, each with a leading batch axis of `batch.minimum` to
        `batch.maximum` rows. Data types and other sizes are those of `inputs`; float16 inputs also accept float32.

        InputError if the arrays do not match: nothing is converted or cropped.
        """
        _require_matching(self.inputs, arrays, self.batch)
        return self._runner.run(arrays)

    def preprocess(self, images: Sequence[Image]) -> dict[str, NDArray[Any]]:
        """Decode, resize, crop and normalize N images of any size to N rows of input for `run`, exactly as the manifest
        specifies and as parity was evaluated.

        InputError if something is not an image; UsageError if the bundle has no image preprocessing.
        """
        from deploykit.core.calibration.batches import make_inputs

        if not images:
            raise InputError("the list of images is empty.", "Give at least one image.")
        pixels = [_decode_pixels(image, number) for number, image in enumerate(images)]
        return {self.inputs[0].name: make_inputs(pixels, self.manifest.model)}

    def predict(self, images: Sequence[Image], best: int = 5) -> tuple[Prediction, ...]:
        """Predict the `best` most probable classes of each image, best first. Any number of images is split into
        batches that the engine accepts.

        UsageError if the network's output is not class scores; also the errors of `preprocess`.
        """
        if isinstance(images, str | bytes | os.PathLike):
            raise InputError("predict takes a list of images, not a single one.", "Give a list: predict([image]).")
        if best < 1:
            raise UsageError(f"the number of classes to predict is {best}.", "Give 1 or more.")
        if self.manifest.model.head not in CLASSIFIER_HEADS:
            kind = "embeddings" if self.manifest.model.head == "embedding" else "tensors"
            raise UsageError(f"{self.folder} outputs {kind}, not class scores.", "Export it with --head logits.")
        if len(self.outputs) != 1:
            what = f"{self.folder} has {len(self.outputs)} outputs, and predict needs a single one with class scores."
            raise UsageError(what, "In Python, use run, which returns all outputs.")
        predictions: list[Prediction] = []
        for start in range(0, len(images), self.batch.maximum):
            chunk = images[start : start + self.batch.maximum]
            arrays, padding = self.preprocess(chunk), self.batch.minimum - len(chunk)
            if padding > 0:  # repeat the last row up to the smallest batch
                arrays = {name: np.concatenate([rows, rows[-1:].repeat(padding, 0)]) for name, rows in arrays.items()}
            (outputs,) = self.run(arrays).values()
            for number, image in enumerate(chunk):
                name = os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {start + number}"
                predictions.append(self._rank_classes(name, outputs[number], best))
        return tuple(predictions)

    def self_test(self) -> Parity:
        """Compare this engine's outputs for the golden inputs with eager PyTorch's at export time, within the tolerance
        of the bundle's precision. A service should call this once at startup; it costs one inference call.
        """
        return run_self_test(self.folder, self.manifest, self.engine, self._runner)

    def _rank_classes(self, name: str, output: NDArray[Any], best: int) -> Prediction:
        scores = output.astype(np.float64).reshape(-1)  # also accepts classes×1×1
        if self.manifest.model.head == "logits":
            exponentials = np.exp(scores - scores.max())
            scores = exponentials / exponentials.sum()
        order = [int(index) for index in np.argsort(-scores, kind="stable")[:best]]
        names = tuple(self.labels[index] if index < len(self.labels) else f"class {index}" for index in order)
        return Prediction(name, tuple(order), names, tuple(float(scores[index]) for index in order))


def _read_labels(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    if manifest.labels is None:
        return ()
    return tuple((folder / manifest.labels).read_text(encoding="utf-8").splitlines())


def _decode_pixels(image: Image, number: int) -> NDArray[Any]:
    from deploykit.core import calibration
    from deploykit.core.calibration.image import decode_image_bytes

    if isinstance(image, bytes):
        return decode_image_bytes(image, f"image {number}")
    if isinstance(image, str | os.PathLike):
        return calibration.decode_image(Path(image))
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"image {number} is of type {type(image).__name__}.",
            "Give an array, H×W×3, uint8, RGB; the bytes of an encoded image; or its path.",
        )
    return image


def _require_matching(specs: tuple[TensorSpec, ...], arrays: Arrays, batch: BatchRange) -> None:
    """InputError if the arrays do not match the engine's inputs."""
    if (problem := find_input_mismatch(specs, arrays, "bundle", batch, accept_float32=True)) is not None:
        raise InputError(f"{problem}.", f"The inputs are {', '.join(map(_format_spec, specs))}.")


def _format_spec(spec: TensorSpec) -> str:
    """`input: float32, batch×3×32×32`."""
    return f"{spec.name}: {spec.dtype}, {format_shape(spec.shape)}"
