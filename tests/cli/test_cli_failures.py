"""Every failure: one paragraph, the right exit code, no traceback, and no partial files."""

import contextlib
import errno
import os
import signal
import subprocess

import numpy as np
import pytest

from deploykit.bundle import load
from deploykit.cli.failures import print_error
from deploykit.cli.progress import TerminalProgress
from deploykit.core.errors import InputError


def list_partial_folders(*folders):
    """Folders that were being written."""
    return [path for folder in folders for path in folder.rglob("*.partial-*")]


@pytest.fixture
def failing(monkeypatch):
    """`deploykit verify` with this error."""

    def fail(error):
        def open_bundle(*_):
            raise error

        monkeypatch.setattr(load, "load", open_bundle)

    return fail


STEPS = [
    ("exporting nin_cifar10 to ONNX", ("graph",)),
    ("running the graph at batch 1, 2, 4", ("graph",)),
    ("computing the PyTorch FP32 reference on synthetic", ("reference",)),
    ("checking FP16 range on synthetic", ("ranges",)),
    ("converting the graph to FP16", ("cast",)),
    ("compiling for onnxruntime", ("engine",)),
    ("reading the executed precision of onnxruntime", ("receipt",)),
    ("running the graph cast to FP16, as written on synthetic", ("verdict",)),
    ("preparing FP32 on onnxruntime to time beside fp16", ()),
    ("measuring latency, fp16 and FP32 in alternation", ()),
    ("writing the bundle", ()),
]


@pytest.mark.parametrize(("title", "forgotten"), STEPS, ids=[title for title, _ in STEPS])
def test_an_interruption_in_any_step_leaves_no_files(
    cli, small_export, cache_without, replay_exporter, tmp_path, monkeypatch, title, forgotten
):
    cache, entered = cache_without(*forgotten), TerminalProgress.step
    replay_exporter()

    @contextlib.contextmanager
    def step(self, text, total=None):
        with entered(self, text, total) as advance:
            if text == title:
                raise KeyboardInterrupt
            yield advance

    monkeypatch.setattr(TerminalProgress, "step", step)
    result = cli(*small_export, "--fp16", "-o", tmp_path / "out" / "bundle")
    assert result.code == 130
    assert result.err.splitlines()[-1] == "Interrupted. Nothing was written."
    assert not (tmp_path / "out" / "bundle").exists()
    assert list_partial_folders(tmp_path, cache) == []


def heed_interrupts() -> None:
    """A shell starts background jobs with SIGINT ignored, and children inherit that: tests too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_process_prints_no_traceback_and_leaves_no_files(program, small_export, cache_without, tmp_path):
    cache = cache_without()
    words = program(*small_export, "-o", tmp_path / "out" / "bundle")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    ) as started:
        assert started.stderr is not None
        assert any(line == "measuring latency\n" for line in started.stderr)
        started.send_signal(signal.SIGINT)  # during the measurement, which takes two seconds
        out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "Interrupted. Nothing was written."
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    assert list_partial_folders(cache) == []


def test_an_interruption_translated_by_a_library_is_still_an_interruption(cli, failing):
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    failing(error)
    assert cli("verify", "bundle") == (130, "", "Interrupted. Nothing was written.\n")


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_the_bundle_is_written(cli, small_export, bundle, tmp_path, monkeypatch, snapshot):
    before = snapshot(bundle)
    monkeypatch.setattr("deploykit.bundle.write.shutil.copyfile", full)
    result = cli(*small_export, "--samples", "8", "-o", bundle, "--force")
    assert result.code == 3
    assert f"The disk that holds {bundle} is full. Free some space, or choose another folder with -o." in result.text
    assert snapshot(bundle) == before
    assert list_partial_folders(tmp_path) == []


def test_a_full_disk_while_the_cache_is_written(cli, small_export, cache_without, tmp_path, monkeypatch):
    cache = cache_without("reference")
    monkeypatch.setattr(np, "save", full)
    result = cli(*small_export, "-o", tmp_path / "bundle")
    assert result.code == 3
    assert "is full. Free some space (deploykit cache clear does), or point DEPLOYKIT_CACHE_DIR at" in result.text
    assert not (tmp_path / "bundle").exists()
    assert list_partial_folders(cache) == []


def test_a_cache_that_cannot_be_written_is_named(cli, small_export, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DEPLOYKIT_CACHE_DIR", str(tmp_path / "file"))
    result = cli(*small_export, "-o", tmp_path / "bundle")
    assert result.code == 3
    assert f"{tmp_path / 'file'} cannot be written" in result.text
    assert "point DEPLOYKIT_CACHE_DIR at another folder" in result.text


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero"), KeyError("logits"), EOFError("ran out"), AssertionError()]
)
def test_an_unexpected_exception_is_an_internal_error_with_a_request_to_report_it(cli, failing, error):
    failing(error)
    result = cli("verify", "bundle")
    assert result.code == 5
    assert result.out == ""
    assert f"deploykit failed: {type(error).__name__}: {error}." in result.text
    assert "Run `deploykit --debug …` with the same arguments and report its output with the command." in result.text


def test_debug_shows_the_traceback_and_the_message(cli, failing):
    failing(ZeroDivisionError("division by zero"))
    result = cli("--debug", "verify", "bundle")
    assert result.code == 5
    assert result.err.startswith("Traceback (most recent call last):")
    assert "Error: deploykit failed: ZeroDivisionError: division by zero." in result.text


def test_out_of_memory_is_an_environment_error(cli, failing):
    failing(MemoryError())
    result = cli("verify", "bundle")
    assert result.code == 3
    assert "Use a smaller --batch" in result.text


def test_an_operating_system_error_names_its_file(cli, failing):
    failing(PermissionError(errno.EACCES, "Permission denied", "model.onnx"))
    result = cli("verify", "bundle")
    assert result.code == 3
    assert result.err == "Error: model.onnx cannot be used: Permission denied. Check the path and the disk.\n"


def test_a_message_in_a_pipe_is_one_line(cli, tmp_path):
    (line,) = cli("export", "nix", "-o", tmp_path / "bundle").err.splitlines()
    assert line.startswith("Error: unknown model 'nix'; choose from ")
    assert len(line) > 200


@pytest.mark.parametrize("columns", [60, 90])
def test_a_message_on_a_terminal_wraps_at_its_width(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert print_error(InputError("word " * 60, "Try another."), debug=False) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= columns


def test_a_command_in_a_message_names_the_bundle_of_the_command_line(bundle, monkeypatch, capsys):
    monkeypatch.chdir(bundle.parent)
    error = InputError("It is broken.", "Try: deploykit compile BUNDLE --target openvino")
    print_error(error, debug=False, arguments=["verify", str(bundle)])
    assert f"deploykit compile {bundle.name} --target openvino" in capsys.readouterr().err
