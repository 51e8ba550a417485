"""Preprocessing on the server: a small ONNX graph before the network, and an ensemble that runs both.

The graph converts cropped images (N×height×width×3, uint8, RGB) to the network's input. It does no arithmetic: a table
maps each of the 256 values per channel to the result of `calibration.preprocess`, so that it is exact on every
processor, and every server that can run the network can run it. Resizing and cropping are left to the client, which in
return sends a quarter of the bytes: pixels instead of floating-point numbers.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deploykit.core.calibration.preprocess import preprocess_image
from deploykit.core.values import Preprocessing, TensorSpec
from deploykit.workflows.triton.model_config import EnsembleStep, ModelConfig, TensorConfig, WarmupInput, WarmupRequest

PIXELS: Final = "pixels"

OPSET: Final = 17
IR_VERSION: Final = 8
"""IR version of ONNX 1.12, which is older than any exported network requires."""


def is_image_input(spec: TensorSpec, preprocessing: Preprocessing) -> bool:
    """Whether an input has the type and shape that `preprocessing` produces."""
    return spec.dtype in ("float32", "float16") and spec.shape[1:] == preprocessing.input_shape


def build_preprocessing_graph(spec: TensorSpec, preprocessing: Preprocessing, pixels: str) -> bytes:
    """Build the ONNX graph from the input `pixels` to an output with the name and type of the network's input `spec`.
    Inner names are prefixed with the output's name to avoid conflicts.
    """
    from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

    first = spec.shape[0]
    planar = preprocessing.layout == "NCHW"
    axis, shift = (1, (1, -1, 1, 1)) if planar else (3, (1, 1, 1, -1))
    rows = 256 * np.arange(preprocessing.channel_count, dtype=np.int32)
    constants = {
        f"{spec.name}/table": build_lookup_table(preprocessing).astype(spec.dtype).reshape(-1),
        f"{spec.name}/row": rows.reshape(shift),
    }
    nodes: list[NodeProto] = []
    current = pixels

    def append(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], f"node {len(nodes)}", **attributes))
        return output

    if planar:
        current = append("Transpose", [current], f"{spec.name}/planes", perm=(0, 3, 1, 2))
    if preprocessing.channels == "bgr":
        constants[f"{spec.name}/order"] = np.array([2, 1, 0], dtype=np.int32)
        current = append("Gather", [current, f"{spec.name}/order"], f"{spec.name}/ordered", axis=axis)
    current = append("Cast", [current], f"{spec.name}/values", to=TensorProto.INT32)
    if preprocessing.channels == "grey":  # the luminance of preprocess.py; a Gemm of integers is not in every runtime
        constants |= {
            f"{spec.name}/weights": np.array([19595, 38470, 7471], dtype=np.int32).reshape(shift),
            f"{spec.name}/axis": np.array([axis], dtype=np.int64),
            f"{spec.name}/half": np.array(32768, dtype=np.int32),
            f"{spec.name}/whole": np.array(65536, dtype=np.int32),
        }
        current = append("Mul", [current, f"{spec.name}/weights"], f"{spec.name}/weighted")
        current = append("ReduceSum", [current, f"{spec.name}/axis"], f"{spec.name}/sum", keepdims=1)
        current = append("Add", [current, f"{spec.name}/half"], f"{spec.name}/rounded")
        current = append("Div", [current, f"{spec.name}/whole"], f"{spec.name}/luminance")
    current = append("Add", [current, f"{spec.name}/row"], f"{spec.name}/places")
    append("Gather", [f"{spec.name}/table", current], spec.name)
    kind = TensorProto.FLOAT16 if spec.dtype == "float16" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "preprocess",
        [helper.make_tensor_value_info(pixels, TensorProto.UINT8, (first, *_pixel_shape(preprocessing)))],
        [helper.make_tensor_value_info(spec.name, kind, spec.shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="deploykit"
    )
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def build_lookup_table(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Build the channels×256 table of normalised values, by preprocessing an image that has every value once in all
    three channels.
    """
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    plain = msgspec.structs.replace(preprocessing, resize=16, height=16, width=16, layout="NCHW")
    return preprocess_image(ramp, plain).reshape(-1, 256)


def build_ensemble_models(
    network: ModelConfig, spec: TensorSpec, preprocessing: Preprocessing
) -> tuple[ModelConfig, ModelConfig]:
    """Build the preprocessing model for the input `spec` of `network`, and the ensemble of both."""
    pixels = find_free_name(PIXELS, network)
    size = _pixel_shape(preprocessing)
    (network_input,) = (tensor for tensor in network.inputs if tensor.name == spec.name)
    image_input = TensorConfig(pixels, "uint8", (*network_input.dims[:-3], *size), "NHWC")
    warmups = tuple(
        WarmupRequest(warmup.name, warmup.batch, (WarmupInput(pixels, "uint8", (*tensor.dims[:-3], *size), None),))
        for warmup in network.warmups
        for tensor in warmup.inputs
        if tensor.name == spec.name
    )
    preprocess = ModelConfig(
        name=f"{network.name}-preprocess",
        platform="onnxruntime_onnx",
        inputs=(image_input,),
        outputs=(msgspec.structs.replace(network_input, layout=None),),
        max_batch=network.max_batch,
        preferred=network.preferred,
        queue_delay_us=network.queue_delay_us,
        instances=network.instances and msgspec.structs.replace(network.instances, dla_core=None),
        warmups=warmups,
    )
    ensemble = ModelConfig(
        name=f"{network.name}-ensemble",
        platform="ensemble",
        inputs=tuple(image_input if tensor.name == spec.name else tensor for tensor in network.inputs),
        outputs=network.outputs,
        max_batch=network.max_batch,
        steps=(
            EnsembleStep(preprocess.name, {pixels: pixels}, {spec.name: spec.name}),
            EnsembleStep(network.name, _map_tensor_names(network.inputs), _map_tensor_names(network.outputs)),
        ),
    )
    return preprocess, ensemble


def _map_tensor_names(tensors: tuple[TensorConfig, ...]) -> dict[str, str]:
    """Map each tensor of the network to the same name in the ensemble."""
    return {tensor.name: tensor.name for tensor in tensors}


def find_free_name(name: str, network: ModelConfig) -> str:
    """Append underscores to `name` until no tensor of the network has that name."""
    used_names = {tensor.name for tensor in (*network.inputs, *network.outputs)}
    while name in used_names:
        name += "_"
    return name


def _pixel_shape(preprocessing: Preprocessing) -> tuple[int, int, int]:
    return preprocessing.height, preprocessing.width, 3
