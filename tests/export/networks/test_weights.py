"""Weights from every source, on a two-layer network; and on real ones where their names matter."""

import argparse
import hashlib
import importlib
import io
import os
import pickle
import re
import urllib.error
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from deploykit.core.errors import InputError
from deploykit.core.values import Architecture, InferredArgument, Preprocessing, Pretrained, WeightsSource
from deploykit.export.architectures.densenet import DENSENET121
from deploykit.export.architectures.googlenet import GOOGLENET
from deploykit.export.architectures.resnet import RESNET18
from deploykit.export.networks import random_weights
from deploykit.export.networks.weights import load_network
from deploykit.export.networks.weights_source import parse_weights, weights_identity


class Net(nn.Module):
    """A convolution, a BatchNorm and a classifier; `aux` runs in training only."""

    def __init__(self, width: int = 4, num_classes: int = 3, gain: float = 1.0) -> None:
        super().__init__()
        if width > 64:
            raise ValueError(f"Net: width is at most 64, not {width}")
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width, momentum=0.25)
        self.aux = nn.Linear(width, num_classes)
        self.fc = nn.Linear(width, num_classes)
        self.gain = gain

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3))) * self.gain


NET = Architecture(
    name="net",
    family="Net",
    paper="none",
    build=Net,
    arguments={"width": 4, "num_classes": 3},
    preprocessing=Preprocessing(resize=16, height=16, width=16),
    classifier="fc",
    training_only=("aux",),
    inferred_arguments=(InferredArgument("num_classes", "fc.weight"), InferredArgument("width", "conv.weight")),
)
RANDOM = WeightsSource("random")
PHOTOGRAPH = Preprocessing(resize=224, height=224, width=224)


def trained_network(**arguments):
    """A network in which every parameter differs from any initialization."""
    with torch.random.fork_rng():
        torch.manual_seed(99)
        net = Net(**arguments)
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value))
    return net.eval()


@pytest.fixture
def save_checkpoint(tmp_path):
    """Save an object as a checkpoint and return the weights source."""

    def store(content, name="net.pth"):
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
        return WeightsSource("file", path=str(path))

    return store


def assert_holds(loaded, net):
    state = loaded.module.state_dict()
    for name, tensor in net.state_dict().items():
        assert torch.equal(state[name], tensor), name


def remove_prefixes(state, *prefixes):
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def add_prefix(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


# ── Selection of weights ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("random", WeightsSource("random", seed=7)),
        ("imagenet", WeightsSource("imagenet")),
        ("./random", WeightsSource("file", path="./random")),
        ("a/b.pth", WeightsSource("file", path="a/b.pth")),
    ],
)
def test_weights_are_selected_by_text(text, source):
    assert parse_weights(text, seed=7) == source


def test_random_weights_are_identified_by_their_seed():
    assert weights_identity(WeightsSource("random", seed=3)) == "random:3"


def test_a_file_is_identified_by_its_content(save_checkpoint):
    source = save_checkpoint(trained_network().state_dict())
    assert weights_identity(source) == hashlib.sha256(Path(source.path).read_bytes()).hexdigest()


def test_identifying_weights_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, deploykit.export.networks.weights_source; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("use", [weights_identity, lambda source: load_network(NET, {}, source)])
def test_the_error_for_missing_weights_lists_the_valid_values(use, tmp_path):
    with pytest.raises(InputError, match=r"no weights .*imagnet'.*random, imagenet, or a file"):
        use(WeightsSource("file", path=str(tmp_path / "imagnet")))


def test_a_folder_as_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        load_network(NET, {}, WeightsSource("file", path=str(tmp_path)))


