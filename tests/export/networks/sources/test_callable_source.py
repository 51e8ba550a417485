import sys
import textwrap
from pathlib import Path

import pytest
import torch

from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import WeightsSource
from deploykit.export.networks import sources
from deploykit.export.networks.weights import load_network

RANDOM = WeightsSource("random")

CODE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width: int = 4, classes: int = 3, drop=0.5, depths: tuple[int, ...] = (1, 2)):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(drop),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
            )

        def forward(self, x):
            return self.net(x)

    def build_net(width: int = 4, **others):
        return Net(width, **others)

    def with_weights():
        torch.manual_seed(7)
        net = Net()
        net.net[1].running_mean.fill_(5.0)
        return net

    def with_a_new_head():
        net = with_weights()
        torch.seed()
        net.net[6] = nn.Linear(4, 9)
        return net

    def needs(width):
        return Net(width)

    def breaks():
        raise RuntimeError("the disk is on fire")

    def talks():
        print("building …")
        return Net()

    def number():
        return 3

    def scripted():
        return torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))

    def lazy():
        return nn.LazyLinear(3)

    net = Net()
    seven = 7
"""


@pytest.fixture
def user_package(tmp_path, monkeypatch):
    """A folder with a user's package, as the current one. Python forgets the package afterwards."""
    package = tmp_path / "users_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text(textwrap.dedent(CODE), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def load(name, *arguments, source=RANDOM):
    architecture = sources.find_architecture(f"users_package.models:{name}")
    return load_network(architecture, sources.parse_arguments(architecture, arguments), source)


