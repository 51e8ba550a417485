"""Faults as deployment knows them, each put into a copy of a good bundle, and the stage that it belongs to.

The layer is the one in the middle of those that have what is changed. A fault of the graph is put into `model.onnx`,
from which the engine is then made again; a fault of the engine is put into the engine's file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from verdicts import bundle_edit as edit

Inject = Callable[[Path, Path], None]
"""(copy of the bundle, bundle of another network with the same interface) -> None."""


class Fault(NamedTuple):
    """A fault, the precision of the bundle that it is put into, and the stages that may be named for it."""

    name: str
    precision: str
    stages: tuple[str, ...]
    inject: Inject


FACTOR: Final = 4
"""Of a wrong scale."""

NOISE: Final = 0.05
"""Standard deviation of the noise over that of the weights."""

MULTIPLYING: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


# ── Preprocessing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def swap_channels(bundle: Path, _: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        preprocessing = manifest["model"]["preprocessing"]
        preprocessing["channels"] = "rgb" if preprocessing["channels"] == "bgr" else "bgr"

    edit.edit_manifest(bundle, change)


def zero_mean(bundle: Path, _: Path) -> None:
    edit.edit_preprocessing(bundle, mean=[0.0, 0.0, 0.0])


# ── Graphs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Layer(NamedTuple):
    """A node that multiplies by constants, with its tensors' initializers."""

    node: onnx.NodeProto
    weight: onnx.TensorProto
    """Numbers, or their INT8 codes."""
    weight_scale: onnx.TensorProto | None
    input_scale: onnx.TensorProto | None
    """Of the Q/DQ pair in front of it."""
    bias: onnx.TensorProto | None


def list_layers(graph: onnx.GraphProto) -> list[Layer]:
    """In the graph's order."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    writers = {output: node for node in graph.node for output in node.output}

    def find_constant(name: str) -> tuple[onnx.TensorProto | None, onnx.TensorProto | None]:
        """The initializer behind a Cast or DequantizeLinear, and its scale."""
        node = writers.get(name)
        if node is None:
            return constants.get(name), None
        if node.op_type == DEQUANTIZE and node.input[0] in constants:
            return constants[node.input[0]], constants.get(node.input[1])
        return (constants.get(node.input[0]), None) if node.op_type in ("Cast", "Identity") else (None, None)

    def find_pair_scale(name: str) -> onnx.TensorProto | None:
        node = writers.get(name)
        return constants.get(node.input[1]) if node is not None and node.op_type == DEQUANTIZE else None

    layers = []
    for node in graph.node:
        if node.op_type not in MULTIPLYING:
            continue
        weight, scale = find_constant(node.input[1])
        bias = find_constant(node.input[2])[0] if len(node.input) > 2 and node.input[2] else None
        if weight is not None:
            layers.append(Layer(node, weight, scale, find_pair_scale(node.input[0]), bias))
    return layers


def choose_layer(graph: onnx.GraphProto, attribute: str = "weight") -> Layer:
    """The middle one of the layers that have it."""
    layers = [layer for layer in list_layers(graph) if getattr(layer, attribute) is not None]
    if not layers:
        raise ValueError(f"no layer of the graph has a {attribute}")
    return layers[len(layers) // 2]


def multiply_input_scale(graph: onnx.GraphProto) -> None:
    """Both nodes of the pair: its steps become four times as coarse."""
    scale_tensor(choose_layer(graph, "input_scale").input_scale)


def multiply_weight_scale(graph: onnx.GraphProto) -> None:
    """The layer's weights become four times as large."""
    scale_tensor(choose_layer(graph, "weight_scale").weight_scale)


def scale_tensor(tensor: onnx.TensorProto | None) -> None:
    assert tensor is not None
    array = edit.read_array(tensor)
    edit.write_array(tensor, (array * FACTOR).astype(array.dtype))


def drop_bias(graph: onnx.GraphProto) -> None:
    bias = choose_layer(graph, "bias").bias
    assert bias is not None
    edit.write_array(bias, np.zeros_like(edit.read_array(bias)))


def add_weight_noise(graph: onnx.GraphProto) -> None:
    tensor = choose_layer(graph).weight
    edit.write_array(tensor, make_noisy(edit.read_array(tensor)))


def make_noisy(weight: NDArray[Any]) -> NDArray[Any]:
    """The weights with noise of 5 % of their standard deviation; codes stay whole and within their type."""
    exact = weight.astype(np.float64)
    noisy = exact + NOISE * exact.std() * np.random.default_rng(0).standard_normal(weight.shape)
    if np.issubdtype(weight.dtype, np.integer):
        limits = np.iinfo(weight.dtype)
        noisy = np.clip(np.rint(noisy), limits.min, limits.max)
    result: NDArray[Any] = noisy.astype(weight.dtype)
    return result


def in_graph(change: Callable[[onnx.GraphProto], None]) -> Inject:
    def inject(bundle: Path, _: Path) -> None:
        edit.rewrite_onnx(bundle, edit.GRAPH, change)
        edit.compile_again(bundle)

    return inject


# ── Engines ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_engine(change: Callable[[onnx.GraphProto], None]) -> Inject:
    def inject(bundle: Path, _: Path) -> None:
        edit.rewrite_onnx(bundle, edit.find_engine_file(bundle), change)

    return inject


def swap_graph(bundle: Path, other: Path) -> None:
    edit.replace_file(bundle, edit.GRAPH, other / edit.GRAPH)
    edit.compile_again(bundle)


def swap_engine(bundle: Path, other: Path) -> None:
    edit.replace_file(bundle, edit.find_engine_file(bundle), other / edit.find_engine_file(other))


EXPORT: Final = ("export",)
CAST: Final = ("cast",)
QDQ: Final = ("Q/DQ",)
ENGINE: Final = ("form", "engine")
"""A CPU backend's engine is a form of the graph, whose file is the engine's."""

FAULTS: Final = (
    Fault("channels swapped", "fp32", ("preprocessing",), swap_channels),
    Fault("wrong mean", "fp32", ("preprocessing",), zero_mean),
    Fault("bias dropped in the FP32 graph", "fp32", EXPORT, in_graph(drop_bias)),
    Fault("5 % noise on a layer of the FP32 graph", "fp32", EXPORT, in_graph(add_weight_noise)),
    Fault("another network's graph", "fp16", CAST, swap_graph),
    Fault("bias dropped in the FP16 graph", "fp16", CAST, in_graph(drop_bias)),
    Fault("5 % noise on a layer of the FP16 graph", "fp16", CAST, in_graph(add_weight_noise)),
    Fault("channels swapped", "int8", ("preprocessing",), swap_channels),
    Fault("wrong mean", "int8", ("preprocessing",), zero_mean),
    Fault("activation scale ×4", "int8", QDQ, in_graph(multiply_input_scale)),
    Fault("weight scale ×4", "int8", QDQ, in_graph(multiply_weight_scale)),
    Fault("bias dropped in the Q/DQ graph", "int8", QDQ, in_graph(drop_bias)),
    Fault("5 % noise on a layer of the Q/DQ graph", "int8", QDQ, in_graph(add_weight_noise)),
    Fault("another network's engine", "int8", ENGINE, swap_engine),
    Fault("bias dropped in the engine", "int8", ENGINE, in_engine(drop_bias)),
    Fault("5 % noise on a layer of the engine", "int8", ENGINE, in_engine(add_weight_noise)),
)