def test_an_unsupported_file_suffix_is_refused(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"is not a supported checkpoint file.*\.safetensors"):
        load_network(NET, {}, WeightsSource("file", path=str(tmp_path / "net.onnx")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_weights_are_refused(save_checkpoint):
    source = save_checkpoint(trained_network().state_dict())
    Path(source.path).chmod(0)
    with pytest.raises(InputError, match="cannot be read: permission denied"):
        load_network(NET, {}, source)


# ── Random ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_seed_gives_the_same_network_again():
    first, second = load_network(NET, {}, RANDOM), load_network(NET, {}, RANDOM)
    assert_holds(first, second.module)
    assert first.record == second.record


def test_another_seed_gives_another_network():
    assert (
        load_network(NET, {}, RANDOM).record.sha256
        != load_network(NET, {}, WeightsSource("random", seed=1)).record.sha256
    )


def test_random_weights_are_marked_as_such():
    record = load_network(NET, {}, WeightsSource("random", seed=5)).record
    assert (record.source, record.trained) == ("random, seed 5", False)


def test_the_callers_random_state_is_preserved():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_network(NET, {}, RANDOM)
    assert torch.equal(torch.rand(3), expected)


def test_batch_norm_statistics_are_calibrated_on_its_inputs():
    module = load_network(NET, {"width": 32}, RANDOM).module
    torch.manual_seed(0)
    normalized = module.bn(module.conv(random_weights.synthetic_images(64, 64))).detach()
    # Other noise than in the calibration, so the statistics agree only roughly.
    assert normalized.mean((0, 2, 3)).abs().max() < 0.5
    assert normalized.std((0, 2, 3)).log2().abs().max() < 1


@pytest.fixture
def threads():
    """Set PyTorch's number of threads for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_random_weights_do_not_depend_on_the_number_of_cores(threads):
    threads(1)
    alone = load_network(RESNET18, {}, RANDOM).record.sha256
    threads(2)
    assert load_network(RESNET18, {}, RANDOM).record.sha256 == alone
    assert torch.get_num_threads() == 2


def test_batch_norm_after_a_global_pool_is_calibrated_on_many_images():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 256, 3)
            self.bn = nn.BatchNorm2d(256)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(images).mean((2, 3), keepdim=True)).flatten(1)

    pooled = Architecture("pooled", "Pooled", "none", Pooled, {}, PHOTOGRAPH, "bn")
    gains = load_network(pooled, {}, RANDOM).module.bn.running_var.rsqrt()
    assert gains.max() / gains.median() < 20  # of two images, the worst channel's is hundreds of times the median


def test_batch_norm_momentum_and_counter_are_restored_after_calibration():
    bn = load_network(NET, {}, RANDOM).module.bn
    assert (bn.momentum, int(bn.num_batches_tracked), bn.training) == (0.25, 0, False)


def test_a_network_without_batch_norm_needs_no_calibration():
    plain = msgspec.structs.replace(
        NET, build=lambda: nn.Linear(2, 2), arguments={}, training_only=(), inferred_arguments=()
    )
    assert load_network(plain, {}, RANDOM).module.weight.shape == (2, 2)


@pytest.mark.parametrize("model", ["resnet:RESNET50", "densenet:DENSENET121", "fractalnet:FRACTALNET40"])
def test_activations_of_deep_random_networks_stay_far_inside_fp16(model):
    module, attribute = model.split(":")
    architecture = getattr(importlib.import_module(f"architectures.{module}"), attribute)
    network = load_network(architecture, {}, RANDOM).module
    largest = []
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            layer.register_forward_hook(lambda *call: largest.append(call[-1].abs().max().item()))
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert 0.1 < max(largest) < 6550  # a tenth of FP16's largest number


# ── Modules, arguments, records ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".PTH"])
def test_a_state_dict_is_loaded_from(save_checkpoint, suffix):
    assert_holds(
        load_network(NET, {}, save_checkpoint(trained_network().state_dict(), f"net{suffix}")), trained_network()
    )


def test_a_file_of_before_torch_1_6_is_loaded(tmp_path):
    torch.save(trained_network().state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    assert_holds(load_network(NET, {}, WeightsSource("file", path=str(tmp_path / "net.pth"))), trained_network())


def test_the_module_is_in_eval_mode(save_checkpoint):
    module = load_network(NET, {}, save_checkpoint(trained_network().state_dict())).module
    assert not any(part.training for part in module.modules())
    assert {(tensor.dtype, tensor.device.type) for tensor in module.parameters()} == {(torch.float32, "cpu")}


def test_the_file_may_be_deleted_after_loading(save_checkpoint):
    source = save_checkpoint(trained_network().state_dict())
    loaded = load_network(NET, {}, source)
    Path(source.path).write_bytes(b"\0" * Path(source.path).stat().st_size)
    assert_holds(loaded, trained_network())


def test_a_file_is_recorded_by_its_name_without_its_folder(save_checkpoint):
    record = load_network(NET, {}, save_checkpoint(trained_network().state_dict())).record
    assert (record.source, record.trained) == ("net.pth", True)


def test_the_digest_is_that_of_the_weights_and_not_of_the_file(save_checkpoint):
    state = trained_network().state_dict()
    files = [
        save_checkpoint(state),
        save_checkpoint({"model": state}, "other.pt"),
        save_checkpoint(state, "net.safetensors"),
    ]
    assert len({load_network(NET, {}, source).record.sha256 for source in files}) == 1


def test_the_digest_changes_with_any_weight(save_checkpoint):
    state = trained_network().state_dict()
    first = load_network(NET, {}, save_checkpoint(state)).record.sha256
    state["conv.bias"][0] += 1
    assert load_network(NET, {}, save_checkpoint(state)).record.sha256 != first


def test_the_digest_excludes_training_only_parameters(save_checkpoint):
    state = trained_network().state_dict()
    first = load_network(NET, {}, save_checkpoint(state)).record.sha256
    state["aux.bias"][0] += 1
    assert load_network(NET, {}, save_checkpoint(state)).record.sha256 == first


def test_sizes_are_inferred_from_the_checkpoint(save_checkpoint):
    loaded = load_network(NET, {}, save_checkpoint(trained_network(width=5, num_classes=10).state_dict()))
    assert loaded.arguments == {"width": 5, "num_classes": 10}
    assert_holds(loaded, trained_network(width=5, num_classes=10))


def test_an_explicit_argument_wins_over_the_architectures():
    loaded = load_network(NET, {"num_classes": 7, "gain": 2.0}, RANDOM)
    assert loaded.arguments == {"width": 4, "num_classes": 7, "gain": 2.0}
    assert loaded.module.fc.out_features == 7


def test_an_explicit_argument_may_agree_with_the_checkpoint(save_checkpoint):
    source = save_checkpoint(trained_network(num_classes=10).state_dict())
    assert load_network(NET, {"num_classes": 10}, source).module.fc.out_features == 10


def test_an_explicit_argument_that_contradicts_the_checkpoint_is_refused_with_both_values(save_checkpoint):
    source = save_checkpoint(trained_network(num_classes=10).state_dict())
    with pytest.raises(InputError, match=r"num_classes=7 was requested, but net\.pth has .* num_classes=10"):
        load_network(NET, {"num_classes": 7}, source)


def test_an_unknown_argument_suggests_the_nearest_ones():
    with pytest.raises(InputError, match="unknown argument of net 'num_clases'; did you mean num_classes"):
        load_network(NET, {"num_clases": 7}, RANDOM)


def test_a_constructor_error_is_quoted():
    with pytest.raises(InputError, match="width is at most 64, not 65"):
        load_network(NET, {"width": 65}, RANDOM)


# ── Common forms of state dicts ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_may_be_nested_under(save_checkpoint, key):
    assert_holds(
        load_network(NET, {}, save_checkpoint({"epoch": 3, key: trained_network().state_dict(), "optimizer": {}})),
        trained_network(),
    )


def test_a_checkpoint_may_contain_a_training_scripts_arguments_and_accuracy(save_checkpoint):
    content = {"model": trained_network().state_dict(), "args": argparse.Namespace(lr=0.1), "best": np.float64(0.9)}
    assert_holds(load_network(NET, {}, save_checkpoint(content)), trained_network())


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "model.", "net.", "_orig_mod.", "module.backbone.", "_orig_mod.module.model."]
)
def test_a_prefix_of_all_names_is_removed(save_checkpoint, prefix):
    loaded = load_network(NET, {}, save_checkpoint(add_prefix(trained_network(num_classes=10).state_dict(), prefix)))
    assert_holds(loaded, trained_network(num_classes=10))


def test_a_counter_without_the_prefix_is_not_a_parameter(save_checkpoint):
    state = add_prefix(trained_network().state_dict(), "module.") | {"n_averaged": torch.tensor(5)}
    assert_holds(load_network(NET, {}, save_checkpoint(state)), trained_network())


def test_a_head_named_separately_from_the_backbone_is_not_guessed(save_checkpoint):
    state = add_prefix(remove_prefixes(trained_network().state_dict(), "fc."), "backbone.") | {
        "head.weight": torch.zeros(3, 4)
    }
    with pytest.raises(InputError, match=r"missing: fc\.weight, fc\.bias; next to it: head\.weight"):
        load_network(NET, {}, save_checkpoint(state))


def test_a_prefix_that_belongs_to_the_network_is_preserved(save_checkpoint):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Net()

    own = msgspec.structs.replace(
        NET, build=Wrapped, arguments={}, classifier="model.fc", training_only=("model.aux",), inferred_arguments=()
    )
    loaded = load_network(own, {}, save_checkpoint(add_prefix(trained_network().state_dict(), "model.")))
    assert torch.equal(loaded.module.model.fc.weight, trained_network().fc.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_float32(save_checkpoint, dtype):
    net = trained_network().to(dtype)
    assert_holds(load_network(NET, {}, save_checkpoint(net.state_dict())), net.float())


def test_training_only_parameters_may_be_missing(save_checkpoint):
    loaded = load_network(NET, {}, save_checkpoint(remove_prefixes(trained_network().state_dict(), "aux.")))
    assert torch.equal(loaded.module.fc.weight, trained_network().fc.weight)


def test_training_only_parameters_may_have_another_shape(save_checkpoint):
    state = trained_network().state_dict() | {"aux.weight": torch.zeros(1000, 4), "aux.conv.weight": torch.zeros(1)}
    loaded = load_network(NET, {}, save_checkpoint(state))
    assert torch.equal(loaded.module.fc.weight, trained_network().fc.weight)


def test_batch_norms_counter_may_be_missing(save_checkpoint):
    loaded = load_network(NET, {}, save_checkpoint(remove_prefixes(trained_network().state_dict(), "bn.num_batches")))
    assert torch.equal(loaded.module.bn.running_var, trained_network().bn.running_var)


# ── Checkpoints that are refused ──────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_of_mismatch_is_listed_by_name(save_checkpoint):
    state = remove_prefixes(trained_network().state_dict(), "bn.weight")
    state |= {"fc.bias": torch.zeros(4), "extra": torch.zeros(1), "bn.bias": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(InputError) as raised:
        load_network(NET, {}, save_checkpoint(state))
    assert raised.value.what == (
        "net.pth does not fit the network: missing: bn.weight; unexpected: extra; "
        "of another shape: fc.bias (4, not 3); of another type: bn.bias (torch.int64)."
    )


def test_a_long_list_of_misfits_is_cut_and_counted(save_checkpoint):
    state = trained_network().state_dict() | {f"extra{number:02}": torch.zeros(1) for number in range(40)}
    with pytest.raises(InputError, match=r"unexpected: extra00, .*extra05 and 34 more\."):
        load_network(NET, {}, save_checkpoint(state))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights_are_refused_by_name(save_checkpoint, value):
    state = trained_network().state_dict()
    state["fc.weight"][1, 2] = value
    with pytest.raises(InputError, match=r"NaN or infinite values in .*fc\.weight"):
        load_network(NET, {}, save_checkpoint(state))


@pytest.mark.parametrize(
    "content",
    [{"epoch": 3, "optimizer": {}}, {}, [torch.zeros(1)], torch.zeros(1), {"model": {"fc": 1}}, {1: torch.zeros(1)}],
)
def test_a_file_without_a_state_dict_is_refused(save_checkpoint, content):
    with pytest.raises(InputError, match="contains no state dict"):
        load_network(NET, {}, save_checkpoint(content))


def test_a_file_that_contains_itself_is_refused(save_checkpoint):
    content = {}
    content["model"] = content
    with pytest.raises(InputError, match="contains no state dict"):
        load_network(NET, {}, save_checkpoint(content))


class PickleTrap:
    """Writes a file if it is ever unpickled by pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def as_zip(trap):
    buffer = io.BytesIO()
    torch.save({"model": trained_network().state_dict(), "trap": trap}, buffer)
    return buffer.getvalue()


def as_legacy(trap):
    buffer = io.BytesIO()
    torch.save({"model": trained_network().state_dict(), "trap": trap}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin"])
@pytest.mark.parametrize("form", [as_zip, as_legacy, pickle.dumps, lambda trap: pickle.dumps(trap, protocol=2)])
def test_code_in_a_checkpoint_is_refused_and_never_runs(tmp_path, form, suffix):
    sprung = tmp_path / "sprung"
    content = form(PickleTrap(sprung))
    pickle.loads(pickle.dumps(PickleTrap(sprung)))
    assert sprung.exists(), "the trap does not work, so that the test would prove nothing"
    sprung.unlink()

    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"refused without running any.*torch\.save\(model\.state_dict\(\)"):
        load_network(NET, {}, WeightsSource("file", path=str(path)))
    assert not sprung.exists()


def test_a_pickled_module_is_refused_and_its_class_named(save_checkpoint):
    with pytest.raises(InputError, match=r"refers to \S*Net: it contains code"):
        load_network(NET, {}, save_checkpoint(trained_network()))


def test_a_torchscript_program_is_refused_without_a_warning(tmp_path, recwarn):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "net.pt"))
    recwarn.clear()
    with pytest.raises(InputError, match="is a TorchScript module"):
        load_network(NET, {}, WeightsSource("file", path=str(tmp_path / "net.pt")))
    assert not recwarn.list


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world", b"\x89PNG\r\n\x1a\n" + bytes(60), b"PK\x03\x04" + bytes(60)])
def test_a_file_that_is_not_a_checkpoint_is_refused_by_name(tmp_path, suffix, content):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"net\.\w+' is not a checkpoint, or is damaged: "):
        load_network(NET, {}, WeightsSource("file", path=str(path)))


