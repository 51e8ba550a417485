"""python_runner.py BUNDLE: deploykit's Python runner, with the protocol of the C++ programs.

The first line of output is ONNX Runtime's version, printed after one call. Then each line of input is answered:
`python` runs a call and prints its nanoseconds, `own` those spent outside of ONNX Runtime's compiled module, `memory`
prints the peak in bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from deploykit.backends import create_backend
from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files, read_golden
from deploykit.evaluate.latency.clock import MONOTONIC
from deploykit.evaluate.latency.memory import peak_memory_bytes


class TimedSession:
    """ONNX Runtime's compiled session, with the duration of the last run in it."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inside_ns = 0

    def run(self, *arguments: Any) -> Any:
        start = MONOTONIC()
        outputs = self._session.run(*arguments)
        self.inside_ns = MONOTONIC() - start
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def main() -> None:
    folder = Path(sys.argv[1])
    manifest = manifests.read_manifest(folder)
    check_files(folder, manifest)
    runner = create_backend("onnxruntime").load(manifest.engine, folder)
    rows, _ = read_golden(folder, manifest)
    inputs = {name: array[:1] for name, array in rows.items()}
    session = runner._session  # type: ignore[attr-defined]  # neither has a public name
    timed = session._sess = TimedSession(session._sess)
    runner.run(inputs)
    print(manifest.engine.version, flush=True)
    for request in sys.stdin:
        if request == "memory\n":
            print(peak_memory_bytes(), flush=True)
            continue
        start = MONOTONIC()
        runner.run(inputs)
        whole = MONOTONIC() - start
        print(whole - timed.inside_ns if request == "own\n" else whole, flush=True)


if __name__ == "__main__":
    main()
