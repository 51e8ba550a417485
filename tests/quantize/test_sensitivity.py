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


def no_progress():
    pass


def noise(source):
    """Noise-to-signal ratio of a graph's outputs."""
    exact = compute(source, x=X)["y"]

    def error(graph):
        outputs = compute(graph, x=X)["y"]
        return float(np.square(outputs - exact).sum() / np.square(exact).sum())

    return error


def test_the_most_sensitive_layer_is_first(source, folder):
    """One tensor is clipped to a thousandth of its range: only its reader has an error."""
    statistics = calibrated(source)
    clipped = msgspec.structs.replace(
        statistics.ranges.tensors["r"], threshold=statistics.ranges.tensors["r"].high / 1000
    )
    ranges = msgspec.structs.replace(statistics.ranges, tensors={**statistics.ranges.tensors, "r": clipped})
    statistics = msgspec.structs.replace(statistics, ranges=ranges)
    ranking = sensitivity.rank_by_sensitivity(source, statistics, folder, noise(source), no_progress)
    assert ranking[0].layer == "bad"
    assert ranking[0].error > 100 * ranking[1].error


def test_every_layer_is_quantized_in_isolation(source, folder):
    graphs = []

    def look(path):
        nodes = list(ir.load(path).graph)
        graphs.append([n.name for n in nodes if n.op_type == "Conv" and n.inputs[1].producer() is not None])
        return 0.0

    sensitivity.rank_by_sensitivity(source, calibrated(source), folder, look, no_progress)
    assert graphs == [["one"], ["bad"], ["two"]]


def test_only_the_input_of_the_layer_is_quantized_with_it(source, folder):
    collected = []

    def look(path):
        collected.append([node.inputs[0].name for node in ir.load(path).graph if node.op_type == "QuantizeLinear"])
        return 0.0

    sensitivity.rank_by_sensitivity(source, calibrated(source), folder, look, no_progress)
    assert collected == [["x"], ["r"], ["t"]]


def test_layers_with_equal_errors_are_in_graph_order(source, folder):
    ranking = sensitivity.rank_by_sensitivity(source, calibrated(source), folder, lambda _: 0.5, no_progress)
    assert [entry.layer for entry in ranking] == ["one", "bad", "two"]


def test_the_largest_error_is_first(source, folder):
    errors = iter([0.1, 0.3, 0.2])
    ranking = sensitivity.rank_by_sensitivity(source, calibrated(source), folder, lambda _: next(errors), no_progress)
    assert [(entry.layer, entry.error) for entry in ranking] == [("bad", 0.3), ("two", 0.2), ("one", 0.1)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nan_error_ranks_first_and_is_stored_as_a_finite_number(source, folder, bad):
    """Finite, since the ranking is stored as JSON."""
    errors = iter([1e300, bad, 0.2])
    ranking = sensitivity.rank_by_sensitivity(source, calibrated(source), folder, lambda _: next(errors), no_progress)
    assert ranking[0].layer == "bad"
    assert math.isfinite(ranking[0].error)


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
        tmp_path / "source.onnx", calibrated(tmp_path / "source.onnx"), folder, look, no_progress
    )
    codes = weights["v0"].size  # of the quantized layer
    assert max(sizes) < codes + 20_000
    assert sorted(path.name for path in folder.iterdir()) == ["isolated.onnx", "shared.onnx", "weights.data"]


def turn_into_nodes(model):
    """Every weight as a Constant node, as written by some exporters."""
    for name, value in list(model.graph.initializers.items()):
        node = ir.node("Constant", [], {"value": value.const_value}, name=f"{name}/node")
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        del model.graph.initializers[name]
        node.outputs[0].name = name
        model.graph.insert_before(model.graph[0], node)


def test_the_source_graph_is_unchanged(source, folder):
    before = source.read_bytes()
    sensitivity.rank_by_sensitivity(source, calibrated(source), folder, lambda _: 0.0, no_progress)
    assert source.read_bytes() == before
