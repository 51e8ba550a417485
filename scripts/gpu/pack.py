"""What a GPU machine without a network needs, as a folder of three parts.

    1   msgspec, platformdirs, pycuda (built here) and what pycuda imports; the first pieces of ONNX Runtime
    2   the rest of ONNX Runtime with its CUDA provider, without machine code for other GPUs; pieces of TensorRT-RTX
    3   the rest of TensorRT-RTX, as published

Each part is at most `part_mib` large, since what may be carried to such a machine is often limited. Every stage of
`scripts/gpu_check stage` says which parts it needs. Packing needs Python 3.12 with headers, g++, xz, readelf, the
headers of a CUDA toolkit, and the package index.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from gpu.gpu_code import blank_other_gpus

WHEELS: Final = ("msgspec", "platformdirs", "pytools", "mako", "markupsafe", "siphash24", "typing-extensions")
"""What deploykit and pycuda import and a machine with PyTorch may lack."""

PYCUDA: Final = "pycuda==2026.1"
ONNXRUNTIME: Final = "onnxruntime-gpu==1.31.1"
TENSORRT_RTX_VERSION: Final = "1.7.1.116"
TENSORRT_RTX: Final = tuple(f"tensorrt-rtx-cu13-{part}=={TENSORRT_RTX_VERSION}" for part in ("libs", "bindings"))
TENSORRT_RTX_LOADER: Final = f"tensorrt-rtx-cu13=={TENSORRT_RTX_VERSION}"
"""Published as source only: the package that imports the other two."""

ARCHIVES: Final = ("onnxruntime", "tensorrt_rtx")
"""In the order of the stages that need them."""

NOT_NEEDED: Final = ("transformers", "tools", "capi/libonnxruntime_providers_tensorrt.so")
"""Of ONNX Runtime's package."""

CUDA_PROVIDER: Final = "onnxruntime/capi/libonnxruntime_providers_cuda.so"

FOR_PYTHON_312: Final = (
    *("--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"),
    *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_17_x86_64"),
    *("--platform", "manylinux2014_x86_64"),
)

MIB: Final = 2**20


class PackError(Exception):
    """Why the folder cannot be made, with what to install or to name."""


class Tools(NamedTuple):
    """What packages are built with."""

    python: Path
    """Python 3.12 with its headers."""
    cuda: Path
    """The root of a CUDA toolkit."""


def pack(folder: Path, part_mib: int, compute_capability: int) -> list[str]:
    """Write FOLDER/1, /2 and /3 anew, in about five minutes; returns lines that say what is in them."""
    tools = find_tools()
    notes = []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as pool:
        work = Path(scratch)
        wheels = work / "wheels"
        fetch_wheels(wheels, WHEELS)
        pycuda = pool.submit(build_pycuda, tools, wheels, work / "pycuda")
        rtx = pool.submit(archive_tensorrt_rtx, work / "tensorrt_rtx")
        onnxruntime, removed = archive_onnxruntime(work / "onnxruntime", compute_capability)
        notes.append(f"ONNX Runtime's CUDA provider: {removed}")
        archives = [onnxruntime, rtx.result()]
        try:
            pycuda.result()
        except (subprocess.CalledProcessError, OSError) as error:
            output = getattr(error, "output", None) or str(error)
            notes.append(f"pycuda was NOT built, so that the steps double-… will fail: {output.strip()[-600:]}")
        shutil.rmtree(folder, ignore_errors=True)
        write_parts(folder, wheels, archives, part_mib * MIB)
    sizes = (f"part {part.name}: {measure_size(part) / MIB:.1f} MiB" for part in sorted(folder.iterdir()))
    return [*sizes, *notes]


def find_tools() -> Tools:
    """PackError that names what is missing."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which("python3.12"), *sorted(pyenv.glob("versions/3.12*/bin/python3.12"))]
    python = next((Path(path) for path in candidates if path is not None and can_build(path)), None)
    if python is None:
        raise PackError("no python3.12 with headers and venv on the PATH (on Debian: apt install python3.12-dev)")
    nvcc = shutil.which("nvcc")
    roots = (os.environ.get("CUDA_ROOT"), os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parent.parent)
    cuda = next((Path(root) for root in (*roots, "/usr/local/cuda") if root and has_headers(Path(root))), None)
    if cuda is None:
        raise PackError("no CUDA toolkit: name its folder, which has include/cuda.h, in CUDA_ROOT")
    for program in ("gcc", "g++", "xz", "tar", "readelf"):
        if shutil.which(program) is None:
            raise PackError(f"the program {program} is missing (on Debian: apt install g++ binutils xz-utils)")
    return Tools(python, cuda)


def can_build(python: str | Path) -> bool:
    check = (
        "import ensurepip, pathlib, sysconfig; assert pathlib.Path(sysconfig.get_path('include'), 'Python.h').exists()"
    )
    try:
        return subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def has_headers(root: Path) -> bool:
    return (root / "include/cuda.h").is_file()


# ── Packages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_pip(*words: str | Path, python: Path = Path(sys.executable)) -> None:
    """CalledProcessError with pip's last lines as its output."""
    call([python, "-m", "pip", *words[:1], "--quiet", "--disable-pip-version-check", *words[1:]])


