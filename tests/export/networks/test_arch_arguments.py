import subprocess
import sys
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.core.errors import InputError, UsageError
from deploykit.core.values import Architecture, Preprocessing
from deploykit.export.architectures import CATALOG
from deploykit.export.networks import catalog


class Network:
    def __init__(
        self,
        depths: tuple[int, ...] = (1, 2),
        width: int = 4,
        dropout: float = 0.5,
        batch_norm: bool = False,
        stem: Literal["none", "resnet34"] = "none",
        kernel: Literal[3, 5] = 3,
        note: str = "",
    ) -> None: ...


def function(width: int = 4) -> object:
    return width


def architecture(build=Network) -> Architecture:
    return Architecture("toy", "Toy", "nowhere", build, {}, Preprocessing(8, 8, 8), "fc")


# ── Values take the constructor's types ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("depths=3,4,6,3", {"depths": (3, 4, 6, 3)}),
        ("depths=3", {"depths": (3,)}),
        ("width=64", {"width": 64}),
        ("width=-1", {"width": -1}),
        ("dropout=0.25", {"dropout": 0.25}),
        ("dropout=1e-3", {"dropout": 0.001}),
        ("dropout=0", {"dropout": 0.0}),
        ("batch_norm=true", {"batch_norm": True}),
        ("batch_norm=False", {"batch_norm": False}),
        ("stem=resnet34", {"stem": "resnet34"}),
        ("kernel=5", {"kernel": 5}),
        ("note=a=b", {"note": "a=b"}),
        ("note=", {"note": ""}),
    ],
)
def test_a_value_is_converted_to_the_type_of_the_constructor(text, parsed):
    arguments = catalog.parse_arguments(architecture(), [text])
    assert arguments == parsed
    assert [type(value) for value in arguments.values()] == [type(value) for value in parsed.values()]


def test_several_arguments_are_parsed_together():
    assert catalog.parse_arguments(architecture(), ["width=8", "kernel=5"]) == {"width": 8, "kernel": 5}


def test_without_arguments_the_network_is_unchanged():
    assert catalog.parse_arguments(architecture(), []) == {}


def test_a_function_builds_as_well_as_a_class():
    assert catalog.parse_arguments(architecture(function), ["width=8"]) == {"width": 8}


@given(
    width=st.integers(-(10**9), 10**9), dropout=st.floats(allow_nan=False), depths=st.lists(st.integers(), min_size=1)
)
def test_python_literals_round_trip(width, dropout, depths):
    texts = [f"width={width}", f"dropout={dropout!r}", f"depths={','.join(map(str, depths))}"]
    expected = {"width": width, "dropout": dropout, "depths": tuple(depths)}
    assert catalog.parse_arguments(architecture(), texts) == expected


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("depths=3,four", "comma-separated integers"),
        ("depths=", "comma-separated integers"),
        ("depths=3,,4", "comma-separated integers"),
        ("width=1.5", "an integer"),
        ("width=", "an integer"),
        ("dropout=half", "a number"),
        ("batch_norm=1", "true or false"),
        ("batch_norm=yes", "true or false"),
        ("stem=resnet50", "one of none, resnet34"),
        ("kernel=4", "one of 3, 5"),
    ],
)
def test_the_error_for_a_value_of_another_type_names_the_expected_type(text, expected):
    key, _, value = text.partition("=")
    with pytest.raises(UsageError) as caught:
        catalog.parse_arguments(architecture(), [text])
    assert caught.value.what == f"--model-arg {text}: {value!r} is not {expected}."
    assert key in str(caught.value)


def test_the_error_for_an_unknown_key_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown argument of toy 'widht'; did you mean width"):
        catalog.parse_arguments(architecture(), ["widht=8"])


def test_the_error_for_a_key_unlike_any_other_lists_all():
    with pytest.raises(UsageError, match="choose from batch_norm, depths, dropout, kernel, note, stem, width"):
        catalog.parse_arguments(architecture(), ["qqq=8"])


def test_the_error_for_text_without_equals_lists_keys_and_types():
    with pytest.raises(UsageError, match="'width' is not KEY=VALUE") as caught:
        catalog.parse_arguments(architecture(), ["width"])
    assert "width=an integer" in caught.value.remedy
    assert "stem=one of none, resnet34" in caught.value.remedy


# ── The catalog ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_known_network_is_accepted():
    catalog.require_known_model("resnet50")


def test_the_error_for_a_misspelt_network_suggests_the_nearest():
    with pytest.raises(InputError, match="unknown model 'resnt50'; did you mean resnet50"):
        catalog.require_known_model("resnt50")


def test_find_refuses_an_unknown_name():
    with pytest.raises(InputError, match="unknown model 'nothing'"):
        catalog.find_architecture("nothing")


def test_find_returns_the_network_with_the_name():
    assert catalog.find_architecture("vgg11").name == "vgg11"


def test_there_is_one_row_per_network():
    assert [row.name for row in catalog.read_catalog()] == list(CATALOG)


def test_listing_and_checking_a_name_import_no_heavy_library():
    program = (
        "import sys; from deploykit.export.networks import catalog;"
        "catalog.read_catalog(); catalog.require_known_model('vgg11');"
        "print(*sorted({'torch', 'torchvision', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
