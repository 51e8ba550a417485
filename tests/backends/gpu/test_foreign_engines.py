"""Engines that were built for another machine are refused by their record, with both machines named."""

from typing import Any

import msgspec
import pytest
from cuda_doubles import THE_GPU

from deploykit.backends.gpu.foreign_engines import reject_foreign_engine
from deploykit.core.errors import BackendError, InputError
from deploykit.core.values import BuildOptions, BuildRecord, Engine, FileRecord, TensorSpec

HERE = "Linux aarch64"


def engine(
    backend: str = "tensorrt",
    version: str = "10.3.0.26",
    capabilities: tuple[int, ...] = (87,),
    open_ended: bool = False,
    **options: Any,
) -> Engine:
    """An engine of this machine, except for the given fields."""
    file = FileRecord("engines/tensorrt/engine.plan", "0" * 64, 1)
    record = BuildRecord(
        graph=FileRecord("model.onnx", "0" * 64, 1),
        platform=HERE,
        gpu="Orin",
        driver="540.4.0",
        compute_capabilities=capabilities,
        open_ended=open_ended,
        settings=(),
        seconds=1.0,
        timing_cache_sha256=None,
        options=BuildOptions(**options),
    )
    spec = TensorSpec("x", "float32", ("batch", 2), "NC")
    return Engine(backend, version, file, (spec,), (spec,), build=record)


def refusal_reason(made: Engine, version: str = "10.3.0.26", platform: str = HERE, capability: int = 87) -> str | None:
    """The reason that an engine is refused on this machine, except for the given fields."""
    try:
        reject_foreign_engine(made, version, THE_GPU._replace(compute_capability=capability), platform)
    except BackendError as refused:
        what, _, remedy = str(refused).partition(" Build it here: ")
        return what if remedy == f"deploykit compile BUNDLE --target {made.backend}." else "without the remedy"
    return None


def test_an_engine_of_this_machine_passes() -> None:
    assert refusal_reason(engine()) is None


def test_another_platform_is_refused_with_both_named() -> None:
    error = refusal_reason(engine(), platform="Linux x86_64")
    assert error == "engines/tensorrt/engine.plan was built for Linux aarch64; this machine is Linux x86_64."


@pytest.mark.parametrize("running", ["10.3.1.26", "10.2.0.26", "11.4.0.106", "8.6.2"])
def test_another_version_is_refused_with_both_named(running: str) -> None:
    error = refusal_reason(engine(), running)
    assert error == f"engines/tensorrt/engine.plan was built for tensorrt 10.3.0.26; this machine has {running}."


@pytest.mark.parametrize(
    ("built", "running", "passes"),
    [
        ("10.3.0.26", "10.3.0.26", True),
        ("10.3.0.26", "10.16.2.10", True),
        ("10.3.0.26", "10.2.9.99", False),
        ("10.3.0.26", "11.0.0.114", True),
        ("8.6.2", "10.3.0.26", True),
        ("8.6.2", "11.0.0.114", False),
        ("11.0.0.114", "10.16.2.10", False),
        ("11.4.0.106", "12.0.0.1", False),
    ],
)
def test_a_version_compatible_engine_runs_in_the_later_versions_that_nvidia_supports(
    built: str, running: str, passes: bool
) -> None:
    error = refusal_reason(engine(version=built, version_compatible=True), running)
    assert (error is None) == passes
    assert error is None or "version-compatible engines run" in error


def test_another_gpu_is_refused_with_both_named() -> None:
    error = refusal_reason(engine(), capability=90)
    assert error == (
        "engines/tensorrt/engine.plan was built for compute capability 8.7; this machine's NVIDIA Fake has 9.0."
    )


@pytest.mark.parametrize(("capability", "passes"), [(75, False), (80, True), (90, True), (120, True)])
def test_a_hardware_compatible_engine_runs_from_ampere_on(capability: int, passes: bool) -> None:
    error = refusal_reason(engine(capabilities=(86,), hardware_compatible=True), capability=capability)
    assert (error is None) == passes
    assert error is None or "8.6 or 8.0 and above" in error


@pytest.mark.parametrize(
    ("capability", "passes"), [(75, False), (80, True), (86, True), (89, True), (90, False), (120, True), (130, True)]
)
def test_a_portable_engine_runs_on_its_listed_gpus_and_newer_ones(capability: int, passes: bool) -> None:
    built = engine("tensorrt-rtx", "1.7.1.116", capabilities=(80, 86, 89, 120), open_ended=True)
    error = refusal_reason(built, "1.7.1.116", capability=capability)
    assert (error is None) == passes
    assert error is None or "compute capability 8.0, 8.6, 8.9, 12.0 or above;" in error


def test_an_engine_without_a_record_is_a_damaged_manifest() -> None:
    built = msgspec.structs.replace(engine(), build=None)
    with pytest.raises(InputError, match=r"it has no build record for engines/tensorrt/engine.plan"):
        reject_foreign_engine(built, "10.3.0.26", THE_GPU, HERE)
