"""Fixtures of all tests: a separate cache, small real bundles, and the command line as a function."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with SIGINT ignored. Programs that a test starts would inherit that and ignore the
    # Ctrl-C that the test sends.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("deploykit", deadline=None)  # on a busy machine, the time of an example varies
settings.load_profile("deploykit")

ROOT = Path(__file__).resolve().parent.parent


class Result(NamedTuple):
    """Exit code and output of one command line."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams with all white space as single blanks, so that messages are found however they are wrapped."""
        return " ".join(f"{self.out} {self.err}".split())

    @property
    def content(self) -> Any:
        """The content of the JSON document on stdout."""
        document = json.loads(self.out)
        assert document["deploykit"] == 1
        return document["content"]


CommandLine = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache separate from the user's, shared by the tests of one worker."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOYKIT_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def quick_latency() -> Iterator[None]:
    """Latency from a few calls, and no optional engines: tests/evaluate/latency and tests/cli/test_cli_compile.py test
    these.
    """
    from deploykit.backends import choice
    from deploykit.evaluate.latency.fp32_beside import Blocks, time_beside_fp32
    from deploykit.evaluate.latency.measure import Settings, measure_calls
    from deploykit.workflows import fp32_beside, stages

    few = Settings(window_s=0, agreement=1e9, iterations_at_least=3, seconds_at_least=0.001)
    brief = Blocks(rounds=6, pause_s=0, block_s=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "find_fallbacks", lambda primary, precision: ())  # noqa: ARG005 - the table's words
        patch.setattr(stages, "measure_calls", functools.partial(measure_calls, settings=few))
        quick = functools.partial(time_beside_fp32, settings=few, blocks=brief)
        patch.setattr(fp32_beside, "time_beside_fp32", quick)
        patch.setattr(choice, "find_optional_engines", tuple)
        patch.setattr(choice, "find_cpp_engines", lambda *_: ())
        yield


@pytest.fixture(scope="session")
def small_export(quick_latency: None) -> tuple[str, ...]:  # noqa: ARG001 - only its patch is needed
    """Arguments of the cheapest complete export: a network of a million parameters, four samples."""
    return ("export", "nin_cifar10", "--data", "synthetic", "--samples", "4", "--batch", "1:2:4")


@pytest.fixture(scope="session")
def fp32_bundle(small_export: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real bundle. Never change it: use `bundle`, a copy."""
    return _exported(small_export, "fp32", tmp_path_factory)


@pytest.fixture(scope="session")
def fp16_bundle(small_export: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network at FP16. Never change it."""
    return _exported(small_export, "fp16", tmp_path_factory)


@pytest.fixture(scope="session")
def int8_bundle(small_export: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network at INT8, with OpenVINO if it is installed. Never change it."""
    calibrated = (*small_export, "--calibration", "synthetic", "--calibration-size", "100")
    return _exported(calibrated, "int8", tmp_path_factory)


def _exported(words: tuple[str, ...], precision: str, factory: pytest.TempPathFactory) -> Path:
    from deploykit.cli import run

    folder = factory.mktemp("bundles") / f"nin_cifar10-{precision}"
    assert run([*words, f"--{precision}", "-o", str(folder)]) == 0
    return folder


@pytest.fixture
def bundle(fp32_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the FP32 bundle that the test may damage."""
    return Path(shutil.copytree(fp32_bundle, tmp_path / "bundle"))


@pytest.fixture
def cache_without(
    fp32_bundle: Path,  # noqa: ARG001 - making it fills the cache
    fp16_bundle: Path,  # noqa: ARG001
    cache_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """A cache with the results of the small exports, except entries of the kinds named (graph, cast, …)."""

    def forget(*kinds: str) -> Path:
        folder = tmp_path / "cache"
        shutil.copytree(cache_folder, folder, ignore=shutil.ignore_patterns("locks", *kinds), copy_function=os.link)
        monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(folder))
        return folder

    return forget


@pytest.fixture
def replay_exporter(fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the exporter, which takes seconds, by one that returns the graph of the small bundle."""

    def replay(fallback: str | None = None) -> None:
        from deploykit.bundle import manifest as manifests
        from deploykit.core.values import ExportedGraph

        def export(*given: Any) -> ExportedGraph:
            manifest, folder = manifests.read_manifest(fp32_bundle), given[-1]
            shutil.copyfile(fp32_bundle / "model.onnx", folder / "model.onnx")
            return ExportedGraph(
                files=(manifest.files["model.onnx"],),
                opset=manifest.graph.opset,
                exporter="dynamo" if fallback is None else "torchscript",
                fallback_reason=fallback,
                inputs=manifest.inputs,
                outputs=manifest.outputs,
                batch=manifest.batch,
                rewrites=manifest.graph.rewrites,
                initializer_bytes=0,
                weights=manifest.weights,
            )

        monkeypatch.setattr("deploykit.export.export.export_module", export)

    return replay


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Run a command line in this process, and check that no traceback is printed without --debug."""

    def call(*words: object) -> Result:
        from deploykit.cli import run

        arguments = [str(word) for word in words]
        capfd.readouterr()
        code = run(arguments)
        result = Result(code, *capfd.readouterr())
        assert "Traceback" not in result.out
        assert "--debug" in arguments or "Traceback" not in result.err
        return result

    return call


@pytest.fixture
def program() -> Callable[..., list[str]]:
    """The arguments that start deploykit from this checkout in a new process, in any folder."""

    def words(*arguments: object) -> list[str]:
        start = f"import sys; sys.path[0] = {str(ROOT)!r}; from deploykit.cli import main; main()"
        return [sys.executable, "-c", start, *map(str, arguments)]

    return words


@pytest.fixture
def process(program: Callable[..., list[str]]) -> CommandLine:
    """Run a command line in a new process."""

    def call(*arguments: object, **environment: str) -> Result:
        words, everything = program(*arguments), {**os.environ, **environment}
        done = subprocess.run(words, env=everything, capture_output=True, text=True, timeout=300, check=False)
        assert "Traceback" not in done.stdout + done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """An image file that is not square."""
    path = tmp_path / "photograph.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, Any]]:
    """The state of a folder that a write would change: names, kinds, contents, times."""

    def take(folder: Path) -> dict[str, Any]:
        return {
            path.relative_to(folder).as_posix(): (
                path.lstat().st_mtime_ns,
                path.lstat().st_ino,
                path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None,
            )
            for path in sorted(folder.rglob("*"))
        }

    return take
