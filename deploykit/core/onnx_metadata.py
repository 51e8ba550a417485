"""Keys of the metadata that an exported ONNX graph carries."""

from __future__ import annotations

from typing import Final

MODULE_KEY: Final = "deploykit.module"
"""On a node: dotted path of the PyTorch module that issued it, empty for the outermost one."""
