"""`deploykit run`"""

from __future__ import annotations

from pathlib import Path

import click

from deploykit.cli.loaded_engine import add_backend_option, note_skipped_engines


@click.command("run")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Number of classes per image.")
@add_backend_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def run_command(bundle: Path, images: tuple[Path, ...], top: int, backend: str | None, as_json: bool) -> None:
    """Classify each IMAGE with BUNDLE's own preprocessing and graph."""
    from deploykit.bundle import load
    from deploykit.report import terminal
    from deploykit.report.document import encode_document

    loaded = load.load(bundle, backend)
    note_skipped_engines(loaded)
    predictions = loaded.predict(images, top)
    if as_json:
        click.echo(encode_document("predictions", predictions))
        return
    out = terminal.create_console()
    out.print(terminal.render_predictions(predictions), soft_wrap=True)
    if not loaded.manifest.weights.trained:
        out.print(terminal.render_note("the network is untrained: its predictions are meaningless"))
