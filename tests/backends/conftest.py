"""Small graphs as text, with weights drawn from a seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest


@pytest.fixture
def write_graph(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a text's graph as `model.onnx`. Values declared after the outputs with `weight` in their name become
    initializers: codes if int8, else numbers around zero."""

    def write(text: str) -> Path:
        model = onnx.parser.parse_model(text)
        random = np.random.default_rng(0)
        for value in model.graph.value_info:
            if "weight" in value.name:
                tensor = value.type.tensor_type
                shape = [dim.dim_value for dim in tensor.shape.dim]
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
                drawn = random.integers(-127, 128, shape) if dtype == np.int8 else random.standard_normal(shape)
                model.graph.initializer.append(onnx.numpy_helper.from_array(drawn.astype(dtype), value.name))
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write
