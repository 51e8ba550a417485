"""Prepares a network for export: adds head and preprocessing, folds BatchNorm.

`wrap_network` returns the oracle of every later comparison; `fold_batchnorm` returns the copy that is traced.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deploykit.core.errors import UsageError
from deploykit.core.values import Head, ModelSpec, Preprocessing
from deploykit.export.output_plan import CASTS, OutputPlan, iterate_values


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


class ExportModule(nn.Module):
    """The exported function: preprocessing if it is in the graph, the network, its head.

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
        if isinstance(x, Tensor) and x.dtype in CASTS:
            x = x.to(CASTS[x.dtype])
        return torch.softmax(x, dim=1) if self.probabilities else x


class TensorExportModule(nn.Module):
    """A network with any inputs and outputs; those of `plan`, or all tensors that it returns, as a tuple."""

    def __init__(self, network: nn.Module, plan: OutputPlan | None = None) -> None:
        super().__init__()
        self.network = network
        self.plan = plan

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        result = self.network(*inputs)
        if self.plan is not None:
            tensors = self.plan.select(result)
        else:
            tensors = tuple(one.tensor for one in iterate_values(result) if one.tensor is not None)
        return tensors[0] if len(tensors) == 1 else tensors


def wrap_network(
    network: nn.Module, spec: ModelSpec, classifier: str, plan: OutputPlan | None = None
) -> ExportModule | TensorExportModule:
    """Add the head and the preprocessing of `spec` to the network, in eval mode. The network is not copied. `plan` is
    that of the outputs of a network with the head `tensors`.

    Raises UsageError for a head that does not fit the network.
    """
    if spec.head == "tensors":
        return TensorExportModule(network, plan).eval()
    if spec.head == "embedding":
        if not classifier:
            raise UsageError(
                f"--head embedding removes the classifier, and the classifier layer of {spec.name} is not known.",
                "Remove it in your own code, or leave --head out.",
            )
        _replace_submodule(network, classifier, nn.Identity())
    normalize = Normalize(spec.preprocessing) if spec.preprocess_in == "graph" and spec.preprocessing else None
    return ExportModule(network, normalize, spec.head).eval()


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """Fold every BatchNorm that directly follows a convolution into a copy of the module.

    The graph pass of the same name does this for any graph; before tracing, it saves the exporter a third of the nodes.
    A module without such pairs, or that torch.fx cannot trace or Python cannot copy, is returned as it is.
    """
    try:
        pairs = _foldable_pairs(fx.symbolic_trace(module))
        folded = copy.deepcopy(module) if pairs else module
    except Exception:  # torch.fx raises whatever the traced code raises
        return module
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(folded.get_submodule(conv), folded.get_submodule(norm))  # type: ignore[type-var, arg-type]
        _replace_submodule(folded, conv, fused)
        _replace_submodule(folded, norm, nn.Identity())
    return folded


def _foldable_pairs(trace: fx.GraphModule) -> list[tuple[str, str]]:
    """Dotted paths of (convolution, BatchNorm) pairs: the BatchNorm is the convolution's only reader, both run once,
    and nothing else reads their parameters.
    """
    modules = dict(trace.named_modules())
    uses = [node.target for node in trace.graph.nodes if node.op == "call_module"]
    uses += [node.target.rpartition(".")[0] for node in trace.graph.nodes if node.op == "get_attr"]
    pairs = []
    for node in trace.graph.nodes:
        if node.op != "call_module" or not _is_frozen_batchnorm(modules[node.target]):
            continue
        conv = node.all_input_nodes[0]
        single_reader = conv.op == "call_module" and len(conv.users) == 1 and uses.count(conv.target) == 1
        if single_reader and _is_plain_conv(modules[conv.target]) and uses.count(node.target) == 1:
            pairs.append((conv.target, node.target))
    return pairs


def _is_plain_conv(module: nn.Module) -> bool:
    """Whether it is a convolution and nothing else: `_computes_as_class`, and no subclass."""
    return type(module) is nn.Conv2d and _computes_as_class(module)


def _is_frozen_batchnorm(module: nn.Module) -> bool:
    """Whether it is a BatchNorm and nothing else, with fixed statistics, independent of the batch."""
    plain = type(module) is nn.BatchNorm2d and _computes_as_class(module)
    return plain and not module.training and module.running_mean is not None


def _computes_as_class(module: nn.Module) -> bool:
    """Whether a call computes what the module's class defines from the parameters as stored: no hook, which may
    recompute them (torch.nn.utils.weight_norm) or change the input or output, and no forward() of its own.
    """
    return not (module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module))


def _replace_submodule(module: nn.Module, path: str, replacement: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, replacement)
