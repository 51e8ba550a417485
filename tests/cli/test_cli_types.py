"""`--bf16` and `--io fp16`: types other than those of the network."""

import numpy as np
import onnx
import pytest


def test_inputs_and_outputs_are_fp16_on_request(cli, small_export, tmp_path, photograph):
    result = cli(*small_export, "--fp16", "--io", "fp16", "-o", tmp_path / "b", "--json")
    assert result.code == 0
    assert [spec["dtype"] for spec in (*result.content["inputs"], *result.content["outputs"])] == ["float16"] * 2
    assert cli("verify", tmp_path / "b").code == 0
    assert cli("run", tmp_path / "b", photograph).code == 0


def test_a_graph_with_fp16_inputs_and_outputs_has_no_cast(cli, small_export, tmp_path):
    cli(*small_export, "--fp16", "--io", "fp16", "-o", tmp_path / "b")
    assert "Cast" not in {node.op_type for node in onnx.load(tmp_path / "b/model.onnx").graph.node}


def test_golden_vectors_are_fp32_all_the_same(cli, small_export, tmp_path):
    cli(*small_export, "--fp16", "--io", "fp16", "-o", tmp_path / "b")
    assert np.load(tmp_path / "b/golden/in.input.npy").dtype == np.float32


def test_bf16_runs_in_openvino_with_its_caveat(cli, small_export, tmp_path):
    pytest.importorskip("openvino", reason="ONNX Runtime has no BF16 convolution on the CPU")
    result = cli(*small_export, "--bf16", "--opset", "22", "-o", tmp_path / "b")
    assert result.code == 0
    assert "PASSED bf16 against eager PyTorch" in result.text
    assert "it truncates instead of rounding to nearest" in result.text


def test_bf16_below_its_minimum_opset_is_refused(cli, small_export, tmp_path):
    pytest.importorskip("openvino", reason="ONNX Runtime has no BF16 convolution on the CPU")
    result = cli(*small_export, "--bf16", "-o", tmp_path / "b")
    assert result.code == 3
    assert "--opset 22" in result.text
