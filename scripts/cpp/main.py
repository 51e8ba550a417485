"""Every check of the C++ library, from a fresh clone on, and what was seen as a table.

scripts/test_cpp                              all of it, into build/cpp
scripts/test_cpp --only gcc fuzz -o /tmp/cpp  these steps and what they need

The first call fetches what is built against into .cpp, by dependencies.py; steps.py has the other steps. A step that
fails shows the end of its log, which lies in the folder's logs/, and the others go on.

Exit 0: all that was asked for passed. 1: something did not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SCRIPTS: Final = Path(__file__).resolve().parent.parent
CHECKOUT: Final = SCRIPTS.parent
sys.path[:0] = [str(SCRIPTS), str(CHECKOUT)]  # this checkout before any installed deploykit

from cpp.place import Failed, Place  # noqa: E402 - found by the line above
from cpp.steps import STEPS, Step  # noqa: E402
from cpp.table import Row, table  # noqa: E402

from deploykit.core.errors import DeploykitError  # noqa: E402


def main() -> int:
    arguments = parse()
    place = Place(CHECKOUT, arguments.output.resolve(), arguments.fuzz_seconds)
    rows = []
    for step in plan(arguments.only):
        print(f"── {step.name}", flush=True)
        row = done(step, place)
        print(f"   {row.seen} ({row.seconds:.0f} s)", flush=True)
        rows.append(row)
    print(f"\n{table(rows)}")
    failed = [row.step for row in rows if not row.passed]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/test_cpp", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("-o", "--output", type=Path, default=CHECKOUT / "build/cpp", metavar="FOLDER")
    parser.add_argument("--fuzz-seconds", type=int, default=60, metavar="N", help="for all fuzzers together (60)")
    return parser.parse_args()


def plan(only: Sequence[str] | None) -> list[Step]:
    """The steps asked for and those that they need, in their order."""
    wanted = set(only or STEPS)
    for name, step in reversed(STEPS.items()):
        if name in wanted:
            wanted.update(step.needs)
    return [step for name, step in STEPS.items() if name in wanted]


def done(step: Step, place: Place) -> Row:
    """The step's row, whatever became of it."""
    start = time.monotonic()
    try:
        seen, passed = step.act(place.of(step.name)), True
    except (Failed, DeploykitError, OSError) as error:
        print(error, file=sys.stderr)
        seen, passed = str(error).splitlines()[0], False
    return Row(step.name, step.built_for, seen, time.monotonic() - start, passed)


if __name__ == "__main__":
    sys.exit(main())
