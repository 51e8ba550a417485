"""An engine beside FP32, and what the C++ library runs, in every report."""

import msgspec
import pytest
from whole import whole

from deploykit.bundle import manifest as manifests
from deploykit.core.values import FileRecord, Fp32Comparison, Interval, SecondaryEngine
from deploykit.report import markdown, terminal
from deploykit.report.bundle_document import Report, describe_bundle, engine_rows
from deploykit.report.caveats import list_caveats
from deploykit.report.cpp_engine import describe_cpp_engine
from deploykit.report.extra_engines import render_engine
from deploykit.report.html import page
from deploykit.report.key_figures import key_figures
from deploykit.report.speedup import describe_slowdown, describe_speedup, format_factor, list_slower_than_fp16

FASTER = Fp32Comparison(8.9, 4.7, Interval(1.894, 1.851, 1.952), 8, 400_000, 0.257)
SLOWER = Fp32Comparison(8.9, 11.0, Interval(0.81, 0.78, 0.84), 8, 400_000, 0.257)
EQUAL = Fp32Comparison(8.9, 9.1, Interval(0.98, 0.93, 1.04), 8, 400_000, 0.257)


@pytest.fixture(scope="session")
def manifest(fp32_bundle):
    return manifests.read_manifest(fp32_bundle)


def replace(bundle, **fields):
    return msgspec.structs.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, **fields))


def shown(renderable):
    console = terminal.create_console()
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


# ── Beside FP32 ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("factor", "text"), [(0.257, "0.26×"), (1.894, "1.9×"), (12.3, "12×")])
def test_a_factor_has_two_digits(factor, text):
    assert format_factor(factor) == text


def test_the_speedup_is_one_line():
    assert describe_speedup(FASTER, "openvino") == (
        "1.9× as fast as FP32 on openvino (p50 4.70 ms against 8.90 ms; 1.85 to 1.95 over 8 rounds), 0.26× the size"
    )


def test_no_factor_is_claimed_where_the_interval_holds_one():
    assert describe_speedup(EQUAL, "openvino").startswith("about as fast as FP32 on openvino (p50 ")


def test_a_slower_engine_is_noted_on_the_terminal():
    text = shown(terminal.render_speedup(SLOWER, "int8", "onnxruntime"))
    assert text.splitlines() == [
        describe_speedup(SLOWER, "onnxruntime"),
        "  note: INT8 is slower than FP32 on onnxruntime on this machine: p50 11.0 ms against 8.90 ms",
    ]


@pytest.mark.parametrize("beside", [FASTER, EQUAL])
def test_nothing_is_noted_unless_the_whole_interval_is_below_one(beside):
    assert describe_slowdown(beside, "int8", "onnxruntime") is None


def test_speedup_and_size_are_the_first_tiles(manifest):
    first, second, *_ = key_figures(replace(whole(manifest), fp32_latency=FASTER))
    assert (first.name, first.figure) == ("speed-up over FP32", "1.9×")
    assert first.conditions == "p50 4.70 ms against 8.90 ms in onnxruntime, 1.85 to 1.95 over 8 rounds"
    assert (second.name, second.figure, second.conditions) == ("size against FP32", "0.26×", "FP32: 390.6 KiB")


def test_the_tile_of_a_slower_engine_says_so(manifest):
    first, *_ = key_figures(replace(whole(manifest), fp32_latency=SLOWER))
    assert first.conditions.startswith("slower than FP32: p50 11.0 ms against 8.90 ms")


def test_without_fp32_beside_it_the_first_tile_is_parity(manifest):
    assert key_figures(whole(manifest))[0].name == "SNR"


def test_a_slower_engine_is_among_the_caveats(manifest):
    bundle = whole(manifest)
    extra = msgspec.structs.replace(bundle.manifest.extra_engines[0], fp32_latency=SLOWER)
    caveats = list_caveats(replace(bundle, fp32_latency=FASTER, extra_engines=(extra,)))
    assert [caveat for caveat in caveats if "slower" in caveat] == [
        "INT8 is slower than FP32 on openvino on this machine: p50 11.0 ms against 8.90 ms"
    ]


def test_an_extra_engine_has_its_own_line(manifest, tmp_path):
    bundle = whole(manifest).manifest
    extra = msgspec.structs.replace(bundle.extra_engines[0], fp32_latency=FASTER)
    assert "1.9× as fast as FP32 on openvino" in shown(render_engine(extra, bundle, tmp_path))


