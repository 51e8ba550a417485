"""The programs of scripts/benchmarks: wrong arguments are refused before anything is measured, --help needs nothing."""

import subprocess
import sys

import pytest
from programs import SCRIPTS, common, load_program

PROGRAMS = ("cpp_overhead", "engines", "faithfulness", "harness", "latency", "parity", "quantization", "sweep",
            "timm_networks")  # fmt: skip

latency = load_program("benchmarks/latency")
quantization = load_program("benchmarks/quantization")


@pytest.mark.parametrize(
    ("program", "words", "reason"),
    [
        (latency, "export --calls 5", "--calls: 5 is too few: at least 6, since fewer pairs give no 95 % interval"),
        (latency, "export --rounds 0", "--rounds: 0 is too few: at least 1"),
        (latency, "export resnt50", "did you mean resnet50"),
        (latency, "export nin_cifar10", "torchvision, which is the other side, does not have nin_cifar10"),
        (latency, "int8 --rounds 5", "--rounds: 5 is too few: at least 6, since fewer pairs give no 95 % interval"),
        (latency, "int8 --batch many", "--batch: 'many' is not an integer"),
        (latency, "nncf resnet18", "the following arguments are required: --nncf-python"),
        (latency, "catalog resnet18", "the following arguments are required: --rows"),
        (quantization, "calibration --peaks 100 0", "--peaks: 0 is too few: at least 1"),
        (quantization, "accuracy resnt18", "did you mean resnet18"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(program, words, reason, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program", *words.split()])
    with pytest.raises(SystemExit, match="2"):
        program.parse_arguments()
    assert reason in capsys.readouterr().err


def test_the_fewest_calls_that_give_an_interval_are_accepted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["latency", "export", "vgg16", "--calls", "6", "--rounds", "1"])
    arguments = latency.parse_arguments()
    assert (arguments.networks, arguments.calls, arguments.rounds) == (["vgg16"], 6, 1)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_explains_itself(program):
    result = subprocess.run(
        [sys.executable, SCRIPTS / "benchmarks" / program, "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert f"scripts/benchmarks/{program}" in result.stdout


class Counter(common.KeptRow, frozen=True, kw_only=True):
    pass


def test_only_networks_without_a_row_are_measured(tmp_path):
    origin = {"date": "2026-11-22", "processor": "a processor", "cores": 2, "versions": {}}
    common.save_row(tmp_path, Counter(network="timm:one", **origin))
    program = tmp_path / "program.py"
    program.write_text("import pathlib, sys\npathlib.Path(sys.argv[3], 'called').write_text(' '.join(sys.argv[1:]))")
    assert common.measure_missing([str(program)], tmp_path, ["timm:one", "two"]) == ["two"]
    assert (tmp_path / "called").read_text() == f"two --rows {tmp_path} --alone"
    assert common.load_rows(tmp_path, ["two", "timm:one"], Counter) == [Counter(network="timm:one", **origin)]