# ── Accepted names ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["Net", "build_net", "net"])
@pytest.mark.usefixtures("user_package")
def test_a_class_a_function_and_a_module_can_be_named(name):
    assert load(name).module(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.usefixtures("user_package")
def test_a_referenced_module_instance_is_not_modified():
    from importlib import import_module

    with torch.no_grad():
        load("net").module.net[6].weight.zero_()
    assert import_module("users_package.models").net.net[6].weight.any()


@pytest.mark.usefixtures("user_package")
def test_a_callable_has_no_preprocessing():
    assert sources.find_architecture("users_package.models:Net").preprocessing is None


def test_a_module_in_the_current_folder_needs_no_package(user_package):
    (user_package / "beside.py").write_text("from users_package.models import Net\n", encoding="utf-8")
    assert sources.find_architecture("beside:Net").name == "beside:Net"


def test_the_current_folder_takes_precedence_over_installed_packages(user_package):
    (user_package / "tabnanny.py").write_text("from users_package.models import Net\n", encoding="utf-8")
    assert sources.find_architecture("tabnanny:Net").name == "tabnanny:Net"


@pytest.mark.usefixtures("user_package")
def test_late_imports_find_user_modules_but_after_ours():
    sources.find_architecture("users_package.models:Net")
    assert sys.path[-1] == str(Path.cwd())


@pytest.mark.usefixtures("user_package")
def test_output_of_user_code_does_not_mix_with_results(capsys):
    load("talks")
    printed = capsys.readouterr()
    assert "building" not in printed.out
    assert "building" in printed.err


# ── `--model-arg` ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("user_package")
def test_arguments_are_converted_by_annotations_and_defaults():
    arguments = load("Net", "width=8", "drop=0", "depths=3,4").arguments
    assert arguments == {"width": 8, "drop": 0.0, "depths": (3, 4)}
    assert type(arguments["drop"]) is float


@pytest.mark.usefixtures("user_package")
def test_untyped_arguments_are_parsed_as_literals():
    assert load("build_net", "classes=5").module(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


@pytest.mark.usefixtures("user_package")
def test_the_error_for_an_unknown_argument_lists_the_valid_ones():
    with pytest.raises(UsageError, match="choose from classes, depths, drop, width"):
        load("Net", "qqq=8")


@pytest.mark.usefixtures("user_package")
def test_a_module_instance_accepts_no_arguments():
    with pytest.raises(UsageError, match="takes no --model-arg"):
        load("net", "width=8")


@pytest.mark.usefixtures("user_package")
def test_the_error_for_a_missing_argument_names_it():
    with pytest.raises(InputError, match=r"needs width\. Give --model-arg width=…"):
        load("needs")


# ── Weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("user_package")
def test_random_weights_follow_the_seed():
    assert load("Net").record == load("Net").record
    assert load("Net").record != load("Net", source=WeightsSource("random", seed=1)).record


@pytest.mark.usefixtures("user_package")
def test_random_weights_are_untrained():
    assert not load("Net").record.trained


@pytest.mark.usefixtures("user_package")
def test_weights_that_the_code_brings_stay_as_they_are():
    network = load("with_weights")
    assert network.module.net[1].running_mean.eq(5).all()
    assert network.record.trained
    assert network.record.source == "built by users_package.models:with_weights"


@pytest.mark.usefixtures("user_package")
def test_partly_random_weights_are_untrained_and_the_loaded_ones_stay():
    network = load("with_a_new_head")
    assert network.module.net[1].running_mean.eq(5).all()
    assert not network.record.trained
    assert "built by users_package.models:with_a_new_head" in network.record.source


def test_a_checkpoint_whose_names_all_start_like_a_wrapper_prefix_loads(user_package):
    own = load("Net").module
    torch.save(own.state_dict(), user_package / "own.pth")
    network = load("Net", source=WeightsSource("file", path=str(user_package / "own.pth")))
    assert torch.equal(network.module.net[6].weight, own.net[6].weight)


def test_a_checkpoint_of_a_wrapped_network_loads_too(user_package):
    own = load("Net").module
    torch.save({f"module.{name}": weight for name, weight in own.state_dict().items()}, user_package / "own.pth")
    network = load("Net", source=WeightsSource("file", path=str(user_package / "own.pth")))
    assert torch.equal(network.module.net[6].weight, own.net[6].weight)


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("user_package")
def test_the_error_for_a_misspelt_name_suggests_the_nearest():
    with pytest.raises(InputError, match="has no 'bulid_net'; did you mean build_net"):
        sources.find_architecture("users_package.models:bulid_net")


@pytest.mark.usefixtures("user_package")
def test_the_error_for_an_unknown_name_lists_what_the_module_defines():
    with pytest.raises(InputError, match="It defines Net, build_net, with_weights"):
        sources.find_architecture("users_package.models:qqq")


def test_the_error_for_a_missing_package_says_where_it_was_searched(user_package):
    with pytest.raises(InputError, match=f"no module 'users_pakage', neither in '{user_package}'"):
        sources.require_known_model("users_pakage.models:net")


def test_the_error_for_a_missing_module_says_where_it_was_searched(user_package):
    with pytest.raises(InputError, match=f"no module 'users_package.model' in '{user_package / 'users_package'}'"):
        sources.find_architecture("users_package.model:net")


@pytest.mark.usefixtures("user_package")
def test_the_error_for_a_file_names_the_module():
    with pytest.raises(InputError, match=r"Give users_package\.models:Net"):
        sources.require_known_model("users_package/models.py:Net")


@pytest.mark.parametrize("text", [":x", "users_package.models:", "a b:c", "1:2"])
@pytest.mark.usefixtures("user_package")
def test_the_error_for_another_form_shows_the_right_one(text):
    with pytest.raises(InputError, match=r"my_package\.models:build_net"):
        sources.require_known_model(text)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import a_module_that_nobody_has", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero (broken.py, line 3)"),
        ("def f(:", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("raise SystemExit('usage: train.py')", "SystemExit: usage: train.py"),
    ],
)
def test_an_exception_during_import_is_quoted(user_package, code, told):
    (user_package / "broken.py").write_text(code, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        sources.find_architecture("broken:net")
    assert caught.value.what.startswith("broken raised while it was imported: ")
    assert told in caught.value.what


@pytest.mark.usefixtures("user_package")
def test_an_exception_while_building_is_quoted():
    with pytest.raises(InputError, match="raised while it built the network: RuntimeError: the disk is on fire"):
        load("breaks")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("seven", "is an int, neither"),
        ("number", "returns an int, not an nn.Module"),
        ("lazy", "lazy layers"),
        ("scripted", "returns a ScriptModule"),
    ],
)
@pytest.mark.usefixtures("user_package")
def test_anything_but_a_network_is_refused(name, told):
    with pytest.raises(InputError, match=told):
        load(name)


# ── The key of the cache ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_change_anywhere_in_the_package_is_another_network(user_package):
    before = sources.network_identity("users_package.models:Net")
    (user_package / "users_package" / "layers.py").write_text("WIDTH = 3\n", encoding="utf-8")
    assert sources.network_identity("users_package.models:Net") != before


def test_a_change_in_a_neighbouring_module_changes_the_identity(user_package):
    (user_package / "beside.py").write_text("from users_package.models import Net\n", encoding="utf-8")
    before = sources.network_identity("beside:Net")
    (user_package / "users_package" / "models.py").write_text("", encoding="utf-8")
    assert sources.network_identity("beside:Net") != before


@pytest.mark.usefixtures("user_package")
def test_unchanged_code_is_the_same_network():
    assert sources.network_identity("users_package.models:Net") == sources.network_identity("users_package.models:Net")


@pytest.mark.usefixtures("user_package")
def test_no_user_code_runs_to_compute_the_key():
    sources.require_known_model("users_package.models:breaks")
    sources.network_identity("users_package.models:breaks")
    assert "users_package.models" not in sys.modules
