"""Values as text: every figure in its unit, names verbatim, unwrapped lines without a terminal."""

import re

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.core.values import (
    Accuracy,
    BatchRange,
    Finding,
    Latency,
    LayerRow,
    MatrixRow,
    OutputParity,
    Prediction,
    TensorSpec,
    WeightsRecord,
)
from deploykit.export.networks import catalog
from deploykit.report import terminal

LATENCY = Latency(
    batch=4,
    iterations=100,
    warmup_iterations=10,
    p50_ms=1.25,
    p90_ms=2.5,
    p95_ms=3.0,
    p99_ms=4.75,
    mean_ms=1.5,
    deviation_ms=0.1,
    throughput_per_s=2666.6,
    settled=True,
)
EXACT = OutputParity(
    name="logits",
    max_abs=0.0,
    mean_abs=0.0,
    max_relative=0.0,
    cosine=1.0,
    snr_db=None,
    kl=0.0,
    top1_agreement=1.0,
    top5_overlap=1.0,
)


@pytest.fixture
def text(capfd):
    """The printed text without a terminal."""

    def render(value):
        capfd.readouterr()
        terminal.create_console().print(value)
        return capfd.readouterr().out

    return render


@pytest.fixture
def flat_text(text):
    """The printed text with line breaks and indents as single blanks."""
    return lambda value: " ".join(text(value).split())


@pytest.fixture(scope="session")
def manifest(fp16_bundle):
    return manifests.read_manifest(fp16_bundle)


@pytest.fixture(scope="session")
def parity(manifest):
    return manifest.parity


# ── The console ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pipe_gets_unwrapped_lines_without_colour_or_trailing_blanks(text):
    printed = text(
        terminal.findings_table([Finding("x " * 60, "broken", "y " * 60, "z " * 60), Finding("b", "ok", "c")])
    )
    assert [line.split() for line in printed.splitlines()] == [
        ["state", "found"], [*"x" * 60, "broken", *"y" * 60], ["→", *"z" * 60], ["b", "ok", "c"],
    ]  # fmt: skip
    assert all(line == line.rstrip() for line in printed.splitlines())
    assert "\x1b" not in printed


