"""The wheel contains every file of the C++ library that git tracks, and no build results."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "deploykit/cpp"


@pytest.fixture
def tracked():
    """Paths of the library that git tracks or would add."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    words = ("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", LIBRARY)
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return {path for path in listed if (ROOT / path).exists()}


def list_wheel_files():
    return {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}


def test_the_wheel_contains_the_cpp_library_as_in_git(tracked):
    assert {path for path in list_wheel_files() if path.startswith(f"{LIBRARY}/")} == tracked
    for needed in ("CMakeLists.txt", "include/deploykit/deploykit.hpp", "src/engine.cpp", "bench/main.cpp"):
        assert f"{LIBRARY}/{needed}" in tracked
    assert any(path.startswith(f"{LIBRARY}/examples/") for path in tracked)


def test_build_results_inside_the_library_are_not_packed(tmp_path):
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("build", "__pycache__")
    shutil.copytree(ROOT / "deploykit", copy / "deploykit", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    built = copy / LIBRARY / "build" / "native"
    built.mkdir(parents=True)
    (built / "libdeploykit.a").write_text("")
    files = {file.distribution_path for file in WheelBuilder(str(copy)).recurse_included_files()}
    assert f"{LIBRARY}/CMakeLists.txt" in files
    assert not [path for path in files if "build/" in path]


def test_the_wheel_has_the_templates_of_a_report():
    folder = ROOT / "deploykit" / "report"
    parts = [*(folder / "html").rglob("*.j2"), *(folder / "html").glob("*.css"), *(folder / "html").glob("*.js")]
    assert len(parts) > 10
    wanted = {path.relative_to(ROOT).as_posix() for path in (*parts, folder / "schema.json")}
    assert wanted <= list_wheel_files()
