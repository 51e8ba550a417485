from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from deploykit.export.architectures.fractalnet import FRACTALNET20, Fractal, FractalNet, drop_inputs, join_mean

SMALL: dict[str, Any] = {"widths": (4, 6), "total_columns": 3, "num_classes": 5}
Z = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def join_columns(fractal: Fractal, columns: int) -> torch.Tensor:
    return join_mean(fractal(Z, tuple(range(1, columns + 1)), join_mean))


# ── The expansion rule ────────────────────────────────────────────────────────────────────────────────────────────────


def test_f1_is_one_convolution(randomize_batchnorm):
    f1 = randomize_batchnorm(Fractal(3, 4, 1))
    torch.testing.assert_close(join_columns(f1, 1), f1.conv(Z))


def test_f2_is_two_convolutions_joined_with_one(randomize_batchnorm):
    f2 = randomize_batchnorm(Fractal(3, 4, 2))
    deep_1, deep_2 = (half.conv for half in f2.halves)
    torch.testing.assert_close(join_columns(f2, 2), (deep_2(deep_1(Z)) + f2.conv(Z)) / 2)


def test_f3_is_f2_twice_joined_with_one_convolution_in_a_single_join(randomize_batchnorm):
    f3 = randomize_batchnorm(Fractal(3, 4, 3))
    first, second = f3.halves
    (a1, a2), (b1, b2) = ([half.conv for half in f2.halves] for f2 in (first, second))
    middle = (a2(a1(Z)) + first.conv(Z)) / 2
    torch.testing.assert_close(join_columns(f3, 3), (b2(b1(middle)) + second.conv(middle) + f3.conv(Z)) / 3)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5])
def test_columns_meet_as_often_as_their_depths_divide(columns):
    """After t of 2^(C-1) convolutions, the columns whose length divides t end: the exponent of 2 in t, plus one."""
    sizes = []

    def join(inputs):
        sizes.append(len(inputs))
        return join_mean(inputs)

    with torch.device("meta"):
        join(Fractal(3, 4, columns)(torch.empty(1, 3, 8, 8), tuple(range(1, columns + 1)), join))
    assert sizes == [(t & -t).bit_length() for t in range(1, 2 ** (columns - 1) + 1)]


# ── Parameters ────────────────────────────────────────────────────────────────────────────────────────────────────────


def convolution_weights(network: nn.Module) -> int:
    return sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5])
def test_weights_of_a_block_follow_the_closed_form(columns):
    entry, width = 3, 4
    expected = 9 * (columns * entry * width + (2**columns - 1 - columns) * width**2)
    assert convolution_weights(Fractal(entry, width, columns)) == expected


def test_three_columns_have_seven_convolutions_three_of_which_read_the_input():
    assert convolution_weights(Fractal(5, 8, 3)) == 9 * (3 * 5 * 8 + 4 * 8**2)


@pytest.fixture(scope="module")
def fractalnet20():
    with torch.device("meta"):
        return FractalNet(**FRACTALNET20.arguments)


def test_fractalnet20_has_4_9_million_fewer_parameters_than_in_the_paper(fractalnet20):
    parameters = sum(parameter.numel() for parameter in fractalnet20.parameters())
    assert parameters == 33_724_618
    assert 38.6e6 - parameters == pytest.approx(4.9e6, abs=0.05e6)


def test_projections_to_the_width_of_a_block_would_account_for_the_papers_count(fractalnet20):
    """The interpretation in the module's docstring: all seven convolutions c×c, and 1×1 where the width changes."""
    widths = FRACTALNET20.arguments["widths"]
    entries = (3, *widths)
    convolutions = sum(9 * 7 * width**2 for width in widths)
    projections = sum(before * after for before, after in zip(entries, widths, strict=False) if before != after)
    others = sum(parameter.numel() for parameter in fractalnet20.parameters()) - convolution_weights(fractalnet20)
    assert convolutions + projections + others == pytest.approx(38.6e6, abs=0.05e6)


# ── Sub-networks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def run(network: FractalNet, *blocks) -> torch.Tensor:
    """The network's function with its blocks replaced by `blocks`."""
    x = Z
    for block, pool in zip(blocks, network.pools, strict=True):
        x = pool(block(x))
    return network.classifier(x.mean((2, 3)))


def same_weights(seasoned, **selection: Any) -> tuple[FractalNet, FractalNet]:
    """The full network, and one that runs only some of its columns."""
    torch.manual_seed(0)
    whole = seasoned(FractalNet(**SMALL))
    part = FractalNet(**SMALL, **selection).double().eval()
    part.load_state_dict(whole.state_dict(), strict=True)
    return whole, part


def test_column_1_is_one_convolution_per_block(randomize_batchnorm):
    whole, part = same_weights(randomize_batchnorm, column=1)
    torch.testing.assert_close(part(Z), run(whole, *(block.conv for block in whole.blocks)))


def test_column_2_is_two_convolutions_per_block(randomize_batchnorm):
    whole, part = same_weights(randomize_batchnorm, column=2)
    torch.testing.assert_close(
        part(Z), run(whole, *(nn.Sequential(*(half.conv for half in block.halves)) for block in whole.blocks))
    )


def test_column_3_is_four_convolutions_per_block(randomize_batchnorm):
    whole, part = same_weights(randomize_batchnorm, column=3)
    deepest = [[quarter.conv for half in block.halves for quarter in half.halves] for block in whole.blocks]
    torch.testing.assert_close(part(Z), run(whole, *(nn.Sequential(*chain) for chain in deepest)))


def test_the_first_two_columns_are_f2_in_every_block(randomize_batchnorm):
    whole, part = same_weights(randomize_batchnorm, columns=2)

    def f2(block):
        first, second = (half.conv for half in block.halves)
        return lambda z: (second(first(z)) + block.conv(z)) / 2

    torch.testing.assert_close(part(Z), run(whole, *map(f2, whole.blocks)))


