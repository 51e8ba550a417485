"""Imported first by the programs beside it: in a Python that lacks what they need, they start anew in the checkout's
environment, which scripts/python makes on first use; and the checkout comes before any installed deploykit.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent

NEEDED = ("msgspec", "onnxruntime", "torch")

STARTED = "DEPLOYKIT_STARTED_ANEW"
"""Set where a program runs for the second time: what is missing then stays missing, and Python says so."""

if STARTED not in os.environ and any(find_spec(name) is None for name in NEEDED):
    os.environ[STARTED] = "1"
    os.execv(SCRIPTS / "python", ["python", *sys.argv])

sys.path.insert(0, str(SCRIPTS.parent))