def test_an_empty_file_is_reported_as_empty(tmp_path):
    (tmp_path / "net.pth").touch()
    with pytest.raises(InputError, match="it is empty"):
        load_network(NET, {}, WeightsSource("file", path=str(tmp_path / "net.pth")))


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_truncated_checkpoint_is_refused_by_name(save_checkpoint, name):
    source = save_checkpoint(trained_network().state_dict(), name)
    path = Path(source.path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="is not a checkpoint, or is damaged"):
        load_network(NET, {}, source)


@pytest.mark.parametrize("form", [as_zip, as_legacy])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_explained_or_harmless(tmp_path, form, edits):
    content = bytearray(form(1.0))
    for position, value in edits:
        content[position % len(content)] = value
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    try:
        loaded = load_network(NET, {}, WeightsSource("file", path=str(path)))
    except InputError:
        return
    assert loaded.module.conv.weight.shape[1:] == (3, 3, 3)


# ── Released weights ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Let torchvision provide a state dict for `NET`; `cached` puts it into the torch hub cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)

    def publish(state, cached=True, **pretrained):
        torch.save(state, tmp_path / "release")
        content = (tmp_path / "release").read_bytes()
        file = folder / f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        if cached:
            file.write_bytes(content)
        enum = SimpleNamespace(url=f"https://example.invalid/models/{file.name}")
        monkeypatch.setattr(torchvision.models, "get_weight", {"Net_Weights.V1": enum}.__getitem__)
        released = Pretrained("Net_Weights.V1", Preprocessing(resize=20, height=18, width=18), **pretrained)
        return msgspec.structs.replace(NET, pretrained=released), file

    return publish


