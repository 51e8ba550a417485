"""Executed precision from the profile of a real session, and from kernel names as CUPTI reported them on an H200."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from cuda_doubles import Gpu

from deploykit.backends.onnxruntime_cuda import receipt
from deploykit.backends.onnxruntime_cuda.kernels import shows_half_arithmetic
from deploykit.backends.onnxruntime_cuda.session import open_session
from deploykit.backends.onnxruntime_profile import RunNode, read_profile

HALF = [
    "sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize64x64x64_warpgroupsize1x1x1_g1",
    "nvjet_sm90_hsh_448x64_64x2_1x2_h_bz_coopB_NNN",
    "void cutlass::Kernel2<cutlass_80_tensorop_f16_s16816gemm_f16_64x64_64x6_nn_align2>",
    "void implicit_convolve_sgemm<__half, __half, 128, 5, 5, 3, 3, 3, 1, false, false, true>",
]
SINGLE = [
    "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize32x32x8_stage3_warpsize1x2x1_g1_ffma",
    "void cutlass::Kernel2<cutlass_80_simt_sgemm_128x32_8x5_tn_align1>",
    "void onnxruntime::cuda::_UnaryElementWise<__half, __half, onnxruntime::cuda::OP_Relu<__half>, 256, 4>",
]


@pytest.mark.parametrize("kernel", HALF)
def test_a_kernel_that_multiplies_half_precision_is_recognized(kernel: str) -> None:
    assert shows_half_arithmetic([kernel])


def test_kernels_that_multiply_single_precision_or_only_move_half_are_no_proof() -> None:
    assert not shows_half_arithmetic(SINGLE)


def test_a_profile_names_every_node_with_its_provider_and_types(
    gpu: Gpu,  # noqa: ARG001 - the CPU provider in place of the other
    convolution: Path,
    tmp_path: Path,
) -> None:
    session = open_session(convolution, (), profile_prefix=tmp_path / "profile")
    session.run(None, {"x": np.zeros((1, 3, 8, 8), np.float32)})
    nodes = read_profile(Path(session.end_profiling()))
    fc = next(node for node in nodes if node.name == "fc")
    assert (fc.operator, fc.provider, fc.input_types[0]) == ("Gemm", "CPUExecutionProvider", "float")


def conv(name: str, *types: str, provider: str = "CUDAExecutionProvider") -> RunNode:
    return RunNode(name, "Conv", provider, types)


PRODUCTS = [ir.node("Conv", [], name=name) for name in ("first", "second")]


def test_a_product_computes_in_the_type_of_its_inputs() -> None:
    nodes = [conv("first", "float16", "float16"), conv("second", "float", "float")]
    assert receipt.read_arithmetic(nodes, PRODUCTS) == {"first": "fp16", "second": "fp32"}


def test_a_product_with_another_name_has_the_type_that_all_of_its_kind_have() -> None:
    assert receipt.read_arithmetic([conv("renamed", "float16")], PRODUCTS) == {"first": "fp16", "second": "fp16"}


def test_a_product_with_another_name_is_left_out_where_types_differ() -> None:
    nodes = [conv("renamed", "float16"), conv("other", "float")]
    assert receipt.read_arithmetic(nodes, PRODUCTS) == {}


def test_fp16_needs_a_kernel_that_computes_in_it() -> None:
    executed = receipt.confirm_half({"first": "fp16", "second": "fp32"}, SINGLE)
    assert (executed.evidence, executed.arithmetic) == ("session profile and kernel names", {"second": "fp32"})


def test_without_kernel_names_the_evidence_is_the_profile() -> None:
    assert receipt.confirm_half({"first": "fp16"}, None).evidence == "session profile"


def test_nodes_that_ran_on_the_cpu_are_counted_by_operator() -> None:
    nodes = [
        conv("first"),
        *(RunNode(name, "Shape", "CPUExecutionProvider", ()) for name in "ab"),
        RunNode("c", "MemcpyToHost", "CUDAExecutionProvider", ()),
    ]
    assert receipt.describe_fallback(nodes, "CUDAExecutionProvider") == "2 of 3 nodes ran on the CPU: 2 × Shape"


def test_nothing_is_said_where_all_nodes_ran_on_the_gpu() -> None:
    assert receipt.describe_fallback([conv("first")], "CUDAExecutionProvider") is None
