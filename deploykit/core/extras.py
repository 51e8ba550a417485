"""Optional dependencies: which extra brings which module, and the exact command that installs it here.

The core package runs bundles. `compile` adds reading graphs, building engines and writing reports; `export` adds all
that and PyTorch. Modules import what they need inside functions; where that fails, the ImportError is translated into a
BackendError that holds the command.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import msgspec

from deploykit.core.errors import BackendError

PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]
"""The checkout, or the site-packages folder that deploykit is installed in."""

PROVIDED_BY: Final = {
    "jinja2": ("Jinja", "compile"),
    "markupsafe": ("Jinja", "compile"),
    "matplotlib": ("Matplotlib", "compile"),
    "onnx": ("onnx", "compile"),
    "onnx_ir": ("onnx-ir", "compile"),
    "onnxscript": ("onnxscript", "export"),
    "safetensors": ("safetensors", "export"),
    "torch": ("PyTorch", "export"),
    "torchvision": ("torchvision", "export"),
}
"""Module: its title and the extra that brings it."""


def install_command(*extras: str) -> str:
    """The shell command that adds these extras to the installation of deploykit that is running.

    It names the running interpreter and the source that deploykit was installed from. It never asks a package index for
    the bare name `deploykit`: an index may have a stranger's package of that name.
    """
    return pip_command("install", *_source_arguments(extras))


def reinstall_command(distribution: str) -> str:
    """The shell command that installs a damaged package and its dependencies again, and nothing else."""
    return pip_command("install", "--force-reinstall", *_constraint_arguments(PACKAGE_PARENT), distribution)


def install_remedy(*extras: str) -> str:
    """The sentence and, on a line of its own, the command that installs these extras."""
    return f"Install it with:\n  {install_command(*extras)}"


def remote_install_remedy(*extras: str) -> str:
    """How another machine gets this deploykit, with these extras: as a wheel that is made here and copied."""
    wheel = f"deploykit-{metadata.version('deploykit')}-py3-none-any.whl"
    build = ""
    if _is_checkout(PACKAGE_PARENT):
        command = pip_command("wheel", "--no-deps", "--wheel-dir", "build", str(PACKAGE_PARENT))
        build = f"Build a wheel here with:\n  {command}\n"
    wanted = shlex.quote(f"./{wheel}[{','.join(extras)}]")
    return f"{build}Copy {wheel} to that machine and install it there with:\n  python3 -m pip install {wanted}"


def pip_command(*arguments: str) -> str:
    """A shell command that runs pip for the running interpreter, or uv where that environment has no pip."""
    if importlib.util.find_spec("pip") is None and shutil.which("uv") is not None:
        verb, *rest = arguments
        return shlex.join(["uv", "pip", verb, "--python", sys.executable, *rest])
    return shlex.join([sys.executable, "-m", "pip", *arguments])


def _source_arguments(extras: tuple[str, ...]) -> list[str]:
    """Pip's arguments for deploykit with these extras, from where the running one came (PEP 610)."""
    wanted = f"[{','.join(extras)}]" if extras else ""
    if _is_checkout(PACKAGE_PARENT):
        return [*_constraint_arguments(PACKAGE_PARENT), "--editable", f"{PACKAGE_PARENT}{wanted}"]
    try:
        distribution = metadata.distribution("deploykit")
    except metadata.PackageNotFoundError:
        return [f"{PACKAGE_PARENT}{wanted}"]
    origin = msgspec.json.decode(distribution.read_text("direct_url.json") or "{}")
    url = origin.get("url", "")
    if url.startswith("file:"):
        local = Path(url2pathname(urlsplit(url).path))
        if local.exists():
            return [*_constraint_arguments(local), f"{local}{wanted}"]
    elif "vcs_info" in origin:
        repository = origin["vcs_info"]
        return [f"deploykit{wanted} @ {repository['vcs']}+{url}@{repository['commit_id']}"]
    elif url:
        return [f"deploykit{wanted} @ {url}"]
    # From an index, or from a file that has gone. Pip takes the version that is installed already, and looks for the
    # extras' packages only.
    return [f"deploykit{wanted}=={distribution.version}"]


def _is_checkout(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file()


def _constraint_arguments(folder: Path) -> list[str]:
    """The tested versions, where the source is a checkout that has them."""
    file = folder / "constraints.txt"
    return ["--constraint", str(file)] if file.is_file() else []


def missing_package_error(error: ModuleNotFoundError) -> BackendError | None:
    """The error for a failed import of an optional dependency; None for a module that no extra brings."""
    provider = PROVIDED_BY.get((error.name or "").partition(".")[0])
    if provider is None:
        return None
    title, extra = provider
    remedy = install_remedy(extra)
    if extra == "compile":  # an export fails at these modules first, and needs more than they are
        remedy += f"\nor, to export networks too:\n  {install_command('export')}"
    return BackendError(f"This needs {title}, which is not installed.", remedy)


@contextmanager
def translate_import_errors() -> Iterator[None]:
    """Turn the ImportError of an optional dependency into a BackendError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (translated := missing_package_error(error)) is None:
            raise
        raise translated from error


def require_modules(*modules: str) -> None:
    """Raise BackendError for the first module that is not installed: called before long work that ends with it."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            error = missing_package_error(ModuleNotFoundError(name=name))
            assert error is not None, f"no extra brings {name}"
            raise error
