"""All checks of the C++ library, from a fresh clone, with the results as a table.

scripts/test_cpp                              all of it, into build/cpp
scripts/test_cpp --only gcc fuzz -o /tmp/cpp  these steps and those that they need

The first call fetches libraries and headers into .cpp (dependencies.py); steps.py has the other steps. For a step that
fails the end of its log is printed, which is in the folder's logs/, and the other steps go on.

Exit 0: all steps passed. 1: a step failed.
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

from cpp.place import CheckError, Place  # noqa: E402 - found by the line above
from cpp.steps import STEPS, Step  # noqa: E402
from cpp.table import Row, format_table  # noqa: E402

from deploykit.core.errors import DeploykitError  # noqa: E402


def main() -> int:
    arguments = parse_arguments()
    place = Place(CHECKOUT, arguments.output.resolve(), arguments.fuzz_seconds)
    rows = []
    for step in plan_steps(arguments.only):
        print(f"── {step.name}", flush=True)
        row = run_step(step, place)
        print(f"   {row.result} ({row.seconds:.0f} s)", flush=True)
        rows.append(row)
    print(f"\n{format_table(rows)}")
    failed = [row.step for row in rows if not row.passed]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/test_cpp", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("-o", "--output", type=Path, default=CHECKOUT / "build/cpp", metavar="FOLDER")
    parser.add_argument("--fuzz-seconds", type=int, default=60, metavar="N", help="for all fuzzers together (60)")
    return parser.parse_args()


def plan_steps(only: Sequence[str] | None) -> list[Step]:
    """The selected steps and those that they need, in their order."""
    wanted = set(only or STEPS)
    for name, step in reversed(STEPS.items()):
        if name in wanted:
            wanted.update(step.needs)
    return [step for name, step in STEPS.items() if name in wanted]


def run_step(step: Step, place: Place) -> Row:
    """The step's row, whether it passed or failed."""
    start = time.monotonic()
    try:
        result, passed = step.run(place.with_log(step.name)), True
    except (CheckError, DeploykitError, OSError) as error:
        print(error, file=sys.stderr)
        result, passed = str(error).splitlines()[0], False
    return Row(step.name, step.built_for, result, time.monotonic() - start, passed)


if __name__ == "__main__":
    sys.exit(main())
