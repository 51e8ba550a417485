"""Function names: verb and object, without frequent repetition."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

PROTOCOLS: Final = {
    "forward",  # torch.nn.Module
    "run",  # Runner
    "apply",  # a pass
    "convert",  # click.ParamType
    "compile",  # Backend
    "load",  # Backend
    "require_known_model",  # a source of networks
    "find_architecture",  # the same
}
"""What an interface prescribes, ours or a library's."""


def function_names() -> Iterator[str]:
    """Names of all functions and methods of the package, except those of Python's protocols."""
    for folder in ("deploykit", "architectures", "calibration"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.endswith("__"):
                    yield node.name


def test_most_function_names_have_a_verb_and_an_object(capsys):
    names = list(function_names())
    one_word = [name for name in names if "_" not in name.strip("_")]
    with capsys.disabled():
        print(f"\n{len(one_word)} of {len(names)} function names are one word: {len(one_word) / len(names):.0%}")
    assert len(names) > 1000
    assert len(one_word) / len(names) <= 0.2


def test_no_function_name_outside_a_protocol_occurs_more_than_six_times():
    counts = Counter(function_names())
    assert {name: count for name, count in counts.items() if count > 6 and name not in PROTOCOLS} == {}
