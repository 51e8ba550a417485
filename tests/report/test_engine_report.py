"""An engine's layers as text: precision, source nodes and time."""

import msgspec
import pytest

from deploykit.core.values import EngineLayer
from deploykit.report import engine_layers, terminal

TACTIC = (
    "sm80_xmma_fprop_implicit_gemm_interleaved_i8f16_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw_vect_c_32_"
    "tilesize256x128x64_stage4_warpsize4x2x1_g1_tensor16x8x32_t1r3s3"
)
CONVOLUTION = EngineLayer(
    name="block.conv2/Conv + block/Add",
    kind="CaskConvolution",
    arithmetic="int8",
    tactic=TACTIC,
    inputs=("Int8 NC/32HW32", "FP16 NC/32HW32"),
    outputs=("FP16 NC/32HW32",),
    nodes=("block.conv2/Conv", "block/Add"),
    modules=("block.conv2", "block"),
    time_us=None,
)


def layer_like(layer=CONVOLUTION, **changes):
    return msgspec.structs.replace(layer, **changes)


REFORMAT = layer_like(
    name="copy", kind="Reformat", arithmetic=None, tactic="0x00000000000003ea", nodes=(), modules=(), inputs=()
)
NOOP = layer_like(name="nothing", kind="NoOp", arithmetic=None, tactic="", inputs=(), outputs=(), nodes=(), modules=())


@pytest.fixture
def text(capfd, monkeypatch):
    """The printed text in a pipe, or on a terminal of `width` columns."""

    def render(layers, width=None):
        capfd.readouterr()
        if width is not None:
            monkeypatch.setenv("FORCE_COLOR", "1")  # counts as a terminal
            monkeypatch.setenv("TERM", "dumb")
            monkeypatch.setenv("NO_COLOR", "1")
            monkeypatch.setenv("COLUMNS", str(width))
        terminal.create_console().print(engine_layers.layers_table(layers))
        return capfd.readouterr().out

    return render


# ── The table ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_layer_has_a_row(text):
    header, first, second = (line.rstrip() for line in text([CONVOLUTION]).splitlines())
    assert header.split() == ["layer", "module", "kind", "in", "tactic", "formats"]
    assert " ".join(first.split()) == (
        "block.conv2/Conv + block/Add block.conv2 CaskConvolution INT8 sm80 i8f16 i8i32 256x128x64 "
        "Int8 NC/32HW32, FP16 NC/32HW32 → FP16 NC/32HW32"
    )
    assert second.split() == ["block"]


def test_times_and_shares_are_printed_after_a_profiled_run_only(text):
    printed = text([layer_like(time_us=30.0), layer_like(REFORMAT, time_us=10.0), NOOP]).splitlines()
    assert printed[0].split()[-2:] == ["µs", "share"]
    assert printed[1].split()[-2:] == ["30.0", "75.0%"]
    assert printed[3].split()[-2:] == ["10.0", "25.0%"]
    assert printed[4].split() == ["nothing", "NoOp"]
    assert "share" not in text([CONVOLUTION, REFORMAT])


def test_names_are_printed_literally(text):
    printed = text([layer_like(name="{ForeignNode[bold...:warning:]}")])
    assert "{ForeignNode[bold...:warning:]}" in printed


def test_a_terminal_of_80_columns_wraps_names_without_loss(text):
    printed = text([layer_like(time_us=1.0)], width=80)
    assert all(len(line) <= 80 for line in printed.splitlines())
    folded = "".join(line[: printed.index("module")].strip() for line in printed.splitlines()[1:])
    assert folded.replace(" ", "") == CONVOLUTION.name.replace(" ", "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (TACTIC, "sm80 i8f16 i8i32 256x128x64"),
        ("ampere_int8x4_icudnn_int8x4_128x64_relu_small_nn_v1", "ampere int8x4 icudnn int8x4"),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc", "sm80 tf32f32 tf32f32"),
        ("__myl_AddCastMeanSubMul_0xf2543c36ff9f104b", "__myl_AddCastMeanSu…"),
        ("0x00000000000003ea", "0x3ea"),
        ("0x0000000000000000", ""),
        ("", ""),
    ],
)
def test_a_tactic_is_shortened_to_its_distinguishing_part(name, shown):
    assert engine_layers.shorten_tactic(name) == shown


def test_a_format_is_printed_once_per_side():
    assert engine_layers.format_tensors(layer_like(inputs=("Half", "Half"), outputs=("Half",))) == "Half → Half"
    assert engine_layers.format_tensors(NOOP) == ""


# ── The line ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_summary_counts_layers_by_precision_and_shows_the_time_of_each():
    layers = (
        [layer_like(time_us=30.0)] * 49
        + [layer_like(arithmetic="fp32", time_us=6.0)] * 4
        + [layer_like(REFORMAT, time_us=8.0)] * 6
    )
    assert engine_layers.summarize_layers(layers) == (
        "59 layers: 49 INT8 taking 95.3% of the time, 4 FP32 taking 1.6% of the time, "
        "6 reformats taking 3.1% of the time"
    )


def test_without_times_reformats_are_counted_only():
    assert engine_layers.summarize_layers([CONVOLUTION, REFORMAT]) == "2 layers: 1 INT8, 1 reformat"


def test_layers_without_arithmetic_or_a_known_type_are_counted_too():
    assert engine_layers.summarize_layers([CONVOLUTION, NOOP, NOOP]) == "3 layers: 1 INT8, 2 without arithmetic"


def test_counts_of_one_and_zero_layers_are_worded_correctly():
    assert engine_layers.summarize_layers([CONVOLUTION]) == "1 layer: 1 INT8"
    assert engine_layers.summarize_layers([]) == "0 layers"