IMAGENET = WeightsSource("imagenet")


def test_released_weights_bring_their_arguments_and_preprocessing(release):
    architecture, _ = release(trained_network().state_dict(), arguments={"gain": 2.0})
    loaded = load_network(architecture, {}, IMAGENET)
    assert_holds(loaded, trained_network())
    assert loaded.arguments["gain"] == loaded.module.gain == 2.0
    assert loaded.preprocessing == architecture.pretrained.preprocessing
    assert (loaded.record.source, loaded.record.trained) == ("Net_Weights.V1", True)


def test_an_argument_that_the_release_was_not_trained_with_is_refused(release):
    architecture, _ = release(trained_network().state_dict(), arguments={"gain": 2.0})
    with pytest.raises(InputError, match=r"gain=3\.0 was requested, but Net_Weights\.V1 was trained with 2\.0"):
        load_network(architecture, {"gain": 3.0}, IMAGENET)


def test_a_head_of_another_size_than_the_releases_is_refused(release):
    architecture, _ = release(trained_network().state_dict())
    with pytest.raises(InputError, match=r"num_classes=10 was requested, but Net_Weights\.V1 has .*num_classes=3"):
        load_network(architecture, {"num_classes": 10}, IMAGENET)


def test_a_network_without_released_weights_is_an_error():
    with pytest.raises(InputError, match="no ImageNet weights are released for net"):
        load_network(NET, {}, IMAGENET)


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route"), TimeoutError("timed out"), OSError("disk full"), IncompleteRead(b"", 9)],
)
def test_without_a_network_connection_the_error_names_the_file_and_its_destination(release, monkeypatch, error):
    architecture, file = release(trained_network().state_dict(), cached=False)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError) as raised:
        load_network(architecture, {}, IMAGENET)
    assert f"{file.name} could not be downloaded from https://example.invalid/models/{file.name}" in raised.value.what
    assert str(file.parent) in raised.value.remedy


