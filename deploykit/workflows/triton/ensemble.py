"""Preprocessing on the server: a small ONNX graph in front of the network, and an ensemble that calls both.

The graph takes cropped images (N×height×width×3, uint8, RGB) and gives what the network takes. It computes nothing: a
table holds what each of 256 values becomes in each channel, read off `calibration.preprocess`, so that it is exact on
every processor, and any server that runs the network runs it too. Resizing and cropping stay with the client, which
sends a quarter of the bytes in return: pixels instead of floating-point numbers.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deploykit.core.calibration.preprocess import preprocess
from deploykit.core.values import Preprocessing, TensorSpec
from deploykit.workflows.triton.served import Model, Port, Step, Warmup, WarmupInput

PIXELS: Final = "pixels"

OPSET: Final = 17
IR_VERSION: Final = 8
"""Of ONNX 1.12: older than what any network of ours asks of a server."""


def takes(spec: TensorSpec, preprocessing: Preprocessing) -> bool:
    """Whether an input is what `preprocessing` makes of an image."""
    return spec.dtype in ("float32", "float16") and spec.shape[1:] == _taken(preprocessing)


def graph(spec: TensorSpec, preprocessing: Preprocessing, pixels: str) -> bytes:
    """The ONNX graph from the input `pixels` to an output named and typed as the network's input `spec`. Names within
    begin with the latter, so that they are neither of the two.
    """
    from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

    first = spec.shape[0]
    planar = preprocessing.layout == "NCHW"
    axis, shift = (1, (1, 3, 1, 1)) if planar else (3, (1, 1, 1, 3))
    constants = {
        f"{spec.name}/table": table(preprocessing).astype(spec.dtype).reshape(-1),
        f"{spec.name}/row": (256 * np.arange(3, dtype=np.int32)).reshape(shift),
    }
    nodes: list[NodeProto] = []
    at = pixels

    def append(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], f"node {len(nodes)}", **attributes))
        return output

    if planar:
        at = append("Transpose", [at], f"{spec.name}/planes", perm=(0, 3, 1, 2))
    if preprocessing.channels == "bgr":
        constants[f"{spec.name}/order"] = np.array([2, 1, 0], dtype=np.int32)
        at = append("Gather", [at, f"{spec.name}/order"], f"{spec.name}/ordered", axis=axis)
    at = append("Cast", [at], f"{spec.name}/values", to=TensorProto.INT32)
    at = append("Add", [at, f"{spec.name}/row"], f"{spec.name}/places")
    append("Gather", [f"{spec.name}/table", at], spec.name)
    kind = TensorProto.FLOAT16 if spec.dtype == "float16" else TensorProto.FLOAT
    made = helper.make_graph(
        nodes,
        "preprocess",
        [helper.make_tensor_value_info(pixels, TensorProto.UINT8, (first, *_pixels(preprocessing)))],
        [helper.make_tensor_value_info(spec.name, kind, spec.shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="deploykit"
    )
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def table(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """3×256: what each value becomes in each of the network's channels. An image that holds every value once, in all
    three channels, goes through the reference and comes out as the table.
    """
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    plain = msgspec.structs.replace(preprocessing, resize=16, height=16, width=16, layout="NCHW")
    return preprocess(ramp, plain).reshape(3, 256)


def models(network: Model, spec: TensorSpec, preprocessing: Preprocessing) -> tuple[Model, Model]:
    """The model that preprocesses, and the ensemble of it and `network`, whose input `spec` it feeds."""
    pixels = free(PIXELS, network)
    size = _pixels(preprocessing)
    (fed,) = (port for port in network.inputs if port.name == spec.name)
    taken = Port(pixels, "uint8", (*fed.dims[:-3], *size), "NHWC")
    warmups = tuple(
        Warmup(warmup.name, warmup.batch, (WarmupInput(pixels, "uint8", (*tensor.dims[:-3], *size), None),))
        for warmup in network.warmups
        for tensor in warmup.inputs
        if tensor.name == spec.name
    )
    front = Model(
        name=f"{network.name}-preprocess",
        platform="onnxruntime_onnx",
        inputs=(taken,),
        outputs=(msgspec.structs.replace(fed, layout=None),),
        max_batch=network.max_batch,
        preferred=network.preferred,
        queue_delay_us=network.queue_delay_us,
        instances=network.instances and msgspec.structs.replace(network.instances, dla_core=None),
        warmups=warmups,
    )
    whole = Model(
        name=f"{network.name}-ensemble",
        platform="ensemble",
        inputs=tuple(taken if port.name == spec.name else port for port in network.inputs),
        outputs=network.outputs,
        max_batch=network.max_batch,
        steps=(
            Step(front.name, {pixels: pixels}, {spec.name: spec.name}),
            Step(network.name, _itself(network.inputs), _itself(network.outputs)),
        ),
    )
    return front, whole


def _itself(ports: tuple[Port, ...]) -> dict[str, str]:
    """Tensors of the network have its names in the ensemble too."""
    return {port.name: port.name for port in ports}


def free(name: str, network: Model) -> str:
    """`name`, with as many underscores behind it as make it none of the network's own."""
    taken = {port.name for port in (*network.inputs, *network.outputs)}
    while name in taken:
        name += "_"
    return name


def _taken(preprocessing: Preprocessing) -> tuple[int, int, int]:
    planes = 3, preprocessing.height, preprocessing.width
    return planes if preprocessing.layout == "NCHW" else _pixels(preprocessing)


def _pixels(preprocessing: Preprocessing) -> tuple[int, int, int]:
    return preprocessing.height, preprocessing.width, 3
