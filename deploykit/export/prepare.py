"""From a network to the module that is served: head and preprocessing in place, foldable BatchNorm folded.

What `served` returns is the oracle of every later comparison; what `fold_batchnorm` returns is what gets traced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import Head, ModelSpec, Preprocessing


class Normalize(nn.Module):
    """uint8 N×H×W×3 (RGB) to float32 N×3×H×W: `(pixel · scale − mean) / std` as one product and one sum per channel."""

    gain: Tensor
    shift: Tensor

    def __init__(self, spec: Preprocessing) -> None:
        super().__init__()
        order = [0, 1, 2] if spec.channels == "rgb" else [2, 1, 0]
        mean, std = torch.tensor(spec.mean, dtype=torch.float64), torch.tensor(spec.std, dtype=torch.float64)
        self.order = order
        self.register_buffer("gain", (spec.scale / std).float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).float().view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        # Contiguous, or channels-last strides reach the pooling, which exporters then write as an index computation.
        planes = pixels.float().permute(0, 3, 1, 2).contiguous()  # N×3×H×W; TensorRT takes uint8 into a Cast only
        if self.order != [0, 1, 2]:
            planes = planes[:, self.order]
        return planes * self.gain + self.shift


class Served(nn.Module):
    """The function that a bundle serves: preprocessing if it is inside the graph, the network, its head.

    Graph names drop the prefix that `network` adds (`passes/names.py`).
    """

    def __init__(self, network: nn.Module, normalize: Normalize | None, head: Head) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network
        self.probabilities = head == "probabilities"

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the graph's input is called `input`
        x = input if self.normalize is None else self.normalize(input)
        x = self.network(x)
        return torch.softmax(x, dim=1) if self.probabilities else x


class ServedTensors(nn.Module):
    """A network of any inputs and outputs: the latter come one behind the other, however they were nested."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = list(outputs(self.network(*inputs)).values())
        return found[0] if len(found) == 1 else tuple(found)


def outputs(given: object, name: str = "output") -> dict[str, Tensor]:
    """What a network gave, by name: a mapping's keys, or `output`, or `output_0` … where there are several. InputError
    for what is neither a tensor nor made of tensors.
    """
    if isinstance(given, Tensor):
        return {name: given}
    if isinstance(given, Mapping):
        pairs = [(str(key), value) for key, value in given.items()]
    elif isinstance(given, (tuple, list)):
        pairs = [(f"{name}_{index}", value) for index, value in enumerate(given)]
    else:
        raise InputError(
            f"The network gives a {type(given).__name__}, which is no tensor nor made of tensors.",
            "Let its forward() return tensors, or wrap it in a module that does.",
        )
    return {key: tensor for inner, value in pairs for key, tensor in outputs(value, inner).items()}


def served(network: nn.Module, spec: ModelSpec, classifier: str) -> Served | ServedTensors:
    """The network in eval mode behind the head and preprocessing that `spec` asks for. The network is not copied.

    UsageError for a head that it cannot be given.
    """
    if spec.head == "tensors":
        return ServedTensors(network).eval()
    if spec.head == "embedding":
        if not classifier:
            raise UsageError(
                f"Which layer of {spec.name} is its classifier is not known, and --head embedding takes that out.",
                "Take it out in your own code, or leave --head out.",
            )
        _replace(network, classifier, nn.Identity())
    normalize = Normalize(spec.preprocessing) if spec.preprocess == "graph" and spec.preprocessing else None
    return Served(network, normalize, spec.head).eval()


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """A copy in which every BatchNorm directly behind a convolution is folded into it; the module, if there is none.

    The graph pass of the same name does this for any graph; doing it before tracing spares the exporter a third of
    its nodes. A module that torch.fx cannot follow or Python not copy is returned as it is: the pass finds its pairs.
    """
    try:
        pairs = _pairs(fx.symbolic_trace(module))
        folded = copy.deepcopy(module) if pairs else module
    except Exception:  # torch.fx raises whatever the traced code raises
        return module
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(folded.get_submodule(conv), folded.get_submodule(norm))  # type: ignore[type-var, arg-type]
        _replace(folded, conv, fused)
        _replace(folded, norm, nn.Identity())
    return folded


def _pairs(trace: fx.GraphModule) -> list[tuple[str, str]]:
    """Dotted paths of (convolution, BatchNorm) where the second is the only reader of the first, both run once, and
    nothing else reads their parameters.
    """
    modules = dict(trace.named_modules())
    uses = [node.target for node in trace.graph.nodes if node.op == "call_module"]
    uses += [node.target.rpartition(".")[0] for node in trace.graph.nodes if node.op == "get_attr"]
    found = []
    for node in trace.graph.nodes:
        if node.op != "call_module" or not _constant(modules[node.target]):
            continue
        conv = node.all_input_nodes[0]
        alone = conv.op == "call_module" and len(conv.users) == 1 and uses.count(conv.target) == 1
        if alone and _plain(modules[conv.target]) and uses.count(node.target) == 1:
            found.append((conv.target, node.target))
    return found


def _plain(module: nn.Module) -> bool:
    """Whether it is a convolution that computes with the weights it holds: no subclass, and no hook (as of
    torch.nn.utils.weight_norm) that makes them anew at each call.
    """
    return type(module) is nn.Conv2d and not module._forward_pre_hooks and not module._forward_hooks


def _constant(module: nn.Module) -> bool:
    """Whether it is a BatchNorm whose statistics do not depend on the batch."""
    return isinstance(module, nn.BatchNorm2d) and not module.training and module.running_mean is not None


def _replace(module: nn.Module, path: str, replacement: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, replacement)
