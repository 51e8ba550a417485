"""The options that the provider gets, and what is said where it cannot be loaded."""

from pathlib import Path

import onnxruntime
import pytest

from deploykit.backends.onnxruntime_cuda import session
from deploykit.core.errors import BackendError


def test_settings_become_the_providers_options() -> None:
    settings = (*session.COMMON, "prefer_nhwc=1", "disabled_optimizers=ConvAddFusion,Other")
    assert session.provider_options(settings, 1234, True) == {
        "device_id": "0",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "prefer_nhwc": "1",
        "user_compute_stream": "1234",
        "enable_cuda_graph": "1",
    }
    assert session.list_disabled(settings) == ["ConvAddFusion", "Other"]


def test_without_a_stream_the_session_makes_its_own() -> None:
    assert "user_compute_stream" not in session.provider_options((), None, False)


def test_a_session_that_falls_back_to_the_cpu_is_an_error_with_the_library_that_is_missing(
    convolution: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if session.PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    monkeypatch.setattr(session, "load_libraries", lambda: "libcudnn.so.9: cannot open shared object file")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(BackendError, match=r"CUDA provider cannot be used: libcudnn\.so\.9") as caught,
    ):
        session.open_session(convolution, ())
    assert "[cuda]" in caught.value.remedy


def test_what_cannot_be_loaded_is_read_from_what_onnxruntime_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "sys", type("Sys", (), {"modules": {}}))
    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas.so.13: no such file.\nPlease follow …")
    )
    assert session.load_libraries.__wrapped__() == "libcublas.so.13: no such file"
    assert not capsys.readouterr().out
