"""NVIDIA's tritonserver, from nvidia-pytriton, and bundles of shapes that no network of the catalog has."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import pytest

from deploykit.bundle import manifest as manifests
from deploykit.core.files import record_file
from deploykit.core.values import Manifest, TensorSpec, layout_of

BACKEND = Path(__file__).parent / "backend" / "onnxruntime"


class Server(NamedTuple):
    http: str
    grpc: str
    log: Path


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Triton's Python backend for this interpreter, and our replacement of the ONNX Runtime backend."""
    if util.find_spec("pytriton") is None:
        pytest.skip("nvidia-pytriton, which brings tritonserver, is installed on x86-64 Linux only")
    distribution = Path(str(metadata.distribution("nvidia-pytriton").locate_file("pytriton/tritonserver")))
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    stub = distribution / "python_backend_stubs" / python / "triton_python_backend_stub"
    if not stub.is_file():
        pytest.skip(f"nvidia-pytriton has no Python backend for {python}")
    if python != "3.13" and not sysconfig.get_config_var("Py_ENABLE_SHARED"):  # for 3.13, it contains the library
        pytest.skip("tritonserver's Python backend needs an interpreter with a shared libpython")
    folder = tmp_path_factory.mktemp("backends")
    (folder / "python").mkdir()
    for path in (distribution / "backends" / "python").glob("*.*"):
        shutil.copy(path, folder / "python")
    (folder / "python" / "triton_python_backend_stub").symlink_to(stub)
    shutil.copytree(BACKEND, folder / "onnxruntime")
    return folder


@contextmanager
def start_process(backends: Path, repository: Path, log: Path, options: tuple[str, ...]) -> Iterator[Server]:
    http, grpc = free_port(), free_port()
    program = metadata.distribution("nvidia-pytriton").locate_file("pytriton/tritonserver/bin/tritonserver")
    words = [
        str(program),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        *(f"--{name}={value}" for name, value in (("http-port", http), ("grpc-port", grpc))),
        *("--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--allow-metrics=false", "--exit-timeout-secs=5"),
        *options,
    ]
    libraries = f"{sysconfig.get_config_var('LIBDIR')}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the backend's Python finds its packages through it
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=file, env={**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries}
        )
    try:
        wait_until_ready(process, http, log)
        yield Server(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 600  # one Python starts per model, slowly on a busy machine
    while time.monotonic() < deadline:
        assert process.poll() is None, f"tritonserver ended:\n{log.read_text()}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=10):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError(f"tritonserver is not ready:\n{log.read_text()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def start_server(backends: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start tritonserver on a repository; it ends with the tests of the module."""
    with ExitStack() as stack:

        def call(repository: Path, *options: str) -> Server:
            log = tmp_path_factory.mktemp("tritonserver") / "log.txt"
            return stack.enter_context(start_process(backends, repository, log, options))

        yield call


Crafted = Callable[..., Path]


@pytest.fixture(scope="session")
def create_bundle(fp32_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Crafted:
    """A bundle around any ONNX graph: the small bundle's manifest with this graph's interface and golden vectors."""

    def make(graph: str, golden: dict[str, np.ndarray], **model: object) -> Path:
        import onnxruntime

        folder = tmp_path_factory.mktemp("crafted") / "bundle"
        (folder / "golden").mkdir(parents=True)
        proto = onnx.parser.parse_model(graph)
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, folder / "model.onnx")
        inputs, outputs = (tuple(map(tensor_spec, values)) for values in (proto.graph.input, proto.graph.output))
        answers = onnxruntime.InferenceSession(folder / "model.onnx").run(None, golden)
        vectors = {**golden, **dict(zip((spec.name for spec in outputs), answers, strict=True))}
        paths = {name: f"golden/{index}.npy" for index, name in enumerate(vectors)}
        for name, array in vectors.items():
            np.save(folder / paths[name], array)
        base = manifests.read_manifest(fp32_bundle)
        files = {path: record_file(folder, path) for path in ("model.onnx", *paths.values())}
        engine = msgspec.structs.replace(
            base.engine, backend="onnxruntime", file=files["model.onnx"], inputs=inputs, outputs=outputs
        )
        write_manifest(
            folder,
            msgspec.structs.replace(
                base,
                model=msgspec.structs.replace(base.model, **model),
                inputs=inputs,
                outputs=outputs,
                engine=engine,
                labels=None,
                extra_engines=(),
                golden=msgspec.structs.replace(
                    base.golden,
                    inputs={name: paths[name] for name in golden},
                    outputs={spec.name: paths[spec.name] for spec in outputs},
                    count=len(next(iter(golden.values()))),
                ),
                files=files,
            ),
        )
        return folder

    return make


def tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    shape = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape, layout_of(shape, dtype))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / manifests.MANIFEST).write_bytes(manifests.encode_manifest(manifest))
