"""A second count of a graph's multiply-accumulates, from the ONNX file alone: the oracle of the precision receipt.

It imports nothing of deploykit. Shapes are not inferred but observed: ONNX Runtime runs one image. Work is counted as
outputs × terms of each sum, where deploykit counts weights × positions.

    python tests/quantize/independent_macs.py BUNDLE…      prints both shares for each bundle; exit code 1: they differ
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime

RECURRENT = ("LSTM", "GRU", "RNN")
PRODUCTS = ("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", *RECURRENT)


class Count(NamedTuple):
    int8: int
    """Multiply-accumulates whose two operands are dequantized integers."""
    total: int
    uncounted: tuple[str, ...]
    """Names of products inside branches."""

    @property
    def int8_share(self) -> float:
        return self.int8 / self.total


def count(path: Path) -> Count:
    """Count the products of the graph at `path`, for one image."""
    model = onnx.load(path)
    graph, constants = model.graph, {tensor.name for tensor in model.graph.initializer}
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    products, nested = [], []
    for node in graph.node:
        nested += [inner.name for inner in _branch_nodes(node) if _is_product(inner)]
        if all(name in constants for name in node.input if name):
            constants.update(node.output)
        elif _is_product(node):
            products.append(node)
    shapes, batch = observe_shapes(model, products)
    macs = {node.name: multiply_accumulates(node, shapes) // batch for node in products}
    int8 = sum(macs[node.name] for node in products if set(node.input[:2]) <= dequantized)
    return Count(int8, sum(macs.values()), tuple(nested))


def observe_shapes(model: onnx.ModelProto, products: list[onnx.NodeProto]) -> tuple[dict[str, tuple[int, ...]], int]:
    """The shapes of all tensors that the products read and write, as ONNX Runtime computes them for one image, and the
    number of images where the graph fixes it.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        sizes = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = np.zeros(sizes, onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    names = {name for node in products for name in (*node.input, *node.output) if name} - set(shapes) - set(feeds)
    names -= {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    arrays = feeds | dict(zip(outputs, session.run(outputs, feeds), strict=True))
    return shapes | {name: array.shape for name, array in arrays.items()}, next(iter(feeds.values())).shape[0]


def _is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in PRODUCTS and (node.op_type != "Einsum" or len(node.input) > 1)


def multiply_accumulates(node: onnx.NodeProto, shape: dict[str, tuple[int, ...]]) -> int:
    """Outputs times the terms of each sum; for ConvTranspose inputs times the outputs that each feeds."""
    a, b, attributes = shape[node.input[0]], shape[node.input[1]], {item.name: item for item in node.attribute}
    if node.op_type in RECURRENT:
        directions, gates_times_hidden, inputs = b
        hidden = attributes["hidden_size"].i
        return a[0] * a[1] * directions * gates_times_hidden * (inputs + hidden)
    if node.op_type == "ConvTranspose":
        return math.prod(a) * math.prod(b[1:])
    if node.op_type == "Einsum":
        terms = attributes["equation"].s.decode().replace(" ", "").split("->")[0].split(",")
        labelled = [zip(term, sizes, strict=True) for term, sizes in zip(terms, (a, b), strict=True)]
        return math.prod(dict(pair for pairs in labelled for pair in pairs).values())
    if node.op_type == "Gemm":
        terms = a[0] if "transA" in attributes and attributes["transA"].i else a[1]
    else:
        terms = b[-2 if len(b) > 1 else 0] if node.op_type == "MatMul" else math.prod(b[1:])
    return math.prod(shape[node.output[0]]) * terms


def _branch_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    bodies = [item.g for item in node.attribute if item.type == onnx.AttributeProto.GRAPH]
    return [found for body in bodies for inner in body.node for found in (inner, *_branch_nodes(inner))]


def main(folders: list[str]) -> int:
    """Print the INT8 share of each bundle by this count and by its receipt."""
    differing = 0
    for folder in folders:
        counted = count(Path(folder) / "model.onnx")
        receipt = json.loads((Path(folder) / "manifest.json").read_text())["receipt"]
        layers, uncounted = receipt["layers"], {product["node"] for product in receipt.get("uncounted", ())}
        total = sum(layer["macs"] for layer in layers)
        requested = sum(layer["macs"] for layer in layers if layer["requested"] == "int8")
        executed = receipt["shares"].get("int8", 0)
        same = (requested, total, uncounted) == (counted.int8, counted.total, set(counted.uncounted))
        differing += not same
        print(
            f"{folder}: {counted.int8_share:.4%} of {counted.total} MACs INT8; "
            f"receipt: {requested / total:.4%} of {total} requested, {executed:.4%} executed, "
            f"{len(uncounted)} not counted" + ("" if same else "  DIFFERENT")
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
