"""python_runner.py BUNDLE: deploykit's Python runner, answering requests as the C++ programs beside it do.

The first line gives ONNX Runtime's version, once it has answered. Then `python` runs one call and is answered with its
nanoseconds, `own` with those spent outside of ONNX Runtime's compiled module, `memory` with the peak in bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from deploykit.backends import backend
from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files, golden
from deploykit.evaluate.latency.clock import MONOTONIC
from deploykit.evaluate.latency.memory import peak_memory_bytes


class Noting:
    """ONNX Runtime's compiled session, which notes how long a run in it took."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inside = 0

    def run(self, *arguments: Any) -> Any:
        start = MONOTONIC()
        answer = self._session.run(*arguments)
        self.inside = MONOTONIC() - start
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def main() -> None:
    folder = Path(sys.argv[1])
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    runner = backend("onnxruntime").load(manifest.engine, folder)
    rows, _ = golden(folder, manifest)
    inputs = {name: array[:1] for name, array in rows.items()}
    session = runner._session  # type: ignore[attr-defined]  # neither has a public name
    noting = session._sess = Noting(session._sess)
    runner.run(inputs)
    print(manifest.engine.version, flush=True)
    for request in sys.stdin:
        if request == "memory\n":
            print(peak_memory_bytes(), flush=True)
            continue
        start = MONOTONIC()
        runner.run(inputs)
        whole = MONOTONIC() - start
        print(whole - noting.inside if request == "own\n" else whole, flush=True)


if __name__ == "__main__":
    main()
