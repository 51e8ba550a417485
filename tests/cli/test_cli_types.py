"""`--bf16` and `--io fp16`: types other than those that a network comes with."""

import numpy as np
import onnx
import pytest


def test_inputs_and_outputs_are_fp16_where_that_is_asked_for(cli, small, tmp_path, photograph):
    result = cli(*small, "--fp16", "--io", "fp16", "-o", tmp_path / "b", "--json")
    assert result.code == 0
    assert [spec["dtype"] for spec in (*result.content["inputs"], *result.content["outputs"])] == ["float16"] * 2
    assert cli("verify", tmp_path / "b").code == 0
    assert cli("run", tmp_path / "b", photograph).code == 0


def test_a_graph_with_fp16_ends_has_no_cast(cli, small, tmp_path):
    cli(*small, "--fp16", "--io", "fp16", "-o", tmp_path / "b")
    assert "Cast" not in {node.op_type for node in onnx.load(tmp_path / "b/model.onnx").graph.node}


def test_golden_vectors_are_fp32_all_the_same(cli, small, tmp_path):
    cli(*small, "--fp16", "--io", "fp16", "-o", tmp_path / "b")
    assert np.load(tmp_path / "b/golden/in.input.npy").dtype == np.float32


def test_bf16_runs_in_openvino_and_says_what_that_covers(cli, small, tmp_path):
    pytest.importorskip("openvino", reason="ONNX Runtime has no BF16 convolution on the CPU")
    result = cli(*small, "--bf16", "--opset", "22", "-o", tmp_path / "b")
    assert result.code == 0
    assert "PASSED bf16 against eager PyTorch" in result.text
    assert "it truncates instead of rounding to nearest" in result.text


def test_bf16_below_the_opset_that_has_it_is_refused(cli, small, tmp_path):
    pytest.importorskip("openvino", reason="ONNX Runtime has no BF16 convolution on the CPU")
    result = cli(*small, "--bf16", "-o", tmp_path / "b")
    assert result.code == 3
    assert "--opset 22" in result.text
