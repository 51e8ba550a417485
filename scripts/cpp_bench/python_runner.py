"""python_runner.py BUNDLE: deploykit's Python runner, answering requests as the C++ programs beside it do.

The first line gives ONNX Runtime's version, once it has answered. Then `python` runs one call and is answered with its
nanoseconds, `memory` with the peak in bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploykit.backends import backend
from deploykit.bench.clock import MONOTONIC
from deploykit.bench.memory import peak_memory_bytes
from deploykit.bundle import manifest as manifests
from deploykit.bundle.verify import check_files, golden


def main() -> None:
    folder = Path(sys.argv[1])
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    runner = backend("onnxruntime").load(manifest.engine, folder)
    rows, _ = golden(folder, manifest)
    inputs = {name: array[:1] for name, array in rows.items()}
    runner.run(inputs)
    print(manifest.engine.version, flush=True)
    for request in sys.stdin:
        if request == "memory\n":
            print(peak_memory_bytes(), flush=True)
            continue
        start = MONOTONIC()
        runner.run(inputs)
        print(MONOTONIC() - start, flush=True)


if __name__ == "__main__":
    main()
