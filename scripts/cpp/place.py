"""The folders of the checks, and how programs are run there with a log."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

LAST_LINES: Final = 40


class CheckError(Exception):
    """A check that failed: a line that says what, then the end of the log."""


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
    def dependencies(self) -> Path:
        """Libraries and headers, installed by dependencies.py."""
        return self.checkout / ".cpp"

    @property
    def bundles(self) -> Path:
        return self.output / "bundles"

    def with_log(self, step: str) -> Place:
        """The same folders with a new log for this step."""
        log = self.output / "logs" / f"{step}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        return replace(self, log=log)

    def run(self, *words: str | Path, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
        """The program's output, which is logged too. CheckError where its exit code is not 0."""
        command = [str(word) for word in words]
        result = subprocess.run(
            command,
            cwd=folder or self.checkout,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        with self.log.open("a", encoding="utf-8") as log:  # with one write: several programs may share it
            log.write(f"$ {' '.join(command)}\n{result.stdout}")
        if result.returncode != 0:
            end = "\n".join(result.stdout.splitlines()[-LAST_LINES:])
            raise CheckError(
                f"`{Path(command[0]).name}` ended with {result.returncode}\n{' '.join(command)}\n{end}\nlog: {self.log}"
            )
        return result.stdout

    def build_tests(self, preset: str, name: str, *settings: str, targets: Sequence[str] = ("all",)) -> Path:
        """Configure tests/cpp with a preset and build it, by default with ONNX Runtime for x86-64."""
        folder = self.output / name
        settings = settings or (f"-DONNXRuntime_ROOT={self.dependencies}/onnxruntime/x86_64",)
        self.run("cmake", "--preset", preset, "-S", self.tests, "-B", folder, "-G", "Ninja", *settings)
        self.run("cmake", "--build", folder, "--target", *targets)
        return folder
