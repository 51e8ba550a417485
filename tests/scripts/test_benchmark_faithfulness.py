"""scripts/benchmarks/faithfulness: what is called a fault, and the page that it writes."""

import numpy as np
import onnx
import pytest
from programs import load_program

from deploykit.backends.onnxruntime import open_unoptimized

faithfulness = load_program("benchmarks/faithfulness")


def figures(engine, ties):
    return faithfulness.Figures(engine, ties, 25.0, 20, 21)


def row(engine, ties):
    return faithfulness.Row(
        network="resnet18",
        pixels=64,
        figures={"openvino": figures(engine, ties), "onnxruntime": figures(None, 30.0)},
        date="2026-11-28",
        processor="a processor",
        cores=2,
        versions={"openvino": "2026.4"},
    )


@pytest.mark.parametrize(
    ("engine", "ties", "faulty"),
    [(35.4, 31.5, False), (28.0, 31.5, False), (25.0, 31.5, True), (None, 31.5, False), (90.0, None, True)],
)
def test_an_engine_is_at_fault_where_it_is_clearly_below_the_ties(engine, ties, faulty):
    assert faithfulness.is_faulty(figures(engine, ties)) == faulty


def test_a_line_has_the_figures_of_both_backends():
    line = "| resnet18 | 64×64 | 35.4 | 31.5 | 25.0 | 20 of 21 | identical | 30.0 | 25.0 | 20 of 21 |"
    assert line in faithfulness.render_page([row(35.4, 31.5)])


def test_the_page_names_engines_at_fault():
    page = "\n".join(faithfulness.render_page([row(7.0, 31.5)]))
    assert "below the ties: resnet18 in openvino" in page
    assert "- onnxruntime: engines identical to their forms" in page


def test_inexact_scales_change_few_codes_and_by_one(tmp_path):
    text = """
    <ir_version: 9, opset_import: ["" : 20]>
    pair (float[batch, 100000] x) => (int8[batch, 100000] y) <float s = {0.03}, int8 z = {0}> {
        y = QuantizeLinear (x, s, z)
    }
    """
    onnx.save(onnx.parser.parse_model(text), form := tmp_path / "form.onnx")
    x = np.random.default_rng(0).standard_normal((8, 100000)).astype(np.float32)
    exact, inexact = (
        open_unoptimized(path).run({"x": x})["y"].astype(int)
        for path in (form, faithfulness.write_inexact_scales(form))
    )
    changed = np.abs(exact - inexact)
    assert changed.max() == 1
    assert 0 < changed.mean() < 1e-3
