"""Replaces `deploykit export`: copies a prepared bundle, or behaves as the network's name says.

stand_in_export.py BUNDLE MARKS export MODEL … -o DESTINATION

Each execution writes a file to MARKS when it starts and one when it ends, named after its process.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

SLOW_S = 600


def main():
    bundle, marks, _, model, *words = sys.argv[1:]
    destination, execution = Path(words[words.index("-o") + 1]), os.environ["DEPLOYKIT_EXECUTION"]
    mark(marks, "begun", execution, f"{destination.name} {os.getpid()}")
    kind = model.partition("-")[0]
    if kind == "refused":
        print("A note.\nError: there is nothing in\nthis network. Give another one.", file=sys.stderr)
        sys.exit(3)
    elif kind == "crashing":
        os.abort()
    elif kind == "slow":
        time.sleep(SLOW_S)
    elif kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "once" and times_begun(marks, destination.name) == 1:
        time.sleep(SLOW_S)
    elif kind == "reading":
        weights = Path(words[words.index("--weights") + 1])
        mark(marks, "read", execution, f"{weights} {weights.read_text()}")
    shutil.copytree(bundle, destination)
    if kind == "marked":
        fail(destination / "manifest.json")
    mark(marks, "finished", execution, destination.name)
    sys.exit(1 if kind == "marked" else 0)


def fail(manifest):
    content = json.loads(manifest.read_text())
    content["parity"].update(passed=False, failures=["it is too far off"])
    manifest.write_text(json.dumps(content))


def times_begun(marks, cell):
    return sum(path.read_text().split()[0] == cell for path in Path(marks).glob("begun-*"))


def mark(marks, what, execution, text):
    Path(marks, f"{what}-{execution}").write_text(text)


main()
