"""`deploykit run`"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("run")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="How many classes.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def command(bundle: Path, images: tuple[Path, ...], top: int, as_json: bool) -> None:
    """The best classes of each IMAGE, through BUNDLE's own preprocessing and graph."""
    from deploykit.bundle import load
    from deploykit.report import terminal
    from deploykit.report.document import document

    loaded = load.load(bundle)
    predictions = loaded.predict(images, top)
    if as_json:
        click.echo(document("predictions", predictions))
        return
    out = terminal.console()
    out.print(terminal.predictions(predictions), soft_wrap=True)
    if not loaded.manifest.weights.trained:
        out.print(terminal.note("the network is untrained, and its answers mean nothing"))
