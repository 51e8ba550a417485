"""The kernels that OpenVINO runs, with the ONNX nodes that they compute, from its execution graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from deploykit.backends.openvino_receipt import ATTENTION_KERNELS, KERNELS, Marks, parse_kernel
from deploykit.core.values import EngineLayer

if TYPE_CHECKING:
    import openvino


def list_kernels(
    execution: openvino.Model, times_us: Mapping[str, float], marks: Marks, modules: Mapping[str, str]
) -> Iterator[EngineLayer]:
    """The kernels that have a time, in order: what was fused into another has none. `modules` has the PyTorch module of
    every ONNX node that has one.
    """
    layer_of = {mark: layer for layer, names in marks.items() for mark in names}
    for operator in execution.get_ordered_ops():
        name, properties = operator.get_friendly_name(), operator.get_rt_info()
        if name not in times_us:
            continue
        kernel = parse_kernel(properties)
        nodes = sorted({layer_of.get(fused, fused) for fused in kernel.names} & {*marks, *modules})
        multiplies = kernel.kind in KERNELS or kernel.kind in ATTENTION_KERNELS
        tactic, outputs = (
            properties[key].astype(str) if key in properties else "" for key in ("primitiveType", "outputPrecisions")
        )
        yield EngineLayer(
            name=layer_of.get(name, name),
            kind=kernel.kind,
            arithmetic=kernel.arithmetic if multiplies else None,
            tactic=tactic,
            inputs=(),
            outputs=tuple(outputs.split(",")),
            nodes=tuple(nodes),
            modules=tuple(dict.fromkeys(modules[node] for node in nodes if modules.get(node))),
            time_us=times_us[name],
        )
