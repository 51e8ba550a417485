"""What every road of a network is given: inputs, eager PyTorch's answers, and the graphs at three precisions.

All of it is made on the CPU: PyTorch answers in FP32, and ONNX Runtime runs the graphs that calibration looks into.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gpu.journal import Journal

if TYPE_CHECKING:
    from deploykit.core.values import ExportRequest

PRECISIONS: Final = ("fp32", "fp16", "int8")

SAME_AS_TORCHVISION: Final = {"googlenet": ("branch3_kernel=3",)}
"""Arguments with which ours is the very network that torchvision builds."""

SAMPLES: Final = 8
"""Images that parity is judged on."""

CALIBRATED_ON: Final = 32


def request(network: str, wanted: Any) -> ExportRequest:
    """What `deploykit export` would be asked for, with random weights; real photographs where scikit-image has them."""
    from deploykit.core.values import CalibrationOptions, ExportRequest, WeightsSource

    data = "photos" if importlib.util.find_spec("skimage") else "synthetic"
    return ExportRequest(
        network,
        wanted,
        WeightsSource("random"),
        arguments=SAME_AS_TORCHVISION.get(network, ()),
        data=data,
        samples=SAMPLES,
        target="onnxruntime",
        calibration=CalibrationOptions(data, CALIBRATED_ON) if wanted == "int8" else None,
    )


def make(journal: Journal, network: str, folder: Path) -> None:
    """Inputs and answers first: roads that take the PyTorch module need no graph."""
    import msgspec
    import numpy as np
    import torch

    from deploykit.backends.choice import reference
    from deploykit.core.calibration.batches import open_data
    from deploykit.export.networks.torch_network import TorchNetwork
    from deploykit.workflows import stages

    asked, progress = request(network, "fp32"), Silence()
    built = TorchNetwork(asked)
    with journal.doing("asking eager PyTorch in FP32 on the CPU"):
        data = open_data(asked.data, "evaluation", asked.samples, asked.options.batch)
        inputs = np.concatenate([batch.inputs["input"] for batch in data.batches(built.model)])
        with torch.inference_mode():
            answers = built.served(torch.from_numpy(inputs)).numpy()
        np.save(folder / "inputs.npy", inputs)
        np.save(folder / "answers.npy", answers)
        (folder / "data.json").write_bytes(msgspec.json.encode(data.record))
        real = "" if data.record.real else ", which are no real images (scikit-image has some)"
        journal.row("note", text=f"parity on {len(inputs)} images of {data.record.name}{real}; weights random")
    start = time.perf_counter()
    with journal.doing("tracing to ONNX"):
        graph = stages.export_graph(asked, built, reference(), progress)
        recorded = stages.run_oracle(built, graph, data, progress)
    built.forget()
    for wanted in PRECISIONS:
        act = partial(_type, journal, request(network, wanted), graph, recorded, data, folder, progress, start)
        journal.trying(f"making the {wanted} graph", act, precision=wanted)
        start = time.perf_counter()


class Silence:
    """Progress that is not shown: the parent says which step runs."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:  # noqa: ARG002
        yield lambda: None

    def note(self, text: str) -> None:
        print(text)


def _type(
    journal: Journal,
    asked: ExportRequest,
    graph: Any,
    answers: Any,
    data: Any,
    folder: Path,
    progress: Silence,
    start: float,
) -> None:
    """One graph, and the seconds since `start`; those of FP32 hold the tracing, the others only what was done to it."""
    from deploykit.backends import backend
    from deploykit.backends.choice import reference
    from deploykit.workflows import precision

    typed = precision.select_precision(asked, graph, answers, data, reference(), backend(asked.target), progress).typed
    made = folder / asked.precision
    made.mkdir(exist_ok=True)
    # Under the names that they have: a graph names its data.
    place(typed.folder, made, typed.file)
    (made / "graph.json").write_text(json.dumps({"file": typed.file}))
    size = sum(file.stat().st_size for file in made.iterdir()) / 2**20
    journal.row("graph", precision=asked.precision, seconds=time.perf_counter() - start, mib=size)


def place(source: Path, destination: Path, file: str) -> None:
    """The graph and its external data, if it has any, in another folder, without copying where that can be."""
    destination.mkdir(parents=True, exist_ok=True)
    for name in (file, f"{file}.data"):
        if not (source / name).is_file():
            continue
        (destination / name).unlink(missing_ok=True)
        try:
            os.link(source / name, destination / name)
        except OSError:  # another disk
            (destination / name).write_bytes((source / name).read_bytes())
