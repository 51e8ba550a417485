"""The command line before any work: help, versions, unknown words, and output pipes."""

import json
import subprocess
from importlib import metadata

import pytest

from deploykit.cli import VERBS
from deploykit.core.extras import install_command
from deploykit.export.architectures import CATALOG

HEAVY = {"torch", "torchvision", "onnxruntime", "sklearn", "skimage", "matplotlib"}
ARRAYS = {"numpy", "onnx", "onnx_ir", "PIL"}


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_verb_and_every_exit_code(cli, flag):
    result = cli(flag)
    assert result.code == 0
    for verb, line in VERBS.items():
        assert f"{verb} {line}" in result.text
    codes = (
        "0 success",
        "1 a check failed",
        "2 wrong usage",
        "3 bad input",
        "4 a backend",
        "5 an internal error",
        "130",
    )
    for meaning in codes:
        assert meaning in result.text


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(cli, verb, flag):
    result = cli(verb, flag)
    assert result.code == 0
    assert result.out.startswith(f"Usage: deploykit {verb}")
    assert result.err == ""


def test_help_as_a_process(process):
    result = process("--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("Usage: deploykit")


def test_the_version_is_the_packages(cli):
    assert metadata.version("deploykit") in cli("--version").out


def test_an_unknown_command_suggests_the_nearest(cli):
    result = cli("exprt", "resnet50")
    assert result.code == 2
    assert "unknown command 'exprt'; did you mean export or report?" in result.text


@pytest.mark.parametrize("words", [("--nope",), ("export", "resnet50", "--nope"), ("export",), ("run", "bundle")])
def test_invalid_arguments_are_usage_errors_that_point_to_the_help(cli, words):
    result = cli(*words)
    assert result.code == 2
    assert "--help' for help." in result.err


def test_list_has_every_network_in_order(cli):
    result = cli("list")
    assert result.code == 0
    names = [line.split()[0] for line in result.out.splitlines() if line.split()]
    assert [name for name in names if name in CATALOG] == list(CATALOG)


def test_list_as_json_is_the_catalog(cli):
    rows = cli("list", "--json").content
    assert [row["name"] for row in rows] == list(CATALOG)
    assert all(row["parameters"] > 0 and row["macs"] > 0 and row["paper"] for row in rows)


@pytest.mark.parametrize("words", [("list",), ("doctor",), ("--help",)])
def test_without_a_terminal_there_is_no_colour(process, words):
    assert "\x1b" not in process(*words).out


def test_a_terminal_with_another_encoding_gets_escapes_for_missing_characters(process):
    result = process("list", PYTHONIOENCODING="ascii")
    assert result.code == 0
    assert r"224\xd7224" in result.out


LOADS = "import sys; from deploykit.cli import run; run({words!r}); print(*sorted(sys.modules), file=sys.stderr)"


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], HEAVY | ARRAYS | {"rich", "msgspec"}),
        (["export", "--help"], HEAVY | ARRAYS),
        (["list"], HEAVY | ARRAYS),
        (["list", "--json"], HEAVY | ARRAYS),
        (["doctor"], HEAVY | ARRAYS),
        (["cmake-dir"], HEAVY | ARRAYS),
        (["verify", "BUNDLE"], HEAVY - {"onnxruntime"}),
        (["inspect", "BUNDLE"], HEAVY),
        (["run", "BUNDLE", "nowhere.png"], HEAVY - {"onnxruntime"}),
        (["export", "resnt50"], HEAVY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",  # sets have no common order in all workers
)
def test_a_command_imports_only_what_it_needs(program, fp32_bundle, words, absent):
    command = program()
    command[-1] = command[-1].replace(
        "from deploykit.cli import main; main()",
        LOADS.format(words=[str(fp32_bundle) if word == "BUNDLE" else word for word in words]),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}
    assert "deploykit" in loaded
    assert loaded & absent == set()


@pytest.mark.parametrize("verb", ["list", "list --json", "doctor", "inspect BUNDLE"])
def test_a_closed_output_pipe_is_not_an_error(program, fp32_bundle, verb):
    words = [str(fp32_bundle) if word == "BUNDLE" else word for word in verb.split()]
    with subprocess.Popen(program(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        started.stdout.close()
        assert started.stderr.read() == b""
    assert started.returncode == 141  # 128 + SIGPIPE: neither success nor a failed check


def test_shell_completion_is_printed(process):
    result = process(_DEPLOYKIT_COMPLETE="bash_source")
    assert result.code == 0
    assert "_DEPLOYKIT_COMPLETE=bash_complete" in result.out


def test_the_shell_completes_verbs(process):
    result = process(_DEPLOYKIT_COMPLETE="bash_complete", COMP_WORDS="deploykit exp", COMP_CWORD="1")
    assert (result.code, result.out) == (0, "plain,export\n")


def test_doctor_reports_this_machine(cli):
    result = cli("doctor")
    assert result.code == 0
    for subject in ("Python", "torch", "onnxruntime", "cache", "machine"):
        assert f"\n{subject} " in result.out


def test_doctor_as_a_process_prints_one_json_document(process):
    result = process("doctor", "--json")
    assert json.loads(result.out)["kind"] == "doctor"
    assert {row["state"] for row in result.content} <= {"ok", "missing", "broken"}
    assert result.err == ""


def test_doctor_fails_where_something_needed_is_broken(cli, monkeypatch):
    monkeypatch.setattr("deploykit.workflows.doctor.CORE", ("torch", "no-such-package"))
    result = cli("doctor")
    assert result.code == 4
    assert f"not installed → {install_command()}" in result.text
