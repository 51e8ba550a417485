"""deploykit's runner of ONNX Runtime's CUDA provider on a real driver: batches, threads, PyTorch's tensors beside it.

The graph is that of a network which the step `graphs` made; outputs are compared with eager PyTorch in FP32.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from gpu.graphs import link_graph
from gpu.journal import Journal, last_line
from gpu.machine import find_gpu
from gpu.parity import LEAST_DB
from gpu.variants import find_graph

BACKEND: Final = "onnxruntime-cuda"

BATCHES: Final = (1, 8, 8, 3, 1, 8)
"""In turn: a batch size that comes again must not get another's CUDA graph."""


def check_sessions(journal: Journal, order: str, folder: Path) -> None:
    """A row per check and precision; one alone where there is no GPU. `order` is `torch-first` or `without-torch`:
    whether PyTorch has loaded CUDA's libraries, or the backend must find them.
    """
    if (absence := find_gpu()[1]) is not None:
        journal.add_row("check", check="sessions", state="not run", why=absence)
        return
    if order == "torch-first":
        import torch

        torch.zeros(1, device="cuda")
    inputs, reference = np.load(folder / "inputs.npy"), np.load(folder / "reference_outputs.npy")
    for precision in ("fp32", "fp16"):
        made: dict[str, Any] = {}
        for name, check in list_checks(order, folder, precision, made, inputs, reference):
            start = time.perf_counter()
            try:
                with journal.activity(f"{precision}: {name}"):
                    why, state = str(check()), "passed"
            except Exception as error:  # whatever a library raises is a finding here
                why, state = last_line(error), "failed"
            seconds = round(time.perf_counter() - start, 2)
            journal.add_row("check", precision=precision, check=name, state=state, why=why, seconds=seconds)
            if name == "compile" and state == "failed":
                break


def list_checks(
    order: str, folder: Path, precision: str, made: dict[str, Any], inputs: Any, reference: Any
) -> list[tuple[str, Callable[[], object]]]:
    checks: list[tuple[str, Callable[[], object]]] = [
        ("compile", partial(compile_and_load, folder, precision, made)),
        ("batches", partial(check_batches, made, precision, inputs, reference)),
        ("threads", partial(check_threads, made, precision, inputs, reference)),
        ("GPU times", partial(read_times, made, inputs)),
    ]
    if order == "torch-first":
        checks.append(("PyTorch tensors", partial(check_torch_tensors, made, precision, inputs, reference)))
        checks.append(("executed precision", partial(read_precision, made, folder)))
    return checks


def compile_and_load(folder: Path, precision: str, made: dict[str, Any]) -> str:
    """The settings that were fastest here, and what the engine's caveats are."""
    from deploykit.backends import create_backend

    source, file = find_graph(folder, precision)
    here = folder / BACKEND / f"checked-{precision}"
    link_graph(source, here, file)
    backend = create_backend(BACKEND)
    engine = backend.compile(here / file, here)
    made.update(backend=backend, engine=engine, here=here, runner=backend.load(engine, here))
    assert engine.build is not None, "the backend records how it built"
    runner = made["runner"]
    return f"{engine.file.path}, {', '.join(engine.build.settings)}, in {engine.build.seconds:.1f} s; " + "; ".join(
        (runner.memory_library, *engine.caveats, *runner.caveats)
    )


def require_close(actual: Any, expected: Any, precision: str) -> float:
    """The SNR in dB; AssertionError where it is below what an engine of that precision has."""
    error = np.square(actual.astype(np.float64) - expected).sum()
    snr_db = float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / max(error, 1e-300)))
    if not snr_db >= LEAST_DB[precision]:
        raise AssertionError(f"SNR {snr_db:.1f} dB, at least {LEAST_DB[precision]} dB is right")
    return snr_db


def run_batch(runner: Any, images: Any) -> Any:
    name = runner.inputs[0].name
    return runner.run({name: np.ascontiguousarray(images, dtype=runner.inputs[0].dtype)})[runner.outputs[0].name]


def check_batches(made: dict[str, Any], precision: str, inputs: Any, reference: Any) -> str:
    """Each call gets other images than the one before at the same batch size."""
    lowest = np.inf
    for call, count in enumerate(BATCHES):
        rows = [(call + row) % len(inputs) for row in range(count)]
        outputs = run_batch(made["runner"], inputs[rows])
        lowest = min(lowest, require_close(outputs, reference[rows], precision))
    return f"{len(BATCHES)} calls at batch 1, 8 and 3, at least {lowest:.1f} dB"


def check_threads(made: dict[str, Any], precision: str, inputs: Any, reference: Any) -> str:
    """4 threads of 20 calls at changing batch sizes."""
    errors: list[str] = []

    def work(worker: int) -> None:
        try:
            for call in range(20):
                rows = [(worker + call + row) % len(inputs) for row in range(1 + (worker + call) % 4)]
                require_close(run_batch(made["runner"], inputs[rows]), reference[rows], precision)
        except Exception as error:
            errors.append(last_line(error))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise AssertionError("; ".join(errors[:3]))
    return "4 threads of 20 calls"


def read_times(made: dict[str, Any], inputs: Any) -> str:
    runner = made["runner"]
    images = np.ascontiguousarray(inputs[:8], dtype=runner.inputs[0].dtype)
    return "; ".join(map(str, runner.gpu_times({runner.inputs[0].name: images}, 50)))


def check_torch_tensors(made: dict[str, Any], precision: str, inputs: Any, reference: Any) -> str:
    """Inputs on the GPU, written by PyTorch on the default stream and on another one."""
    import torch

    runner = made["runner"]
    name, output = runner.inputs[0].name, runner.outputs[0].name
    images = torch.from_numpy(inputs[:5]).to(getattr(torch, runner.inputs[0].dtype))
    on_gpu = images.cuda()

    def read(array: Any) -> Any:
        return torch.utils.dlpack.from_dlpack(array).float().cpu().numpy()

    require_close(read(runner.run_device({name: on_gpu})[output]), reference[:5], precision)
    side, late = torch.cuda.Stream(), torch.zeros_like(on_gpu)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # about 0.1 s before the input is written
        late.copy_(on_gpu)
        result = runner.run_device({name: late})[output]
    require_close(read(result), reference[:5], precision)
    return "default stream and side stream, outputs read by torch.from_dlpack"


def read_precision(made: dict[str, Any], folder: Path) -> str:  # noqa: ARG001 - one signature
    """How many products computed in which type, and by which evidence."""
    from collections import Counter

    executed = made["backend"].read_executed_precision(made["engine"], made["here"])
    counts = Counter(executed.arithmetic.values())
    return f"{executed.evidence}: " + ", ".join(f"{count} products in {kind}" for kind, count in counts.items())
