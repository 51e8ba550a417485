"""Every sample of a batch is treated alone: eager PyTorch is asked at every batch size that is accepted."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, ModelSpec
from deploykit.export.batch_rows import check_rows
from deploykit.export.eager_run import EagerRun
from deploykit.export.prepare import TensorExportModule

DYNAMIC = BatchRange(1, 2, 5)
STATIC = BatchRange(4, 4, 4)
ALONE = BatchRange(1, 1, 1)
SPEC = ModelSpec("net", "own", "nowhere", {}, None, head="tensors")


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)).mean((2, 3))


class BatchStatistics(Plain):
    """BatchNorm without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class OwnStatistics(Plain):
    def forward(self, x):
        y = super().forward(x)
        return y - y.mean(0)


class BranchOnOne(Plain):
    def forward(self, x):
        y = super().forward(x)
        if x.shape[0] == 1:
            y = y * 2
        return y


class Neighbours(Plain):
    def forward(self, x):
        y = super().forward(x)
        return y + y.roll(1, 0)


class Numbered(Plain):
    """Adds the index of the row."""

    def forward(self, x):
        return super().forward(x) + torch.arange(len(x))[:, None]


class TrainingMode(Plain):
    """eval() undone in forward()."""

    def forward(self, x):
        norm = self.norm
        return functional.batch_norm(
            self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, True
        ).mean((2, 3))


class Squeezed(Plain):
    def forward(self, x):
        return functional.adaptive_avg_pool2d(self.conv(x), 1).squeeze()


class Dropping(Plain):
    def forward(self, x):
        return functional.dropout(super().forward(x), 0.5, training=True)


class Remembering(Plain):
    """Adds what the last call computed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        y = super().forward(x) + self.last
        self.last += y.detach().mean(0)
        return y


class Counting(Plain):
    """Moves a counter that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Writing(Plain):
    """Writes into its own input."""

    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.5))


class Chunked(Plain):
    """Decides by the batch, and computes the same."""

    def forward(self, x):
        return (
            torch.cat([super(Chunked, self).forward(part) for part in x.split(2)]) if len(x) > 2 else super().forward(x)
        )


def check(kind, batch=DYNAMIC):
    module = TensorExportModule(kind().eval())
    return check_rows(EagerRun(module, SPEC, (torch.zeros(2, 3, 8, 8),), batch), ("output",))


@pytest.mark.parametrize("kind", [Plain, Counting, Writing, Chunked])
@pytest.mark.parametrize("batch", [DYNAMIC, STATIC, ALONE], ids=["dynamic", "static", "alone"])
def test_a_network_that_treats_each_sample_alone_is_accepted(kind, batch):
    assert check(kind, batch) == (((4,),), ())


DEPENDENT = {
    BatchStatistics: "(layer 'norm', a BatchNorm2d, test_batch_rows.py, line ",
    OwnStatistics: "`return y - y.mean(0)`",
    BranchOnOne: "`y = y * 2`",
    Neighbours: "`return y + y.roll(1, 0)`",
}


@pytest.mark.parametrize("kind", DEPENDENT)
def test_samples_that_depend_on_each_other_are_refused_with_the_line(kind):
    with pytest.raises(InputError, match="depends on the other samples of its batch") as caught:
        check(kind)
    assert DEPENDENT[kind] in caught.value.what
    assert "--batch 1 for single samples" in caught.value.remedy


@pytest.mark.parametrize("kind", [BatchStatistics, OwnStatistics, Neighbours])
def test_a_static_batch_of_dependent_samples_is_exported_and_said(kind):
    (note,) = check(kind, STATIC).notes
    assert DEPENDENT[kind] in note
    assert "right for whole batches of 4" in note


@pytest.mark.parametrize("kind", [BatchStatistics, OwnStatistics, BranchOnOne, Neighbours])
def test_a_batch_of_one_has_no_other_samples(kind):
    assert check(kind, ALONE).notes == ()


@pytest.mark.parametrize("batch", [STATIC, ALONE], ids=["static", "alone"])
def test_batchnorm_in_training_mode_is_refused_by_name(batch):
    with pytest.raises(InputError, match="net runs its BatchNorm 'norm' in training mode"):
        check(TrainingMode, batch)


def test_an_axis_that_squeeze_removes_at_batch_1_is_refused_with_the_batches_that_work():
    with pytest.raises(InputError, match="is 4 for 1 sample: it loses the axis of the batch") as caught:
        check(Squeezed)
    assert "Give --batch 2:2:5" in caught.value.remedy
    assert check(Squeezed, BatchRange(2, 2, 5)).notes == ()


@pytest.mark.parametrize("kind", [Dropping, Remembering])
@pytest.mark.parametrize("batch", [DYNAMIC, STATIC, ALONE], ids=["dynamic", "static", "alone"])
def test_another_answer_to_the_same_input_is_refused(kind, batch):
    with pytest.raises(InputError, match="something else when it is given the same input again"):
        check(kind, batch)


@pytest.mark.parametrize("batch", [DYNAMIC, STATIC], ids=["dynamic", "static"])
def test_a_row_that_depends_on_its_index_is_refused(batch):
    with pytest.raises(InputError, match="'output' of net for one sample depends on its place in the batch") as caught:
        check(Numbered, batch)
    assert "--batch 1" in caught.value.remedy
    assert check(Numbered, ALONE).notes == ()


def test_the_network_is_left_as_it_was():
    module = TensorExportModule(Counting().eval())
    check_rows(EagerRun(module, SPEC, (torch.zeros(2, 3, 8, 8),), DYNAMIC), ("output",))
    assert float(module.network.calls) == 0


class Sequence(Plain):
    """T×N×C, as recurrent text readers return it."""

    def forward(self, x):
        return self.conv(x).mean(2).permute(2, 0, 1)


def test_a_batch_on_another_axis_is_named_where_one_output_is_expected():
    spec = ModelSpec("net", "own", "nowhere", {}, None, head="logits")
    eager = EagerRun(Sequence().eval(), spec, (torch.zeros(2, 3, 8, 8),), DYNAMIC)
    with pytest.raises(InputError, match="'logits' of net is 6×1×4 for 1 sample: its batch is on axis 1") as caught:
        check_rows(eager, ("logits",))
    assert "--head tensors" in caught.value.remedy
