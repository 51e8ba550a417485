"""OpenVINO: INT8 graphs at the speed of INT8 on x86-64, where ONNX Runtime computes them in floating point."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from deploykit.backends import openvino_receipt as receipt
from deploykit.backends.interface import interface, types_inside
from deploykit.backends.weighted_layers import layers
from deploykit.core.errors import BackendError, InputError
from deploykit.core.files import record
from deploykit.core.onnx_outline import outline
from deploykit.core.values import Arrays, BuildOptions, Engine, EngineLayer, Executed, Progress, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    import openvino
    from numpy.typing import NDArray

DEVICE: Final = "CPU"

ENGINE_FILE: Final = "openvino.onnx"

ANY: Final = BuildOptions()

SETTINGS: Final = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
"""Left to itself, OpenVINO computes FP32 graphs in BF16 or FP16 where the processor can: then a parity verdict would
be about another precision than the graph's. LATENCY: one call gets all cores, as the other runners do it."""

HALF_IS_FLOAT: Final = (
    "OpenVINO is asked for FP32 and computes what the graph types FP16 in FP32, without the roundings in between: the "
    "graph's types and the rounding of its weights were checked, the rounding and overflow of its activations were "
    "not, nor FP16 arithmetic"
)
"""Seen in 2026.4: its execution graph is f32 throughout, the graph's own Casts gone. A test holds it to that."""

BFLOAT_IS_CUT: Final = (
    "OpenVINO computes what the graph types BF16 in BF16 with FP32 sums where the processor has BF16 instructions, "
    "else in FP32, and where the graph casts FP32 to BF16 it cuts the bits off instead of rounding to nearest"
)
"""Seen in 2026.4, whatever precision is asked for. A test holds it to that."""


