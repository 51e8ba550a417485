"""deploykit's commands as a user types them, and its verdict as a user reads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from verdicts.networks import USER_CODE

SCRIPTS: Final = Path(__file__).resolve().parent.parent

CHECK_FAILED: Final = 1
"""deploykit's exit code where a check failed; larger ones mean that there is no verdict."""

VERDICT_LINE: Final = re.compile(r"^(PASSED|FAILED)\b", re.MULTILINE)
PRINTED_REASON: Final = re.compile(r"^FAILED  (?!\w+ against )(.*?)(?: Try: .*)?$", re.MULTILINE)
INT8_SHARE: Final = re.compile(r"([\d.]+) % INT8")
EXECUTED: Final = re.compile(r"^executed precision: (.*?)(?: \(.*\))?$", re.MULTILINE)


class Finished(NamedTuple):
    """A command that ended."""

    code: int
    out: str
    err: str


class Verdict(NamedTuple):
    """What deploykit says of a bundle."""

    word: str
    """PASSED or FAILED; REFUSED where there is no bundle."""
    reasons: tuple[str, ...]
    executed: str
    """Executed precision, as printed."""

    @property
    def passed(self) -> bool:
        return self.word == "PASSED"


def run_deploykit(arguments: Sequence[str], networks: Path, cache: Path) -> Finished:
    """The checkout's deploykit, in this Python, with the published packages and the user's code importable."""
    path = os.pathsep.join([str(USER_CODE), str(networks), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {
        "PYTHONPATH": path,
        "DEPLOYKIT_PYTHON": sys.executable,
        "DEPLOYKIT_CACHE_DIR": str(cache),
        "NO_COLOR": "1",
    }
    command = [str(SCRIPTS / "deploykit"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def read_verdict(done: Finished, bundle: Path) -> Verdict:
    """The verdict of an export: its exit code, which the first word of its verdict line must agree with, and the
    failures that the manifest lists. This is the only place that knows how deploykit says it.
    """
    if done.code > CHECK_FAILED or not (bundle / "manifest.json").is_file():
        reason = done.err.strip().splitlines()[-1:] or [f"exit code {done.code}"]
        return Verdict("REFUSED", tuple(reason), "–")
    word = "PASSED" if done.code == 0 else "FAILED"
    printed = VERDICT_LINE.search(done.out)
    reasons = list(dict.fromkeys(find_failures(json.loads((bundle / "manifest.json").read_bytes()))))
    if printed is None or printed[1] != word:
        reasons.append(f"exit code {done.code}, but it prints {printed[1] if printed else 'no verdict'}")
        word = "FAILED"
    if word == "FAILED" and not reasons:
        reasons = PRINTED_REASON.findall(done.out)
    executed = EXECUTED.search(done.out)
    return Verdict(word, tuple(reasons), executed[1] if executed else "not printed")


def read_int8_share(executed: str) -> float:
    """`92 % INT8, 8 % FP32 by MACs` is 0.92; 0 where INT8 is not in it."""
    share = INT8_SHARE.search(executed)
    return float(share[1]) / 100 if share else 0.0


def find_failures(document: Any) -> Iterator[str]:
    """The texts under every key `failures` of a JSON document, wherever it stands."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "failures" and isinstance(value, list):
                yield from (text for text in value if isinstance(text, str))
            else:
                yield from find_failures(value)
    elif isinstance(document, list):
        for value in document:
            yield from find_failures(value)


def find_failing_stage(document: Any) -> str | None:
    """The first stage with failures in the document of `parity --stages --json`; `all together` where each stage is
    within its bound and their sum is not; None where nothing failed.
    """
    for diagnosis in document["content"]:
        stages = diagnosis["stages"]
        for stage in stages["stages"]:
            if stage["failures"]:
                return str(stage["stage"])
        if stages.get("combined_failures"):
            return "all together"
    return None
