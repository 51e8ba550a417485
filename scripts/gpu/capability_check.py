"""Whether a variant works on this machine at all: one convolution, and whether its result is right."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from gpu.journal import Journal, Row, last_line
from gpu.machine import find_gpu

MODULES: Final = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "tensorrt-rtx-current": "tensorrt_rtx",
}


class UnavailableError(Exception):
    """Why a variant does not work here."""


def check_variant(journal: Journal, variant: str) -> None:
    """One row that says whether the variant works, with the details that were found on the way."""
    details: Row = {}
    try:
        CHECKS[variant](journal, details)
    except Exception as error:  # whatever a library raises is the answer
        why = str(error) if isinstance(error, UnavailableError) else last_line(error)
        journal.add_row("variant", state="fails", why=why, details=details)
    else:
        journal.add_row("variant", state="works", why=None, details=details)


def _check_tensorrt(variant: str, journal: Journal, details: Row) -> None:
    """Build an engine, ask get_engine_validity where it exists, deserialize, run, and compare with NumPy."""
    with journal.activity(f"importing {MODULES[variant]}"):
        trt: Any = importlib.import_module(MODULES[variant])
    if not hasattr(trt, "Builder"):
        raise UnavailableError(f"the package {MODULES[variant]} has no library: type stubs, or a part of the package")
    details["version"] = trt.__version__
    _, absence = find_gpu()
    if absence is not None and variant == "tensorrt":
        raise UnavailableError(absence)  # its builder needs a driver, and may end the process without one
    errors: list[str] = []
    logger = _make_logger(trt, errors)
    with journal.activity("building an engine"):
        start = time.perf_counter()
        plan = _build_plan(trt, logger, for_this_gpu=variant.endswith("current"))
        if plan is None:
            raise UnavailableError(f"building an engine: {errors[-1] if errors else 'no reason given'}")
        details |= {"build_seconds": time.perf_counter() - start, "plan_bytes": len(plan)}
    if absence is not None:
        raise UnavailableError(f"built an engine of {len(plan)} bytes; cannot run it: {absence}")
    details["error"] = _run_plan(trt, logger, errors, plan, journal)


def _make_logger(trt: Any, errors: list[str]) -> Any:
    """A logger of the library that appends its errors to the list."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(message)

    return Log()


def _make_weights() -> tuple[Any, Any]:
    """Kernel and bias of a 1×1 convolution from 3 channels to 4."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 3, 1, 1), np.float32), rng.standard_normal(4, np.float32)


def _build_plan(trt: Any, logger: Any, for_this_gpu: bool) -> bytes | None:
    kernel, bias = _make_weights()
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
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(plan)


def _run_plan(trt: Any, logger: Any, errors: list[str], plan: bytes, journal: Journal) -> float:
    """The result's error as a share of full scale. PyTorch allocates the memory, so that pycuda is not needed."""
    import numpy as np
    import torch

    with journal.activity("creating a runtime"):
        runtime = trt.Runtime(logger)
    if hasattr(runtime, "get_engine_validity"):
        with journal.activity("calling get_engine_validity"):
            validity, diagnostics = runtime.get_engine_validity(plan)
        # Written at once: it stays known if the next call ends the process.
        journal.add_row("validity", validity=getattr(validity, "name", str(validity)), diagnostics=str(diagnostics))
    with journal.activity("deserializing"):
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UnavailableError(f"deserializing: {errors[-1] if errors else 'no reason given'}")
    with journal.activity("running"):
        context = engine.create_execution_context()
        pixels = np.random.default_rng(1).standard_normal((1, 3, 16, 16), np.float32)
        device_input = torch.from_numpy(pixels).cuda()
        device_output = torch.empty((1, 4, 16, 16), device="cuda")
        context.set_tensor_address("x", device_input.data_ptr())
        context.set_tensor_address("y", device_output.data_ptr())
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        if not context.execute_async_v3(stream.cuda_stream):
            raise UnavailableError(f"running: {errors[-1] if errors else 'no reason given'}")
        stream.synchronize()
    kernel, bias = _make_weights()
    expected = np.einsum("oc,nchw->nohw", kernel[:, :, 0, 0], pixels) + bias[:, None, None]
    error = float(np.abs(device_output.cpu().numpy() - expected).max() / np.abs(expected).max())
    if not error < 1e-2:  # TF32 keeps 10 bits
        raise UnavailableError(f"ran, and its result is wrong by {error:.1e} of full scale")
    return error


def _check_torch(device: str, journal: Journal, details: Row, compiled: bool = False) -> None:
    with journal.activity("importing torch"):
        import torch
    details |= {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if device == "cuda" and (absence := find_gpu()[1]) is not None:
        raise UnavailableError(absence)
    with journal.activity("running a convolution"):
        layer = torch.nn.Conv2d(3, 4, 1)
        pixels = torch.randn(1, 3, 16, 16)
        with torch.inference_mode():
            expected = layer(pixels)
            module: Any = layer.to(device)
            result = (torch.compile(module) if compiled else module)(pixels.to(device)).cpu()
    if not torch.allclose(result, expected, atol=1e-2):
        raise UnavailableError("ran, and its result is wrong")


def _check_onnxruntime(provider: str, journal: Journal, details: Row) -> None:
    """A session that cannot use the provider falls back to the CPU with a warning, so its provider is checked."""
    with contextlib.suppress(ImportError), journal.activity("importing torch"):
        import torch  # noqa: F401 - brings the CUDA libraries into the process, where ONNX Runtime finds them
    with journal.activity("importing onnxruntime"):
        import onnxruntime as ort
    details |= {"version": ort.__version__, "providers": ort.get_available_providers()}
    if provider not in details["providers"]:
        raise UnavailableError(f"this build of ONNX Runtime has no {provider}, only {', '.join(details['providers'])}")
    import numpy as np
    import onnx.parser

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2,2] x) => (float[2,2] y) { y = MatMul(x, x) }'
    )
    with journal.activity("running a matrix product"):
        session = ort.InferenceSession(model.SerializeToString(), providers=[provider])
        if session.get_providers()[0] != provider:
            _, absence = find_gpu()
            cause = f": {absence}" if absence is not None and provider.startswith("CUDA") else ""
            raise UnavailableError(f"a session with {provider} falls back to {session.get_providers()[0]}{cause}")
        (product,) = session.run(None, {"x": np.array([[1, 2], [3, 4]], np.float32)})
    if not np.array_equal(product, [[7, 10], [15, 22]]):
        raise UnavailableError("ran, and its result is wrong")


CHECKS: Final[dict[str, Callable[[Journal, Row], None]]] = {
    **{variant: partial(_check_tensorrt, variant) for variant in MODULES},
    "torch-eager": partial(_check_torch, "cuda"),
    "torch-compile": partial(_check_torch, "cuda", compiled=True),
    "onnxruntime-cuda": partial(_check_onnxruntime, "CUDAExecutionProvider"),
    "onnxruntime-cpu": partial(_check_onnxruntime, "CPUExecutionProvider"),
    "torch-eager-cpu": partial(_check_torch, "cpu"),
}
