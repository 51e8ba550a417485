"""scripts/benchmarks/latency: saved rows, and the tables that it writes."""

from argparse import Namespace

import msgspec
from programs import common, load_program

from deploykit.core.values import Interval
from deploykit.workflows import cache_keys

latency = load_program("benchmarks/latency")

NAMES = (latency.EAGER, latency.COMPILED, *latency.CATALOG_SIDES)


def row(**slower):
    sides = {
        name: latency.Side(slower.get(name, 10.0), Interval(slower.get(name, 10.0) / 10, 0.9, 1.1), 100)
        for name in NAMES
    }
    return latency.CatalogRow(
        network="resnet18",
        sides=sides,
        compile_s=12.3,
        int8_shares={"ONNX Runtime INT8": 0.5, "OpenVINO INT8": 1.0},
        date="2026-11-22",
        processor="a processor",
        cores=2,
        versions={"torch": "2.15.0"},
    )


def test_a_saved_row_round_trips(tmp_path):
    common.save_row(tmp_path, row())
    assert common.load_rows(tmp_path, ["resnet18", "vgg16"], latency.CatalogRow) == [row()]
    assert msgspec.json.decode(msgspec.json.encode(row()), type=latency.CatalogRow) == row()


def test_the_catalogs_page_names_the_fastest_of_each_precision_and_the_machine():
    rows = [row(**{"OpenVINO FP32": 8.0, "ONNX Runtime INT8": 5.0, "OpenVINO INT8": 6.0})]
    text = "\n".join(latency.render_catalog(rows))
    assert "| resnet18 | 10.0 | 10.0 | 10.0 | 10.0 | 5.0 | 8.0 | 10.0 | 6.0 |" in text
    assert "0.800 (0.900 to 1.100) OpenVINO | 0.500 (0.900 to 1.100) ONNX Runtime | 12 | 50% | 100% |" in text
    assert "- machine: a processor, 2 cores" in text
    assert f"- networks: 1 of {len(latency.CATALOG)}; the others are not measured" in text
    assert "OpenVINO INT8 0.60." in text


def test_the_int8_page_names_the_fastest_int8_of_each_network():
    sides = {"plain FP32, ONNX Runtime": 1.0, "FP32, OpenVINO": 0.2, "INT8, ONNX Runtime": 0.6, "INT8, OpenVINO": 0.4}
    rows = [
        latency.Int8Row(network, side, 100 * ratio, Interval(ratio, ratio - 0.01, ratio + 0.01), 0.5)
        for network in ("resnet50", "vgg16")
        for side, ratio in sides.items()
    ]
    lines = latency.render_int8(rows, Namespace(rounds=40, batch=1, calibration_size=64))
    assert "| resnet50 | INT8, OpenVINO | 40.0 | 0.400 (0.390 to 0.410) | 50.0% |" in lines
    assert lines[-2:] == [
        "- resnet50: 0.400 (0.390 to 0.410), INT8, OpenVINO",
        "- vgg16: 0.400 (0.390 to 0.410), INT8, OpenVINO",
    ]


def test_the_export_page_has_spreads_and_the_ratio_of_medians():
    row = latency.ExportRow("vgg16", [4.0, 6.0, 5.0], [2.0, 2.5, 3.0], 80.0, 81.0, Interval(0.99, 0.98, 1.0), 1e-6)
    line = latency.render_export([row], 3, 40)[-1]
    assert line == (
        "| vgg16 | 5.0 (4.0 to 6.0) | 2.5 (2.0 to 3.0) | 2.00 | 80.0 | 81.0 | 0.990 (0.980 to 1.000) | 1.0e-06 |"
    )


def test_a_latency_is_measured_on_what_the_command_line_would_export():
    floating = latency.request_int8("googlenet", "fp32", "onnxruntime", 64)
    quantized = latency.request_int8("googlenet", "int8", "openvino", 64)
    assert floating.calibration is None
    assert (quantized.calibration.data, quantized.calibration.count) == ("photos", 64)
    assert cache_keys.graph_key(floating) == cache_keys.graph_key(quantized)


def test_a_line_against_nncf_has_both_ratios():
    intervals = (Interval(1.091, 0.869, 1.276), Interval(0.998, 0.963, 1.064))
    arguments = Namespace(rounds=8, calibration_size=16)
    page = latency.render_nncf([latency.NncfRow("resnet18", 39.9, 37.9, *intervals)], arguments, load=10.1)
    assert "| resnet18 | 39.9 | 37.9 | 1.091 (0.869 to 1.276) | 0.998 (0.963 to 1.064) |" in page
    assert any("load 10.1" in line for line in page)
