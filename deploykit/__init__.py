"""deploykit as a Python library: from a PyTorch network to a verified engine, and from its bundle to predictions.

    import deploykit

    bundle = deploykit.load("build/resnet50-int8")      # verifies checksums, loads an engine that this machine can run
    assert bundle.self_test().passed                    # this machine computes what PyTorch computed
    bundle.predict(["cat.jpg"])                         # with the bundle's own resize, crop and normalization
    bundle.run({"input": array})                        # or with arrays that are inputs already

`load`, `verify` and `predict` need the extra `cpu`; `export_bundle` and the other functions need the extra `export`.
They are the verbs of the command line, named verb + object where the verb alone names a package of ours or a Python
builtin (`export`, `compile`, `inspect`): docs/python.md shows each with an example.

The import is cheap: the module of a name is imported when the name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from deploykit.bundle.load import LoadedBundle, load, predict, verify
    from deploykit.cli.progress import TerminalProgress
    from deploykit.core.errors import BackendError, CheckFailed, DeploykitError, InputError, InternalError, UsageError
    from deploykit.core.values import (
        BatchRange,
        Bench,
        BudgetOptions,
        BuildOptions,
        CalibrationOptions,
        Engine,
        EngineInspection,
        ExportOptions,
        ExportRequest,
        Finding,
        ImageOverrides,
        InputSpec,
        Latency,
        LatencyComparison,
        LayerRow,
        Manifest,
        Parity,
        Prediction,
        Preprocessing,
        Progress,
        Runner,
        SecondaryEngine,
        TensorSpec,
        WeightsSource,
    )
    from deploykit.evaluate.latency.load import Load
    from deploykit.evaluate.latency.measure import Settings
    from deploykit.workflows.api import (
        check_parity,
        compare_latency,
        compile_engine,
        examine_machine,
        export_bundle,
        export_request,
        inspect_engines,
        inspect_graph,
        list_networks,
        measure_latency,
        read_manifest,
        write_program,
        write_report,
    )
    from deploykit.workflows.export import Outcome

    __version__: str

__all__ = [
    "BackendError",
    "BatchRange",
    "Bench",
    "BudgetOptions",
    "BuildOptions",
    "CalibrationOptions",
    "CheckFailed",
    "DeploykitError",
    "Engine",
    "EngineInspection",
    "ExportOptions",
    "ExportRequest",
    "Finding",
    "ImageOverrides",
    "InputError",
    "InputSpec",
    "InternalError",
    "Latency",
    "LatencyComparison",
    "LayerRow",
    "Load",
    "LoadedBundle",
    "Manifest",
    "Outcome",
    "Parity",
    "Prediction",
    "Preprocessing",
    "Progress",
    "Runner",
    "SecondaryEngine",
    "Settings",
    "TensorSpec",
    "TerminalProgress",
    "UsageError",
    "WeightsSource",
    "check_parity",
    "compare_latency",
    "compile_engine",
    "examine_machine",
    "export_bundle",
    "export_request",
    "inspect_engines",
    "inspect_graph",
    "list_networks",
    "load",
    "measure_latency",
    "predict",
    "read_manifest",
    "verify",
    "write_program",
    "write_report",
]

HOMES: Final = (
    "deploykit.core.errors",
    "deploykit.core.values",
    "deploykit.bundle.load",
    "deploykit.workflows.api",
    "deploykit.evaluate.latency.load",
    "deploykit.evaluate.latency.measure",
    "deploykit.cli.progress",
    "deploykit.workflows.export",
)
"""Modules that define the public names, the quickest to import first."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("deploykit")
    for home in HOMES if name in __all__ else ():
        module = importlib.import_module(home)
        if hasattr(module, name):
            globals()[name] = getattr(module, name)
            return globals()[name]
    raise AttributeError(f"module 'deploykit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
