"""A request as a command line: parsing it returns the request."""

import shlex

import pytest

from deploykit.core.values import (
    BatchRange,
    BudgetOptions,
    BuildOptions,
    CalibrationOptions,
    ExportOptions,
    ExportRequest,
    ImageOverrides,
    InputSpec,
    WeightsSource,
)
from deploykit.report.export_command import export_command_words
from deploykit.workflows import export

RANDOM = WeightsSource("random")


class RequestCaptured(Exception):
    """Raised instead of an export, with the request."""


@pytest.fixture
def parse_command_line(monkeypatch):
    """The request parsed by deploykit from a command line."""
    from deploykit.backends import choice
    from deploykit.cli import main_group

    def asked(request, *_):
        raise RequestCaptured(request)

    def as_typed(names, *_):
        return choice.Targets(names[0], tuple(names[1:]))

    monkeypatch.setattr(export, "export", asked)
    monkeypatch.setattr(choice, "select_targets", as_typed)

    def run(line):
        words = shlex.split(line)
        assert words[0] == "deploykit"
        with pytest.raises(RequestCaptured) as found:
            main_group.main(words[1:], standalone_mode=False)
        return found.value.args[0]

    return run


@pytest.mark.parametrize(
    "request_",
    [
        ExportRequest("resnet18", "fp32", RANDOM),
        ExportRequest("resnet18", "fp16", WeightsSource("imagenet"), io="fp16", head="embedding", samples=3),
        ExportRequest("vgg11", "bf16", WeightsSource("random", 7), options=ExportOptions(opset=22), target="openvino"),
        ExportRequest(
            "vgg11",
            "int8-fp16",
            WeightsSource("file", path="my weights; rm -rf $HOME/'x'.pth"),
            arguments=("num_classes=10", "dropout=0.5"),
            data="a folder",
            extra_engines=("openvino",),
            calibration=CalibrationOptions("$(photos)", 100, "entropy"),
            budget=BudgetOptions(min_snr_db=17.5),
        ),
        ExportRequest(
            "vgg11",
            "int8",
            RANDOM,
            data="photos",
            calibration=CalibrationOptions("photos"),
            budget=BudgetOptions(max_drop=0.5),
        ),
        ExportRequest(
            "resnet18",
            "fp32",
            RANDOM,
            preprocess_in="graph",
            image=ImageOverrides(64, 96, 0.1, (0.1, 0.2, 0.3), (1.0, 2.0, 1 / 3), "bgr"),
            options=ExportOptions(BatchRange(2, 3, 4), 18, "torchscript"),
        ),
        ExportRequest("resnet18", "fp32", RANDOM, options=ExportOptions(BatchRange(4, 4, 4))),
        ExportRequest(
            "resnet18",
            "fp32",
            RANDOM,
            image=ImageOverrides(resize=300),
            inputs=(InputSpec("tokens", (128,), "int64"), InputSpec("points", (3, 5), "float32")),
            output_kinds={"a=b": "map", "scores": "classes"},
        ),
        ExportRequest(
            "resnet18",
            "fp16",
            RANDOM,
            target="tensorrt",
            build=BuildOptions(
                compute_capabilities=(86, 120), workspace_mib=512, optimization_level=5, version_compatible=True,
                hardware_compatible=True, strip_weights=True, refittable=True, dla_core=1,
            ),
        ),
    ],
    ids=lambda request: f"{request.model}-{request.precision}",
)  # fmt: skip
def test_the_command_line_is_read_as_the_request(parse_command_line, request_):
    assert parse_command_line(" ".join(export_command_words(request_))) == request_


def test_every_argument_of_a_request_is_quoted():
    line = " ".join(export_command_words(ExportRequest("resnet18", "fp32", RANDOM, data="a; rm -rf $(HOME) `x`")))
    assert "a; rm -rf $(HOME) `x`" in shlex.split(line)
