"""ONNX Runtime on the CPU: the default backend. Loading and running an engine needs no package except onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deploykit.backends.cpu_backend import CpuBackend
from deploykit.backends.interface import tensor_spec, tensor_types
from deploykit.backends.onnxruntime_package import find_package
from deploykit.backends.onnxruntime_profile import RunNode, read_profile
from deploykit.backends.sample_inputs import make_sample_inputs
from deploykit.core.errors import InputError
from deploykit.core.files import record_file
from deploykit.core.onnx_metadata import MODULE_KEY
from deploykit.core.onnx_outline import read_outline
from deploykit.core.products import find_products
from deploykit.core.values import Arrays, Engine, EngineLayer, ExecutedPrecision, Progress, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime
    from numpy.typing import NDArray

PROVIDER: Final = "CPUExecutionProvider"

ENGINE_FILE: Final = "onnxruntime.onnx"

FP16_CAVEAT: Final = (
    "ONNX Runtime's CPU provider computes in FP32 where it has no FP16 kernel (on x86-64: all arithmetic) and "
    "skips rounding of intermediate tensors: an export checks rounding and overflow of activations by emulation, and "
    "a GPU's arithmetic was not run"
)
"""Observed in the optimized graph of 1.31: at every optimization level, including none, it casts FP16 weights to FP32
and removes the Casts between nodes, including the graph's own first one. A test checks this."""


class OnnxRuntime(CpuBackend):
    """The CPU execution provider. The engine is the graph itself; for a Q/DQ graph it is the form from
    `onnxruntime_int8`.
    """

    name = "onnxruntime"
    opsets = range(7, 27)  # of 1.31; an older version reports it when it loads the graph

    @property
    def version(self) -> str:
        """The version of the library that is loaded. BackendError where none is installed."""
        return find_package().version

    def compile(self, graph: Path, folder: Path, progress: Progress | None = None) -> Engine:  # noqa: ARG002 - quick
        """Check that ONNX Runtime can load the graph; for a Q/DQ graph also write its INT8 form, `onnxruntime.onnx`.

        InputError where ONNX Runtime cannot run the file, or where `folder` cannot be written. Any other graph is its
        own engine and lies in `folder` already.
        """
        import onnx_ir as ir

        from deploykit.backends import onnxruntime_int8
        from deploykit.backends.graph_form import write_form

        inputs, outputs = read_session_interface(_open_session(graph))
        model = ir.load(graph)
        half = ir.DataType.FLOAT16 in tensor_types(model.graph)
        quantized = any(node.op_type == "QuantizeLinear" for node in model.graph)
        if quantized and onnxruntime_int8.adapt_graph(model):
            write_form(model, folder / ENGINE_FILE)
            graph = folder / ENGINE_FILE
            _open_session(graph)
        file = record_file(folder, str(graph.relative_to(folder)))
        return Engine(self.name, self.version, file, inputs, outputs, (FP16_CAVEAT,) if half else ())

    def load(self, engine: Engine, folder: Path) -> OnnxRuntimeRunner:
        """A runner of the engine's graph."""
        return open_graph(folder / engine.file.path)

    def read_executed_precision(self, engine: Engine, folder: Path) -> ExecutedPrecision:
        """The type each product's kernel multiplies in, by the name of its ONNX node."""
        import onnx_ir as ir

        from deploykit.backends import onnxruntime_receipt as receipt

        graph = folder / engine.file.path
        products = find_products(ir.load(graph).graph)
        with tempfile.TemporaryDirectory() as temporary:
            optimized = _optimize_graph(graph, Path(temporary), _session_options())[1]
        return ExecutedPrecision(receipt.EVIDENCE, receipt.read_arithmetic(optimized, products))

    def read_layers(self, engine: Engine, folder: Path, calls: int) -> tuple[EngineLayer, ...]:
        """The nodes that ran at batch 1, with the ONNX nodes that they compute; with times where `calls` is not 0."""
        import onnx_ir as ir

        from deploykit.backends import onnxruntime_receipt as receipt

        source = ir.load(folder / engine.file.path).graph
        with tempfile.TemporaryDirectory() as temporary:
            options = _session_options()
            options.enable_profiling = True
            options.profile_file_prefix = f"{temporary}/profile"
            session, optimized = _optimize_graph(folder / engine.file.path, Path(temporary), options)
            inputs = make_sample_inputs(engine.inputs, 1)
            with translate_errors():
                for _ in range(max(calls, 1)):
                    session.run(None, inputs)
            nodes = read_profile(Path(session.end_profiling()))
        kernels = receipt.match_kernels(optimized, find_products(source))
        return tuple(_list_layers(nodes, source, kernels, calls > 0))