class OpenVino:
    """The CPU plugin. Its engine is the graph itself, compiled while loading, in a second or two; of a Q/DQ graph it is
    the form that `openvino_int8` gives it.
    """

    name = "openvino"
    opsets = range(7, 27)  # computed as ONNX Runtime does, by 2026.4; it refuses none by its number

    @property
    def version(self) -> str:
        """Of the installed package. BackendError where there is none."""
        try:
            return metadata.version("openvino")
        except metadata.PackageNotFoundError:
            raise BackendError("OpenVINO is not installed.", "pip install 'deploykit[openvino]'") from None

    def __init__(self, options: BuildOptions = ANY) -> None:
        pass

    @property
    def identity(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"

    def obstacle(self) -> str | None:
        """None: any machine that it installs on has a CPU."""
        return None

    def build_obstacle(self) -> str | None:
        """None, for the same reason."""
        return None

    def compile(self, graph: Path, folder: Path, progress: Progress | None = None) -> Engine:  # noqa: ARG002 - quick
        """Check that OpenVINO takes the graph. Only of a Q/DQ graph something is written: `openvino.onnx`.

        InputError where the file is not a graph that OpenVINO can run, or where `folder` cannot be written. A graph
        that is its own engine lies in `folder` already.
        """
        model = _parsed(graph)
        inputs, outputs = interface(model.graph)
        statements = _statements(model.graph)
        if any(node.op_type == "QuantizeLinear" for node in model.graph):
            graph = _write_int8_form(model, graph, folder)
        _compiled(_read(graph), graph)
        file = record(folder, str(graph.relative_to(folder)))
        return Engine(self.name, self.version, file, inputs, outputs, statements)

    def load(self, engine: Engine, folder: Path) -> OpenVinoRunner:
        """The engine's graph, compiled."""
        graph = folder / engine.file.path
        _require_graph(graph)
        return OpenVinoRunner(_compiled(_read(graph), graph), engine.inputs, engine.outputs)

    def layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:  # noqa: ARG002
        """None: the engine is a graph, whose nodes `inspect` shows."""
        return ()

    def executed(self, engine: Engine, folder: Path) -> Executed:
        """What each layer's kernel multiplies, by the name of its ONNX node."""
        graph = folder / engine.file.path
        model = _read(graph)
        marks = receipt.mark(model, layers(_parsed(graph).graph))
        return Executed(receipt.EVIDENCE, receipt.read(_compiled(model, graph).get_runtime_model(), marks))


class OpenVinoRunner:
    """A compiled graph; safe to call from several threads, each of which gets a request of its own."""

    def __init__(
        self, compiled: openvino.CompiledModel, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._compiled = compiled
        self._of_thread = threading.local()  # a request per call instead would cost 0.16 ms each

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name, the caller's to keep. InputError where the arrays do not fit the graph's inputs."""
        if problem := _misfit(self.inputs, arrays):
            raise InputError(
                f"OpenVINO refuses these inputs: {problem}.",
                "Compare their names, types and values with what the network takes.",
            )
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        try:
            given = self._of_thread.request.infer(dict(arrays), share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed while computing: {_reason(error)}.", "Report it.") from error
        return {spec.name: given[spec.name] for spec in self.outputs}


def _misfit(specs: tuple[TensorSpec, ...], arrays: Arrays) -> str | None:
    """Why the arrays do not fit: OpenVINO itself would convert other types silently. None: they do."""
    names = [spec.name for spec in specs]
    if extra := [name for name in arrays if name not in names]:
        return f"the graph has no input {extra[0]}"
    for spec in specs:
        if spec.name not in arrays:
            return f"the input {spec.name} is missing"
        array: Any = arrays[spec.name]
        if not isinstance(array, np.ndarray):
            return f"{spec.name} is no array"
        if array.dtype != spec.dtype:
            return f"{spec.name} is {array.dtype}, not {spec.dtype}"
        pairs = zip(array.shape, spec.shape, strict=False)
        if array.ndim != len(spec.shape) or any(isinstance(s, int) and s != size for size, s in pairs):
            return f"{spec.name} is {'×'.join(map(str, array.shape))}, not {'×'.join(map(str, spec.shape))}"
    return None


def _statements(graph: ir.Graph) -> tuple[str, ...]:
    import onnx_ir as ir

    types = types_inside(graph)
    said = {ir.DataType.FLOAT16: HALF_IS_FLOAT, ir.DataType.BFLOAT16: BFLOAT_IS_CUT}
    return tuple(statement for dtype, statement in said.items() if dtype in types)


def _write_int8_form(model: ir.Model, graph: Path, folder: Path) -> Path:
    """The file to compile: OpenVINO's own form of the Q/DQ graph, or the graph where that has nothing to rewrite."""
    from deploykit.backends import openvino_int8
    from deploykit.backends.graph_form import write_form

    if not openvino_int8.adapt(model):
        return graph
    write_form(model, folder / ENGINE_FILE)
    return folder / ENGINE_FILE


def _parsed(graph: Path) -> ir.Model:
    """The file as ONNX."""
    import onnx_ir as ir
    from google.protobuf.message import DecodeError

    _require_graph(graph)
    try:
        return ir.load(graph)
    except DecodeError as error:
        raise _refused(graph, NO_GRAPH) from error


def _require_graph(graph: Path) -> None:
    """Asked first: of a file that is no ONNX graph, OpenVINO tries every format it knows, with noise."""
    try:
        outputs = outline(graph).outputs
    except OSError as error:
        raise _refused(graph, error.strerror or str(error)) from error
    except ValueError as error:
        raise _refused(graph, NO_GRAPH) from error
    if not outputs:
        raise _refused(graph, "it holds no graph")


NO_GRAPH: Final = "it is no ONNX graph, or a part of one"


def _read(graph: Path) -> openvino.Model:
    with _explained(graph):
        return _library().Core().read_model(graph)


def _compiled(model: openvino.Model, graph: Path) -> openvino.CompiledModel:
    with _explained(graph):
        return _library().Core().compile_model(model, DEVICE, dict(SETTINGS))


def _library() -> Any:
    """The module. Importing it sends an event to a web service unless the package openvino-telemetry is missing, so it
    is missing meanwhile: nobody was asked, and a build machine may have no network.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    held = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]
        if held is not None:
            sys.modules["openvino_telemetry"] = held
    return openvino


@contextmanager
def _explained(graph: Path) -> Iterator[None]:
    """OpenVINO's exceptions, all of them RuntimeErrors of many lines, in our words."""
    try:
        yield
    except RuntimeError as error:
        raise _refused(graph, _reason(error)) from error


def _refused(graph: Path, reason: str) -> InputError:
    remedy = "Choose another --target; where that fails too, the file may be damaged: export it again."
    return InputError(f"OpenVINO cannot load {graph.name}: {reason}.", remedy)


def _reason(error: Exception) -> str:
    """The last line that tells the cause: before it stand places in OpenVINO's sources, behind it names of operators
    that fell with it.
    """
    lines = [line.strip(" -.") for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(UNTOLD)]
    return told[-1] if told else type(error).__name__


UNTOLD: Final = ("Exception from ", "Check '", "Summary:", "Conversion is failed for: ")
