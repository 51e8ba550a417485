"""Each machine has its own verdict and latency on a graph that several of them run."""

import json
import platform

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle.write import pack_engine
from deploykit.core.values import SecondaryEngine
from deploykit.evaluate.latency.measure import Settings, measure_calls
from deploykit.workflows import bundles


@pytest.fixture
def judged_elsewhere(bundle):
    """The bundle as if another machine had exported it."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    content["provenance"]["host"] = "workstation"
    path.write_text(json.dumps(content))
    return bundle


@pytest.fixture
def quick(monkeypatch):
    few = Settings(window_s=0, agreement=1e9, iterations_at_least=3, seconds_at_least=0.001)
    monkeypatch.setattr(
        bundles, "measure_calls", lambda run, size, advance: measure_calls(run, size, settings=few, advance=advance)
    )


def on(host, manifest, processor="Cortex-A78AE"):
    """What a machine of that name says of the bundle's own graph."""
    provenance = msgspec.structs.replace(manifest.provenance, host=host, processor=processor)
    return SecondaryEngine(manifest.engine, None, manifest.parity, manifest.receipt, manifest.latency, provenance)


def hosts(bundle):
    return [beside.provenance.host for beside in manifests.read_manifest(bundle).extra_engines]


def test_the_verdicts_of_two_machines_on_one_graph_stand_beside_each_other(bundle):
    for host in ("nano", "orin"):
        manifest = manifests.read_manifest(bundle)
        pack_engine(bundle, manifest, on(host, manifest), bundle)
    assert hosts(bundle) == ["nano", "orin"]


def test_a_machine_that_is_asked_again_replaces_its_own_verdict_alone(bundle):
    for host in ("nano", "orin", "nano"):
        manifest = manifests.read_manifest(bundle)
        pack_engine(bundle, manifest, on(host, manifest), bundle)
    assert hosts(bundle) == ["orin", "nano"]


def test_machines_of_one_name_and_different_processors_have_a_verdict_each_and_are_told_apart(cli, bundle):
    for processor in ("Cortex-A78AE", "Cortex-A57"):
        manifest = manifests.read_manifest(bundle)
        pack_engine(bundle, manifest, on("ubuntu", manifest, processor), bundle)
    text = cli("report", bundle, "--format", "markdown").out
    assert "on ubuntu (Cortex-A78AE)" in text
    assert "on ubuntu (Cortex-A57)" in text


def test_another_machine_of_the_exporting_ones_name_judges_the_graph_too(cli, bundle):
    manifest = manifests.read_manifest(bundle)
    home = manifest.provenance.host
    pack_engine(bundle, manifest, on(home, manifest), bundle)
    assert f"on {home} (Cortex-A78AE)" in cli("report", bundle, "--format", "markdown").out


@pytest.mark.usefixtures("quick")
def test_the_library_that_judged_a_bundle_elsewhere_judges_and_measures_it_here(cli, judged_elsewhere):
    result = cli("compile", judged_elsewhere, "--target", "onnxruntime")
    assert result.code == 0, result.err
    (beside,) = manifests.read_manifest(judged_elsewhere).extra_engines
    assert (beside.engine.backend, beside.provenance.host) == ("onnxruntime", platform.node())
    assert beside.latency.iterations >= 3
    assert cli("verify", judged_elsewhere).code == 0


def test_where_a_bundle_was_judged_the_same_library_has_nothing_to_add(cli, bundle):
    result = cli("compile", bundle, "--target", "onnxruntime")
    assert result.code == 3
    assert f"on {platform.node()} is the bundle's primary engine already." in result.text


def test_a_report_tells_the_rows_of_two_machines_apart(cli, bundle):
    manifest = manifests.read_manifest(bundle)
    pack_engine(bundle, manifest, on("nano", manifest), bundle)
    text = cli("report", bundle, "--format", "markdown").out
    engine = manifest.engine
    assert f"{engine.backend} {engine.version} on nano" in text
