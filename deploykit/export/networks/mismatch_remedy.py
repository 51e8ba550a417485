"""Suggests what mends a state dict that does not fit, by the names that tools leave in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

from deploykit.export.networks.state_dict import Mismatches
from deploykit.export.networks.weights_source import INDEX_SUFFIX

SHARD: Final = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.\w+)")
"""One of several files of a checkpoint: `model-00001-of-00003.safetensors`."""

TRACES: Final = (
    (r"(?:.*\.)?\w+_mask", "It was saved while pruned: call torch.nn.utils.prune.remove(layer, 'weight') on every "
     "pruned layer, and save it again."),
    (r"(?:.*\.)?(?:lora_\w+|lora_\w+\..*)", "It has LoRA's factors: call merge_and_unload() of the peft library, and "
     "save the merged network."),
    (r"(?:.*\.)?(?:_packed_params.*|scale|zero_point|activation_post_process.*|.*_fake_quant.*)",
     "It was saved from a quantized network: give the floating-point checkpoint, and quantize it with --int8."),
    (r"(?:.*\.)?(?:weight_g|parametrizations\.\w+\.original[01]?)", "It was saved with weight norm, which this network "
     "does not have: build the network with it, or call torch.nn.utils.remove_weight_norm(layer), and save it again."),
    (r"(?:.*\.)?(?:weight_u|weight_orig)", "It was saved with spectral norm, which this network does not have: build "
     "the network with it, or call torch.nn.utils.remove_spectral_norm(layer), and save it again."),
)  # fmt: skip
"""Unexpected names that identify a tool, and what undoes it."""

DEFAULT: Final = "Check the model's name and --model-arg, or save the state dict under the network's own names."


def suggest_remedy(mismatches: Mismatches, path: Path) -> str:
    """Return a remedy for what does not match, the general one where the names say nothing."""
    shard = SHARD.fullmatch(path.name)
    if shard is not None and mismatches.missing:
        index = path.with_name(f"{shard['stem']}{shard['suffix']}{INDEX_SUFFIX}")
        return f"It is one of several files: give --weights {shlex.quote(str(index))}"
    for pattern, remedy in TRACES:
        if any(re.fullmatch(pattern, name) for name in mismatches.unexpected):
            return remedy
    return DEFAULT
