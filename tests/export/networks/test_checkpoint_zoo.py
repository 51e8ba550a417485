"""Checkpoints as people's training scripts leave them: each loads what torch's `load_state_dict` would, or is refused
with the option or the command that loads it.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.nn.utils import prune

from deploykit.core.errors import InputError
from deploykit.core.values import Architecture
from deploykit.export.networks.weights import load_network
from deploykit.export.networks.weights_source import parse_weights, weights_identity


def build_plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def build_weight_norm():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(16, 3))


class Tied(nn.Module):
    """Two layers that share one weight, as a language model's embedding and head do."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight


class Renamed(nn.Linear):
    """A layer that translates the names of its own earlier releases."""

    def _load_from_state_dict(self, state_dict, prefix, *others):
        if f"{prefix}kernel" in state_dict:
            state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}kernel")
        super()._load_from_state_dict(state_dict, prefix, *others)


def architecture_of(build):
    return Architecture("net", "Net", "none", build, {}, None, "")


def train(net, seed=1):
    """Give every parameter a value that no initialization has."""
    generator = torch.Generator().manual_seed(seed)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return net.eval()


TRAINED = train(build_plain()).state_dict()
AVERAGE = train(build_plain(), seed=2).state_dict()
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def prefixed(prefix, state=TRAINED):
    return {f"{prefix}{name}": value for name, value in state.items()}


def load(content, tmp_path, build=build_plain, name="net.pth", key=""):
    torch.save(content, tmp_path / name)
    return load_network(architecture_of(build), {}, parse_weights(f"{tmp_path / name}{key}"))


def assert_holds(loaded, state):
    actual = loaded.module.state_dict()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(actual[name], value.float()), name


LOADED = {
    "plain": TRAINED,
    "with numbers beside the tensors": {**TRAINED, "epoch": 5, "best": 91.2, "name": "net"},
    "under net": {"net": TRAINED, "acc": 91.2, "epoch": 5},
    "under params_ema alone": {"params_ema": AVERAGE},
    "under state_dict, with a tensor as accuracy": {"state_dict": TRAINED, "best_acc1": torch.tensor(76.1)},
    "with an optimizer's state": {"model_state_dict": TRAINED, "optimizer_state_dict": OPTIMIZER},
    "with an optimizer that keeps tensors under the parameters' names": {
        "model": TRAINED,
        "optimizer": {"momentum_buffer": AVERAGE},
    },
    "of Lightning, with criterion and metric": {
        "state_dict": prefixed("model.") | {"criterion.weight": torch.ones(3), "metric.total": torch.zeros(1)},
        "hyper_parameters": {"lr": 0.001},
    },
    "with the loss inside the network": {**TRAINED, "loss_fn.weight": torch.ones(3)},
    "with a profiler's counters": {**TRAINED, "total_ops": torch.ones(1), "0.total_params": torch.ones(1)},
    "of an average that wraps twice": {"ema": prefixed("ema.module.") | {"ema.n_averaged": torch.tensor(7)}},
    "of a trainer that nests twice": {"ema": {"decay": 0.999, "module": TRAINED}},
    "of a network that has no name for it": {"generator": TRAINED, "discriminator": {"0.weight": torch.ones(1, 1)}},
    "of a compiled layer": {name.replace("0.", "0._orig_mod.", 1): value for name, value in TRAINED.items()},
    "of FSDP": prefixed("_fsdp_wrapped_module."),
    "in half precision, counters included": {name: value.half() for name, value in TRAINED.items()},
    "as parameters and buffers": {name: nn.Parameter(v) if v.is_floating_point() else v for name, v in TRAINED.items()},
    "twice the same under two names": {"model": TRAINED, "state_dict": TRAINED},
}


@pytest.mark.parametrize("form", LOADED)
def test_a_checkpoint_is_loaded(form, tmp_path):
    expected = AVERAGE if "params_ema" in form else TRAINED
    if form == "in half precision, counters included":
        expected = {name: value.half() for name, value in TRAINED.items()}
    assert_holds(load(LOADED[form], tmp_path), expected)


@pytest.mark.parametrize(
    "name", ["net.pth", "net.pth.tar", "net.tar", "net.ckpt", "net.bin", "net.PT", "net.th", "run:3.pth"]
)
def test_a_checkpoint_may_be_called(name, tmp_path):
    assert_holds(load({"state_dict": TRAINED}, tmp_path, name=name), TRAINED)


def test_the_old_weight_norm_is_translated_by_torchs_hooks(tmp_path):
    net = train(build_weight_norm())
    state = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in net.state_dict().items()
    }
    assert "0.weight_g" in state
    images = torch.rand(2, 3, 4, 4)
    for content in (state, {"state_dict": prefixed("module.", state)}):
        assert torch.equal(load(content, tmp_path, build_weight_norm).module(images), net(images))


