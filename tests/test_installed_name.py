"""An installed deploykit occupies one top-level name, and user modules never shadow ours."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest
from hatchling.builders.wheel import WheelBuilder

from deploykit.cli import VERBS

ROOT: Final = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as it is installed: its files, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    [built] = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def users_folder(tmp_path):
    """A folder with user modules that have the names of two of our folders, and raise when imported."""
    for name in ("architectures", "calibration"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError({name!r})\n")
    return tmp_path


def run_python(program, folder, installed):
    """With the user's folder first on the import path, as `python -c` puts it."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_installs_one_top_level_name(wheel):
    assert {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")} == {"deploykit"}
    assert (wheel / "deploykit/export/architectures/catalog.json").is_file()
    assert (wheel / "deploykit/core/calibration/photos.toml").is_file()


@pytest.mark.parametrize("place", ["wheel", "checkout"])
def test_a_request_works_if_user_modules_have_the_names_of_our_folders(place, wheel, users_folder):
    installed = wheel if place == "wheel" else ROOT
    program = "import deploykit; print(deploykit.__file__); print(deploykit.export_request('resnet18').model)"
    done = run_python(program, users_folder, installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed / "deploykit" / "__init__.py"), "resnet18"]


@pytest.mark.parametrize("place", ["wheel", "checkout"])
def test_every_verb_prints_its_help_where_the_users_modules_have_our_folders_names(place, wheel, users_folder):
    installed = wheel if place == "wheel" else ROOT
    program = (
        "import deploykit.cli as cli\n"
        f"codes = [cli.run([verb, '--help']) for verb in {sorted(VERBS)!r}]\n"
        "assert set(codes) == {0}, codes\n"
    )
    done = run_python(program, users_folder, installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: deploykit") == len(VERBS)
