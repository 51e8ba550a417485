"""Does a road work at all? The smallest thing that proves it: one convolution, and whether its answer is right."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from gpu.journal import Journal, Row, last_line
from gpu.machine import gpu_or_absence

MODULES: Final = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "tensorrt-rtx-current": "tensorrt_rtx",
}


class Hindrance(Exception):
    """Why a road cannot be gone to its end."""


def probe(journal: Journal, road: str) -> None:
    """One row that says whether the road works, with all that was seen on the way."""
    seen: Row = {}
    try:
        PROBES[road](journal, seen)
    except Exception as error:  # whatever a library throws is the answer
        why = str(error) if isinstance(error, Hindrance) else last_line(error)
        journal.row("road", state="fails", why=why, seen=seen)
    else:
        journal.row("road", state="works", why=None, seen=seen)


def _tensorrt(road: str, journal: Journal, seen: Row) -> None:
    """Built, judged by get_engine_validity where there is such a call, deserialized, run, compared with NumPy."""
    with journal.doing(f"importing {MODULES[road]}"):
        trt: Any = importlib.import_module(MODULES[road])
    if not hasattr(trt, "Builder"):
        raise Hindrance(f"the package {MODULES[road]} holds no library: it is type stubs, or a part of one")
    seen["version"] = trt.__version__
    _, absence = gpu_or_absence()
    if absence is not None and road == "tensorrt":
        raise Hindrance(absence)  # its builder needs a driver, and may take the process down without one
    said: list[str] = []
    logger = _logger(trt, said)
    with journal.doing("building an engine"):
        start = time.perf_counter()
        plan = _plan(trt, logger, for_this_gpu=road.endswith("current"))
        if plan is None:
            raise Hindrance(f"building an engine: {said[-1] if said else 'no reason given'}")
        seen |= {"build_seconds": time.perf_counter() - start, "plan_bytes": len(plan)}
    if absence is not None:
        raise Hindrance(f"built an engine of {len(plan)} bytes; cannot run it: {absence}")
    seen["error"] = _run(trt, logger, said, plan, journal)


def _logger(trt: Any, said: list[str]) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                said.append(message)

    return Log()


def _weights() -> tuple[Any, Any]:
    """Of a 1×1 convolution, 3 channels to 4."""
    import numpy as np

    chance = np.random.default_rng(0)
    return chance.standard_normal((4, 3, 1, 1), np.float32), chance.standard_normal(4, np.float32)


def _plan(trt: Any, logger: Any, for_this_gpu: bool) -> bytes | None:
    kernel, bias = _weights()
    builder = trt.Builder(logger)
    flags = (getattr(trt.NetworkDefinitionCreationFlag, name, None) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"))
    network = builder.create_network(sum(1 << int(flag) for flag in flags if flag is not None))
    pixels = network.add_input("x", trt.float32, (1, 3, 16, 16))
    layer = network.add_convolution_nd(pixels, 4, (1, 1), trt.Weights(kernel), trt.Weights(bias))
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))
    config = builder.create_builder_config()
    if for_this_gpu:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    built = builder.build_serialized_network(network, config)
    return None if built is None else bytes(built)


def _run(trt: Any, logger: Any, said: list[str], plan: bytes, journal: Journal) -> float:
    """The answer's error as a share of full scale. Memory is PyTorch's: pycuda is not needed to answer the question."""
    import numpy as np
    import torch

    with journal.doing("making a runtime"):
        runtime = trt.Runtime(logger)
    if hasattr(runtime, "get_engine_validity"):
        with journal.doing("asking get_engine_validity"):
            validity, diagnostics = runtime.get_engine_validity(plan)
        # Told at once: if the next step takes the process down, this is known all the same.
        journal.row("seen", validity=getattr(validity, "name", str(validity)), diagnostics=str(diagnostics))
    with journal.doing("deserializing"):
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise Hindrance(f"deserializing: {said[-1] if said else 'no reason given'}")
    with journal.doing("running"):
        context = engine.create_execution_context()
        pixels = np.random.default_rng(1).standard_normal((1, 3, 16, 16), np.float32)
        given = torch.from_numpy(pixels).cuda()
        answer = torch.empty((1, 4, 16, 16), device="cuda")
        context.set_tensor_address("x", given.data_ptr())
        context.set_tensor_address("y", answer.data_ptr())
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        if not context.execute_async_v3(stream.cuda_stream):
            raise Hindrance(f"running: {said[-1] if said else 'no reason given'}")
        stream.synchronize()
    kernel, bias = _weights()
    expected = np.einsum("oc,nchw->nohw", kernel[:, :, 0, 0], pixels) + bias[:, None, None]
    error = float(np.abs(answer.cpu().numpy() - expected).max() / np.abs(expected).max())
    if not error < 1e-2:  # TF32 keeps 10 bits
        raise Hindrance(f"ran, and its answer is wrong by {error:.1e} of full scale")
    return error


def _torch(device: str, journal: Journal, seen: Row, compiled: bool = False) -> None:
    with journal.doing("importing torch"):
        import torch
    seen |= {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    with journal.doing("running a convolution"):
        layer = torch.nn.Conv2d(3, 4, 1)
        pixels = torch.randn(1, 3, 16, 16)
        with torch.inference_mode():
            expected = layer(pixels)
            module: Any = layer.to(device)
            answer = (torch.compile(module) if compiled else module)(pixels.to(device)).cpu()
    if not torch.allclose(answer, expected, atol=1e-2):
        raise Hindrance("ran, and its answer is wrong")


def _onnxruntime(provider: str, journal: Journal, seen: Row) -> None:
    """A session falls back to the CPU with a warning: which provider it has is asked."""
    with journal.doing("importing onnxruntime"):
        import onnxruntime as ort
    seen |= {"version": ort.__version__, "providers": ort.get_available_providers()}
    if provider not in seen["providers"]:
        raise Hindrance(f"this build of ONNX Runtime has no {provider}, only {', '.join(seen['providers'])}")
    import numpy as np
    import onnx.parser

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2,2] x) => (float[2,2] y) { y = MatMul(x, x) }'
    )
    with journal.doing("running a matrix product"):
        session = ort.InferenceSession(model.SerializeToString(), providers=[provider])
        if session.get_providers()[0] != provider:
            raise Hindrance(f"a session with {provider} falls back to {session.get_providers()[0]}")
        session.run(None, {"x": np.eye(2, dtype=np.float32)})


PROBES: Final[dict[str, Callable[[Journal, Row], None]]] = {
    **{road: partial(_tensorrt, road) for road in MODULES},
    "torch-eager": partial(_torch, "cuda"),
    "torch-compile": partial(_torch, "cuda", compiled=True),
    "onnxruntime-cuda": partial(_onnxruntime, "CUDAExecutionProvider"),
    "onnxruntime-cpu": partial(_onnxruntime, "CPUExecutionProvider"),
    "torch-eager-cpu": partial(_torch, "cpu"),
}
