"""`schema.json` is what the C++ loader is tested against: it must agree with what Python reads."""

import json
from pathlib import Path

import jsonschema
import pytest

from deploykit.bundle import manifest as manifests

PATH = Path(manifests.__file__).with_name("schema.json")


@pytest.fixture(scope="module")
def schema():
    return jsonschema.Draft202012Validator(json.loads(PATH.read_bytes()))


@pytest.fixture
def content(fp32_bundle):
    return json.loads((fp32_bundle / "manifest.json").read_bytes())


def test_the_schema_is_up_to_date():
    assert PATH.read_text(encoding="utf-8") == manifests.generate_schema(), "run scripts/update_generated"


def test_the_schema_is_valid():
    jsonschema.Draft202012Validator.check_schema(json.loads(PATH.read_bytes()))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_real_manifest_satisfies_the_schema(schema, precision, request):
    bundle = request.getfixturevalue(f"{precision}_bundle")
    schema.validate(json.loads((bundle / "manifest.json").read_bytes()))


def test_another_version_violates_the_schema(schema, content):
    content["schema_version"] = 3
    assert not schema.is_valid(content)


@pytest.mark.parametrize("place", ["model", "weights", "graph", "golden", "parity", "provenance", "batch"])
def test_an_extra_field_violates_the_schema(schema, content, place):
    content[place]["colour"] = "blue"
    assert not schema.is_valid(content)


def test_every_field_of_the_manifest_is_required(schema, content):
    for name in content:
        assert not schema.is_valid({key: value for key, value in content.items() if key != name}), name
