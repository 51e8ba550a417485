"""Sessions of the CUDA provider: its libraries are loaded first, and a fallback to the CPU is an error."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploykit.backends.onnxruntime import translate_errors
from deploykit.core.errors import BackendError
from deploykit.core.extras import install_command

if TYPE_CHECKING:
    import onnxruntime

PROVIDER: Final = "CUDAExecutionProvider"

Settings = tuple[str, ...]
"""What a session is opened with, as it is recorded: the provider's options, such as `prefer_nhwc=1`, and DISABLED."""

DISABLED: Final = "disabled_optimizers="
"""Prefix of the setting that lists ONNX Runtime's graph optimizations to leave out, separated by commas."""

COMMON: Final[Settings] = ("use_tf32=0", "cudnn_conv_algo_search=EXHAUSTIVE")
"""FP32 is FP32: TF32 keeps 10 bits of the mantissa. cuDNN times its kernels at the first call of every shape."""


def open_session(
    graph: Path,
    settings: Settings,
    stream: int | None = None,
    *,
    cuda_graphs: bool = False,
    profile_prefix: Path | None = None,
) -> onnxruntime.InferenceSession:
    """A session whose kernels are enqueued on the stream with handle `stream`, or on one of its own.

    With `cuda_graphs` it captures what it enqueues. With `profile_prefix` it writes the profile of its calls.
    InputError where ONNX Runtime rejects the file, BackendError where its provider cannot be loaded.
    """
    load_libraries()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    provider = (PROVIDER, provider_options(settings, stream, cuda_graphs))
    with translate_errors(graph):
        session = onnxruntime.InferenceSession(
            graph, options, providers=[provider], disabled_optimizers=list_disabled(settings)
        )
    if (actual := session.get_providers()[0]) != PROVIDER:
        reason = load_libraries() or f"a session falls back to the {actual}"
        what = f"ONNX Runtime's CUDA provider cannot be used: {reason}."
        raise BackendError(what, f"Install the CUDA libraries that it needs with:\n  {install_command('cuda')}")
    return session


def provider_options(settings: Settings, stream: int | None, cuda_graphs: bool) -> dict[str, str]:
    """The options under the provider's own names."""
    options = dict(setting.split("=", 1) for setting in settings if not setting.startswith(DISABLED))
    if stream is not None:
        options["user_compute_stream"] = str(stream)
    return {"device_id": "0", **options, "enable_cuda_graph": str(int(cuda_graphs))}


def list_disabled(settings: Settings) -> list[str]:
    """The graph optimizations that the settings leave out."""
    return [
        name
        for setting in settings
        if setting.startswith(DISABLED)
        for name in setting.removeprefix(DISABLED).split(",")
    ]


@functools.cache
def load_libraries() -> str | None:
    """Load cuBLAS, cuDNN and the others that the provider links to, from NVIDIA's packages or from where the loader
    finds them; returns what could not be loaded.

    PyTorch has loaded them where it is imported already. ONNX Runtime's warnings are switched off in this process: on a
    GPU it prints one per session.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    if "torch" in sys.modules or not hasattr(onnxruntime, "preload_dlls"):
        return None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls()
    failures = [line.removeprefix("Failed to load ") for line in printed.getvalue().splitlines() if "Failed" in line]
    return failures[-1].rstrip(".") if failures else None


def find_missing_provider() -> str | None:
    """Why no session can use the GPU, as a clause: a build of ONNX Runtime without the provider."""
    import onnxruntime

    if PROVIDER in onnxruntime.get_available_providers():
        return None
    return (
        "the installed ONNX Runtime has no CUDA provider: the package onnxruntime overwrites onnxruntime-gpu "
        f"({install_command('cuda')})"
    )
