"""Imported first by the Python programs in this folder. In a Python that lacks the packages they need, it restarts them
in the checkout's environment, which scripts/python creates on first use. It also puts the checkout before any installed
deploykit on the import path.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent

REQUIRED_PACKAGES = ("msgspec", "onnxruntime", "torch")

RESTARTED = "DEPLOYKIT_RESTARTED"
"""Set in the second run of a program: a package that is missing there is reported by Python's own ImportError."""

if RESTARTED not in os.environ and any(find_spec(name) is None for name in REQUIRED_PACKAGES):
    os.environ[RESTARTED] = "1"
    os.execv(SCRIPTS / "python", ["python", *sys.argv])

sys.path.insert(0, str(SCRIPTS.parent))
