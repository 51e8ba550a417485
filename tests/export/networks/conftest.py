"""Small ONNX files as other tools write them, and the command line that exports them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

SHAPES = {"w": (8, 3, 3, 3), "f": (8, 5), "m": (8, 5), "v": (6, 5)}


@pytest.fixture
def save_graph(tmp_path: Path) -> Callable[..., Path]:
    """Writes a graph's text as a file and returns its path. Weights named w, f, m and v are random."""

    def save(text: str, opset: int = 18, **more: np.ndarray) -> Path:
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "com.acme" : 1]>\n{text}')
        proto.producer_name = "tf2onnx"
        random = np.random.default_rng(0)
        drawn = {name: random.standard_normal(shape).astype(np.float32) / 2 for name, shape in SHAPES.items()}
        read = {name for node in proto.graph.node for name in node.input}
        held = {name: np.asarray(array) for name, array in (drawn | {"axes": np.array([1])} | more).items()}
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(held[name], name) for name in held if name in read)
        onnx.save(proto, tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    return save


@pytest.fixture
def export_file(quick_latency: None, tmp_path: Path, cli) -> Callable[..., Path]:  # noqa: ARG001
    """Exports a file and returns the bundle. What is printed goes to `text`, its attribute."""

    def take(path: Path, *words: str) -> Path:
        target = "openvino" if "--int8" in words else "onnxruntime"  # it has INT8 kernels for layers this small
        result = cli("export", path, "--target", target, "--samples", "4", "-o", tmp_path / "out", *words)
        assert result.code == 0, result.text
        take.text = result.text
        return tmp_path / "out"

    return take


@pytest.fixture
def export_text(export_file: Callable[..., Path], save_graph: Callable[..., Path]) -> Callable[..., Path]:
    """Exports a graph's text and returns the bundle."""

    def take(text: str, *words: str, **how) -> Path:
        return export_file(save_graph(text, **how), *words)

    return take
