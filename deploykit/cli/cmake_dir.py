"""`deploykit cmake-dir`"""

from __future__ import annotations

import click


@click.command("cmake-dir")
def command() -> None:
    """The folder for find_package(deploykit): cmake -Ddeploykit_DIR=$(deploykit cmake-dir)"""
    from deploykit.core.cpp_programs import CMAKE_FOLDER

    click.echo(CMAKE_FOLDER)
