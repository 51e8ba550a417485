"""Runs a network in eager PyTorch on drawn inputs, at any batch size, and leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deploykit.core.error_text import first_line
from deploykit.core.errors import InputError
from deploykit.core.values import BatchRange, ModelSpec
from deploykit.export.autocast import ignore_autocast
from deploykit.export.user_code import line_of_error


class EagerRun:
    """A network, and inputs of its shapes and types."""

    def __init__(self, network: nn.Module, spec: ModelSpec, examples: tuple[Tensor, ...], batch: BatchRange) -> None:
        self.network = network
        self.spec = spec
        self.batch = batch
        self.autocast: set[str] = set()
        """Types that the network's autocast contexts asked for."""
        self.written: set[str] = set()
        """Names of the buffers that forward() changed; they are restored after each run."""
        self._examples = examples

    def draw(self, rows: int, seed: int) -> tuple[Tensor, ...]:
        """Inputs for `rows` samples: pixels as uint8, values like those of normalized pixels, or integers 0 and 1.

        The first row is always the same, and from three rows on the last is that again; the others are of the seed.
        """
        seeds = [0 if row == 0 or row == rows - 1 > 1 else 1 + row + 1000 * seed for row in range(rows)]
        return tuple(torch.stack([_draw_row(example, own) for own in seeds]) for example in self._examples)

    def run(self, rows: int, seed: int) -> tuple[tuple[Tensor, ...], Any]:
        """The inputs of `draw`, and what the network returns for them. Raises InputError where it raises an error."""
        inputs = self.draw(rows, seed)
        return inputs, self._call(inputs, rows)

    def run_twice(self, rows: int, seed: int) -> tuple[Any, Any]:
        """What two calls in a row with the same inputs return; the second finds the buffers as the first left them."""
        with torch.inference_mode(), ignore_autocast(), unchanged_buffers(self.network):
            return self.network(*self.draw(rows, seed)), self.network(*self.draw(rows, seed))

    def takes(self, rows: int) -> bool:
        """Whether the network runs on so many samples."""
        try:
            self._forward(self.draw(rows, 0))
        except Exception:  # a user's code raises whatever it likes
            return False
        return True

    def _call(self, inputs: tuple[Tensor, ...], rows: int) -> Any:
        try:
            return self._forward(inputs)
        except InputError:
            raise
        except Exception as error:  # a user's code raises whatever it likes
            raise self._describe_error(error, rows) from error

    def _forward(self, inputs: tuple[Tensor, ...]) -> Any:
        with torch.inference_mode(), ignore_autocast() as requested, unchanged_buffers(self.network) as written:
            result = self.network(*inputs)
        self.autocast |= requested
        self.written |= written
        return result

    def _describe_error(self, error: Exception, rows: int) -> InputError:
        where = line_of_error(error)
        reason = f"{first_line(error)}{f' ({where})' if where else ''}"
        if rows > 1 and not _is_out_of_memory(error) and self.takes(1):
            return InputError(
                f"{self.spec.name} takes single samples only: at batch {rows} its forward() raises {reason}.",
                "Give --batch 1 to export it for one sample per call.",
            )
        if rows == 1 and self.batch.maximum > 1 and self.takes(2):
            low = max(2, self.batch.minimum)
            return InputError(
                f"{self.spec.name} does not take a single sample: at batch 1 its forward() raises {reason}.",
                f"Give --batch {low}:{max(low, self.batch.optimum)}:{max(low, self.batch.maximum)}.",
            )
        remedy = (
            "Choose another --input-size."
            if self.spec.preprocessing is not None
            else "Compare --input with the arguments of its forward()."
        )
        return InputError(f"{self.spec.name} cannot process {self._describe_inputs()}: {reason}.", remedy)

    def _describe_inputs(self) -> str:
        size = self.spec.preprocessing
        if size is not None:
            return f"images of {size.height}x{size.width}"
        return f"inputs of {', '.join('×'.join(map(str, one.shape[1:])) or '1' for one in self._examples)}"


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in str(error)


def _draw_row(example: Tensor, seed: int) -> Tensor:
    shape, generator = example.shape[1:], torch.Generator().manual_seed(seed)
    if example.dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if not example.dtype.is_floating_point:
        return torch.randint(0, 2, shape, generator=generator).to(example.dtype)
    return ((torch.randint(0, 256, shape, generator=generator) - 128) / 64).to(example.dtype)


@contextmanager
def unchanged_buffers(network: nn.Module) -> Iterator[set[str]]:
    """Restore the buffers of a network whose forward() writes into them (counters, running statistics); yields the
    names of those buffers, which it knows at the end.
    """
    before = [(name, buffer, buffer.clone()) for name, buffer in network.named_buffers()]
    written: set[str] = set()
    try:
        yield written
    finally:
        for name, buffer, content in before:
            if not torch.equal(buffer, content):
                written.add(name)
                buffer.copy_(content)
