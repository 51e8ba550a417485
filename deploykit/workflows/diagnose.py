"""Where does a bundle's error come from: at which stage, in which layer, for which samples.

    preprocessing   eager PyTorch, given what the manifest's preprocessing makes of an image, not the network's own
    export          the FP32 graph, traced anew or from the cache; an FP32 bundle's own
    typing          the bundle's graph with its Casts or Q/DQ pairs, computed as it is written, by no compiler
    form            what a backend made of that graph for itself, computed likewise
    engine          every engine of the bundle that this machine can load
    C++             the C++ library, which chooses its engine by itself

Behind the first one all are given what the manifest's preprocessing makes, so that a fault of it is named once.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import onnx_ir as ir

from deploykit.backends import backend as find_backend
from deploykit.backends import installed
from deploykit.backends.adapters import Fitted
from deploykit.backends.choice import reference
from deploykit.backends.weighted_layers import layers as multiplying
from deploykit.bundle import manifest as manifests
from deploykit.bundle.manifest import Manifest
from deploykit.bundle.open import loaded
from deploykit.bundle.verify import check_files
from deploykit.core import cpp_programs
from deploykit.core.calibration.batches import open_data, tensors
from deploykit.core.errors import BackendError, DeploykitError, InputError, UsageError
from deploykit.core.values import (
    CLASSES,
    Arrays,
    Backend,
    Engine,
    LayerErrors,
    ModelSpec,
    Progress,
    Runner,
    SampleAccount,
    Stages,
    TensorSample,
    Tolerance,
    WorstSample,
)
from deploykit.evaluate.parity import cpp_answers as cpp
from deploykit.evaluate.parity import samples as by_sample
from deploykit.evaluate.parity.compare import untrained
from deploykit.evaluate.parity.layer_errors import cut, given, points, powers, ranked
from deploykit.evaluate.parity.metrics import snr_db
from deploykit.evaluate.parity.stages import Walk, graph_name
from deploykit.evaluate.parity.tolerances import for_precision
from deploykit.export.layer_rows import layers as rows_of
from deploykit.quantize.calibrate import expose
from deploykit.workflows import precision
from deploykit.workflows import stages as steps
from deploykit.workflows.source_network import origin

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECORDED_MARGIN_DB: Final = 6.0
"""What a bundle's graph may lose beside what its manifest records of all stages together: twice the error. Typing alone
cannot be worse than everything, but for roundings that happened to cancel."""

FINER_FORM_DB: Final = 6.0
"""What it may lose besides where the judged engine is a form of its own: with 255 steps where the graph has 127, the
recorded answers had half the graph's rounding error at best."""

FROM_PYTHON: Final = (
    "the C++ library was given inputs that Python had preprocessed: its own preprocessing was not looked at"
)


