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

    def lazy():
        return nn.LazyLinear(3)

    net = Net()
    seven = 7
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
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


def loaded(name, *arguments, source=RANDOM):
    architecture = sources.find_architecture(f"users_package.models:{name}")
    return load_network(architecture, sources.parse_arguments(architecture, arguments), source)


# ── What can be named ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["Net", "build_net", "net"])
@pytest.mark.usefixtures("here")
def test_a_class_a_function_and_a_module_can_be_named(name):
    assert loaded(name).module(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.usefixtures("here")
def test_a_module_that_is_named_is_left_as_it_is():
    from importlib import import_module

    with torch.no_grad():
        loaded("net").module.net[6].weight.zero_()
    assert import_module("users_package.models").net.net[6].weight.any()


@pytest.mark.usefixtures("here")
def test_it_has_no_preprocessing_of_its_own():
    assert sources.find_architecture("users_package.models:Net").preprocessing is None


def test_a_module_in_the_current_folder_needs_no_package(here):
    (here / "beside.py").write_text("from users_package.models import Net\n", encoding="utf-8")
    assert sources.find_architecture("beside:Net").name == "beside:Net"


def test_what_is_in_the_current_folder_comes_before_what_is_installed(here):
    (here / "tabnanny.py").write_text("from users_package.models import Net\n", encoding="utf-8")
    assert sources.find_architecture("tabnanny:Net").name == "tabnanny:Net"


@pytest.mark.usefixtures("here")
def test_code_that_imports_late_finds_its_modules_but_not_before_ours():
    sources.find_architecture("users_package.models:Net")
    assert sys.path[-1] == str(Path.cwd())


@pytest.mark.usefixtures("here")
def test_what_the_code_prints_stays_out_of_our_results(capsys):
    loaded("talks")
    printed = capsys.readouterr()
    assert "building" not in printed.out
    assert "building" in printed.err


# ── `--model-arg` ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("here")
def test_arguments_take_the_types_of_annotations_and_defaults():
    found = loaded("Net", "width=8", "drop=0", "depths=3,4").arguments
    assert found == {"width": 8, "drop": 0.0, "depths": (3, 4)}
    assert type(found["drop"]) is float


@pytest.mark.usefixtures("here")
def test_a_function_that_takes_anything_is_given_literals():
    assert loaded("build_net", "classes=5").module(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


@pytest.mark.usefixtures("here")
def test_the_error_for_an_unknown_argument_lists_the_others():
    with pytest.raises(UsageError, match="choose from classes, depths, drop, width"):
        loaded("Net", "qqq=8")


@pytest.mark.usefixtures("here")
def test_a_module_takes_no_arguments():
    with pytest.raises(UsageError, match="takes no --model-arg"):
        loaded("net", "width=8")


@pytest.mark.usefixtures("here")
def test_the_error_for_a_missing_argument_names_it():
    with pytest.raises(InputError, match=r"needs width\. Give --model-arg width=…"):
        loaded("needs")


# ── Weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("here")
def test_random_weights_follow_the_seed():
    assert loaded("Net").record == loaded("Net").record
    assert loaded("Net").record != loaded("Net", source=WeightsSource("random", seed=1)).record


@pytest.mark.usefixtures("here")
def test_random_weights_are_untrained():
    assert not loaded("Net").record.trained


@pytest.mark.usefixtures("here")
def test_weights_that_the_code_brings_stay_as_they_are():
    found = loaded("with_weights")
    assert found.module.net[1].running_mean.eq(5).all()
    assert found.record.trained
    assert found.record.source == "built by users_package.models:with_weights"


@pytest.mark.usefixtures("here")
def test_partly_random_weights_are_untrained_and_the_loaded_ones_stay():
    found = loaded("with_a_new_head")
    assert found.module.net[1].running_mean.eq(5).all()
    assert not found.record.trained
    assert "built by users_package.models:with_a_new_head" in found.record.source


def test_a_checkpoint_fits_though_all_its_names_begin_like_a_wrappers(here):
    own = loaded("Net").module
    torch.save(own.state_dict(), here / "own.pth")
    found = loaded("Net", source=WeightsSource("file", path=str(here / "own.pth")))
    assert torch.equal(found.module.net[6].weight, own.net[6].weight)


def test_a_checkpoint_of_a_wrapped_network_fits_too(here):
    own = loaded("Net").module
    torch.save({f"module.{name}": each for name, each in own.state_dict().items()}, here / "own.pth")
    found = loaded("Net", source=WeightsSource("file", path=str(here / "own.pth")))
    assert torch.equal(found.module.net[6].weight, own.net[6].weight)


# ── What is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("here")
def test_the_error_for_a_misspelt_name_suggests_the_nearest():
    with pytest.raises(InputError, match="has no 'bulid_net'; did you mean build_net"):
        sources.find_architecture("users_package.models:bulid_net")


@pytest.mark.usefixtures("here")
def test_the_error_for_an_unknown_name_lists_what_the_module_defines():
    with pytest.raises(InputError, match="It defines Net, build_net, with_weights"):
        sources.find_architecture("users_package.models:qqq")


def test_the_error_for_a_missing_package_says_where_it_was_searched(here):
    with pytest.raises(InputError, match=f"no module 'users_pakage', neither in '{here}'"):
        sources.require_known_model("users_pakage.models:net")


def test_the_error_for_a_missing_module_says_where_it_was_searched(here):
    with pytest.raises(InputError, match=f"no module 'users_package.model' in '{here / 'users_package'}'"):
        sources.find_architecture("users_package.model:net")


@pytest.mark.usefixtures("here")
def test_the_error_for_a_file_names_the_module():
    with pytest.raises(InputError, match=r"Give users_package\.models:Net"):
        sources.require_known_model("users_package/models.py:Net")


@pytest.mark.parametrize("text", [":x", "users_package.models:", "a b:c", "1:2"])
@pytest.mark.usefixtures("here")
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
def test_an_exception_during_import_is_quoted(here, code, told):
    (here / "broken.py").write_text(code, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        sources.find_architecture("broken:net")
    assert caught.value.what.startswith("broken raised while it was imported: ")
    assert told in caught.value.what


@pytest.mark.usefixtures("here")
def test_an_exception_while_building_is_quoted():
    with pytest.raises(InputError, match="raised while it built the network: RuntimeError: the disk is on fire"):
        loaded("breaks")


@pytest.mark.parametrize(
    ("name", "told"),
    [("seven", "is an int, neither"), ("number", "returns an int, not an nn.Module"), ("lazy", "lazy layers")],
)
@pytest.mark.usefixtures("here")
def test_anything_but_a_network_is_refused(name, told):
    with pytest.raises(InputError, match=told):
        loaded(name)


# ── The key of the cache ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_change_anywhere_in_the_package_is_another_network(here):
    before = sources.network_identity("users_package.models:Net")
    (here / "users_package" / "layers.py").write_text("WIDTH = 3\n", encoding="utf-8")
    assert sources.network_identity("users_package.models:Net") != before


def test_a_change_in_a_neighbouring_module_changes_the_identity(here):
    (here / "beside.py").write_text("from users_package.models import Net\n", encoding="utf-8")
    before = sources.network_identity("beside:Net")
    (here / "users_package" / "models.py").write_text("", encoding="utf-8")
    assert sources.network_identity("beside:Net") != before


@pytest.mark.usefixtures("here")
def test_unchanged_code_is_the_same_network():
    assert sources.network_identity("users_package.models:Net") == sources.network_identity("users_package.models:Net")


@pytest.mark.usefixtures("here")
def test_nothing_is_run_to_know_the_key():
    sources.require_known_model("users_package.models:breaks")
    sources.network_identity("users_package.models:breaks")
    assert "users_package.models" not in sys.modules
