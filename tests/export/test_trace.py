import logging

import pytest
import torch
from torch import nn

from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange
from deploykit.export.trace import InterfaceNames, trace_module

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NAMES = InterfaceNames(("input",), ("logits",))
DYNAMIC = BatchRange(1, 2, 8)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))


class DataDependentBranch(Plain):
    """Branches on the sum of the pixels: torch.export refuses that, TorchScript records one branch."""

    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else super().forward(-x)


class SizeDecision(Plain):
    """Decides by the number of rows: torch.export refuses that, TorchScript records the decision for the examples."""

    def forward(self, x):
        return super().forward(x) if x.shape[0] != 7 else super().forward(x[:7])


class Untraceable(Plain):
    """Can be run, but not traced by either exporter."""

    def forward(self, x):
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError("not while you look\nand more that nobody reads")
        return super().forward(x)


class Unwritten(nn.Module):
    """Uses an operation without an ONNX form in either exporter."""

    def forward(self, x):
        return torch.linalg.eigvalsh(x.mean(1))


class ErrorWithoutMessage(Plain):
    def forward(self, _):
        raise ValueError


def test_auto_is_the_default_exporter_where_that_can():
    traced = trace_module(Plain().eval(), (X,), DYNAMIC, NAMES, "auto")
    assert (traced.exporter, traced.fallback_reason) == ("dynamo", None)


def test_auto_falls_back_to_torchscript_and_reports_the_reason():
    traced = trace_module(SizeDecision().eval(), (X,), DYNAMIC, NAMES, "auto")
    assert traced.exporter == "torchscript"
    assert traced.fallback_reason.startswith("The dynamo exporter cannot trace this network: ")
    assert "Constraints violated" in traced.fallback_reason


def test_a_decision_by_sizes_that_torchscript_records_is_reported_by_its_line():
    (decision,) = trace_module(SizeDecision().eval(), (X,), DYNAMIC, NAMES, "auto").decisions
    assert decision.startswith("test_trace.py, line ")
    assert decision.endswith(": `return super().forward(x) if x.shape[0] != 7 else super().forward(x[:7])`")


# ── Data-dependent control flow: never recorded ──────────────────────────────────────────────────────────────────────


