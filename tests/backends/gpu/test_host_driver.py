"""The real memory libraries on a driver whose GPU is the host's memory: what a double of them cannot show, that every
argument and result is of the type that the library takes. It proves nothing about a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import deploykit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

MODULES = {"pycuda": "pycuda", "cuda-bindings": "cuda.bindings"}

USE = """
import ctypes, gc, sys
import numpy as np
from deploykit.backends.gpu import memory
from deploykit.backends.gpu.memory_bindings import CudaDriver
from deploykit.core.errors import BackendError, InputError
from gpu import runner_checks

name = sys.argv[1]
runner_checks.WIDTH = 64
library = memory.LIBRARIES[name]()
memory.load_memory_library = lambda: library
driver, host = CudaDriver(), ctypes.CDLL("libcuda.so.1")


class Foreign:
    def __init__(self, address, shape, stream):
        described = {"shape": shape, "typestr": "<f4", "data": (address, False), "strides": None, "version": 3}
        self.__cuda_array_interface__ = {**described, "stream": stream}


def read(array):
    pointer = ctypes.cast(array.address, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, array.shape).copy()


def check_device_arrays():
    runner, x = runner_checks.make_runner(), runner_checks.make_images(2)
    assert runner.memory_library == library.name
    with memory.on_gpu("writing an input") as here:
        block, stream = memory.DeviceBlock(here, x.nbytes + 8, "An input"), here.create_stream()
        for offset, writer in ((0, stream.handle), (0, 1), (8, stream.handle)):
            address = block.address + offset
            ctypes.memset(address, 0, x.nbytes)
            driver.call("cuMemcpyHtoDAsync", address, x.ctypes.data, x.nbytes, writer)  # done when it is waited for
            y = runner.run_device({"x": Foreign(address, x.shape, writer)})["y"]
            assert np.array_equal(read(runner.run_device({"x": y})["y"]), x), (offset, writer)
        try:
            runner.run_device({"x": Foreign(block.address, x.shape, 12345678)})
            raise AssertionError("a stream of another context was taken")
        except InputError as error:
            assert "another CUDA context" in error.what
        del block, stream


def check_errors():
    with memory.on_gpu("testing") as here:
        free, total = here.read_memory_info()
    try:
        with memory.on_gpu("testing") as here:
            memory.DeviceBlock(here, 2 * total, "Too much")
        raise AssertionError("twice the memory was allocated")
    except BackendError as error:
        assert error.what == f"Too much needs {2 * total} bytes of GPU memory; {free} of {total} bytes are free."


print(runner_checks.check_batches())
print(runner_checks.check_threads())
print(runner_checks.check_refused_capture())
print(runner_checks.read_gpu_times())
check_device_arrays()
check_errors()
gc.collect()
alive = (ctypes.c_long * 3)()
host.count_live(alive)
assert list(alive) == [0, 0, 0], f"allocations, streams and events left behind: {list(alive)}"
print("done")
"""


def build_driver(folder: Path, library: str) -> None:
    """Compile the driver into `folder`. What else pycuda links to ends the process."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler")
    words: list[str | Path] = [compiler, "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-pthread"]
    words += [HERE / "host_driver.c"]
    target = folder / "libcuda.so.1"
    subprocess.run([*words, "-o", target], check=True)
    if library == "pycuda":
        [driver] = list_driver_files()
        others = sorted(list_symbols(driver, "--undefined-only") - list_symbols(target, "--defined-only"))
        functions = "".join(f"int {name}(void) {{ abort(); }}\n" for name in others)
        (folder / "others.c").write_text(f"#include <stdlib.h>\n{functions}")
        subprocess.run([*words, folder / "others.c", "-o", target], check=True)


def list_driver_files() -> list[Path]:
    """The compiled module of pycuda, found without importing it."""
    spec = importlib.util.find_spec("pycuda")
    assert spec is not None
    assert spec.origin is not None
    return list(Path(spec.origin).parent.glob("_driver*.so"))


def list_symbols(file: Path, selection: str) -> set[str]:
    """The driver's functions among the dynamic symbols of a library."""
    output = subprocess.run(["nm", "-D", selection, file], check=True, capture_output=True, text=True).stdout
    return {name for line in output.splitlines() if re.fullmatch(r"cu[A-Z]\w+", name := line.split()[-1])}


@pytest.mark.parametrize("library", MODULES)
def test_a_runner_computes_with_the_real_library_and_leaves_nothing_behind(library: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(MODULES[library].partition(".")[0]) is None:
        pytest.skip(f"{library} is not installed")
    build_driver(tmp_path, library)
    paths = (Path(deploykit.__file__).parents[1], ROOT / "scripts")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
    }
    result = subprocess.run(
        [sys.executable, "-c", USE, library], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "done"
    assert "CUDA graphs used" in result.stdout
    assert result.stderr == ""
