"""A small convolutional network as PyTorch module and as ONNX file, and what 16 bits cost it by PyTorch's own means."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

X = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)

TEXT = """<ir_version: 8, opset_import: ["" : 20]>
g (float[4, 3, 16, 16] x) => (float[4, 10] y) {
    c0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r0 = Relu (c0)
    c1 = Conv <strides = [2, 2]> (r0, w2, b2)
    r1 = Sigmoid (c1)
    c2 = Conv <strides = [2, 2]> (r1, w4, b4)
    r2 = Relu (c2)
    f = Flatten (r2)
    y = Gemm <transB = 1> (f, w7, b7)
}"""


def make_module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.Sigmoid()),
        *(nn.Conv2d(32, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)),
    ).eval()


def write_graph(path: Path) -> None:
    proto = onnx.parser.parse_model(TEXT)
    for key, tensor in make_module().state_dict().items():
        index, kind = key.split(".")
        proto.graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), f"{kind[0]}{index}"))
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)


def compute_snr(outputs: np.ndarray) -> float:
    """Of `outputs` beside the module in FP32, in dB."""
    with torch.no_grad():
        exact = make_module()(torch.from_numpy(X)).numpy()
    return float(10 * np.log10(np.square(exact).sum() / np.square(outputs - exact).sum()))


def round_in_pytorch(dtype: torch.dtype) -> np.ndarray:
    """The module's outputs with hooks that round the weights and outputs of every layer."""
    module = make_module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.to(dtype).float())
        for layer in module:
            layer.register_forward_hook(lambda _layer, _inputs, output: output.to(dtype).float())
        return np.asarray(module(torch.from_numpy(X).to(dtype).float()))
