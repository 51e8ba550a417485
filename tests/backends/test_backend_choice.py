"""Which backend serves: what `--target` means, on a machine with a GPU and on one without."""

import pytest

from deploykit.backends import choice
from deploykit.core.errors import UsageError

OFFERED = choice.offered
"""As it is: other tests keep engines that nobody asked for out of their way."""


class Machine:
    """What is installed, and which of it this machine can run."""

    def __init__(self, *runs, unusable=()):
        self.runs = runs
        self.unusable = unusable

    def installed(self, name):
        return name in (*self.runs, *self.unusable)

    def backend(self, name, options=None):  # noqa: ARG002 - the table's words
        return self if name in self.runs else Unusable()

    def obstacle(self):
        return None

    def build_obstacle(self):
        return None


class Unusable:
    def obstacle(self):
        return "there is no GPU"

    def build_obstacle(self):
        return None


@pytest.fixture
def machine(monkeypatch):
    def set_up(*runs, unusable=()):
        made = Machine(*runs, unusable=unusable)
        monkeypatch.setattr(choice, "installed", made.installed)
        monkeypatch.setattr(choice, "backend", made.backend)
        monkeypatch.setattr(choice, "offered", OFFERED)

    return set_up


CPU = ("onnxruntime", "openvino")


def test_auto_is_tensorrt_where_it_runs(machine):
    machine(*CPU, "tensorrt", "tensorrt-rtx")
    assert choice.targets(["auto"], "int8") == ("tensorrt", (), ())


def test_auto_is_tensorrt_rtx_where_that_alone_runs(machine):
    machine(*CPU, "tensorrt-rtx", unusable=["tensorrt"])
    assert choice.targets(["auto"], "fp16") == ("tensorrt-rtx", (), ())


@pytest.mark.parametrize(("precision", "judged"), [("fp32", "onnxruntime"), ("int8", "openvino")])
def test_auto_without_a_gpu_is_the_cpu_with_a_portable_engine_beside(machine, precision, judged):
    machine(*CPU, unusable=["tensorrt-rtx"])
    assert choice.targets(["auto"], precision) == (judged, (), ("tensorrt-rtx",))


def test_auto_builds_nothing_beside_where_nothing_can(machine):
    machine(*CPU)
    assert choice.targets(["auto"], "fp32") == ("onnxruntime", (), ())


def test_an_engine_that_cannot_run_here_lies_beside_what_the_cpu_is_judged_by(machine):
    machine(*CPU, unusable=["tensorrt-rtx"])
    assert choice.targets(["tensorrt-rtx"], "int8") == ("openvino", ("tensorrt-rtx",), ())


def test_the_first_of_several_that_runs_is_judged_and_all_others_lie_beside(machine):
    machine(*CPU, unusable=["tensorrt", "tensorrt-rtx"])
    asked = ["tensorrt", "openvino", "onnxruntime", "openvino"]
    assert choice.targets(asked, "fp32") == ("openvino", ("tensorrt", "onnxruntime"), ())


def test_auto_beside_a_name_is_refused(machine):
    machine(*CPU)
    with pytest.raises(UsageError, match="--target auto chooses by itself"):
        choice.targets(["auto", "openvino"], "fp32")