def test_a_terminal_wraps_at_its_width(text, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", text(terminal.findings_table([Finding("x " * 60, "broken", "y " * 60)])))
    assert max(map(len, printed.splitlines())) <= 60


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color_is_respected_on_a_terminal(text, monkeypatch, no_color, coloured):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    colours = re.findall(r"\x1b\[[0-9;]*3\d[0-9;]*m", text(terminal.findings_table([Finding("a", "ok", "b")])))
    assert bool(colours) == coloured


@pytest.mark.parametrize("name", ["[bold]", "[/]", "[red]x[/red]", ":smile:", r"a\[b]", "[link=file:///x]"])
def test_names_are_printed_as_they_are(text, name):
    assert name in text(name)
    assert name in text(terminal.nodes_table([LayerRow(name, "Conv", "", "float32", (1,), 0)]))
    assert name in text(terminal.render_predictions([Prediction(name, (0,), (name,), (1.0,))]))
    assert name in text(terminal.findings_table([Finding("x", "ok", name)]))


# ── Verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_verdict_begins_with_pass_or_fail(flat_text, parity):
    assert flat_text(terminal.render_verdict(parity, "fp16")).startswith(
        "PASSED fp16 against eager PyTorch on 4 samples of synthetic engine against its graph: SNR"
    )
    failed = msgspec.structs.replace(parity, passed=False, failures=("too far", "too noisy"))
    printed = flat_text(terminal.render_verdict(failed, "fp16"))
    assert printed.startswith("FAILED fp16")
    assert "× too far × too noisy" in printed


def test_what_a_verdict_does_not_cover_stands_beside_the_word(flat_text, parity, manifest):
    untested = msgspec.structs.replace(parity, accuracy=None)
    assert flat_text(terminal.render_verdict(untested, "int8")).startswith(
        "PASSED (faithful; accuracy not measured) int8"
    )
    printed = flat_text(terminal.render_verdict(parity, "fp16", receipt=manifest.receipt))
    assert printed.startswith("PASSED (executed in FP32) fp16")


def test_a_failed_receipt_fails_the_engine(flat_text, parity):
    printed = flat_text(terminal.render_verdict(parity, "fp16", other_failures=("it ran in FP32",)))
    assert printed.startswith("FAILED fp16")
    assert "× it ran in FP32" in printed


def test_the_cost_is_printed_in_the_terms_of_the_outputs_kind(flat_text, parity):
    printed = flat_text(terminal.render_verdict(parity, "fp16"))
    assert re.search(
        r"cost of FP16 at logits \(class scores\): SNR [\d.]+ dB \(the precision's own floor [\d.]+ dB\)", printed
    )
    assert "top-1 agreement 100 % (95 % interval" in printed


def test_a_verdict_prints_every_caveat(flat_text, parity):
    printed = flat_text(terminal.render_verdict(parity, "fp16"))
    assert len(parity.caveats) > 2
    for statement in parity.caveats:
        assert f"note: {statement}" in printed


def test_a_note_is_one_line_in_a_pipe(text):
    assert text(terminal.render_note("word " * 60)).splitlines() == ["  note: " + ("word " * 60).strip()]


def test_a_note_is_indented_on_a_terminal(text, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", text(terminal.render_note("word " * 60)))
    first, *others = printed.splitlines()
    assert first.startswith("  note: word")
    assert len(others) == 4
    assert all(line.startswith("        word") and len(line) <= 80 for line in others)


def test_a_command_in_a_caveat_names_the_bundles_folder(flat_text, parity, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asking = msgspec.structs.replace(parity, caveats=("see deploykit parity BUNDLE --stages",))
    below = flat_text(terminal.render_verdict(asking, "fp16", tmp_path / "build" / "a b"))
    elsewhere = flat_text(terminal.render_verdict(asking, "fp16", tmp_path.parent / "other"))
    assert "note: see deploykit parity 'build/a b' --stages" in below
    assert f"note: see deploykit parity {tmp_path.parent / 'other'} --stages" in elsewhere


def test_identical_outputs_are_called_identical(flat_text, parity):
    exact = msgspec.structs.replace(parity, outputs=(EXACT,), faithfulness=None, cost=None)
    expected = "logits: max |Δ| 0.0e+00 of full scale, identical, cosine 1.0000000, top-1 agreement 100.0%"
    assert expected in flat_text(terminal.render_verdict(exact, "fp32"))


def test_an_embedding_has_no_top_1(flat_text, parity):
    embedding = msgspec.structs.replace(EXACT, top1_agreement=None)
    assert "top-1" not in flat_text(
        terminal.render_verdict(msgspec.structs.replace(parity, outputs=(embedding,), cost=None, caveats=()), "fp32")
    )


def test_accuracy_is_printed_of_both(flat_text, parity):
    judged = msgspec.structs.replace(parity, accuracy=Accuracy(reference=0.75, candidate=0.7, count=200))
    expected = "top-1 on 200 labelled samples 70.00%, eager PyTorch 75.00%"
    assert expected in flat_text(terminal.render_verdict(judged, "fp16"))


def test_a_matrix_has_a_row_per_network_and_precision(text, parity):
    failed = msgspec.structs.replace(parity, passed=False, failures=("too far",), outputs=())
    exact = msgspec.structs.replace(parity, outputs=(EXACT,), cost=None)
    header, first, second, third = text(
        terminal.matrix_table(
            [
                MatrixRow("vgg11", "fp16", "onnxruntime", parity),
                MatrixRow("vgg11", "fp32", "onnxruntime", exact),
                MatrixRow("x" * 60, "fp32", "onnxruntime", failed),
            ]
        )
    ).splitlines()[:4]
    assert header.split()[:3] == ["network", "precision", "verdict"]
    assert first.split()[1:3] == ["fp16", "passed"]
    assert second.split()[3:5] == ["0.0e+00", "∞"]
    assert "FAILED" in third


# ── Figures ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_latency_is_in_milliseconds_and_throughput_in_images(flat_text):
    expected = "latency at batch 4: p50 1.25 ms, p90 2.50 ms, p99 4.75 ms (100 calls, 2666.6 samples/s)"  # one caller
    assert flat_text(terminal.render_latency(LATENCY)) == expected


def test_a_busy_machine_is_noted(flat_text):
    printed = flat_text(terminal.render_latency(msgspec.structs.replace(LATENCY, settled=False)))
    assert printed.endswith("note: warm-up did not settle: the machine was busy")


def test_predictions_are_probabilities_next_to_class_names(text):
    rows = [Prediction("a.png", (3, 1), ("cat", "dog"), (0.875, 0.125)), Prediction("b.png", (1,), ("dog",), (1.0,))]
    assert text(terminal.render_predictions(rows)) == "a.png\n   87.50%  cat\n   12.50%  dog\nb.png\n  100.00%  dog\n"


def test_a_summary_states_that_weights_are_untrained(flat_text, manifest):
    def summary(weights):
        return flat_text(
            terminal.render_summary(manifest.model, weights, manifest.inputs, manifest.outputs, BatchRange(1, 2, 4))
        )

    assert "weights: random, seed 0 (untrained) input: float32 N×3×32×32 NCHW" in summary(manifest.weights)
    assert "weights: mine.pth input:" in summary(WeightsRecord("mine.pth", True, "0" * 64))
    assert summary(manifest.weights).endswith("logits: float32 N×10 NC batch: 1 to 4")


def test_shapes_have_n_for_the_free_batch(flat_text, manifest):
    spec = TensorSpec("x", "uint8", (4, 224, 224, 3), "NHWC")
    printed = flat_text(terminal.render_summary(manifest.model, manifest.weights, (spec,), (), BatchRange(4, 4, 4)))
    assert "x: uint8 4×224×224×3 NHWC" in printed


@pytest.mark.parametrize(
    ("size", "expected"), [(1, "1 B"), (1024, "1.0 KiB"), (3 * 2**20, "3.0 MiB"), (5 * 2**30, "5.0 GiB")]
)
def test_weights_are_in_binary_units(flat_text, size, expected):
    assert expected in flat_text(terminal.nodes_table([LayerRow("a", "Conv", "", "float32", ("batch", 8), size)]))


def test_a_node_without_weights_has_an_empty_cell(flat_text):
    assert flat_text(terminal.nodes_table([LayerRow("a", "Relu", "", "float32", ("batch", 8), 0)])).endswith(
        "a Relu float32 N×8"
    )


# ── Catalog and doctor ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_catalog_cites_every_paper_once(text):
    printed = text(terminal.render_catalog(catalog.read_catalog()))
    references = [line for line in printed.splitlines() if line.startswith("arXiv ")]
    assert (
        len(references)
        == len(set(references))
        == len({row.paper.split(", arXiv ")[1][:9] for row in catalog.read_catalog()})
    )


def test_the_catalog_counts_in_decimal_units(text):
    printed = text(terminal.render_catalog([row for row in catalog.read_catalog() if row.name == "resnet50"]))
    assert printed.splitlines()[1].split()[:7] == ["resnet50", "25.6", "M", "4.1", "G", "224×224", "1000"]


def test_a_finding_shows_its_remedy(flat_text):
    findings = [Finding("cmake", "missing", "not here", "apt install cmake"), Finding("torch", "ok", "2.15")]
    assert (
        flat_text(terminal.findings_table(findings))
        == "state found cmake missing not here → apt install cmake torch ok 2.15"
    )


def test_a_terminal_has_its_own_width(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "132")
    assert terminal.create_console().width == 132