class DiagnosedBundle:
    """A bundle, the network that it came from, and the samples to judge it on. What is asked twice is answered once.

    InputError where weights are others than the bundle's, or where samples were calibrated on; CheckFailed where files
    are not those that were written.
    """

    def __init__(
        self, folder: Path, data: str | None, samples: int | None, weights: str | None, progress: Progress
    ) -> None:
        manifest = manifests.read(folder)
        check_files(folder, manifest)
        self.folder = folder
        self.manifest = manifest
        self.network = origin(folder, manifest, weights, progress)
        asked = manifest.request
        taken = tensors(manifest.model, manifest.inputs)
        self.data = open_data(data or asked.data, "evaluation", samples or asked.samples, manifest.batch, taken)
        if (seen := manifest.calibration) is not None:
            precision.proven_disjoint(seen.data, seen.samples, self.data)
        self.progress = progress
        self.labels: tuple[int | None, ...] = ()
        """Of the samples, once somebody was asked: an image is decoded for its label too."""
        self._answered: dict[tuple[str, str], tuple[Engine, Arrays]] = {}

    def require_layers(self) -> None:
        """UsageError for a graph that no error was added to, or whose tensors nobody hands out."""
        if self.manifest.precision == "fp32":
            raise UsageError(
                f"{self.folder} is FP32: its graph is the exported one, and no layer of it adds an error to look for.",
                "Give --layers a bundle of another precision.",
            )
        if self.manifest.precision == "bf16":
            raise UsageError(f"{self.folder} is BF16, and no runtime hands out BF16 tensors.", "Look at its --stages.")

    def require_classes(self) -> None:
        """UsageError for a network that tells nothing apart."""
        head = self.manifest.model.head
        if head not in CLASSES:
            gives = "embeddings" if head == "embedding" else "tensors"
            raise UsageError(f"{self.folder} gives {gives}, which have no classes.", "Leave --worst out.")

    @property
    def bounds(self) -> Tolerance:
        """Of the bundle's precision."""
        return for_precision(self.manifest.precision, self.manifest.weights.trained)

    @cached_property
    def truth(self) -> Arrays:
        """Eager PyTorch's answers to what the network's own preprocessing makes of the samples. InputError where they
        hold what is no number: nothing can be judged by that.
        """
        answers = self.asked(self._eager, f"asking {self.network.model.oracle}", self.network.model)
        if not all(np.isfinite(array).all() for array in answers.values()):
            raise InputError(
                f"The network that {self.folder} was exported from gives NaN or infinity on {self.data.record.name}.",
                "Check its weights and the samples: there is nothing that the bundle could be compared with.",
            )
        return answers

    @property
    def true_preprocessing(self) -> bool:
        """Whether the manifest's is the network's own."""
        return self.manifest.model.preprocessing == self.network.model.preprocessing

    @cached_property
    def oracle(self) -> Arrays:
        """Eager PyTorch's answers to what the manifest's preprocessing makes of them."""
        if self.true_preprocessing:
            return self.truth
        return self.asked(self._eager, f"asking {self.network.model.oracle}, with the manifest's preprocessing")

    @cached_property
    def graph(self) -> Path:
        """The FP32 graph: an FP32 bundle's own, else traced anew or from the cache."""
        if self.manifest.precision == "fp32":
            return self.typed
        made = steps.export_graph(self.network.request, self.network, reference(), self.progress)
        return made.folder / made.exported.files[0].path

    @property
    def typed(self) -> Path:
        """The bundle's own graph."""
        return self.folder / self.manifest.graph.file

    @property
    def preprocessed_elsewhere(self) -> bool:
        """Whether the samples are inputs already, and no pictures."""
        first = self.data.samples[0]
        return isinstance(first, TensorSample) or first.image.dtype == np.float32

    @property
    def misfit(self) -> str | None:
        """Why the graph does not take what the manifest's preprocessing makes, as a sentence; None: it does."""
        made = next(self.data.batches(self.manifest.model)).inputs[self.manifest.inputs[0].name]
        spec = self.manifest.inputs[0]
        kind = "float32" if spec.dtype == "float16" else spec.dtype
        if (made.shape[1:], made.dtype.name) == (spec.shape[1:], kind):
            return None
        sizes, wanted = ("×".join(map(str, shape[1:])) for shape in (made.shape, spec.shape))
        return f"it makes inputs of {sizes}, {made.dtype.name}, and the graph takes {wanted}, {kind}"

    def asked(self, runner: Runner, title: str, model: ModelSpec | None = None) -> Arrays:
        """A runner's answers to all samples by output, preprocessed as `model` says, or else as the manifest does."""
        found: list[Arrays] = []
        labels: list[int | None] = []
        with self.progress.step(f"{title} about {self.data.record.name}", self.data.length) as advance:
            for batch in self.data.batches(model or self.manifest.model, advance):
                outputs = runner.run(batch.inputs)
                found.append({spec.name: np.array(outputs[spec.name]) for spec in runner.outputs})
                labels += batch.labels
        self.labels = tuple(labels)
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    def answered(self, engine: Engine) -> tuple[Engine, Arrays]:
        """An engine of the bundle and its answers. BackendError where it cannot run here."""
        key = engine.backend, engine.file.path
        if key not in self._answered:
            found, runner = loaded(self.folder, self.manifest, engine)
            self._answered[key] = found, self.asked(runner, f"asking {found.backend}")
        return self._answered[key]

    @property
    def judged(self) -> Arrays:
        """Answers of the engine that the bundle was judged by, or of the next one that runs here."""
        refusal: BackendError | None = None
        for engine in self.manifest.engines:
            try:
                return self.answered(engine)[1]
            except BackendError as error:
                refusal = refusal or error
        assert refusal is not None, "a bundle has an engine"
        raise refusal

    @cached_property
    def _eager(self) -> Runner:
        return self.network.oracle(self.manifest.inputs, self.manifest.outputs)


