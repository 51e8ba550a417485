"""Where the checks happen: the checkout, the folders they write into, and programs run there with a log."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

LAST_LINES: Final = 40


class Failed(Exception):
    """A check that did not hold: a line on what, and then the end of the log."""


@dataclass(frozen=True, slots=True)
class Place:
    """The folders of one call."""

    checkout: Path
    output: Path
    fuzz_seconds: int
    log: Path = Path(os.devnull)

    @property
    def library(self) -> Path:
        return self.checkout / "deploykit/cpp"

    @property
    def tests(self) -> Path:
        return self.checkout / "tests/cpp"

    @property
    def found(self) -> Path:
        """What dependencies.py laid out."""
        return self.checkout / ".cpp"

    @property
    def bundles(self) -> Path:
        return self.output / "bundles"

    def of(self, step: str) -> Place:
        """The same with a log of the step's own, empty."""
        log = self.output / "logs" / f"{step}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        return replace(self, log=log)

    def run(self, *words: str | Path, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
        """What the program says, which goes into the log too. Failed where it does not end well."""
        said = [str(word) for word in words]
        done = subprocess.run(
            said,
            cwd=folder or self.checkout,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        with self.log.open("a", encoding="utf-8") as log:  # in one piece: several programs may share it
            log.write(f"$ {' '.join(said)}\n{done.stdout}")
        if done.returncode != 0:
            end = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
            raise Failed(
                f"`{Path(said[0]).name}` ended with {done.returncode}\n{' '.join(said)}\n{end}\nlog: {self.log}"
            )
        return done.stdout

    def build(self, preset: str, name: str, *words: str, targets: Sequence[str] = ("all",)) -> Path:
        """tests/cpp, configured by a preset and built, with ONNX Runtime for x86-64 unless `words` say otherwise."""
        folder = self.output / name
        settings = words or (f"-DONNXRuntime_ROOT={self.found}/onnxruntime/x86_64",)
        self.run("cmake", "--preset", preset, "-S", self.tests, "-B", folder, "-G", "Ninja", *settings)
        self.run("cmake", "--build", folder, "--target", *targets)
        return folder
