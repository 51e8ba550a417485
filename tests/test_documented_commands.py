"""Commands in the documents work as printed.

In README.md and docs/quickstart.md a fenced block of `sh` is a command block. One that cannot run on every machine has
an HTML comment with the reason on the line before it: `<!-- not run: … -->`. All others are run in the printed order.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click
import pytest

from deploykit.cli import VERBS, main_group

ROOT: Final = Path(__file__).resolve().parent.parent
RUN: Final = ("README.md", "docs/quickstart.md")
DOCS: Final = sorted((ROOT / "docs").rglob("*.md"))
BLOCK: Final = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
ACTIVATE: Final = "source .venv/bin/activate"


class Block(NamedTuple):
    """Commands of a document, and the reason if they are not run."""

    document: str
    number: int
    text: str
    reason: str | None


def command_blocks(document: str) -> list[Block]:
    blocks = BLOCK.finditer((ROOT / document).read_text(encoding="utf-8"))
    commands = [match for match in blocks if match["language"] == "sh"]
    return [Block(document, number, match["text"], match["reason"]) for number, match in enumerate(commands, 1)]


def list_documents() -> list[str]:
    return ["README.md", "CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in DOCS)]


def printed_calls(document: str) -> Iterator[list[str]]:
    """The words of each `deploykit` command in a code block, fenced or indented, with continued lines joined."""
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        match = re.match(r"\s*(\$ )?(scripts/)?deploykit (?P<rest>[a-z].*)", line)
        if match is not None and (fenced or line.startswith("    ")):
            lexer = shlex.shlex(match["rest"], posix=True, punctuation_chars="|;&<>()")
            lexer.whitespace_split = True
            yield [*lexer]


def known_options(verb: str) -> set[str]:
    context = click.Context(main_group)
    command = main_group.get_command(context, verb)
    assert command is not None, f"there is no command {verb}"
    commands = [command]
    if isinstance(command, click.Group):
        commands += [found for name in command.list_commands(context) if (found := command.get_command(context, name))]
    names = {
        name for command in commands for option in command.params for name in (*option.opts, *option.secondary_opts)
    }
    return {*names, "--help", "--debug"}


@pytest.mark.parametrize("document", list_documents())
def test_commands_and_options_in_documents_exist(document: str) -> None:
    for words in printed_calls(document):
        verb, *rest = words
        assert verb in VERBS, f"{document}: deploykit {verb}"
        options = [word.partition("=")[0] for word in rest if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)]
        assert set(options) <= known_options(verb), f"{document}: deploykit {shlex.join(words)}"


@pytest.mark.parametrize("document", RUN)
def test_blocks_that_are_not_run_state_the_reason(document: str) -> None:
    blocks = command_blocks(document)
    reasons = [block.reason for block in blocks if block.reason is not None]
    assert len(reasons) == {"README.md": 1, "docs/quickstart.md": 1}[document], reasons
    assert len(blocks) - len(reasons) >= 3


def test_every_exclusion_comment_precedes_a_block() -> None:
    for document in RUN:
        comments = (ROOT / document).read_text(encoding="utf-8").count("<!-- not run")
        assert comments == sum(block.reason is not None for block in command_blocks(document))


def to_anchor(heading: str) -> str:
    """The URL fragment of a rendered heading."""
    return re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-")


@pytest.mark.parametrize("document", [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *DOCS)])
def test_links_between_documents_resolve_to_a_file_and_a_heading(document: str) -> None:
    place = ROOT / document
    for link in re.findall(r"\]\(([^)\s]+)\)", place.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        if ":" in name:
            continue
        target = place.parent / name if name else place
        assert target.exists(), link
        if anchor:
            lines = target.read_text(encoding="utf-8").splitlines()
            assert anchor in {to_anchor(line) for line in lines if line.startswith("#")}, link


def test_the_readme_fits_on_few_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.slow
@pytest.mark.parametrize("document", RUN)
def test_documented_commands_work_as_printed(document: str, tmp_path: Path) -> None:
    """In an empty folder except for two links, which replace the checkout that the set-up starts in."""
    if not (Path(sys.prefix) / "bin/activate").is_file():
        pytest.skip("the tests do not run in a virtual environment")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    variables = {**os.environ, "DEPLOYKIT_PYTHON": sys.executable}  # the set-up installs nothing
    set_up, *others = [block for block in command_blocks(document) if block.reason is None]
    assert ACTIVATE in set_up.text.splitlines()
    for block in (set_up, *others):
        path = "" if block is set_up else f"{ACTIVATE}\n"
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", path + block.text],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        output = f"{block.text}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        assert done.returncode == 0, f"block {block.number} of {document} exits {done.returncode}:\n{output}"
