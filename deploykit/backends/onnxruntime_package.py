"""Which of ONNX Runtime's packages the module onnxruntime is from: several install it, over one another."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Final, NamedTuple

from deploykit.core.errors import BackendError
from deploykit.core.extras import install_remedy

RECORD: Final = "capi/build_and_package_info.py"
"""The file in which every one of them writes its name and version."""


class OnnxRuntimePackage(NamedTuple):
    """The package that was installed last, whose library is loaded."""

    name: str
    """`onnxruntime`, or `onnxruntime-gpu` with the CUDA provider."""
    version: str
    has_cuda_provider: bool


PROVIDER_FILES: Final = ("capi/libonnxruntime_providers_cuda.so", "capi/onnxruntime_providers_cuda.dll")
"""Of the CUDA provider, on Linux and Windows."""


def find_package() -> OnnxRuntimePackage:
    """Read the module's own record, without importing it: the metadata of a package whose files were overwritten by
    another stays behind. BackendError where the module is missing or has no record.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise BackendError("ONNX Runtime is not installed.", install_remedy("cpu"))
    folder = Path(spec.origin).parent
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
        values = dict(re.findall(r"^(package_name|__version__) = '([^']*)'", text, re.MULTILINE))
        name, version = values["package_name"], values["__version__"]
    except (OSError, KeyError) as error:
        what = f"ONNX Runtime's package in {folder} is damaged: it does not say which version it is."
        raise BackendError(what, install_remedy("cpu")) from error
    return OnnxRuntimePackage(name, version, any((folder / file).is_file() for file in PROVIDER_FILES))