def stages(subject: DiagnosedBundle) -> Stages:
    """Every stage from pixels to an application's answer, judged beside the one before."""
    manifest, bounds = subject.manifest, subject.bounds
    walk = Walk(subject.truth, subject.data.record, manifest.model.head, bounds)
    statements = [*untrained(manifest.weights), *_differences(subject)]
    if _preprocessing(subject, walk):
        _graphs(subject, walk)
        statements += _engines(subject, walk)
    return walk.account(tuple(dict.fromkeys(statements)))


def _preprocessing(subject: DiagnosedBundle, walk: Walk) -> bool:
    """Whether the stages behind it can be looked at."""
    name, exact = "the manifest's preprocessing", for_precision("fp32", subject.manifest.weights.trained)
    if (problem := subject.misfit) is not None:
        walk.fail("preprocessing", name, exact, problem)
        return False
    if subject.preprocessed_elsewhere:
        walk.skip("preprocessing", name, exact, "the samples are inputs already, preprocessed elsewhere")
    else:
        walk.add("preprocessing", name, exact, subject.oracle, walk.before)
        walk.before = subject.oracle
    return True


def _graphs(subject: DiagnosedBundle, walk: Walk) -> None:
    """The FP32 graph, and what typing made of it."""
    exact = for_precision("fp32", subject.manifest.weights.trained)
    backend = reference()
    with _running(backend, subject.graph, _copy) as runner:
        answers = subject.asked(runner, "asking the FP32 graph")
    own = ", the bundle's own" if subject.manifest.precision == "fp32" else ""
    walk.add("export", f"the FP32 graph{own}, in {backend.identity}", exact, answers, walk.before)
    walk.before = answers
    if subject.manifest.precision == "fp32":
        return
    name = f"{graph_name(subject.manifest.precision)}, as written"
    try:
        answers = subject.asked(_as_written(subject.typed), f"asking {name}")
    except (BackendError, InputError) as error:
        walk.skip("typing", name, subject.bounds, error.what)
        return
    walk.add("typing", name, _as_recorded(subject), answers, walk.before)
    walk.before = answers


def _as_recorded(subject: DiagnosedBundle) -> Tolerance:
    """Of the bundle's precision, and no worse than at its export: on the same samples, the manifest knows what all
    stages together came to. The bounds alone would let a range pass that is several times too wide.
    """
    recorded, bounds = subject.manifest.parity, subject.bounds
    known = [output.snr_db for output in recorded.outputs if output.snr_db is not None]
    same_samples = recorded.data.sha256 == subject.data.record.sha256
    if not (same_samples and subject.true_preprocessing and known):
        return bounds
    has_form = subject.manifest.engine.file.path != subject.manifest.graph.file
    least = min(known) - RECORDED_MARGIN_DB - (FINER_FORM_DB if has_form else 0)
    if least <= bounds.min_snr_db:
        return bounds
    times = "four times" if has_form else "twice"
    reason = (
        f"on the same samples the whole bundle had {min(known):.1f} dB at its export; {times} that error is allowed"
    )
    return msgspec.structs.replace(
        bounds,
        name=f"{bounds.name} (as recorded)",
        min_snr_db=least,
        reasons={**bounds.reasons, "min_snr_db": reason},
    )


def _engines(subject: DiagnosedBundle, walk: Walk) -> list[str]:
    """Every engine that can be loaded here, and the C++ library; what must be said of them."""
    statements: list[str] = []
    answers: dict[str, Arrays] = {}
    for engine in subject.manifest.engines:
        behind = _form(subject, walk, engine)
        try:
            found, given = subject.answered(engine)
        except BackendError as error:
            walk.skip("engine", f"{engine.backend} {engine.version}", subject.bounds, str(error))
            continue
        walk.add("engine", f"{found.backend} {found.version}", subject.bounds, given, behind)
        answers.setdefault(engine.file.path, given)
        statements += found.statements
    return statements + _cpp(subject, walk, answers)


def _form(subject: DiagnosedBundle, walk: Walk, engine: Engine) -> Arrays:
    """What the engine's stage is judged beside: the answers of the backend's own form of the graph, computed as it is
    written, where it has one that this machine can compute; else those of the stage before.
    """
    if engine.build is not None or engine.file.path == subject.manifest.graph.file:
        return walk.before
    name = f"{engine.backend}'s form of {graph_name(subject.manifest.precision)}, as written"
    try:
        answers = subject.asked(_as_written(subject.folder / engine.file.path), f"asking {name}")
    except (BackendError, InputError) as error:
        walk.skip("form", name, subject.bounds, error.what)
        return walk.before
    walk.add("form", name, subject.bounds, answers, walk.before)
    return answers


