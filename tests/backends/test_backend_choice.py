"""What `--target` selects on machines with and without a GPU."""

import pytest

from deploykit.backends import choice
from deploykit.core.errors import UsageError

OFFERED = choice.find_optional_engines
OFFERED_FOR_CPP = choice.find_cpp_engines
FALLBACKS = choice.find_fallbacks
"""As they are: other tests keep engines that nobody asked for out of their way."""


class Machine:
    """The installed backends, and those that this machine can run."""

    def __init__(self, *runs, unusable=()):
        self.runs = runs
        self.unusable = unusable

    def installed(self, name):
        return name in (*self.runs, *self.unusable)

    def backend(self, name, options=None):  # noqa: ARG002 - the table's words
        return self if name in self.runs else Unusable()

    def unavailable_reason(self):
        return None

    def cannot_build_reason(self):
        return None


class Unusable:
    def unavailable_reason(self):
        return "there is no GPU"

    def cannot_build_reason(self):
        return None


@pytest.fixture
def simulate_machine(monkeypatch):
    def set_up(*runs, unusable=()):
        created = Machine(*runs, unusable=unusable)
        monkeypatch.setattr(choice, "is_installed", created.installed)
        monkeypatch.setattr(choice, "create_backend", created.backend)
        monkeypatch.setattr(choice, "find_optional_engines", OFFERED)
        monkeypatch.setattr(choice, "find_cpp_engines", OFFERED_FOR_CPP)
        monkeypatch.setattr(choice, "find_fallbacks", FALLBACKS)

    return set_up


CPU = ("onnxruntime", "openvino")


def test_auto_selects_tensorrt_where_it_runs(simulate_machine):
    simulate_machine(*CPU, "tensorrt", "tensorrt-rtx")
    assert choice.select_targets(["auto"], "int8")[:3] == ("tensorrt", (), ())


def test_auto_selects_tensorrt_rtx_where_only_that_runs(simulate_machine):
    simulate_machine(*CPU, "tensorrt-rtx", unusable=["tensorrt"])
    assert choice.select_targets(["auto"], "fp16")[:3] == ("tensorrt-rtx", (), ())


@pytest.mark.parametrize(
    ("precision", "judged", "extra"),
    [("fp32", "onnxruntime", ("tensorrt-rtx",)), ("int8", "openvino", ("onnxruntime", "tensorrt-rtx"))],
)
def test_auto_without_a_gpu_is_the_cpu_with_an_extra_portable_engine(simulate_machine, precision, judged, extra):
    simulate_machine(*CPU, unusable=["tensorrt-rtx"])
    assert choice.select_targets(["auto"], precision)[:3] == (judged, (), extra)


def test_auto_has_no_extra_engine_without_a_library_for_it(simulate_machine):
    simulate_machine(*CPU)
    assert choice.select_targets(["auto"], "fp32")[:3] == ("onnxruntime", (), ())


def test_an_engine_that_cannot_run_here_is_an_extra_one_and_the_cpu_is_primary(simulate_machine):
    simulate_machine(*CPU, unusable=["tensorrt-rtx"])
    assert choice.select_targets(["tensorrt-rtx"], "int8")[:3] == ("openvino", ("tensorrt-rtx",), ())


def test_the_first_runnable_target_is_primary_and_all_others_are_extra(simulate_machine):
    simulate_machine(*CPU, unusable=["tensorrt", "tensorrt-rtx"])
    targets = ["tensorrt", "openvino", "onnxruntime", "openvino"]
    assert choice.select_targets(targets, "fp32")[:3] == ("openvino", ("tensorrt", "onnxruntime"), ())


def test_auto_with_another_name_is_rejected(simulate_machine):
    simulate_machine(*CPU)
    with pytest.raises(UsageError, match="--target auto selects the backend itself"):
        choice.select_targets(["auto", "openvino"], "fp32")


@pytest.mark.parametrize("precision", ["int8", "int8-fp16"])
def test_beside_int8_of_openvino_auto_builds_the_engine_that_the_cpp_library_runs(simulate_machine, precision):
    simulate_machine(*CPU)
    assert choice.select_targets(["auto"], precision)[:3] == ("openvino", (), ("onnxruntime",))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_other_precisions_have_no_engine_of_the_cpp_library_besides(simulate_machine, precision):
    simulate_machine(*CPU)
    assert choice.select_targets(["auto"], precision).optional_engines == ()


def test_a_target_that_was_named_stands_alone(simulate_machine):
    simulate_machine(*CPU)
    assert choice.select_targets(["openvino"], "int8")[:3] == ("openvino", (), ())


def test_auto_names_the_backends_to_go_on_to(simulate_machine):
    simulate_machine(*CPU)
    assert choice.select_targets(["auto"], "int8").fallback_targets == ("onnxruntime",)
    assert choice.select_targets(["auto"], "fp16").fallback_targets == ("openvino",)


def test_a_named_backend_is_never_replaced(simulate_machine):
    simulate_machine(*CPU)
    assert choice.select_targets(["openvino"], "int8").fallback_targets == ()
