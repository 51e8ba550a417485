"""Small graphs to quantize: in ONNX's text format, calibrated on an array, run without optimizations."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from deploykit.backends.onnxruntime import open_graph
from deploykit.core.values import CalibrationResult, DataRecord, Observer
from deploykit.quantize import int8
from deploykit.quantize.calibrate import add_graph_outputs, calibrate

X = np.random.default_rng(99).standard_normal((16, 4, 8, 8)).astype(np.float32)
"""Samples for graphs that read float[N,4,8,8] x."""


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal, float32."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


KERNELS = {f"w{i}": random(4, 4, 1, 1, seed=i) for i in range(6)}
"""Weights of 1×1 convolutions from four channels to four."""


def parse(text: str, opset: int = 20, **weights: np.ndarray) -> ir.Model:
    """The model of a graph's text; `weights` become initializers. Types and shapes are inferred, as exporters do."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def convolutional(body: str, opset: int = 20, **weights: np.ndarray) -> ir.Model:
    """The model whose nodes are `body`, from float[N,4,8,8] x to y, with the kernels that it reads."""
    used = {name: array for name, array in KERNELS.items() if f"{name})" in body or f"{name}," in body}
    return parse(f"g (float[N,4,8,8] x) => (float[N,A,B,C] y) {{ {body} }}", opset, **used, **weights)


def compute(model: ir.Model | Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs by name. ONNX Runtime runs the graph without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    proto = onnx.load(model) if isinstance(model, Path) else ir.to_proto(model)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def calibrated(source: Path, x: np.ndarray = X, half: bool = False, observer: Observer = "minmax") -> CalibrationResult:
    """Statistics of the graph's tensors on the samples `x`; with `half`, the range of every tensor."""
    placement, exposed = int8.plan_placement(source), source.with_name("exposed.onnx")
    tensors = {edge.tensor for edge in placement.edges}
    inputs = {edge.tensor for edge in placement.edges if edge.node in placement.layers}
    add_graph_outputs(source, exposed, None if half else tensors)
    data = DataRecord("toys", "calibration", len(x), True, False, "0" * 64)
    return calibrate(open_graph(exposed), [{"x": x}], data, tensors, inputs, observer)


def snr(reference: np.ndarray, given: np.ndarray) -> float:
    """Signal over noise in decibels."""
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - given).sum()))


def require_rtx(path: Path, *shape: int) -> None:
    """NVIDIA's compiler builds the graph at `path`, whose input x has that shape after the batch. It needs no GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (1, *shape), (2, *shape), (4, *shape))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
