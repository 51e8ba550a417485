"""scripts/benchmarks/quantization: its comparisons, and the table that it writes."""

import subprocess

import onnx
import pytest
from programs import load_program

from deploykit.core.values import Accuracy
from deploykit.workflows import cache_keys

quantization = load_program("benchmarks/quantization")


def test_every_column_of_the_accuracies_is_of_one_graph(tmp_path):
    (tmp_path / "digits.pth").touch()
    requests = quantization.make_requests("resnet18", 32, tmp_path / "digits.pth")
    assert list(requests) == [
        *("FP32", "FP16", "INT8 mse", "INT8 entropy", "INT8 percentile", "INT8 minmax", "INT8+FP16"),
    ]
    assert len({cache_keys.graph_key(request) for request in requests.values()}) == 1
    assert {request.samples for request in requests.values()} == {445}


def test_an_existing_checkpoint_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "resnet18.pth").touch()
    path = quantization.train_network("resnet18", quantization.Training(), tmp_path)
    assert path == tmp_path / "resnet18.pth"


def test_one_digit_is_visible_in_the_accuracies():
    columns = {
        "FP32": Accuracy(436 / 445, 436 / 445, 445),
        "INT8 mse": Accuracy(436 / 445, 435 / 445, 445),
        "quantize_static": Accuracy(436 / 445, 400 / 445, 445),
    }
    text = "\n".join(quantization.render_accuracy([quantization.AccuracyRow("resnet18", 32, columns, 21)]))
    assert "| network | input | eager | FP32 | INT8 mse | quantize_static | drop |" in text
    assert "| resnet18 | 32×32 | 9 (97.98%) | 9 (97.98%) | 10 (97.75%) | 45 (89.89%) | +0.22 |" in text
    assert text.endswith("graphs: resnet18 21.")


def test_integer_biases_are_counted_where_they_are_dequantized():
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,1,4,4] x) => (float[1,1,4,4] y)
        <float[1,1,1,1] w = {1}, int32[1] codes = {5}, float s = {0.5}, float[1] plain = {2}>
        { bias = DequantizeLinear(codes, s)
          a = Conv(x, w, bias)
          y = Conv(a, w, plain) }""")
    assert quantization.count_integer_biases(graph) == 1
