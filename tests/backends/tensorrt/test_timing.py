"""The timing cache persists between builds; the double's timings are words."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from doubles import VERSIONS, Double

from deploykit.backends.tensorrt import timing
from deploykit.backends.tensorrt.builder import Builder, Config
from deploykit.backends.tensorrt.dialect import Dialect
from deploykit.core import cache
from deploykit.core.errors import InputError


@pytest.fixture(params=VERSIONS)
def double(request: pytest.FixtureRequest) -> Double:
    return Double(request.param)


@pytest.fixture
def config(double: Double) -> Config:
    return Builder(Dialect(double)).create_config()


def add_timings(config: Config, *words: bytes) -> None:
    """Add timings like a build."""
    timings: Any = config.handle.get_timing_cache()  # the double's, not TensorRT's
    timings._timed.update(words)


def test_each_gpu_and_version_has_a_file_in_the_cache_folder() -> None:
    file = timing.timings_file("NVIDIA RTX™ 6000 Ada", "10.3.0")
    assert file == cache.cache_folder() / "timing" / "nvidia-rtx-6000-ada-10.3.0.cache"
    assert file != timing.timings_file("NVIDIA RTX™ 6000 Ada", "10.3.1")


@pytest.mark.parametrize("name", ["", "../..", "a/b", "·"])
def test_no_name_escapes_the_folder(name: str) -> None:
    assert timing.timings_file(name, "1").parent == cache.cache_folder() / "timing"


def test_a_build_reuses_the_timings_of_the_previous_one(double: Double, tmp_path: Path) -> None:
    path = tmp_path / "new" / "timings.cache"
    for expected, word in ((b"first", b"first"), (b"first|second", b"second")):
        config = Builder(Dialect(double)).create_config()
        timing.load_timings(config, path)
        add_timings(config, word)
        digest = timing.save_timings(config, path)
        assert path.read_bytes() == expected
        assert digest == hashlib.sha256(expected).hexdigest()
    assert "IBuilderConfig.set_timing_cache(first)" in double.calls


def test_concurrent_builds_lose_no_timings(double: Double, tmp_path: Path) -> None:
    path = tmp_path / "timings.cache"
    one, other = (Builder(Dialect(double)).create_config() for _ in range(2))
    for config, word in ((one, b"one"), (other, b"other")):
        timing.load_timings(config, path)
        add_timings(config, word)
    timing.save_timings(one, path)
    timing.save_timings(other, path)
    assert path.read_bytes() == b"one|other"


@pytest.mark.parametrize("content", [b"damaged", b"another GPU"])
def test_mismatched_timings_are_replaced(config: Config, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "timings.cache"
    path.write_bytes(content)
    timing.load_timings(config, path)
    add_timings(config, b"here")
    timing.save_timings(config, path)
    assert path.read_bytes() == b"here"


def test_an_unwritable_folder_is_detected_before_the_build(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="DEPLOYKIT_CACHE_DIR"):
        timing.load_timings(config, tmp_path / "file" / "timing" / "timings.cache")


def test_only_the_file_and_its_lock_remain(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "timings.cache"
    timing.load_timings(config, path)
    timing.save_timings(config, path)
    assert {file.name for file in tmp_path.iterdir()} <= {"timings.cache", "timings.lock"}
