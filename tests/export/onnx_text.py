"""Small graphs in ONNX's text format, and their outputs. `[conv] y = Conv (x, w)` is a node called conv."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from deploykit.core.values import Rewrite
from deploykit.export import contract

FULL_SCALE = 1e-5
"""How far two float32 computations of one function may lie apart, as a share of the largest output: sums of a hundred
products, associated differently or with weights rounded once more, differ by some 2⁻²⁴·√100 = 6e-7 of it."""


def parse(text: str, opset: int = 20, **weights: np.ndarray) -> ir.Model:
    """The model of a graph's text; `weights` become initializers. Types and shapes are inferred, as exporters do."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def compute(model: ir.Model, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs by name. ONNX Runtime runs the graph without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal, float32."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    """From 0.5 to 1.5, float32: variances."""
    return np.random.default_rng([seed, *shape]).uniform(0.5, 1.5, shape).astype(np.float32)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def weight(model: ir.Model, name: str) -> np.ndarray:
    constant = model.graph.initializers[name].const_value
    assert constant is not None
    return constant.numpy()


def rewritten(apply: Callable[[ir.Model], Rewrite], model: ir.Model, **inputs: np.ndarray) -> Rewrite:
    """Apply a pass, and assert that names and shapes of inputs and outputs, and the function, are unchanged."""
    interface, before = contract.graph_interface(model), compute(model, **inputs)
    rewrite = apply(model)
    contract.check_invariants(model, interface, rewrite.name)
    after = compute(model, **inputs)
    for name, expected in before.items():
        tolerance = FULL_SCALE * np.abs(expected).max() + np.finfo(np.float32).tiny  # below that, digits are missing
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=tolerance)
    return rewrite
