"""Compiles a network with torch.compile at one batch size, so that the compilers' caches have it when it is measured.

Run for all networks and batch sizes at once on all cores; the kernels' choice among their configurations is not cached:
it depends on their times, which nothing else may disturb.
"""

from __future__ import annotations

import time
from typing import Any, Final

from gpu.journal import Journal
from gpu.machine import find_gpu

VARIABLES: Final = {
    "TORCHINDUCTOR_COMPILE_THREADS": "2",
    "OMP_NUM_THREADS": "2",
}
"""Of these processes alone: a dozen of them share the cores."""


def compile_network(journal: Journal, network: str, variant: str, batch: int) -> None:
    """One row: the seconds that it took, or why it was not done."""
    if (absence := find_gpu()[1]) is not None:
        journal.add_row("note", text=f"not compiled: {absence}")
        return
    import torch
    import torch._inductor.config as inductor
    from gpu.graphs import make_request
    from gpu.variants import COMPILED, build_module

    from deploykit.export.networks.torch_network import TorchNetwork

    inductor.autotune_local_cache = False
    preprocessing = TorchNetwork(make_request(network, "fp32")).model.preprocessing
    assert preprocessing is not None  # all networks here see images
    with journal.activity("building the module"):
        module = build_module(network).to("cuda", torch.float16, memory_format=torch.channels_last)
        shape = (batch, 3, preprocessing.height, preprocessing.width)
        pixels = torch.zeros(shape, dtype=torch.float16, device="cuda").to(memory_format=torch.channels_last)
    start = time.perf_counter()
    with journal.activity("compiling"), torch.inference_mode():
        compiled: Any = torch.compile(module, dynamic=False, mode=COMPILED[variant])
        compiled(pixels)
        torch.cuda.synchronize()
    journal.add_row("note", text=f"compiled at batch {batch} in {time.perf_counter() - start:.0f} s, beside others")
