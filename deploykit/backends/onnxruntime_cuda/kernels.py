"""The names of the kernels that a session runs on the GPU, as NVIDIA's profiling interface CUPTI reports them.

PyTorch's profiler collects those of the whole process, whoever launches them. They are the proof that FP16 is computed
in FP16: the profile of ONNX Runtime says which types a node has, the kernel which instructions it is made of.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Final

HALF: Final = re.compile(r"half|f16|fp16|_h(?:s|)h_|hgemm|16816|h16", re.IGNORECASE)
"""In the names of cuDNN's, CUTLASS' and cuBLAS' kernels with FP16 operands:
`sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_…`, `nvjet_sm90_hsh_64x64_…`."""


def read_kernel_names(call: Callable[[], object]) -> list[str] | None:
    """The kernels that `call` launches and waits for, longest first; None where PyTorch cannot see this GPU."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    call()  # allocates, and chooses kernels
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    times_us: dict[str, float] = {}
    for event in profile.events():
        if event.device_type.name == "CUDA":
            times_us[event.name] = times_us.get(event.name, 0.0) + event.device_time
    return sorted(times_us, key=lambda name: -times_us[name])


def shows_half_arithmetic(kernels: list[str]) -> bool:
    """Whether a kernel has FP16 operands, other than those that only move or add them."""
    return any(HALF.search(kernel) for kernel in kernels if PRODUCT.search(kernel))


PRODUCT: Final = re.compile(r"gemm|conv|fprop|nvjet|cutlass|xmma", re.IGNORECASE)
"""In the names of kernels that multiply matrices or convolve."""