def _optimize_graph(
    graph: Path, folder: Path, options: onnxruntime.SessionOptions
) -> tuple[onnxruntime.InferenceSession, ir.Graph]:
    """A session, and the graph that it computes, which is written into `folder`."""
    import onnx_ir as ir

    optimized = folder / "optimized.onnx"
    options.optimized_model_filepath = str(optimized)
    session = _open_session(graph, options)
    return session, ir.load(optimized).graph


def _list_layers(
    nodes: Sequence[RunNode], source: ir.Graph, kernels: dict[str, ir.Node], timed: bool
) -> Iterator[EngineLayer]:
    """`kernels`: the node of the optimized graph by the name of the product that it computes."""
    from deploykit.backends.onnxruntime_receipt import read_kernel_arithmetic

    modules = {node.name or "": node.metadata_props.get(MODULE_KEY, "") for node in source}
    products = {kernel.name or "": (name, read_kernel_arithmetic(kernel)) for name, kernel in kernels.items()}
    for node in nodes:
        name, arithmetic = products.get(node.name, (node.name, None))
        yield EngineLayer(
            name=node.name,
            kind=node.operator,
            arithmetic=arithmetic,
            tactic="",
            inputs=node.input_types,
            outputs=node.output_types,
            nodes=(name,) if name in modules else (),
            modules=(modules[name],) if modules.get(name) else (),
            time_us=node.time_us if timed else None,
        )


def open_graph(graph: Path) -> OnnxRuntimeRunner:
    """A runner of any ONNX file. InputError where ONNX Runtime cannot run it."""
    return OnnxRuntimeRunner(_open_session(graph))


def open_unoptimized(graph: Path) -> OnnxRuntimeRunner:
    """A runner that computes the file node by node without fusion, so that parity is measured for the graph as written.
    FP16 is still computed in FP32, see `FP16_CAVEAT`. InputError where ONNX Runtime cannot run the file.
    """
    import onnxruntime

    options = _session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return OnnxRuntimeRunner(_open_session(graph, options))


class OnnxRuntimeRunner:
    """One session; safe to call from several threads."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs, self.outputs = read_session_interface(session)
        self._names = [spec.name for spec in self.outputs]

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name. InputError where the arrays do not match the graph's inputs."""
        with translate_errors():
            return dict(zip(self._names, self._session.run(self._names, dict(arrays)), strict=True))


def _session_options() -> onnxruntime.SessionOptions:
    """Session options with ONNX Runtime's default optimizations, all enabled."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions
    return options


def _open_session(graph: Path, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = options or _session_options()
    with translate_errors(graph):
        disabled = [BIAS_QUANTIZATION] if has_half_scales(graph) else []
        return onnxruntime.InferenceSession(graph, options, providers=[PROVIDER], disabled_optimizers=disabled)


BIAS_QUANTIZATION: Final = "WeightBiasQuantization"
"""An optimization of 1.31 that stores bias / (scale · scale) in the type of the scales: in FP16 it overflows, and
outputs are silently wrong. On a GPU the biases are then dequantized on the CPU, and no CUDA graph can be used."""


def has_half_scales(path: Path) -> bool:
    """Whether quantization scales are FP16. False for an unreadable file, which ONNX Runtime then reports."""
    try:
        return read_outline(path).half_scales
    except (OSError, ValueError):
        return False


@contextmanager
def translate_errors(graph: Path | None = None) -> Iterator[None]:
    """Raise ONNX Runtime's exceptions, which share no base class, as InputError."""
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
                f"ONNX Runtime rejects these inputs: {reason}.",
                "Compare their names, types and values with the network's inputs: deploykit inspect.",
            ) from error
        unsupported = type(error).__name__ == "NotImplemented"  # BF16 convolutions, for example
        remedy = "Choose another --target." if unsupported else "The file may be damaged: export it again."
        raise InputError(f"ONNX Runtime cannot load {graph.name}: {reason}.", remedy) from error


def read_session_interface(
    session: onnxruntime.InferenceSession,
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The session's inputs and outputs."""
    return tuple(map(_argument_spec, session.get_inputs())), tuple(map(_argument_spec, session.get_outputs()))


_DTYPE_NAMES = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""ONNX Runtime's type names that differ from NumPy's."""


def _argument_spec(argument: onnxruntime.NodeArg) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else str(size or "batch") for size in argument.shape)
    return tensor_spec(
        argument.name, _DTYPE_NAMES.get(argument.type, argument.type.removeprefix("tensor(").removesuffix(")")), shape
    )
