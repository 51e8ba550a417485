"""Properties of every network of the catalog and of the generated files."""

import inspect
import os
import subprocess
import sys
import typing
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import msgspec
import pytest
import torch

from deploykit.core.values import CatalogRow
from deploykit.export.architectures import CATALOG
from deploykit.export.architectures.densenet import DenseNet
from deploykit.export.architectures.fractalnet import FractalNet
from deploykit.export.architectures.googlenet import GoogLeNet
from deploykit.export.architectures.nin import NiN
from deploykit.export.architectures.resnet import ResNet
from deploykit.export.architectures.vgg import VGG

ROOT = Path(__file__).resolve().parents[2]
ROWS = msgspec.json.decode((ROOT / "architectures" / "catalog.json").read_bytes(), type=list[CatalogRow])
SIMPLE = {int, float, bool, str, tuple[int, ...]}

# One small member of each family: the difficulties of tracing do not depend on size.
SMALL = {
    "nin": (NiN, {}, 32),
    "googlenet": (GoogLeNet, {"num_classes": 5}, 32),
    "resnet": (ResNet, {"depths": (1, 2, 1, 1), "num_classes": 5}, 64),
    "densenet": (DenseNet, {"growth_rate": 8, "blocks": (2, 3), "num_classes": 5}, 64),
    "fractalnet": (FractalNet, {"widths": (8, 8), "num_classes": 5}, 32),
    "vgg": (VGG, {"depths": (1, 1, 1, 1, 1), "num_classes": 5}, 224),
}


@pytest.fixture(scope="module")
def update_generated():
    loader = SourceFileLoader("update_generated", str(ROOT / "scripts" / "update_generated"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")  # as Python does for a script
        loader.exec_module(module)
    return module


@pytest.fixture(params=SMALL, scope="module")
def small(request):
    build, arguments, size = SMALL[request.param]
    torch.manual_seed(0)
    return build(**arguments).eval(), torch.randn(3, 3, size, size)


# ── The catalog ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", CATALOG)
def test_a_reference_leads_to_the_network_of_that_name(name, architecture):
    assert architecture(name).name == name


@pytest.mark.parametrize("name", CATALOG)
def test_the_row_of_a_network_is_up_to_date(name, update_generated):
    (row,) = [row for row in ROWS if row.name == name]
    assert update_generated.describe_architecture(update_generated.load_architecture(CATALOG[name])) == row


def test_rows_are_in_the_order_of_the_catalog():
    assert [row.name for row in ROWS] == list(CATALOG)


@pytest.fixture
def one_generated_file(update_generated, monkeypatch, tmp_path):
    """scripts/update_generated in a folder where it has one file to write."""
    monkeypatch.setattr(update_generated, "ROOT", tmp_path)
    monkeypatch.setattr(update_generated, "GENERATED", {"rows.json": lambda: "[]"})

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["update_generated", *arguments])
        return update_generated.main()

    return run


def test_checking_names_a_stale_file_without_writing_it(one_generated_file, tmp_path, capsys):
    (tmp_path / "rows.json").write_text("[1]")
    assert one_generated_file("--check") == 1
    assert "rows.json is stale" in capsys.readouterr().out
    assert (tmp_path / "rows.json").read_text() == "[1]"


def test_a_file_that_was_just_written_is_not_stale(one_generated_file):
    assert [one_generated_file(), one_generated_file("--check")] == [0, 0]


@pytest.mark.parametrize("name", CATALOG)
def test_arguments_can_be_given_on_a_command_line(name, architecture):
    member = architecture(name)
    hints = typing.get_type_hints(member.build.__init__)
    for argument in inspect.signature(member.build).parameters:
        assert hints[argument] in SIMPLE or typing.get_origin(hints[argument]) is typing.Literal


@pytest.mark.parametrize("name", CATALOG)
def test_inferred_arguments_are_read_from_weights_that_exist(name, architecture):
    member = architecture(name)
    with torch.device("meta"):
        state = member.build(**member.arguments).state_dict()
    read = {rule.argument: state[rule.parameter].shape[rule.axis] for rule in member.inferred_arguments}
    assert read == {argument: member.arguments[argument] for argument in read}
    assert "num_classes" in read


@pytest.mark.parametrize("name", CATALOG)
def test_the_classifier_outputs_the_classes(name, architecture):
    member = architecture(name)
    with torch.device("meta"):
        weight = member.build(**{**member.arguments, "num_classes": 3}).get_submodule(member.classifier).weight
    assert weight.shape[0] == 3


def test_listing_networks_imports_no_torch():
    check = "import sys, architectures; sys.exit(any(name in sys.modules for name in ('torch', 'torchvision')))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_a_users_modules_of_the_same_names_do_not_shadow_ours(tmp_path):
    for name in ("architectures.py", "calibration.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')")
    program = "import deploykit; deploykit.list_networks(); print(deploykit.export_request('resnet18').model)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.stdout == "resnet18\n", ran.stderr


# ── Weights to start from ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_seed_determines_the_weights(small):
    network, _ = small
    torch.manual_seed(0)
    again = type(network)(**next(arguments for build, arguments, _ in SMALL.values() if build is type(network)))
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", ["resnet152", "densenet201", "fractalnet40"])
def test_an_untrained_network_stays_within_fp16_in_eval_mode(name, architecture):
    member = architecture(name)
    torch.manual_seed(0)
    network = member.build(**member.arguments).eval()
    largest = []
    for module in network.modules():
        module.register_forward_hook(
            lambda _, __, output: largest.append(output.abs().max()) if isinstance(output, torch.Tensor) else None
        )
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 32))
    assert max(largest) < torch.finfo(torch.float16).max
    assert min(largest) > 10 * torch.finfo(torch.float16).smallest_normal