def test_a_download_is_stored_in_the_torch_hub_cache(release, monkeypatch, tmp_path, capsys):
    architecture, file = release(trained_network().state_dict(), cached=False)
    monkeypatch.setattr(
        torch.hub,
        "download_url_to_file",
        lambda _, to, **__: Path(to).write_bytes((tmp_path / "release").read_bytes()),
    )
    assert_holds(load_network(architecture, {}, IMAGENET), trained_network())
    assert file.is_file()
    assert capsys.readouterr().out == ""  # standard output is the command's result


def test_a_cached_file_that_is_not_the_released_one_is_refused(release):
    architecture, file = release(trained_network().state_dict())
    file.write_bytes(file.read_bytes() + b"!")
    with pytest.raises(InputError, match=r"is not the released file.*Delete it"):
        load_network(architecture, {}, IMAGENET)


def test_code_in_a_release_is_refused_and_never_runs(release, tmp_path):
    sprung = tmp_path / "sprung"
    architecture, _ = release({"model": trained_network().state_dict(), "trap": PickleTrap(sprung)})
    with pytest.raises(InputError, match="refused without running any"):
        load_network(architecture, {}, IMAGENET)
    assert not sprung.exists()


# ── The catalog's networks ────────────────────────────────────────────────────────────────────────────────────────────


