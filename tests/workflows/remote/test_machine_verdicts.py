"""Each machine has its own verdict and latency on a graph that several of them run."""

import json
import platform

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files
from deploykit.bundle.write import pack_engine
from deploykit.core.errors import InputError
from deploykit.core.files import record_file
from deploykit.core.values import SecondaryEngine
from deploykit.evaluate.latency.measure import Settings, measure_calls
from deploykit.workflows import bundles


@pytest.fixture
def bundle_of_another_machine(bundle):
    """The bundle as if another machine had exported it."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    content["provenance"]["host"] = "workstation"
    path.write_text(json.dumps(content))
    return bundle


@pytest.fixture
def short_measurement(monkeypatch):
    few = Settings(window_s=0, agreement=1e9, iterations_at_least=3, seconds_at_least=0.001)
    monkeypatch.setattr(
        bundles, "measure_calls", lambda run, size, advance: measure_calls(run, size, settings=few, advance=advance)
    )


def verdict_on(host, manifest, processor="Cortex-A78AE"):
    """The verdict of a machine of that name on the bundle's graph."""
    provenance = msgspec.structs.replace(manifest.provenance, host=host, processor=processor)
    return SecondaryEngine(manifest.engine, None, manifest.parity, manifest.receipt, manifest.latency, provenance)


def hosts(bundle):
    return [beside.provenance.host for beside in manifests.read_manifest(bundle).extra_engines]


def test_a_graph_has_one_verdict_per_machine(bundle):
    for host in ("nano", "orin"):
        manifest = manifests.read_manifest(bundle)
        pack_engine(bundle, manifest, verdict_on(host, manifest), bundle)
    assert hosts(bundle) == ["nano", "orin"]


def test_a_repeated_run_on_a_machine_replaces_only_the_verdict_of_that_machine(bundle):
    for host in ("nano", "orin", "nano"):
        manifest = manifests.read_manifest(bundle)
        pack_engine(bundle, manifest, verdict_on(host, manifest), bundle)
    assert hosts(bundle) == ["orin", "nano"]


def test_machines_with_equal_names_and_different_processors_have_separate_verdicts(cli, bundle):
    for processor in ("Cortex-A78AE", "Cortex-A57"):
        manifest = manifests.read_manifest(bundle)
        pack_engine(bundle, manifest, verdict_on("ubuntu", manifest, processor), bundle)
    text = cli("report", bundle, "--format", "markdown").out
    assert "on ubuntu (Cortex-A78AE)" in text
    assert "on ubuntu (Cortex-A57)" in text


def form_on(host, manifest, folder, content=b"the form"):
    """The verdict of a machine of that name on a backend's form of the bundle's graph, written into `folder`."""
    (folder / "openvino.onnx").write_bytes(content)
    (folder / "openvino.onnx.data").write_bytes(b"its weights")
    file = record_file(folder, "openvino.onnx")
    engine = msgspec.structs.replace(manifest.engine, backend="openvino", version="2026.4.1", file=file)
    return msgspec.structs.replace(verdict_on(host, manifest), engine=engine)


@pytest.fixture
def pack_form(bundle, tmp_path):
    def pack(host, **content):
        manifest = manifests.read_manifest(bundle)
        return pack_engine(bundle, manifest, form_on(host, manifest, tmp_path, **content), tmp_path)

    return pack


def test_a_form_of_the_graph_has_one_verdict_per_machine_too(bundle, pack_form):
    for host in ("nano", "orin", "nano"):
        pack_form(host)
    assert hosts(bundle) == ["orin", "nano"]


def test_another_form_replaces_all_verdicts_on_the_one_before(bundle, pack_form):
    pack_form("nano")
    pack_form("orin", content=b"another form")
    assert hosts(bundle) == ["orin"]


def test_a_form_is_packed_with_its_external_data(bundle, pack_form):
    manifest = pack_form("nano")
    assert (bundle / "engines/openvino/openvino.onnx.data").read_bytes() == b"its weights"
    check_files(bundle, manifest)


def test_another_form_does_not_replace_the_primary_engine(bundle, pack_form):
    """The bundle's verdict, latency and receipt are those of the file that is there."""
    form = pack_form("nano").extra_engines[0].engine
    manifest = msgspec.structs.replace(manifests.read_manifest(bundle), engine=form, extra_engines=())
    (bundle / "manifest.json").write_bytes(manifests.encode_manifest(manifest))
    pack_form("orin")
    with pytest.raises(InputError, match=r"engines/openvino/openvino.onnx is the bundle's primary engine"):
        pack_form("orin", content=b"another form")
    assert hosts(bundle) == ["orin"]
    check_files(bundle, manifests.read_manifest(bundle))


def test_another_machine_with_the_name_of_the_exporting_one_evaluates_the_graph_too(cli, bundle):
    manifest = manifests.read_manifest(bundle)
    home = manifest.provenance.host
    pack_engine(bundle, manifest, verdict_on(home, manifest), bundle)
    assert f"on {home} (Cortex-A78AE)" in cli("report", bundle, "--format", "markdown").out


def test_an_engine_added_by_another_process_during_the_build_is_kept(bundle):
    manifest = manifests.read_manifest(bundle)
    for host in ("nano", "orin"):  # both began with the same manifest
        pack_engine(bundle, manifest, verdict_on(host, manifest), bundle)
    assert hosts(bundle) == ["nano", "orin"]


def test_a_bundle_exported_again_during_the_build_gets_no_engine(bundle):
    manifest = manifests.read_manifest(bundle)
    exported = manifests.encode_manifest(msgspec.structs.replace(manifest, key="of another export"))
    (bundle / "manifest.json").write_bytes(exported)
    with pytest.raises(InputError, match="was exported again in the meantime"):
        pack_engine(bundle, manifest, verdict_on("nano", manifest), bundle)
    assert (bundle / "manifest.json").read_bytes() == exported


@pytest.mark.usefixtures("short_measurement")
def test_the_library_that_evaluated_a_bundle_on_another_machine_runs_on_this_one_too(cli, bundle_of_another_machine):
    result = cli("compile", bundle_of_another_machine, "--target", "onnxruntime")
    assert result.code == 0, result.err
    (beside,) = manifests.read_manifest(bundle_of_another_machine).extra_engines
    assert (beside.engine.backend, beside.provenance.host) == ("onnxruntime", platform.node())
    assert beside.latency.iterations >= 3
    assert cli("verify", bundle_of_another_machine).code == 0


def test_a_bundle_already_evaluated_by_a_library_on_this_machine_gets_no_second_engine(cli, bundle):
    result = cli("compile", bundle, "--target", "onnxruntime")
    assert result.code == 3
    assert f"on {platform.node()} is the bundle's primary engine already." in result.text


def test_a_report_distinguishes_the_rows_of_two_machines(cli, bundle):
    manifest = manifests.read_manifest(bundle)
    pack_engine(bundle, manifest, verdict_on("nano", manifest), bundle)
    text = cli("report", bundle, "--format", "markdown").out
    engine = manifest.engine
    assert f"{engine.backend} {engine.version} on nano" in text