def _cpp(subject: DiagnosedBundle, walk: Walk, engines: Mapping[str, Arrays]) -> list[str]:
    """Beside the same engine in Python where that is one of the bundle's, else beside the first of them."""
    try:
        program = cpp_programs.build(cpp_programs.BENCH, subject.progress) / "deploykit-answer"
    except BackendError as error:
        walk.skip("C++", "the C++ library", subject.bounds, str(error))
        return []
    types = {spec.name: spec.dtype for spec in subject.manifest.inputs}
    outputs = [spec.name for spec in subject.manifest.outputs]
    with subject.progress.step("asking the C++ library", subject.data.length) as advance:
        batches = subject.data.batches(subject.manifest.model, advance)
        inputs = (
            {name: batch.inputs[name].astype(dtype, copy=False) for name, dtype in types.items()} for batch in batches
        )
        try:
            said, given = cpp.answers(program, subject.folder, inputs, subject.data.size, list(types), outputs)
        except BackendError as error:
            walk.skip("C++", "the C++ library", subject.bounds, str(error))
            return []
        except DeploykitError as error:
            walk.fail("C++", "the C++ library", subject.bounds, str(error).rstrip("."))
            return []
    behind = engines.get(said.file, next(iter(engines.values()), walk.before))
    walk.add("C++", f"{said.runtime} in C++, {said.file}", subject.bounds, given, behind)
    given_images = [FROM_PYTHON] if subject.manifest.model.preprocessing is not None else []
    return [*given_images, *(f"the C++ library passed over {reason}" for reason in said.passed_over)]


def layers(subject: DiagnosedBundle) -> LayerErrors:
    """Every tensor that survives fusion: how far it is from the FP32 graph's, and how much of that its layer added.

    UsageError as from `require_layers`.
    """
    subject.require_layers()
    manifest = subject.manifest
    graph = ir.load(subject.graph).graph
    where = points(graph, {node.name or "" for node in multiplying(graph)})
    present = {output.name for node in ir.load(subject.typed).graph for output in node.outputs}
    tensors = [point.tensor for point in where if point.tensor in present]
    whole, compiler = reference(), _compiler(manifest)
    identity = "ONNX Runtime, as it is written," if compiler is None else compiler.identity
    with _running(compiler, subject.typed, _copy) as runner:
        plain = subject.asked(runner, f"asking {identity}")
    looking, ends = partial(expose, tensors=tensors), list[Arrays]()
    with (
        _running(whole, subject.graph, looking) as exported,
        _running(compiler, subject.typed, looking) as typed,
        _running(whole, subject.graph, partial(cut, tensors=tensors)) as pieces,
    ):
        measured = powers(_side_by_side(subject, exported, typed, pieces, ends))
    looked = {name: np.concatenate([end[name] for end in ends]) for name in plain}
    found = ranked(where, measured, {row.name: row for row in rows_of(subject.graph)})
    statements = [
        *untrained(manifest.weights),
        f"tensors are those that {identity} hands out, beside the FP32 graph's in {whole.identity}",
    ]
    if len(found) < len(where):
        lost = len(where) - len(found)
        statements.append(f"{lost} of {len(where)} tensors of the FP32 graph have no counterpart in the bundle's")
    if (moved := _moved(plain, looked)) is not None:
        statements.append(
            f"looking at the tensors moves the output (SNR {moved:.1f} dB beside the one without): the compiler fuses "
            "otherwise then, and what is finer than that is no error of the engine itself"
        )
    return LayerErrors(found, subject.data.record, moved, tuple(statements))


def _compiler(manifest: Manifest) -> Backend | None:
    """Whose engine the bundle was judged by, or the next one that can build and run here; None: there is none."""
    for engine in manifest.engines:
        if installed(engine.backend):
            backend = find_backend(engine.backend, manifest.request.build_options)
            if backend.obstacle() is None and backend.build_obstacle() is None:
                return backend
    return None


