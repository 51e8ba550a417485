"""Arguments are parsed, or refused before any work with what was expected."""

import click
import pytest

from deploykit.cli.options import Batch, ChannelNumbers, NamedKind, Positive, Size
from deploykit.core.values import BatchRange


@pytest.mark.parametrize(
    ("text", "expected"), [("1:8:32", BatchRange(1, 8, 32)), ("4", BatchRange(4, 4, 4)), ("1:1:1", BatchRange(1, 1, 1))]
)
def test_a_batch_is_a_range_or_one_size(text, expected):
    assert Batch().convert(text, None, None) == expected


def test_a_size_is_height_before_width():
    assert Size().convert("32x64", None, None) == (32, 64)


@pytest.mark.parametrize("option", [ChannelNumbers(), ChannelNumbers(positive=True)])
def test_a_mean_is_three_numbers_or_one(option):
    assert option.convert("0.5,1e-3, 2", None, None) == (0.5, 0.001, 2.0)
    assert option.convert("0.1307", None, None) == (0.1307,)


def test_a_mean_may_be_negative():
    assert ChannelNumbers().convert("-1,0,1", None, None) == (-1, 0, 1)


def test_a_scale_is_a_positive_number():
    assert Positive().convert("0.00392", None, None) == 0.00392


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_a_scale_that_is_not_a_positive_number_is_refused(text):
    with pytest.raises(click.BadParameter):
        Positive().convert(text, None, None)


@pytest.mark.parametrize(("text", "expected"), [("out=map", ("out", "map")), ("a=b=tensor", ("a=b", "tensor"))])
def test_the_kind_of_an_output_follows_its_name(text, expected):
    assert NamedKind().convert(text, None, None) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output-kind", "out"), "write NAME=KIND, such as boxes=detections"),
        (("--output-kind", "out=mapp"), "unknown kind of output 'mapp'; did you mean map?"),
        (
            ("--output-kind", "out=x"),
            "choose from boxes, classes, detections, embedding, map, scalar, sequence, tensor",
        ),
        (("--output-kind", "out=map", "--output-kind", "out=tensor"), "out: given more than once, by --output-kind"),
    ],
)
@pytest.mark.parametrize("command", ["export", "parity"])
def test_a_kind_that_does_not_exist_or_is_said_twice_is_refused(cli, command, words, message):
    result = cli(command, "nin_cifar10", *words)
    assert result.code == 2
    assert message in result.text


def test_the_kinds_of_a_bundle_are_those_of_its_export(cli):
    result = cli("parity", "./bundle", "--output-kind", "out=map")
    assert result.code == 2
    assert "./bundle is a bundle, which has the kinds of its export" in result.text


RANGE = "batch sizes must satisfy 1 <= MIN <= OPT <= MAX"
SHAPE = "write MIN:OPT:MAX, such as 1:8:32, or one number"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--batch", "0"), RANGE),
        (("--batch", "8:4:1"), RANGE),
        (("--batch", "-1:1:1"), RANGE),
        (("--batch", "8:1"), SHAPE),
        (("--batch", "1:2:4:8"), SHAPE),
        (("--batch", "a:b:c"), SHAPE),
        (("--batch", ""), SHAPE),
        (("--input-size", "224"), "write height x width in pixels, such as 224x224"),
        (("--input-size", "0x224"), "write height x width"),
        (("--input-size", "224×224"), "write height x width"),
        (("--mean", "1,2"), "write three numbers separated by commas"),
        (("--mean", "a,b,c"), "write three numbers"),
        (("--mean", "1,2,inf"), "all three must be finite"),
        (("--std", "1,2,nan"), "all three must be finite"),
        (("--std", "0,0,0"), "all three must be above 0"),
        (("--scale", "-1"), "it must be finite and above 0"),
        (("--scale", "nan"), "it must be finite and above 0"),
        (("--scale", "x"), "write a number"),
        (("--channels", "gbr"), "'gbr' is not one of 'rgb', 'bgr'"),
        (("--head", "softmax"), "is not one of 'logits', 'probabilities', 'embedding'"),
        (("--exporter", "tf"), "is not one of 'auto', 'dynamo', 'torchscript'"),
        (("--samples", "0"), "0 is not in the range x>=1"),
        (("--num-classes", "0"), "0 is not in the range x>=1"),
        (("--seed", "-1"), "-1 is not in the range x>=0"),
        (("--opset", "twenty"), "'twenty' is not a valid integer"),
        (("--opset", "5"), "Choose --opset from 7 to"),
        (("--opset", "99"), "does not support opset 99. Choose --opset from"),
        (("--model-arg", "num_classes"), "--model-arg 'num_classes' is not KEY=VALUE. nin_cifar10 takes table=one of"),
        (("--model-arg", "num_clases=10"), "unknown argument of nin_cifar10 'num_clases'; did you mean num_classes?"),
        (("--model-arg", "num_classes=ten"), "'ten' is not an integer"),
        (("--model-arg", "table=mnist"), "'mnist' is not one of cifar10, imagenet"),
        (("--model-arg", "num_classes=10", "--num-classes", "10"), "num_classes: given more than once"),
        (("--model-arg", "table=cifar10", "--model-arg", "table=imagenet"), "table: given more than once"),
        (("--target", "onnxruntim"), "unknown backend 'onnxruntim'; did you mean onnxruntime or onnxruntime-cuda?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_invalid_value_is_a_usage_error_that_names_the_valid_ones(cli, tmp_path, words, expected):
    result = cli("export", "nin_cifar10", "--data", "synthetic", "-o", tmp_path / "bundle", *words)
    assert result.code == 2
    assert expected in result.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("resnt50",), "unknown model 'resnt50'; did you mean resnet50"),
        (("nin_cifar10", "--opset", "16"), "Choose --opset 17 to 23."),
        (("nin_cifar10", "--model-arg", "num_classes=0"), "num_classes is at least 1, not 0"),
        (("nin_cifar10", "--weights", "nowhere.pth"), "there are no weights 'nowhere.pth'"),
        (("nin_cifar10", "--weights", "imagenet"), "no ImageNet weights are released for nin_cifar10"),
        (("nin_cifar10", "--data", "nowhere"), "'nowhere' is neither a named set nor a folder"),
        (("nin_cifar10", "--batch", "600"), "'synthetic' has 512 samples, and one batch of this graph needs 600."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unusable_input_is_an_input_error_with_the_reason(cli, tmp_path, words, expected):
    result = cli("export", "--data", "synthetic", "-o", tmp_path / "bundle", *words)
    assert result.code == 3
    assert expected in result.text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_images_is_bad_input(cli, tmp_path):
    (tmp_path / "images").mkdir()
    result = cli("export", "nin_cifar10", "--data", tmp_path / "images", "-o", tmp_path / "bundle")
    assert result.code == 3
    assert "there is no image under" in result.text


def test_a_message_prints_names_verbatim(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("verify", "my-bundle").err.startswith("Error: my-bundle is not a bundle")
