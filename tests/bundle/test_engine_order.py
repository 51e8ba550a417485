"""The order in which Python tries the engines of a bundle, and what it says of those that it skips."""

import msgspec
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.bundle import open as engines
from deploykit.bundle.order import order_engines
from deploykit.core.errors import BackendError, UsageError
from deploykit.core.values import SecondaryEngine


@pytest.fixture(scope="session")
def manifest(fp32_bundle):
    return manifests.read_manifest(fp32_bundle)


def failing(parity):
    return msgspec.structs.replace(parity, passed=False, failures=("the signal-to-noise ratio is 4.0 dB",))


def extra(manifest, backend, p50_ms=None, failed=False):
    """An engine with this latency; without one it was not run."""
    engine = msgspec.structs.replace(manifest.engine, backend=backend)
    if p50_ms is None:
        return SecondaryEngine(engine, "there is no GPU")
    parity = failing(manifest.parity) if failed else manifest.parity
    return SecondaryEngine(
        engine, None, parity, manifest.receipt, msgspec.structs.replace(manifest.latency, p50_ms=p50_ms)
    )


def order(manifest, *others, failed=False):
    parity = failing(manifest.parity) if failed else manifest.parity
    latency = msgspec.structs.replace(manifest.latency, p50_ms=5.0)
    complete = msgspec.structs.replace(manifest, parity=parity, latency=latency, extra_engines=others)
    return [ordered.engine.backend for ordered in order_engines(complete)]


def test_the_primary_engine_comes_first_even_if_another_is_faster(manifest):
    assert order(manifest, extra(manifest, "openvino", 1.0)) == ["onnxruntime", "openvino"]


def test_extra_engines_follow_by_their_latency(manifest):
    others = extra(manifest, "tensorrt", 9.0), extra(manifest, "openvino", 3.0)
    assert order(manifest, *others) == ["onnxruntime", "openvino", "tensorrt"]


def test_an_engine_that_was_not_run_comes_after_those_that_were(manifest):
    others = extra(manifest, "tensorrt"), extra(manifest, "openvino", 3.0)
    assert order(manifest, *others) == ["onnxruntime", "openvino", "tensorrt"]


def test_a_primary_engine_that_failed_comes_after_all_that_did_not(manifest):
    others = extra(manifest, "openvino", 7.0), extra(manifest, "tensorrt")
    assert order(manifest, *others, failed=True) == ["openvino", "tensorrt", "onnxruntime"]


def test_a_fast_engine_that_failed_comes_last(manifest):
    others = extra(manifest, "tensorrt", 1.0, failed=True), extra(manifest, "openvino", 3.0)
    assert order(manifest, *others) == ["onnxruntime", "openvino", "tensorrt"]


def test_where_all_failed_the_primary_engine_is_first(manifest):
    assert order(manifest, extra(manifest, "openvino", 1.0, failed=True), failed=True) == ["onnxruntime", "openvino"]


# ── Loading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def machine(monkeypatch):
    """A machine that runs engines of these backends."""

    def set_up(*runs):
        def load(_folder, _manifest, engine):
            if engine.backend not in runs:
                raise BackendError(f"{engine.backend} is not installed.", "Install it.")
            return engine, "runner"

        monkeypatch.setattr(engines, "load_engine", load)

    return set_up


def failed_bundle(manifest):
    """Its primary engine, of ONNX Runtime, failed; that of OpenVINO did not."""
    others = (extra(manifest, "openvino", 3.0),)
    return msgspec.structs.replace(manifest, parity=failing(manifest.parity), extra_engines=others)


def test_an_engine_that_failed_is_replaced_with_the_reason(manifest, fp32_bundle, machine):
    machine("onnxruntime", "openvino")
    loaded = engines.open_fastest(fp32_bundle, failed_bundle(manifest))
    assert loaded.engine.backend == "openvino"
    version = manifest.engine.version
    assert loaded.skipped_engines == (
        f"The outputs of onnxruntime {version} failed at export: the signal-to-noise ratio is 4.0 dB.",
    )


def test_an_engine_that_failed_runs_where_no_other_does(manifest, fp32_bundle, machine):
    machine("onnxruntime")
    loaded = engines.open_fastest(fp32_bundle, failed_bundle(manifest))
    assert loaded.engine.backend == "onnxruntime"
    assert loaded.skipped_engines == ("openvino is not installed. Install it.",)


def test_the_primary_engine_is_loaded_without_a_word_about_the_others(manifest, fp32_bundle, machine):
    machine("onnxruntime", "openvino")
    others = (extra(manifest, "openvino", 1.0, failed=True),)
    loaded = engines.open_fastest(fp32_bundle, msgspec.structs.replace(manifest, extra_engines=others))
    assert (loaded.engine.backend, loaded.skipped_engines) == ("onnxruntime", ())


def test_a_backend_that_was_named_is_not_replaced_though_it_failed(manifest, fp32_bundle, machine):
    machine("onnxruntime", "openvino")
    loaded = engines.open_fastest(fp32_bundle, failed_bundle(manifest), "onnxruntime")
    assert (loaded.engine.backend, loaded.skipped_engines) == ("onnxruntime", ())


def test_a_backend_that_was_named_is_not_replaced_though_it_does_not_run(manifest, fp32_bundle, machine):
    machine("onnxruntime")
    with pytest.raises(BackendError, match="openvino is not installed"):
        engines.open_fastest(fp32_bundle, failed_bundle(manifest), "openvino")


def test_an_unknown_backend_is_refused(manifest, fp32_bundle):
    with pytest.raises(UsageError, match="onnxruntim"):
        engines.open_fastest(fp32_bundle, manifest, "onnxruntim")