def test_a_networks_own_translation_of_names_is_used(tmp_path):
    weight = torch.rand(2, 2)
    loaded = load({"0.kernel": weight, "0.bias": torch.zeros(2)}, tmp_path, lambda: nn.Sequential(Renamed(2, 2)))
    assert torch.equal(loaded.module[0].weight, weight)


def test_versions_of_modules_reach_the_network_under_a_prefix(tmp_path):
    class Versioned(nn.Linear):
        _version = 3

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
            self.read = local_metadata.get("version")
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    state = nn.Sequential(OrderedDict(module=nn.Sequential(Versioned(2, 2)))).state_dict()
    assert load(state, tmp_path, lambda: nn.Sequential(Versioned(2, 2))).module[0].read == 3


def test_one_of_two_tied_weights_is_enough(tmp_path):
    net = train(Tied())
    save_model(net, str(tmp_path / "net.safetensors"))  # it leaves the second one out
    loaded = load_network(architecture_of(Tied), {}, parse_weights(str(tmp_path / "net.safetensors")))
    assert torch.equal(loaded.module.last.weight, net.last.weight)


# ── Several state dicts ───────────────────────────────────────────────────────────────────────────────────────────────

PAIRS = {
    "BasicSR": ({"params": TRAINED, "params_ema": AVERAGE}, "params", "params_ema"),
    "timm": ({"epoch": 9, "state_dict": TRAINED, "state_dict_ema": AVERAGE}, "state_dict", "state_dict_ema"),
    "torchvision": ({"model": TRAINED, "model_ema": prefixed("module.", AVERAGE)}, "model", "model_ema"),
    "flat": (prefixed("net.") | prefixed("ema_net.", AVERAGE), "net", "ema_net"),
    "nested": ({"model": {"student": TRAINED, "teacher": AVERAGE}}, "model.student", "model.teacher"),
}


@pytest.mark.parametrize("form", PAIRS)
def test_several_that_fit_are_listed_with_the_option_that_chooses(form, tmp_path):
    content, first, second = PAIRS[form]
    with pytest.raises(InputError, match=rf"2 state dicts that fit the network: {first}, {second}") as raised:
        load(content, tmp_path)
    option = re.search(r"--weights (\S+)$", raised.value.remedy)[1]
    assert_holds(load_network(architecture_of(build_plain), {}, parse_weights(option)), AVERAGE)


@pytest.mark.parametrize("form", PAIRS)
def test_the_key_chooses_one(form, tmp_path):
    content, first, second = PAIRS[form]
    assert_holds(load(content, tmp_path, key=f":{first}"), TRAINED)
    assert_holds(load(content, tmp_path, key=f":{second}"), AVERAGE)


def test_a_key_works_on_a_file_whose_name_has_a_colon(tmp_path):
    loaded = load({"params": TRAINED, "params_ema": AVERAGE}, tmp_path, name="run:3.pth", key=":params_ema")
    assert_holds(loaded, AVERAGE)


def test_a_file_is_preferred_to_a_key(tmp_path):
    torch.save({"ema": AVERAGE}, tmp_path / "net.pth")
    torch.save(TRAINED, tmp_path / "net.pth:ema.pth")
    loaded = load_network(architecture_of(build_plain), {}, parse_weights(f"{tmp_path}/net.pth:ema.pth"))
    assert_holds(loaded, TRAINED)


def test_an_unknown_key_is_refused_with_those_that_fit(tmp_path):
    with pytest.raises(InputError, match=r"no state dict 'emma'.*it has params, params_ema"):
        load({"params": TRAINED, "params_ema": AVERAGE}, tmp_path, key=":emma")


def test_the_choice_is_recorded_and_told(tmp_path):
    loaded = load({"epoch": 3, "net": TRAINED}, tmp_path)
    assert loaded.record.source == "net.pth:net"
    assert loaded.notes == ("The weights are 'net' in net.pth.",)


def test_what_lies_next_to_the_weights_is_told(tmp_path):
    loaded = load(prefixed("model.") | {"criterion.weight": torch.ones(3)}, tmp_path)
    assert loaded.notes[-1] == "Left out of net.pth, as not the network's: criterion.weight."


