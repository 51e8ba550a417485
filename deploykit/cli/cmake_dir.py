"""`deploykit cmake-dir`"""

from __future__ import annotations

import click


@click.command("cmake-dir")
def cmake_dir_command() -> None:
    """Print the folder for find_package(deploykit): cmake -Ddeploykit_DIR=$(deploykit cmake-dir)"""
    from deploykit.core.cpp_programs import CMAKE_FOLDER

    click.echo(CMAKE_FOLDER)