def test_the_size_of_an_extra_engine_includes_its_external_weights(manifest, tmp_path):
    bundle = whole(manifest).manifest
    extra = bundle.extra_engines[0]
    weights = FileRecord(f"{extra.engine.file.path}.data", "0" * 64, 3 << 30)
    heavy = msgspec.structs.replace(bundle, files={**bundle.files, weights.path: weights})
    assert f"{extra.engine.file.path}, 3.0 GiB" in shown(render_engine(extra, heavy, tmp_path))


@pytest.mark.parametrize("render", [markdown.render_markdown, page.render_page])
def test_a_bundle_and_a_comparison_show_the_speedup(manifest, render):
    bundle = replace(whole(manifest), fp32_latency=FASTER)
    plain = describe_bundle("plain", manifest, bundle.records)
    assert "1.9×" in render(Report((bundle,)))
    assert "1.9×" in render(Report((bundle, plain)))


# ── Beside FP16 ───────────────────────────────────────────────────────────────────────────────────────────────────────


def compared(manifest, int8_ms, fp16_ms):
    """Rows of an INT8 and an FP16 bundle of one network on one backend."""
    latencies = (msgspec.structs.replace(manifest.latency, p50_ms=p50_ms) for p50_ms in (int8_ms, fp16_ms))
    first, second = whole(manifest, "int8"), describe_bundle("fp16", manifest, whole(manifest).records)
    int8 = replace(first, latency=next(latencies), extra_engines=())
    return engine_rows(Report((int8, replace(second, precision="fp16", latency=next(latencies)))))


def test_an_int8_engine_slower_than_fp16_is_noted(manifest):
    backend = f"onnxruntime {manifest.engine.version}"
    assert list(list_slower_than_fp16(compared(manifest, 5.0, 4.0))) == [
        f"row 1: INT8 is slower than FP16 (row 2) on {backend}: p50 5.00 ms against 4.00 ms"
    ]


def test_an_int8_engine_faster_than_fp16_is_not_noted(manifest):
    assert list(list_slower_than_fp16(compared(manifest, 3.0, 4.0))) == []


# ── What C++ runs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def of_openvino(manifest, *extra):
    engine = msgspec.structs.replace(manifest.engine, backend="openvino", version="2026.4.1")
    latency = msgspec.structs.replace(manifest.latency, p50_ms=4.7)
    return msgspec.structs.replace(manifest, engine=engine, latency=latency, extra_engines=extra)


def measured(manifest):
    """An engine of ONNX Runtime with results."""
    engine = msgspec.structs.replace(manifest.engine, version="1.31.1")
    return SecondaryEngine(
        engine, None, manifest.parity, manifest.receipt, msgspec.structs.replace(manifest.latency, p50_ms=6.1)
    )


def test_nothing_is_said_where_cpp_runs_the_primary_engine(manifest):
    assert describe_cpp_engine(manifest) is None


def test_another_engine_of_cpp_is_described_by_its_own_measurements(manifest):
    assert describe_cpp_engine(of_openvino(manifest, measured(manifest))) == (
        "the C++ library runs another engine than openvino: ONNX Runtime 1.31.1 (model.onnx), executed precision "
        "100 % FP32 by MACs, p50 6.10 ms against 4.70 ms"
    )


def test_an_engine_of_cpp_that_failed_is_said_to(manifest):
    parity = msgspec.structs.replace(manifest.parity, passed=False, failures=("the signal-to-noise ratio is 4.0 dB",))
    failed = msgspec.structs.replace(measured(manifest), parity=parity)
    text = describe_cpp_engine(of_openvino(manifest, failed))
    assert text.endswith("; FAILED: the signal-to-noise ratio is 4.0 dB")


def test_an_unmeasured_engine_of_cpp_is_named_with_the_command_that_measures_it(manifest):
    assert describe_cpp_engine(of_openvino(manifest)) == (
        "the C++ library runs another engine than openvino: ONNX Runtime (model.onnx), executed precision and latency "
        "not measured: deploykit compile BUNDLE --target onnxruntime measures them"
    )


@pytest.mark.parametrize("render", [markdown.render_markdown, page.render_page])
def test_every_report_says_what_cpp_runs_with_the_path_of_the_bundle(manifest, render):
    bundle = describe_bundle("net", of_openvino(manifest), whole(manifest).records)
    text = render(Report((bundle,))).replace("\\", "")
    assert "deploykit compile PATH/TO/net --target onnxruntime measures them" in text
