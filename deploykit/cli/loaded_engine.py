"""The option that names an engine's backend, and the lines that say which engine runs in place of a skipped one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from deploykit.bundle.load import LoadedBundle

add_backend_option = click.option(
    "--backend",
    metavar="NAME",
    help="Backend that runs the bundle: onnxruntime, onnxruntime-cuda, openvino, tensorrt or tensorrt-rtx (default: "
    "that of the primary engine, else of the fastest that passed and runs here).",
)
"""Decorator of commands that load a bundle."""


def note_skipped_engines(loaded: LoadedBundle) -> None:
    """Print to stderr why the engine that runs is not the primary one; nothing if it is."""
    from deploykit.report import terminal

    if not loaded.skipped_engines:
        return
    console = terminal.create_console(stderr=True)
    for reason in loaded.skipped_engines:
        console.print(terminal.render_note(reason))
    console.print(terminal.render_note(f"{loaded.engine.backend} {loaded.engine.version} runs instead"))
