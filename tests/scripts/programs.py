"""Loads the programs of scripts/, whose names have no suffix, as modules."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

sys.path += [str(SCRIPTS), str(SCRIPTS / "benchmarks")]  # where Python finds the modules that a program imports

import common  # noqa: E402, F401 - for the tests that import it from here


def load_program(path: str) -> Any:
    """`benchmarks/latency` or `train_digits`."""
    file = SCRIPTS / path
    loader = SourceFileLoader(file.name, str(file))
    spec = spec_from_loader(file.name, loader)
    assert spec is not None
    module: ModuleType = module_from_spec(spec)
    sys.modules[file.name] = module  # where msgspec looks for the names in annotations
    loader.exec_module(module)
    return module
