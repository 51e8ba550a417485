"""`--json`: one versioned document, the same for every verb."""

import json

import pytest

from deploykit.core.values import BatchRange, Finding
from deploykit.export.networks import catalog
from deploykit.report.document import encode_document


def test_a_document_states_its_version_and_kind():
    assert json.loads(encode_document("batch", BatchRange(1, 2, 3))) == {
        "deploykit": 1,
        "kind": "batch",
        "content": {"minimum": 1, "optimum": 2, "maximum": 3},
    }


@pytest.mark.parametrize("sequence", [list, tuple])
def test_a_sequence_is_an_array(sequence):
    rows = sequence([Finding("torch", "ok", "2.15"), Finding("nvcc", "missing", "×", "install it")])
    content = json.loads(encode_document("doctor", rows))["content"]
    assert content == [
        {"subject": "torch", "state": "ok", "detail": "2.15", "remedy": None},
        {"subject": "nvcc", "state": "missing", "detail": "×", "remedy": "install it"},
    ]


def test_an_empty_sequence_is_an_empty_array():
    assert json.loads(encode_document("parity", []))["content"] == []


def test_a_document_is_indented():
    assert encode_document("catalog", catalog.read_catalog()).splitlines()[:3] == [
        "{",
        '  "deploykit": 1,',
        '  "kind": "catalog",',
    ]