# ── Several files ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def sharded(tmp_path):
    """A checkpoint in two .safetensors files, with its index."""
    names = sorted(TRAINED)
    shards = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for shard, inside in shards.items():
        save_file({name: TRAINED[name] for name in inside}, tmp_path / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_an_index_loads_all_its_files(sharded):
    source = parse_weights(str(sharded / "model.safetensors.index.json"))
    assert_holds(load_network(architecture_of(build_plain), {}, source), TRAINED)


def test_one_of_several_files_is_refused_with_the_index(sharded):
    with pytest.raises(InputError) as raised:
        load_network(architecture_of(build_plain), {}, parse_weights(str(sharded / "model-00001-of-00002.safetensors")))
    option = re.search(r"--weights (\S+)$", raised.value.remedy)[1]
    assert_holds(load_network(architecture_of(build_plain), {}, parse_weights(option)), TRAINED)


def test_an_index_that_names_a_missing_file_is_refused(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 of them are missing, first 'model-00002-of-00002\.safetensors'"):
        load_network(architecture_of(build_plain), {}, parse_weights(str(sharded / "model.safetensors.index.json")))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_leads_to_no_other_folder(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"0.weight": name}}))
    with pytest.raises(InputError, match="a path"):
        load_network(architecture_of(build_plain), {}, parse_weights(str(index)))


# ── Refused, with what loads it ───────────────────────────────────────────────────────────────────────────────────────


def run_command(message, folder):
    """Run the command that a message prints, and load the weights that it names."""
    (command,) = re.findall(r"^  (.*)$", message, re.MULTILINE)
    # Assigned here, as this module's classes could be imported where the user trained.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run(shlex.split(command), check=True, cwd=folder, env=environment, capture_output=True)
    option = re.search(r"--weights (\S+)\.$", message)[1]
    return load_network(architecture_of(build_plain), {}, parse_weights(option))


def test_a_script_module_is_called_one_and_the_command_loads_its_weights(tmp_path):
    torch.jit.script(train(build_plain())).save(str(tmp_path / "net.pt"))
    with pytest.raises(InputError, match=r"is a TorchScript module \(ScriptModule\)") as raised:
        load_network(architecture_of(build_plain), {}, parse_weights(str(tmp_path / "net.pt")))
    assert_holds(run_command(str(raised.value), tmp_path), TRAINED)


@pytest.mark.parametrize("pack", [lambda net: net, lambda net: {"model": net, "ema": None, "names": ["a", np.ones(2)]}])
def test_a_whole_network_is_refused_with_the_command_that_loads_its_weights(tmp_path, pack):
    with pytest.raises(InputError, match="refused without running any") as raised:
        load(pack(train(build_plain())), tmp_path)
    assert_holds(run_command(str(raised.value), tmp_path), TRAINED)


TRACES = {
    "weight norm": (lambda: nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), "remove_weight_norm"),
    "spectral norm": (lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), "remove_spectral_norm"),
    "pruning": (lambda: prune.random_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5), r"prune\.remove"),
}


@pytest.mark.parametrize("tool", TRACES)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_what_a_tool_left_in_the_names_is_recognized(tool, tmp_path):
    build, remedy = TRACES[tool]
    with pytest.raises(InputError, match=remedy):
        load(build().state_dict(), tmp_path, lambda: nn.Conv2d(3, 4, 3))


def test_a_tar_archive_is_called_one(tmp_path):
    torch.save(TRAINED, tmp_path / "net.pth")
    with tarfile.open(tmp_path / "net.tar", "w") as archive:
        archive.add(tmp_path / "net.pth", "net.pth")
    with pytest.raises(InputError, match="is a tar archive"):
        load_network(architecture_of(build_plain), {}, parse_weights(str(tmp_path / "net.tar")))


def test_a_folder_is_refused_with_the_checkpoints_in_it(sharded):
    with pytest.raises(InputError, match=r"is a folder\. It has model-00001.*index\.json"):
        load_network(architecture_of(build_plain), {}, parse_weights(str(sharded)))


WRONG = {
    "other names": {f"layer{number}.weight": torch.zeros(1) for number in range(50)},
    "every kind of mismatch": {
        **{f"extra{number}": torch.zeros(1) for number in range(50)},
        **{f"head.{number}": torch.zeros(1) for number in range(50)},
        "0.weight": torch.zeros(9),
        "4.bias": torch.zeros(3, dtype=torch.int64),
    },
    "no tensors": {f"entry{number}": number for number in range(50)},
}


@pytest.mark.parametrize("form", WRONG)
def test_no_message_prints_more_than_ten_names(form, tmp_path):
    with pytest.raises(InputError) as raised:
        load(WRONG[form], tmp_path)
    assert (
        len(re.findall(r"[\w.]*(?:layer|extra|head\.|entry)\d+|\d\.(?:weight|bias|running)", str(raised.value))) <= 10
    )
    assert " more" in str(raised.value)


def test_the_identity_of_weights_covers_all_files_and_the_key(sharded):
    source = parse_weights(str(sharded / "model.safetensors.index.json"))
    before = weights_identity(source)
    save_file({"other": torch.zeros(1)}, sharded / "model-00002-of-00002.safetensors")
    assert weights_identity(source) != before
    torch.save(TRAINED, sharded / "net.pth")
    assert len({weights_identity(parse_weights(f"{sharded}/net.pth{key}")) for key in ("", ":a", ":b")}) == 3
