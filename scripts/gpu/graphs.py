"""What a network is measured with: samples, the outputs of eager PyTorch in FP32, and graphs at each precision.

All of it is computed on the CPU: the reference by PyTorch, the values that calibration observes by ONNX Runtime.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gpu.journal import Journal

if TYPE_CHECKING:
    from deploykit.core.values import ExportRequest
    from deploykit.export.networks.torch_network import TorchNetwork
    from deploykit.workflows.stages import Session

PRECISIONS: Final = ("fp32", "fp16")
"""Of every network; INT8 graphs are a step of their own, made where a variant computes in INT8."""

SAME_AS_TORCHVISION: Final = {"googlenet": ("branch3_kernel=3",)}
"""Arguments that make our network identical to torchvision's."""

SAMPLES: Final = 16
"""Images that parity is evaluated on."""

CALIBRATED_ON: Final = 32


def make_request(network: str, precision: Any) -> ExportRequest:
    """As `deploykit export` makes it, with random weights; real photographs where scikit-image is installed."""
    from deploykit.core.values import CalibrationOptions, ExportRequest, WeightsSource

    data = "photos" if importlib.util.find_spec("skimage") else "synthetic"
    return ExportRequest(
        network,
        precision,
        WeightsSource("random"),
        arguments=SAME_AS_TORCHVISION.get(network, ()),
        data=data,
        samples=SAMPLES,
        target="onnxruntime",
        calibration=CalibrationOptions(data, CALIBRATED_ON) if precision == "int8" else None,
    )


def make_inputs(journal: Journal, network: str, folder: Path) -> None:
    """Samples and reference outputs first: variants that run the PyTorch module need no graph."""
    import msgspec
    import numpy as np
    import torch

    from deploykit.core.calibration.batches import open_data
    from deploykit.export.networks.torch_network import TorchNetwork

    request = make_request(network, "fp32")
    source = TorchNetwork(request)
    with journal.activity("computing the PyTorch FP32 reference on the CPU"):
        data = open_data(request.data, "evaluation", request.samples, request.options.batch)
        inputs = np.concatenate([batch.inputs["input"] for batch in data.batches(source.model)])
        with torch.inference_mode():
            reference_outputs = source.export_module(torch.from_numpy(inputs)).numpy()
        np.save(folder / "inputs.npy", inputs)
        np.save(folder / "reference_outputs.npy", reference_outputs)
        (folder / "data.json").write_bytes(msgspec.json.encode(data.record))
        real = "" if data.record.real else ", which are not real images (install scikit-image)"
        journal.add_row("note", text=f"parity on {len(inputs)} images of {data.record.name}{real}; weights random")
    make_graphs(journal, network, source, PRECISIONS, folder)


def make_int8_graph(journal: Journal, network: str, folder: Path) -> None:
    """The INT8 graph alone; what `make_inputs` left in the cache is not done again."""
    from deploykit.export.networks.torch_network import TorchNetwork

    make_graphs(journal, network, TorchNetwork(make_request(network, "fp32")), ("int8",), folder)


def make_graphs(journal: Journal, network: str, source: TorchNetwork, precisions: Sequence[str], folder: Path) -> None:
    """A graph per precision, by the stages of `deploykit export`; each that fails is a row."""
    from deploykit.backends import create_backend
    from deploykit.backends.choice import reference_backend
    from deploykit.core.calibration.batches import open_data
    from deploykit.workflows import stages

    request, progress = make_request(network, "fp32"), Silence()
    data = open_data(request.data, "evaluation", request.samples, request.options.batch)
    start, reference = time.perf_counter(), reference_backend()
    with journal.activity("tracing to ONNX"):
        graph = stages.export_graph(request, source, reference, progress)
        outputs = stages.run_oracle(source, graph, data, progress)
    source.release_memory()
    for precision in precisions:
        request = make_request(network, precision)
        backend = create_backend(request.target)
        session = stages.Session(request, graph, outputs, data, reference, backend, progress)
        convert = partial(_convert_graph, journal, session, folder / precision, start)
        journal.attempt(f"making the {precision} graph", convert, precision=precision)
        start = time.perf_counter()


class Silence:
    """Progress that is not shown: the starting program prints which step runs."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:  # noqa: ARG002
        yield lambda: None

    def note(self, text: str) -> None:
        print(text)


def _convert_graph(journal: Journal, session: Session, destination: Path, start: float) -> None:
    """One graph, and the seconds since `start`: with tracing for FP32, only the conversion for the others."""
    from deploykit.workflows import precision

    graph = precision.select_precision(session).graph
    # The file names stay: a graph refers to its external data by name.
    link_graph(graph.folder, destination, graph.file)
    (destination / "graph.json").write_text(json.dumps({"file": graph.file}))
    size = sum(file.stat().st_size for file in destination.iterdir()) / 2**20
    journal.add_row("graph", precision=graph.precision, seconds=time.perf_counter() - start, mib=size)


def link_graph(source: Path, destination: Path, file: str) -> None:
    """Put the graph and its external data, if any, into another folder: hard links where possible, else copies."""
    destination.mkdir(parents=True, exist_ok=True)
    for name in (file, f"{file}.data"):
        if not (source / name).is_file():
            continue
        (destination / name).unlink(missing_ok=True)
        try:
            os.link(source / name, destination / name)
        except OSError:  # another disk
            (destination / name).write_bytes((source / name).read_bytes())