def test_the_first_column_equals_the_single_column_network(randomize_batchnorm):
    _, first = same_weights(randomize_batchnorm, columns=1)
    _, single = same_weights(randomize_batchnorm, column=1)
    torch.testing.assert_close(first(Z), single(Z))


def test_all_columns_equal_the_full_network(randomize_batchnorm):
    whole, part = same_weights(randomize_batchnorm, columns=3)
    torch.testing.assert_close(part(Z), whole(Z))


# ── Drop-path ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def columns_that_ran(network: FractalNet, images: torch.Tensor) -> Counter[int]:
    """Convolutions executed in one training step, by column."""
    ran: Counter[int] = Counter()
    handles = [
        module.conv.register_forward_hook(lambda *_, column=module.column: ran.update([column]))
        for module in network.modules()
        if isinstance(module, Fractal)
    ]
    network(images)
    for handle in handles:
        handle.remove()
    return ran


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("drop_path", [0.15, 0.5, 0.99])
def test_local_drop_path_keeps_at_least_one_input(drop_path):
    torch.manual_seed(0)
    inputs = [torch.tensor(float(i)) for i in range(3)]
    assert min(len(drop_inputs(inputs, drop_path)) for _ in range(2000)) == 1


def test_local_drop_path_drops_each_input_at_its_rate():
    torch.manual_seed(0)
    inputs = [torch.tensor(float(i)) for i in range(3)]
    survivors = Counter(int(x) for _ in range(10_000) for x in drop_inputs(inputs, 0.3))
    expected = 0.7 + 0.3**3 / 3  # survives by its own draw, or as the survivor of a full drop
    assert {i: survivors[i] / 10_000 for i in range(3)} == pytest.approx(dict.fromkeys(range(3), expected), abs=0.02)


def test_the_survivor_of_a_full_drop_is_one_of_the_inputs_and_any():
    torch.manual_seed(0)
    inputs = [torch.tensor(float(i)) for i in range(3)]
    drawn = [drop_inputs(inputs, 0.999_999) for _ in range(200)]
    assert {len(kept) for kept in drawn} == {1}
    assert {int(kept[0]) for kept in drawn} == {0, 1, 2}


def test_global_drop_path_runs_one_column_through_all_blocks():
    torch.manual_seed(0)
    network = FractalNet(**SMALL, global_share=1).train()
    whole_columns = [{1: 2}, {2: 4}, {3: 8}]  # two blocks of 1, 2 and 4 convolutions
    assert all(columns_that_ran(network, IMAGES) in whole_columns for _ in range(30))


def test_global_drop_path_chooses_columns_evenly():
    torch.manual_seed(0)
    network = FractalNet(**SMALL, global_share=1)
    chosen = Counter(network.sample_paths()[0] for _ in range(3000))
    assert {key: count / 3000 for key, count in chosen.items()} == pytest.approx(
        {(1,): 1 / 3, (2,): 1 / 3, (3,): 1 / 3}, abs=0.04
    )


def test_half_of_the_steps_are_global():
    torch.manual_seed(0)
    network = FractalNet(**SMALL)
    assert sum(len(network.sample_paths()[0]) == 1 for _ in range(3000)) / 3000 == pytest.approx(0.5, abs=0.04)


def test_eval_mode_drops_no_path():
    network = FractalNet(**SMALL).eval()
    assert columns_that_ran(network, IMAGES) == {1: 2, 2: 4, 3: 8}
    assert torch.equal(network(IMAGES), network(IMAGES))


def test_without_dropping_gradients_reach_every_parameter():
    torch.manual_seed(0)
    network = FractalNet(**SMALL, drop_path=0, global_share=0, dropout_step=0).train()
    network(torch.randn(4, 3, 16, 16)).square().sum().backward()
    without = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
    assert without == []


def test_gradients_of_a_global_step_reach_its_column_only(monkeypatch):
    network = FractalNet(**SMALL).train()
    monkeypatch.setattr(network, "sample_paths", lambda: ((2,), join_mean))
    network(torch.randn(4, 3, 16, 16)).square().sum().backward()
    fractals = [module for module in network.modules() if isinstance(module, Fractal)]
    assert {fractal.column for fractal in fractals if fractal.conv.conv.weight.grad is not None} == {2}


def test_dropout_grows_by_a_tenth_per_block():
    with torch.device("meta"):
        network = FractalNet()
    assert [dropout.p for dropout in network.dropouts] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


# ── Whole networks ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "layers"), [("fractalnet20", 21), ("fractalnet40", 41), ("fractalnet34", 34)])
def test_the_deepest_column_has_the_layers_of_its_name(name, layers, architecture):
    """20 and 40 count convolutions; 34 also counts the first convolution and the linear layer, as ResNet-34 does."""
    member = architecture(name)
    with torch.device("meta"):
        network = member.build(**{**member.arguments, "column": member.arguments["total_columns"]}).eval()
    ran = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *_: ran.append(1))
    with torch.device("meta"):
        network(torch.empty(1, 3, member.preprocessing.height, member.preprocessing.width))
    assert len(ran) == layers


@pytest.mark.parametrize(("name", "size", "maps"), [("fractalnet20", 32, 1), ("fractalnet34", 224, 7)])
def test_pooling_gives_the_last_map_size_of_the_paper(name, size, maps, architecture):
    member = architecture(name)
    recorded = []
    with torch.device("meta"):
        network = member.build(**member.arguments).eval()
        network.avgpool.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0].shape[2:]))
        network(torch.empty(1, 3, size, size))
    assert recorded == [(maps, maps)]
