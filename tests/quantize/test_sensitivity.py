import math

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from small_int8 import X, calibrated, compute, convolutional, random

from deploykit.quantize import sensitivity
from deploykit.quantize.int8 import plan_placement

BODY = (
    "[one] a = Conv (x, w0) r = Relu (a) [bad] b = Conv (r, v) s = Relu (b) [add] t = Add (s, x) [two] y = Conv (t, w1)"
)


@pytest.fixture
def source(tmp_path):
    ir.save(convolutional(BODY, v=random(4, 4, 1, 1)), tmp_path / "source.onnx")
    return tmp_path / "source.onnx"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ranked").mkdir()
    return tmp_path / "ranked"


def nothing():
    pass


def noise(source):
    """Noise over signal of a graph's answers."""
    exact = compute(source, x=X)["y"]

    def error(graph):
        given = compute(graph, x=X)["y"]
        return float(np.square(given - exact).sum() / np.square(exact).sum())

    return error


def test_the_layer_that_loses_most_comes_first(source, folder):
    """One tensor is clipped to a thousandth of its range: its reader is bad, and nothing else."""
    seen = calibrated(source)
    clipped = msgspec.structs.replace(seen.ranges.tensors["r"], threshold=seen.ranges.tensors["r"].high / 1000)
    ranges = msgspec.structs.replace(seen.ranges, tensors={**seen.ranges.tensors, "r": clipped})
    seen = msgspec.structs.replace(seen, ranges=ranges)
    found = sensitivity.rank_by_sensitivity(source, seen, folder, noise(source), nothing)
    assert found[0].layer == "bad"
    assert found[0].error > 100 * found[1].error


def test_every_layer_is_quantized_by_itself(source, folder):
    graphs = []

    def look(path):
        nodes = list(ir.load(path).graph)
        graphs.append([n.name for n in nodes if n.op_type == "Conv" and n.inputs[1].producer() is not None])
        return 0.0

    sensitivity.rank_by_sensitivity(source, calibrated(source), folder, look, nothing)
    assert graphs == [["one"], ["bad"], ["two"]]


def test_only_the_layers_own_input_is_quantized_with_it(source, folder):
    found = []

    def look(path):
        found.append([node.inputs[0].name for node in ir.load(path).graph if node.op_type == "QuantizeLinear"])
        return 0.0

    sensitivity.rank_by_sensitivity(source, calibrated(source), folder, look, nothing)
    assert found == [["x"], ["r"], ["t"]]


def test_equal_errors_keep_the_graphs_order(source, folder):
    found = sensitivity.rank_by_sensitivity(source, calibrated(source), folder, lambda _: 0.5, nothing)
    assert [each.layer for each in found] == ["one", "bad", "two"]


def test_the_largest_error_comes_first(source, folder):
    errors = iter([0.1, 0.3, 0.2])
    found = sensitivity.rank_by_sensitivity(source, calibrated(source), folder, lambda _: next(errors), nothing)
    assert [(each.layer, each.error) for each in found] == [("bad", 0.3), ("two", 0.2), ("one", 0.1)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nan_error_ranks_first_and_is_stored_as_a_finite_number(source, folder, bad):
    """Finite, since the ranking is stored as JSON."""
    errors = iter([1e300, bad, 0.2])
    found = sensitivity.rank_by_sensitivity(source, calibrated(source), folder, lambda _: next(errors), nothing)
    assert found[0].layer == "bad"
    assert math.isfinite(found[0].error)


def test_progress_is_reported_once_per_layer(source, folder):
    steps = []
    sensitivity.rank_by_sensitivity(source, calibrated(source), folder, lambda _: 0.0, lambda: steps.append(1))
    assert len(steps) == sensitivity.count_layers(source) == len(plan_placement(source).layers)


@pytest.mark.parametrize("constant", [False, True], ids=["initializers", "Constant nodes"])
def test_weights_are_written_once_and_each_graph_is_small(tmp_path, folder, constant):
    weights = {f"v{i}": random(64, 64, 3, 3, seed=i) for i in range(3)} | {"first": random(64, 4, 1, 1)}
    model = convolutional(
        "[zero] z = Conv (x, first) [one] a = Conv (z, v0) [two] b = Conv (a, v1) [three] y = Conv (b, v2)", **weights
    )
    if constant:
        turn_into_nodes(model)
    ir.save(model, tmp_path / "source.onnx")
    sizes = []

    def look(path):
        sizes.append(path.stat().st_size)
        return 0.0

    sensitivity.rank_by_sensitivity(
        tmp_path / "source.onnx", calibrated(tmp_path / "source.onnx"), folder, look, nothing
    )
    codes = weights["v0"].size  # of the one layer that is quantized
    assert max(sizes) < codes + 20_000
    assert sorted(path.name for path in folder.iterdir()) == ["isolated.onnx", "shared.onnx", "weights.data"]


def turn_into_nodes(model):
    """Every weight as the Constant node that some exporters write."""
    for name, value in list(model.graph.initializers.items()):
        node = ir.node("Constant", [], {"value": value.const_value}, name=f"{name}/node")
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        del model.graph.initializers[name]
        node.outputs[0].name = name
        model.graph.insert_before(model.graph[0], node)


def test_the_source_graph_is_unchanged(source, folder):
    before = source.read_bytes()
    sensitivity.rank_by_sensitivity(source, calibrated(source), folder, lambda _: 0.0, nothing)
    assert source.read_bytes() == before