def call(words: Sequence[str | Path], folder: Path | None = None, **variables: str) -> None:
    subprocess.run(
        words,
        cwd=folder,
        env=os.environ | variables,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def fetch_wheels(destination: Path, requirements: Sequence[str]) -> None:
    run_pip("download", "--no-deps", *FOR_PYTHON_312, "--dest", destination, *requirements)


def build_pycuda(tools: Tools, wheels: Path, work: Path) -> None:
    """Compile pycuda, which is published as source only, into `wheels`.

    The GPU machine may lack curand.h, nvcc and a libcuda.so to link against, and compiling takes minutes: so it is done
    here, without cuRAND, against a libcuda.so that has nothing but its name.
    """
    stubs = work / "stubs"
    stubs.mkdir(parents=True)
    (work / "empty.c").write_text("\n")
    call(["gcc", "-shared", "-o", stubs / "libcuda.so", "-Wl,-soname,libcuda.so.1", work / "empty.c"])
    call([tools.python, "-m", "venv", work / "venv"])
    python = work / "venv/bin/python"
    run_pip("install", "numpy", "setuptools", "wheel", python=python)
    run_pip(
        *("download", "--no-deps", "--no-build-isolation", "--no-binary", "pycuda", "--dest", work, PYCUDA),
        python=python,
    )
    (archive,) = work.glob("pycuda-*.tar.gz")
    call(["tar", "xzf", archive, "-C", work])
    (source,) = (path for path in work.glob("pycuda-*") if path.is_dir())
    configuration = (f"--cuda-root={tools.cuda}", "--no-cuda-enable-curand", f"--cudadrv-lib-dir={stubs}")
    call([python, "configure.py", *configuration], source)
    # Without --no-as-needed the linker drops libcuda.so, of which nothing is used at link time.
    words = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ".")
    call([python, *words], source, LDFLAGS="-Wl,--no-as-needed -s")


def archive_onnxruntime(work: Path, compute_capability: int) -> tuple[Path, str]:
    """The package as a .tar.xz, and what was removed from it."""
    fetch_wheels(work / "wheels", [ONNXRUNTIME])
    content = work / "content"
    unpack_wheels(work / "wheels", content)
    for name in NOT_NEEDED:
        path = content / "onnxruntime" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    provider, pruned = content / CUDA_PROVIDER, work / "pruned.so"
    removed = blank_other_gpus(provider, pruned, compute_capability)
    pruned.replace(provider)
    archive = work / f"{ARCHIVES[0]}.archive"
    with archive.open("wb") as stream:
        tar = subprocess.Popen(["tar", "c", "-C", content, "."], stdout=subprocess.PIPE)
        subprocess.run(["xz", "-T0", "-6"], stdin=tar.stdout, stdout=stream, check=True)
        if tar.wait() != 0:
            raise PackError("tar could not pack ONNX Runtime")
    return archive, removed


def archive_tensorrt_rtx(work: Path) -> Path:
    """The three packages as one .zip."""
    wheels, content = work / "wheels", work / "content"
    fetch_wheels(wheels, TENSORRT_RTX)
    run_pip("wheel", "--no-deps", "--wheel-dir", wheels, TENSORRT_RTX_LOADER)
    unpack_wheels(wheels, content)
    archive = work / f"{ARCHIVES[1]}.archive"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(content.rglob("*")):
            file.write(path, path.relative_to(content))
    return archive


def unpack_wheels(wheels: Path, destination: Path) -> None:
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(destination)


# ── Parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_parts(folder: Path, wheels: Path, archives: Sequence[Path], part_bytes: int) -> None:
    """Wheels and checksums go into part 1; what is left of each part's size is filled with pieces of the archives."""
    shutil.copytree(wheels, folder / "1/wheels")
    pieces = folder / "1/pieces"
    pieces.mkdir()
    for archive in archives:
        (pieces / f"{archive.stem}.sha256").write_text(compute_sha256(archive))
    for number, (part, archive, content) in enumerate(split_archives(folder, archives, part_bytes)):
        destination = folder / str(part) / "pieces"
        destination.mkdir(parents=True, exist_ok=True)
        (destination / f"{archive.stem}.piece-{number:02d}").write_bytes(content)


def split_archives(folder: Path, archives: Sequence[Path], part_bytes: int) -> Iterator[tuple[int, Path, bytes]]:
    """Part, archive and content of each piece, in the order in which pieces are joined."""
    part, free = 1, part_bytes - measure_size(folder / "1")
    for archive in archives:
        with archive.open("rb") as stream:
            while True:
                if free < MIB:
                    part, free = part + 1, part_bytes
                if not (content := stream.read(free)):
                    break
                yield part, archive, content
                free -= len(content)


def compute_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measure_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
