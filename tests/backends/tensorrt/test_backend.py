"""What keeps engines from running here, before one is loaded."""

import sys

import cuda_doubles
import pytest

from deploykit.backends.gpu.driver import Driver
from deploykit.backends.tensorrt import backend as subject
from deploykit.backends.tensorrt.backend import TensorRt
from deploykit.core.extras import pip_command


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU and with TensorRT."""
    monkeypatch.setattr(subject, "query_driver", lambda: Driver(cuda_doubles.THE_GPU, None))
    monkeypatch.setattr(subject, "import_library", lambda _: None)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("library", cuda_doubles.LIBRARIES)
def test_either_memory_library_runs_engines(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    cuda_doubles.install(monkeypatch, library)
    assert TensorRt().unavailable_reason() is None


@pytest.mark.usefixtures("gpu")
def test_without_a_memory_library_the_one_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pycuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    assert TensorRt().unavailable_reason() == (
        "neither cuda-bindings nor pycuda can be imported, which engines need for GPU memory "
        f"({pip_command('install', 'cuda-bindings')})"
    )


def test_a_missing_driver_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "query_driver", lambda: Driver(None, "no NVIDIA driver is installed"))
    assert TensorRt().unavailable_reason() == "no NVIDIA driver is installed"
