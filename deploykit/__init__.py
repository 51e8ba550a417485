"""From a network to a verified engine, and from the bundle that holds it to answers, as functions of Python.

    import deploykit

    bundle = deploykit.load("build/resnet50-int8")      # digests checked, an engine that this machine runs
    assert bundle.self_test().passed                    # this machine computes what PyTorch computed
    bundle.predict(["cat.jpg"])                         # its own preprocessing, resized, cropped, normalised
    bundle.run({"input": array})                        # or arrays as they are

`load`, `verify` and `predict` need what `pip install 'deploykit[cpu]'` brings; `export_bundle` and its like need
`deploykit[export]`. The functions are those of the command line, named as verb and object where the verb alone is a
package of ours or a name of Python's (`export`, `compile`, `inspect`): docs/python.md has each with an example.

Importing this costs next to nothing: what a name needs is imported when the name is first used.
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
        Beside,
        BudgetOptions,
        BuildOptions,
        CalibrationOptions,
        Comparison,
        Engine,
        EngineAccount,
        ExportOptions,
        ExportRequest,
        Finding,
        ImageOverrides,
        InputSpec,
        Latency,
        LayerRow,
        Manifest,
        Parity,
        Prediction,
        Preprocessing,
        Progress,
        Runner,
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
    "Beside",
    "BudgetOptions",
    "BuildOptions",
    "CalibrationOptions",
    "CheckFailed",
    "Comparison",
    "DeploykitError",
    "Engine",
    "EngineAccount",
    "ExportOptions",
    "ExportRequest",
    "Finding",
    "ImageOverrides",
    "InputError",
    "InputSpec",
    "InternalError",
    "Latency",
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
"""Where public names live, what is imported quickest first."""


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
