"""A bundle is sent to a device and returned with engines: all parts are real, the device is reached over loopback."""

import contextlib
import io
import platform
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import pytest

from deploykit.backends import is_installed
from deploykit.bundle import manifest as manifests
from deploykit.cli.build_options import add_build_options, read_build_options
from deploykit.core.values import BuildOptions, Manifest
from deploykit.workflows.remote.build import format_options

openvino = pytest.mark.skipif(not is_installed("openvino"), reason="install the extra openvino")
rtx = pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="install the extra rtx")


class Trip(NamedTuple):
    """A successful trip."""

    printed: str
    before: Manifest
    files: dict[str, bytes]
    bundle: Path
    ground: Path

    @property
    def after(self):
        return manifests.read_manifest(self.bundle)


@pytest.fixture(scope="module")
def trip(device, fp32_bundle, tmp_path_factory):
    from deploykit.cli import run

    folder = tmp_path_factory.mktemp("trip")
    bundle, ground = Path(shutil.copytree(fp32_bundle, folder / "-a bundle")), folder / "work there"
    ground.mkdir()
    before = manifests.read_manifest(bundle)
    files = {path: (bundle / path).read_bytes() for path in before.files if path != "report.html"}
    there = ("--on", "jetson", "--remote-command", device.command, "--remote-folder", str(ground))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(["compile", "--target", "openvino", *there, "--", str(bundle)]) == 0
    return Trip(" ".join(out.getvalue().split()), before, files, bundle, ground)


@openvino
def test_an_engine_is_evaluated_and_measured_remotely_and_added_to_the_local_bundle(trip):
    (beside,) = trip.after.extra_engines
    assert (beside.engine.backend, beside.not_run_reason) == ("openvino", None)
    assert beside.parity.passed
    assert beside.receipt.layers
    assert beside.latency.iterations >= 3


@openvino
def test_the_record_names_the_machine(trip):
    (beside,) = trip.after.extra_engines
    assert beside.provenance.host == platform.node()
    assert beside.provenance.created > trip.before.provenance.created
    assert f"on {platform.node()}: Linux {platform.release()}" in trip.printed
    assert f"on {platform.node()}: Linux {platform.release()}" in (trip.bundle / "report.html").read_text()


@openvino
def test_verdict_and_latency_are_printed(trip):
    assert "PASSED fp32" in trip.printed
    assert re.search(r"latency at batch 1: p50 [\d.]+ ms", trip.printed)


@openvino
def test_the_rest_of_the_bundle_is_unchanged(trip):
    assert {path: (trip.bundle / path).read_bytes() for path in trip.files} == trip.files
    assert msgspec.structs.replace(trip.after, extra_engines=(), files=trip.before.files) == trip.before


@openvino
def test_the_bundle_verifies(trip, cli):
    assert cli("verify", "--", trip.bundle).code == 0


@openvino
def test_no_remote_files_remain(trip):
    assert list(trip.ground.iterdir()) == []


@rtx
@openvino
def test_one_trip_can_build_several_engines(compile_on, bundle, cli):
    result = compile_on("jetson", "--target", "tensorrt-rtx", "--json")
    assert result.code == 0, result.err
    assert [beside["engine"]["backend"] for beside in result.content["extra_engines"]] == ["openvino", "tensorrt-rtx"]
    assert cli("verify", bundle).code == 0


@rtx
def test_a_machine_without_rsync_receives_the_bundle_too(compile_on, bundle, cli):
    result = compile_on("bare", "--compute-capability", "89", target="tensorrt-rtx")
    assert result.code == 0, result.err
    (engine,) = bundle.rglob("engine.plan")
    assert engine.parent.name.endswith("-sm89")
    assert cli("verify", bundle).code == 0


@rtx
def test_files_added_locally_during_the_trip_are_preserved(compile_on, bundle, device, program):
    here = shlex.join(program("compile", bundle, "--target", "tensorrt-rtx"))
    meanwhile = device.script("meanwhile", f'[ "$1" = compile ] && {here} >/dev/null\nexec "$REAL" "$@"')
    result = compile_on("jetson", "--compute-capability", "89", target="tensorrt-rtx", command=meanwhile)
    assert result.code == 0, result.err
    assert sorted(path.parent.name.rpartition("-")[2] for path in bundle.rglob("engine.plan")) == ["portable", "sm89"]


@click.command()
@add_build_options
def parse_options(**said):
    return read_build_options(said)


def test_options_are_passed_to_the_remote_unchanged():
    everything = BuildOptions(
        compute_capabilities=(86, 120), workspace_mib=64, optimization_level=0, version_compatible=True,
        hardware_compatible=True, strip_weights=True, refittable=True, dla_core=1,
    )  # fmt: skip
    assert parse_options.main(list(format_options(everything)), standalone_mode=False) == everything


def test_every_option_except_the_bundles_batch_is_passed_on():
    default, passed = BuildOptions(), {option.name for option in parse_options.params}
    assert len(passed) == len(msgspec.structs.fields(default)) - 1
    assert list(format_options(default)) == []