class Reads(nn.Module):
    """Reads a value of its input by `function`, and multiplies by what it gives."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y * self.function(y, self.steps)


READS = {
    "branch": lambda y, _: 2.0 if y.max() > 1e9 else 1.0,
    "assertion": lambda y, _: 1.0 if bool(torch.isfinite(y).all()) else 0.0,
    "item": lambda y, _: y.abs().max().item(),
    "float": lambda y, _: float(y[0, 0]),
    "numpy": lambda y, _: float(y.numpy().max()),
    "list": lambda y, _: max(y.tolist()[0]),
    "equal": lambda y, _: 1.0 if torch.equal(y, y + 1) else 0.5,
    "loop": lambda y, _: sum(1.0 for _ in range(int(y.abs().sum() * 10) + 1)),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("exporter", ["auto", "torchscript"])
def test_a_network_that_reads_values_of_its_input_is_not_recorded_by_torchscript(read, exporter):
    if (read, exporter) == ("item", "auto"):
        traced = trace_module(Reads(READS[read]).eval(), (X,), DYNAMIC, NAMES, exporter)
        assert traced.exporter == "dynamo"  # it keeps the number as a tensor
        return
    with pytest.raises(InputError, match=r"reads the values of a tensor .*\(test_trace\.py, line \d+: `") as caught:
        trace_module(Reads(READS[read]).eval(), (X,), DYNAMIC, NAMES, exporter)
    assert f'"{read}": lambda y' in caught.value.what


CONSTANTS = {
    "buffer": lambda _, steps: float(steps),
    "branch on a buffer": lambda _, steps: 2.0 if steps > 2 else 1.0,
    "size": lambda y, _: 1.0 / y.shape[1],
}


@pytest.mark.parametrize("read", CONSTANTS)
def test_reading_what_does_not_depend_on_the_input_is_allowed(read):
    model = Reads(CONSTANTS[read]).eval()
    assert trace_module(model, (X,), DYNAMIC, NAMES, "torchscript").exporter == "torchscript"


class Positive(Plain):
    """Rows that depend on the data, and a decision by their number."""

    def forward(self, x):
        y = super().forward(x)
        positive = y[y > 0]
        return y + positive.mean() if positive.numel() > 2 else y


def test_a_decision_by_a_size_that_depends_on_the_data_is_refused():
    with pytest.raises(InputError, match="a tensor whose size depends on the data") as caught:
        trace_module(Positive().eval(), (X,), DYNAMIC, NAMES, "auto")
    assert "`positive = y[y > 0]`" in caught.value.what


class HalfAutocast(Plain):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_autocast_in_forward_is_left_out(exporter):
    model = trace_module(HalfAutocast().eval(), (X,), DYNAMIC, NAMES, exporter).model
    assert "BFLOAT16" not in {str(output.dtype) for node in model.graph for output in node.outputs}


def test_a_requested_exporter_is_not_replaced():
    with pytest.raises(InputError, match="The dynamo exporter cannot trace this network") as caught:
        trace_module(DataDependentBranch().eval(), (X,), DYNAMIC, NAMES, "dynamo")
    assert "--exporter torchscript" in caught.value.remedy


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_network_that_cannot_be_traced_is_refused_in_one_line(exporter):
    with pytest.raises(InputError) as caught:
        trace_module(Untraceable().eval(), (X,), DYNAMIC, NAMES, exporter)
    assert caught.value.what.startswith(
        f"The {exporter} exporter cannot trace this network: not while you look (test_trace.py, line "
    )
    assert "\n" not in caught.value.what


def test_where_both_exporters_fail_both_reasons_are_given():
    with pytest.raises(InputError) as caught:
        trace_module(Untraceable().eval(), (X,), DYNAMIC, NAMES, "auto")
    assert "The dynamo exporter cannot trace this network" in caught.value.what
    assert "The torchscript exporter cannot trace this network" in caught.value.what
    assert "--exporter" not in caught.value.remedy


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_an_error_without_a_message_is_named_by_its_type(exporter):
    with pytest.raises(InputError, match="cannot trace this network: ValueError"):
        trace_module(ErrorWithoutMessage().eval(), (X,), DYNAMIC, NAMES, exporter)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("batch", [DYNAMIC, BatchRange(2, 2, 2)], ids=["dynamic", "static"])
def test_every_tensor_has_a_type_and_the_batch_its_name(exporter, batch):
    model = trace_module(Plain().eval(), (X,), batch, NAMES, exporter).model
    leading = 2 if batch.static else "batch"
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["input", "logits"]
    images = [value for node in model.graph for value in node.outputs if value.shape and len(value.shape) == 4]
    assert images
    for value in (*model.graph.inputs, *images, *model.graph.outputs):
        assert value.dtype is not None
        assert value.shape[0] == leading


@pytest.mark.parametrize(
    ("exporter", "named"), [("dynamo", "aten._linalg_eigh"), ("torchscript", "aten::linalg_eigvalsh")]
)
def test_an_operator_that_cannot_be_written_is_named(exporter, named):
    with pytest.raises(InputError) as caught:
        trace_module(Unwritten().eval(), (X,), DYNAMIC, NAMES, exporter)
    assert named in caught.value.what
    assert "\n" not in caught.value.what


def test_nothing_is_printed_and_logging_is_unchanged(capfd):
    disabled = logging.root.manager.disable
    trace_module(Plain().eval(), (X,), DYNAMIC, NAMES, "torchscript")
    with pytest.raises(InputError):
        trace_module(Unwritten().eval(), (X,), DYNAMIC, NAMES, "torchscript")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == disabled