def test_densenets_old_names_are_understood(save_checkpoint):
    oracle = torchvision.models.densenet121(num_classes=5).eval()
    released = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor
        for name, tensor in oracle.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in released
    loaded = load_network(DENSENET121, {}, save_checkpoint(released))
    assert loaded.arguments["num_classes"] == 5
    assert torch.equal(loaded.module.classifier.weight, oracle.classifier.weight)


@pytest.mark.parametrize("aux", [True, False])
def test_googlenet_is_loaded_with_and_without_its_auxiliary_heads(save_checkpoint, aux):
    oracle = torchvision.models.googlenet(num_classes=5, aux_logits=aux, init_weights=False).eval()
    loaded = load_network(GOOGLENET, {}, save_checkpoint(oracle.state_dict()))
    assert (loaded.arguments["num_classes"], loaded.arguments["branch3_kernel"]) == (5, 3)
    assert torch.equal(loaded.module.fc.weight, oracle.fc.weight)


def test_a_fine_tuned_backbone_with_its_head_is_loaded(save_checkpoint):
    oracle = torchvision.models.resnet18(num_classes=10).half()
    checkpoint = {"epoch": 9, "state_dict": add_prefix(oracle.state_dict(), "module.backbone.")}
    loaded = load_network(RESNET18, {}, save_checkpoint(checkpoint, "fine-tuned.ckpt"))
    assert loaded.arguments["num_classes"] == 10
    assert torch.equal(loaded.module.fc.weight, oracle.fc.weight.float())


@pytest.mark.skipif(os.environ.get("DEPLOYKIT_NETWORK") != "1", reason="downloads 45 MB; DEPLOYKIT_NETWORK=1 runs it")
def test_the_released_resnet18_is_loaded():
    assert load_network(RESNET18, {}, IMAGENET).record.trained
