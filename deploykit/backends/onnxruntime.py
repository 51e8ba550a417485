"""ONNX Runtime: the embedded default, on any machine. To load and run an engine it needs no package but its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploykit.backends.interface import tensor_spec, types_inside
from deploykit.backends.weighted_layers import layers
from deploykit.core.errors import BackendError, InputError
from deploykit.core.files import record
from deploykit.core.onnx_outline import outline
from deploykit.core.values import Arrays, BuildOptions, Engine, EngineLayer, Executed, Progress, TensorSpec

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

PROVIDER: Final = "CPUExecutionProvider"

ANY: Final = BuildOptions()

ENGINE_FILE: Final = "onnxruntime.onnx"

HALF_ON_CPU: Final = (
    "ONNX Runtime's CPU provider computes in FP32 where it has no FP16 kernel, which on x86-64 is all arithmetic, and "
    "leaves out nearly all roundings in between: the graph's types and the rounding of its weights were checked, the "
    "rounding and overflow of its activations were not, nor a GPU's arithmetic"
)
"""Seen in the graph that 1.31 saves as optimized: at every level, off included, it casts FP16 weights to FP32 and
removes the Casts between nodes, the graph's own first one among them. A test holds it to that."""


class OnnxRuntime:
    """The CPU execution provider. Its engine is the graph itself, which it optimizes while loading, in a second or two;
    of a Q/DQ graph it is the form that `onnxruntime_int8` gives it.
    """

    name = "onnxruntime"
    opsets = range(7, 27)  # of 1.31; an older one says so itself when it loads

    @property
    def version(self) -> str:
        """Of the installed package, whichever of the two that own the import name it is."""
        for package in ("onnxruntime", "onnxruntime-gpu"):
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        raise BackendError("ONNX Runtime is not installed.", "pip install 'deploykit[cpu]'")

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
        """Check that ONNX Runtime takes the graph. Only of a Q/DQ graph something is written: `onnxruntime.onnx`.

        InputError where the file is not a graph that ONNX Runtime can run, or where `folder` cannot be written. A graph
        that is its own engine lies in `folder` already.
        """
        import onnx_ir as ir

        from deploykit.backends import onnxruntime_int8
        from deploykit.backends.graph_form import write_form

        inputs, outputs = _interface(_session(graph))
        model = ir.load(graph)
        half = ir.DataType.FLOAT16 in types_inside(model.graph)
        quantized = any(node.op_type == "QuantizeLinear" for node in model.graph)
        if quantized and onnxruntime_int8.adapt(model):
            write_form(model, folder / ENGINE_FILE)
            graph = folder / ENGINE_FILE
            _session(graph)
        file = record(folder, str(graph.relative_to(folder)))
        return Engine(self.name, self.version, file, inputs, outputs, (HALF_ON_CPU,) if half else ())

    def load(self, engine: Engine, folder: Path) -> OnnxRuntimeRunner:
        """A session on the engine's graph."""
        return open_graph(folder / engine.file.path)

    def layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:  # noqa: ARG002
        """None: the engine is a graph, whose nodes `inspect` shows."""
        return ()

    def executed(self, engine: Engine, folder: Path) -> Executed:
        """What each layer's kernel multiplies, by the name of its ONNX node."""
        import onnx_ir as ir

        from deploykit.backends import onnxruntime_receipt as receipt

        graph = folder / engine.file.path
        with tempfile.TemporaryDirectory() as temporary:
            optimized = Path(temporary) / "optimized.onnx"
            options = _options()
            options.optimized_model_filepath = str(optimized)
            _session(graph, options)
            kernels = ir.load(optimized).graph
            return Executed(receipt.EVIDENCE, receipt.read(kernels, layers(ir.load(graph).graph)))


def open_graph(graph: Path) -> OnnxRuntimeRunner:
    """A runner for any ONNX file. InputError where the file is not a graph that ONNX Runtime can run."""
    return OnnxRuntimeRunner(_session(graph))


def open_as_written(graph: Path) -> OnnxRuntimeRunner:
    """A runner that computes a file node by node: nothing is fused, so that what is judged is the graph and not what a
    compiler made of it. FP16 all the same is computed in FP32, see `HALF_ON_CPU`. InputError as above.
    """
    import onnxruntime

    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return OnnxRuntimeRunner(_session(graph, options))


class OnnxRuntimeRunner:
    """One session; safe to call from several threads."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs, self.outputs = _interface(session)
        self._names = [spec.name for spec in self.outputs]

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name. InputError where the arrays do not fit the graph's inputs."""
        with _explained():
            return dict(zip(self._names, self._session.run(self._names, dict(arrays)), strict=True))


def _options() -> onnxruntime.SessionOptions:
    """With all optimizations, until somebody changes that."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes back as an exception
    return options


def _session(graph: Path, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = options or _options()
    with _explained(graph):
        left_out = [BIAS_QUANTIZATION] if _has_half_scales(graph) else []
        return onnxruntime.InferenceSession(graph, options, providers=[PROVIDER], disabled_optimizers=left_out)


BIAS_QUANTIZATION: Final = "WeightBiasQuantization"
"""An optimization of 1.31 that holds bias / (scale · scale) in the scales' own type: in FP16 it overflows, and answers
are wrong without a word."""


def _has_half_scales(path: Path) -> bool:
    """Of a file that is no graph, ONNX Runtime itself says what is wrong."""
    try:
        return outline(path).half_scales
    except (OSError, ValueError):
        return False


@contextmanager
def _explained(graph: Path | None = None) -> Iterator[None]:
    """ONNX Runtime's exceptions, which share no base class of their own, in our words."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] not in {"onnxruntime", "builtins"}:
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        if graph is None:
            raise InputError(
                f"ONNX Runtime refuses these inputs: {reason}.",
                "Compare their names, types and values with what the network takes.",
            ) from error
        lacking = type(error).__name__ == "NotImplemented"  # BF16 convolutions, for one
        remedy = "Choose another --target." if lacking else "The file may be damaged: export it again."
        raise InputError(f"ONNX Runtime cannot load {graph.name}: {reason}.", remedy) from error


def _interface(session: onnxruntime.InferenceSession) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    return tuple(map(_spec, session.get_inputs())), tuple(map(_spec, session.get_outputs()))


_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""What ONNX Runtime calls otherwise than NumPy."""


def _spec(argument: onnxruntime.NodeArg) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else str(size or "batch") for size in argument.shape)
    return tensor_spec(
        argument.name, _DTYPES.get(argument.type, argument.type.removeprefix("tensor(").removesuffix(")")), shape
    )