# ── Tracing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", CATALOG)
def test_fx_traces_the_network_in_eval_mode(name, architecture):
    member = architecture(name)
    with torch.device("meta"):
        torch.fx.symbolic_trace(member.build(**member.arguments).eval())


def test_fx_preserves_the_function(small):
    network, images = small
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(images), network(images))


def test_torchscript_preserves_the_function_at_another_batch_size(small):
    network, images = small
    with torch.no_grad():
        traced = torch.jit.trace(network, images[:2], check_trace=False)  # the next line checks that more strictly
        torch.testing.assert_close(traced(images), network(images))


def test_torch_export_preserves_the_function_at_another_batch_size(small):
    network, images = small
    exported = torch.export.export(network, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(images), network(images))


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (VGG, {"depths": (1, 1)}, "depths names the convolutions of 5 stacks, not of 2"),
        (VGG, {"num_classes": 0}, "num_classes is at least 1, not 0"),
        (VGG, {"dropout": 1.0}, "dropout is at least 0 and below 1, not 1.0"),
        (NiN, {"table": "mnist"}, "unknown table 'mnist'; choose cifar10, imagenet"),
        (GoogLeNet, {"branch3_kernel": 4}, "unknown branch3_kernel 4; choose 5, 3"),
        (ResNet, {"depths": (2, 2, 2)}, "depths names the blocks of 4 stages, not of 3"),
        (ResNet, {"depths": (2, 2, 0, 2)}, "depths is a comma-separated list of sizes from 1 up"),
        (ResNet, {"block": "wide"}, "unknown block 'wide'; choose basic, bottleneck"),
        (ResNet, {"stride_on": "5x5"}, "unknown stride_on '5x5'; choose 1x1, 3x3"),
        (ResNet, {"projection": "never"}, "unknown projection 'never'; choose when_needed, every_stage"),
        (ResNet, {"block": "basic", "stride_on": "1x1"}, "a basic block has neither groups"),
        (DenseNet, {"growth_rate": 0}, "growth_rate is at least 1, not 0"),
        (DenseNet, {"blocks": ()}, "blocks is a comma-separated list of sizes from 1 up"),
        (DenseNet, {"compression": 0.0}, "compression is above 0 and at most 1, not 0.0"),
        (DenseNet, {"compression": 0.001}, "compression=0.001 leaves none of 256 channels"),
        (FractalNet, {"columns": 4}, "unknown columns 4; choose 0, 1, 2, 3"),
        (FractalNet, {"column": 4}, "unknown column 4; choose 0, 1, 2, 3"),
        (FractalNet, {"columns": 2, "column": 1}, "columns=2 and column=1 exclude each other"),
        (FractalNet, {"stem": "vgg"}, "unknown stem 'vgg'; choose none, resnet34"),
        (FractalNet, {"drop_path": 1.0}, "drop_path is at least 0 and below 1"),
        (FractalNet, {"global_share": 1.5}, "global_share is from 0 to 1, not 1.5"),
        (FractalNet, {"dropout_step": 0.25}, "5 blocks take a dropout_step from 0 to below 0.25, not 0.25"),
    ],
)
def test_a_bad_argument_is_refused_by_name(build, arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=f"{build.__name__}: .*") as refusal:
        build(**arguments)
    assert message in str(refusal.value)
