"""Outputs of the original networks and of engine files, each in its own runtime; without deploykit.

An engine file is opened as its runtime opens any ONNX file. OpenVINO is told to compute FP32 nodes in FP32, since it
otherwise chooses BF16 on some processors, which would be another engine than the one that was judged.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from verdicts.networks import USER_CODE, Network
from verdicts.pixels import Pixels

Outputs = NDArray[Any]

Run = Callable[[NDArray[np.float32]], NDArray[Any]]
"""One picture in, its output with the batch axis out."""


def run_pictures(run: Run, pixels: Pixels, pictures: Sequence[Path]) -> NDArray[Any]:
    """Outputs for all pictures, one call each."""
    return np.concatenate([run(pixels.normalize_picture(path)) for path in pictures])


def load_original_outputs(network: Network, networks: Path, pictures: Path) -> NDArray[Any]:
    """The original's outputs for a folder of pictures; computed once, and kept beside the folder."""
    kept = pictures.with_name(f"{pictures.name}-original.npy")
    if not kept.is_file():
        print(f"{network.name}: running the original on {pictures.name} …", file=sys.stderr, flush=True)
        computed = run_pictures(open_original(network, networks), network.pixels, sorted(pictures.glob("*.png")))
        unfinished = kept.with_name(f"unfinished-{kept.name}")
        np.save(unfinished, computed)
        unfinished.rename(kept)
    outputs: Outputs = np.load(kept)
    return outputs


def open_original(network: Network, networks: Path) -> Run:
    """The published network in FP32: in PyTorch, or its file in ONNX Runtime."""
    return open_onnxruntime(networks / network.model) if network.is_file else open_pytorch(network.model, networks)


def open_pytorch(model: str, networks: Path) -> Run:
    """`module:function` of the user's code, in eval mode."""
    import torch

    torch.set_num_threads(1)  # several would wait for each other on a busy machine
    sys.path[:0] = [path for path in (str(USER_CODE), str(networks)) if path not in sys.path]
    module, function = model.split(":")
    with contextlib.redirect_stdout(io.StringIO()):  # "Loaded pretrained weights"
        network = getattr(importlib.import_module(module), function)().eval()

    def run(pixels: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            output: NDArray[Any] = network(torch.from_numpy(pixels)).numpy()
        return output

    return run


def read_pixels(manifest: Mapping[str, Any]) -> Pixels:
    """The preprocessing that a bundle's manifest states."""
    stated = manifest["model"]["preprocessing"]
    means, deviations = tuple(stated["mean"]), tuple(stated["std"])
    return Pixels(stated["scale"], means, deviations, stated["channels"], (stated["height"], stated["width"]))


def open_engine(bundle: Path) -> Run:
    """The primary engine of a bundle, as its manifest names it."""
    engine = json.loads((bundle / "manifest.json").read_bytes())["engine"]
    return {"onnxruntime": open_onnxruntime, "openvino": open_openvino}[engine["backend"]](
        bundle / engine["file"]["path"]
    )


def open_onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves a busy machine to the others
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(pixels: NDArray[np.float32]) -> NDArray[Any]:
        output: NDArray[Any] = session.run(None, {name: pixels})[0]
        return output

    return run


def open_openvino(path: Path) -> Run:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def run(pixels: NDArray[np.float32]) -> NDArray[Any]:
        return np.array(request.infer([pixels])[0])

    return run