@contextmanager
def _running(backend: Backend | None, graph: Path, make: Callable[[Path, Path], None]) -> Iterator[Runner]:
    """What `make` writes of a graph, compiled by `backend` in a folder of its own, or computed as it is written."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / graph.name
        make(graph, file)
        if backend is None:
            yield _as_written(file)
        else:
            yield Fitted(backend.load(backend.compile(file, file.parent), file.parent))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    data = source.with_name(f"{source.name}.data")
    if data.is_file():
        shutil.copyfile(data, target.with_name(data.name))


def _as_written(graph: Path) -> Runner:
    """Computed node by node. BackendError where ONNX Runtime is not installed, InputError where it refuses."""
    find_backend("onnxruntime")
    from deploykit.backends.onnxruntime import open_as_written

    return Fitted(open_as_written(graph))


def _side_by_side(
    subject: DiagnosedBundle, exported: Runner, typed: Runner, pieces: Runner, ends: list[Arrays]
) -> Iterator[tuple[Arrays, Arrays, Arrays]]:
    """The tensors of all three batch by batch; what the typed graph gives in the end is kept in `ends`."""
    names = {given(spec.name): spec.name for spec in typed.outputs}
    wanted = [spec.name for spec in pieces.inputs]
    with subject.progress.step("looking at its layers", subject.data.length) as advance:
        for batch in subject.data.batches(subject.manifest.model, advance):
            got = typed.run(batch.inputs)
            ends.append({spec.name: np.array(got[spec.name]) for spec in subject.manifest.outputs})
            pieces_get = {name: got[names[name]] if name in names else batch.inputs[name] for name in wanted}
            yield exported.run(batch.inputs), got, pieces.run(pieces_get)


def _moved(plain: Arrays, looked: Arrays) -> float | None:
    """SNR of the outputs with all tensors looked at, the worst one's; None: they are the same bit by bit."""
    found = [snr_db(plain[name], looked[name]) for name in plain]
    return min((snr for snr in found if snr is not None), default=None)


def samples(subject: DiagnosedBundle, worst: int) -> SampleAccount:
    """Answers class by class, where the samples have labels, and the `worst` samples: those of the engine that the
    bundle was judged by, or of the next one that runs here, beside eager PyTorch's.

    UsageError as from `require_classes`, InputError for labels that the network has no class for.
    """
    subject.require_classes()
    manifest = subject.manifest
    name = manifest.outputs[0].name
    said, says = subject.truth[name], subject.judged[name]
    names = _class_names(subject, said.shape[1])
    _require_known(subject.labels, len(names))
    far = by_sample.divergences(said, says, manifest.model.head)
    order = sorted(range(len(far)), key=lambda index: -far[index])[:worst]
    return SampleAccount(
        by_sample.changes(said, says, subject.labels, names),
        tuple(_worst(subject, index, names, far[index], said, says) for index in order),
        subject.data.record,
    )


def _worst(
    subject: DiagnosedBundle, index: int, names: Sequence[str], far: float, said: NDArray[Any], says: NDArray[Any]
) -> WorstSample:
    sample = subject.data.samples[index]
    return WorstSample(
        sample.name,
        None if sample.label is None else names[sample.label],
        names[int(said[index].argmax())],
        names[int(says[index].argmax())],
        far,
        "" if isinstance(sample, TensorSample) else by_sample.thumbnail(sample.image),
    )


def _class_names(subject: DiagnosedBundle, count: int) -> tuple[str, ...]:
    """The bundle's labels; a class without one has its number."""
    file = subject.manifest.labels
    labels = [] if file is None else (subject.folder / file).read_text(encoding="utf-8").splitlines()
    return tuple(labels[index] if index < len(labels) else f"class {index}" for index in range(count))


def _require_known(labels: Sequence[int | None], count: int) -> None:
    """Refuse data with other classes than the network's."""
    known = [label for label in labels if label is not None]
    if known and not 0 <= min(known) <= max(known) < count:
        raise InputError(
            f"the data has labels from {min(known)} to {max(known)}, the network {count} classes.",
            "Compare on data that has the classes the network was trained for.",
        )


def _differences(subject: DiagnosedBundle) -> list[str]:
    """Fields of the manifest's preprocessing that are not the network's own."""
    packed, true = subject.manifest.model.preprocessing, subject.network.model.preprocessing
    if packed is None or true is None:
        return [] if packed == true else ["images become inputs in another way than the network's own"]
    found, own = msgspec.structs.asdict(packed), msgspec.structs.asdict(true)
    return [
        f"the manifest's preprocessing has {name} {_text(found[name])}, the network's own {_text(own[name])}"
        for name in own
        if found[name] != own[name]
    ]


def _text(field: object) -> str:
    return ", ".join(f"{number:g}" for number in field) if isinstance(field, tuple) else f"{field}"
