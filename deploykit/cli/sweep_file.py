"""`sweep.toml`: command lines of `deploykit export`, told many at once.

Its keys are the options of `deploykit export` without their dashes, and `model` and `precision`; so whatever `export`
learns, a sweep knows. README of the format: docs/sweeps.md.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, get_args

import click
import msgspec

from deploykit.backends import BACKENDS
from deploykit.backends.choice import AUTO, FOR_BF16, ON_GPU, PREFERRED
from deploykit.cli.build_options import OPTIONS as BUILD
from deploykit.cli.export import INT8_ONLY
from deploykit.cli.export import command as export
from deploykit.core.errors import InputError, unknown
from deploykit.core.values import ExportOptions, Precision
from deploykit.core.values.sweeps import Cell, FleetOptions, Sweep
from deploykit.export.networks import sources

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings: TypeAlias = Mapping[str, Any]
"""What a table says, by key; each value was tried on the option of that name."""

TABLES: Final = ("matrix", "common", "model", "precision", "target", "exclude", "fleet")

FLAGS: Final[Mapping[Precision, tuple[str, ...]]] = {
    "fp32": ("--fp32",), "fp16": ("--fp16",), "bf16": ("--bf16",), "int8": ("--int8",),
    "int8-fp16": ("--int8", "--fp16"),
}  # fmt: skip

ELSEWHERE: Final = {"fp32", "fp16", "bf16", "int8", "output", "force", "json", "help"}
"""Options of `export` that a sweep says otherwise: `precision`, and words of its own command line."""

FIRST: Final = ("model", "precision", "target")
"""What every bundle's name begins with."""

BF16_OPSET: Final = 22
"""From here on ONNX has convolutions in BF16."""

FILES: Final = (".onnx", ".pt2")
"""Networks that bring an opset of their own."""

GPU: Final = {"GPU": 1.0}
"""What `tensorrt` needs where its table does not say: Ray's own word for any GPU."""


class File(NamedTuple):
    """The tables of one sweep.toml."""

    path: Path
    matrix: Settings
    common: Settings
    models: Mapping[str, Settings]
    precisions: Mapping[str, Settings]
    targets: Mapping[str, Settings]
    excluded: tuple[Settings, ...]
    fleet: FleetOptions


def read(path: Path) -> Sweep:
    """The sweep that a file tells of. InputError, with the file and the key, for whatever it may not hold."""
    file = _file(path)
    cells: dict[str, Cell] = {}
    used: set[int] = set()
    for model in file.matrix["model"]:
        for chosen in _combinations(file, model):
            if (number := _exclusion(file, chosen)) is not None:
                used.add(number)
                continue
            cell = _cell(file, chosen)
            if cells.setdefault(cell.name, cell).words != cell.words:
                raise _wrong(path, "[matrix]", f"two different cells would both be called {cell.name}; rename a file")
    if idle := set(range(len(file.excluded))) - used:
        raise _wrong(path, f"[[exclude]] number {min(idle) + 1}", "it excludes no cell")
    if not cells:
        raise _wrong(path, "[[exclude]]", "every cell is excluded")
    return Sweep(path.stem, str(path.absolute().parent), tuple(cells.values()), file.fleet)


def options() -> dict[str, click.Option]:
    """The options of `export` that a sweep may set, by name."""
    named = {max(param.opts, key=len).removeprefix("--"): param for param in export.params}
    return {name: param for name, param in named.items() if isinstance(param, click.Option) and name not in ELSEWHERE}


# ── The file ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _file(path: Path) -> File:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"There is no {path}.", "docs/sweeps.md shows what one holds.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder.", "Give the .toml file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}.", "docs/sweeps.md shows what one holds.") from error
    for key in document:
        if key not in TABLES:
            raise _wrong(path, f"[{key}]", unknown("table", key, TABLES))
    matrix = _table(path, "matrix", document.get("matrix", {}))
    common = _table(path, "common", document.get("common", {}))
    known = _known()
    for key, values in matrix.items():
        _require_key(path, "[matrix]", key, known)
        if not isinstance(values, list):
            raise _wrong(path, f"[matrix] {key}", f"write a list, such as {key} = [{_shown(values)}]")
        if not values:
            raise _wrong(path, f"[matrix] {key}", "the list is empty, so that there is nothing to make")
        if len({str(value) for value in values}) < len(values):
            raise _wrong(path, f"[matrix] {key}", "the same value stands in it twice")
    if "model" not in matrix:
        raise _wrong(path, "[matrix]", 'it needs networks: model = ["resnet18"]')
    file = File(
        path,
        matrix,
        common,
        _tables(path, "model", document, [str(name) for name in matrix["model"]]),
        _tables(path, "precision", document, get_args(Precision)),
        _tables(path, "target", document, None),
        tuple(_table(path, "exclude", each) for each in _list(path, "exclude", document.get("exclude", []))),
        _fleet(path, _table(path, "fleet", document.get("fleet", {}))),
    )
    _check(file)
    return file


def _known() -> list[str]:
    return ["model", "precision", *options()]


def _check(file: File) -> None:
    """Every value is one that its option takes."""
    for key, values in file.matrix.items():
        for value in values:
            _try(file, "[matrix]", key, value)
    for where, table, extra in _places(file):
        for key, value in table.items():
            if key in extra:
                continue
            _require_key(file.path, where, key, [name for name in _known() if name != "model"])
            overrides = where.startswith("[model.") and key in file.matrix and isinstance(value, list)
            for one in value if overrides else [value]:
                _try(file, where, key, one)
            if key in file.matrix and not where.startswith("[model."):
                raise _wrong(file.path, f"{where} {key}", "[matrix] has it too; say it in one place")
    for name in file.targets:
        _check_target(file, name)
    for number, table in enumerate(file.excluded, 1):
        for key in table:
            _require_key(file.path, f"[[exclude]] number {number}", key, [*FIRST, *file.matrix])


def _check_target(file: File, name: str) -> None:
    """It is used, has a backend, and needs what can be had."""
    place, table = f"[target.{_quoted(name)}]", file.targets[name]
    used = [table.get("target", []) for table in (file.matrix, file.common, *file.models.values())]
    used += [table.get("target", []) for table in file.precisions.values()]
    if name not in [str(one) for each in used for entry in _as_list(each) for one in _as_list(entry)]:
        raise _wrong(file.path, place, "no cell has this target")
    if "backend" not in table and name not in BACKENDS:
        raise _wrong(file.path, place, f'say what builds for it: backend = "tensorrt", or {", ".join(BACKENDS)}')
    for backend in _as_list(table.get("backend", name)):
        if backend not in BACKENDS:
            raise _wrong(file.path, f"{place} backend", unknown("backend", str(backend), BACKENDS))
    if "needs" in table:
        _needs(file, name)


def _places(file: File) -> Iterator[tuple[str, Settings, tuple[str, ...]]]:
    """Each table of settings, where it stands, and keys of its own."""
    yield "[common]", file.common, ()
    yield from ((f"[model.{_quoted(name)}]", table, ()) for name, table in file.models.items())
    yield from ((f"[precision.{name}]", table, ()) for name, table in file.precisions.items())
    yield from ((f"[target.{_quoted(name)}]", table, ("backend", "needs")) for name, table in file.targets.items())


def _try(file: File, where: str, key: str, value: Any) -> None:
    """Refuse a value that the option of that name refuses."""
    place = f"{where} {key}"
    if key == "model":
        if not isinstance(value, str) or not value or value.startswith("-"):
            raise _wrong(file.path, place, f"{_shown(value)} is not the name of a network")
        if ":" not in value and not value.lower().endswith(FILES):  # what a library or a file holds, a node may know
            _try_name(file, place, value)
        return
    if key == "precision":
        if not isinstance(value, str) or value not in FLAGS:
            raise _wrong(file.path, place, unknown("precision", str(value), FLAGS))
        return
    if value in ("", [], {}):
        raise _wrong(file.path, place, "it is empty; leave it out, or give a value")
    option = options()[key]
    if isinstance(value, bool) != bool(option.is_flag):
        wanted = "true or false" if option.is_flag else "a value, and not true or false"
        raise _wrong(file.path, place, f"write {wanted}")
    if not isinstance(value, bool | int | float | str | list) and not (key == "arch" and isinstance(value, dict)):
        raise _wrong(file.path, place, f"{_shown(value)} is neither a text nor a number nor a list of these")
    for text in _texts(option, value):
        if key == "target":
            names = (*BACKENDS, *file.targets, AUTO)
            if text not in names:
                raise _wrong(file.path, place, unknown("target", text, names))
        elif not option.is_flag:
            try:
                option.type(text, option, click.Context(export))
            except click.BadParameter as error:
                raise _wrong(file.path, place, error.message) from error


def _try_name(file: File, place: str, name: str) -> None:
    try:
        sources.known(name)
    except InputError as error:
        raise _wrong(file.path, place, error.what) from error


def _fleet(path: Path, table: Settings) -> FleetOptions:
    names = {name.replace("_", "-"): name for name in FleetOptions.__struct_fields__}
    for key in table:
        _require_key(path, "[fleet]", key, names)
    try:
        return msgspec.convert({names[key]: value for key, value in table.items()}, FleetOptions)
    except msgspec.ValidationError as error:
        why, _, key = str(error).replace("_", "-").partition(" - at `$.")
        place = f"[fleet] {key.rstrip('`')}" if key else "[fleet]"
        raise _wrong(path, place, why.replace("`", "").replace("Expected", "expected")) from error


def _needs(file: File, name: str) -> dict[str, float]:
    said, place = file.targets[name]["needs"], f"[target.{_quoted(name)}] needs"
    if isinstance(said, str) and said:
        return {said: 1.0}
    if isinstance(said, dict) and said and all(_is_amount(each) for each in said.values()):
        return {key: float(value) for key, value in said.items()}
    raise _wrong(file.path, place, 'write a Ray resource, "sm87", or how much of each, { sm87 = 1 }')


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _tables(path: Path, kind: str, document: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Settings]:
    """`[kind.NAME]` by name; with `names`, no others."""
    tables = _table(path, kind, document.get(kind, {}))
    for name, table in tables.items():
        if names is not None and name not in names:
            raise _wrong(path, f"[{kind}.{_quoted(name)}]", unknown(kind, name, names))
        _table(path, f"{kind}.{_quoted(name)}", table)
    return dict(tables)


def _table(path: Path, name: str, found: Any) -> Settings:
    if not isinstance(found, dict):
        raise _wrong(path, name, f"write it as a table: [{name}]")
    return found


def _list(path: Path, name: str, found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise _wrong(path, name, f"write it as [[{name}]], once for each combination")
    return found


def _require_key(path: Path, where: str, key: str, known: Sequence[str] | Mapping[str, str]) -> None:
    if key not in known:
        raise _wrong(path, where, unknown("key", key, known))


def _wrong(path: Path, where: str, why: str) -> InputError:
    return InputError(f"{path}: {where}: {why}{'' if why.endswith(('.', '?')) else '.'}", "See docs/sweeps.md.")


def _quoted(name: str) -> str:
    """As TOML writes a key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


# ── Its cells ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _combinations(file: File, model: str) -> Iterator[Settings]:
    """Every choice from the axes for one network; its own table may have other values for an axis."""
    own = file.models.get(model, {})
    axes = {**file.matrix, **{key: _as_list(own[key]) for key in own if key in file.matrix}, "model": [model]}
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _exclusion(file: File, chosen: Settings) -> int | None:
    said = _merged(file, chosen)
    for number, table in enumerate(file.excluded):
        if all(said.get(key) in _as_list(value) for key, value in table.items()):
            return number
    return None


def _merged(file: File, chosen: Settings) -> dict[str, Any]:
    """All that is said of one cell: the particular before the general."""
    own = {key: value for key, value in file.models.get(chosen["model"], {}).items() if key not in file.matrix}
    said: dict[str, Any] = {"precision": "fp32", **file.common, **own, **chosen}
    of_target = {} if isinstance(said.get("target"), list) else file.targets.get(str(said.get("target")), {})
    of_target = {key: value for key, value in of_target.items() if key not in ("backend", "needs")}
    return {**file.common, **file.precisions.get(said["precision"], {}), **of_target, **own, **chosen,
            "precision": said["precision"]}  # fmt: skip


def _cell(file: File, chosen: Settings) -> Cell:
    said = _merged(file, chosen)
    backends = _backends(file, said.get("target", []))
    needs = _needed(file, said.get("target", []))
    said = {key: value for key, value in said.items() if _means_something(key, said["precision"], backends)}
    if "int8" in said["precision"] and "calibration" not in said:
        why = f'{said["precision"]} is calibrated on images: give calibration = "photos" or a folder'
        raise _wrong(file.path, "[common]", why)
    words = [said["model"], *FLAGS[said["precision"]]]
    for key, value in said.items():
        if key == "target":
            words += [word for backend in backends for word in ("--target", backend)]
        elif key not in FIRST:
            words += _words(key, options()[key], value)
    name = _name(said, [key for key in file.matrix if key in said])
    return Cell(name, tuple(words), needs, _refusal(said, backends))


def _means_something(key: str, precision: str, backends: tuple[str, ...]) -> bool:
    """Whether a setting is about such cells at all: said for all, it is left out of those that it does not concern."""
    if key.replace("-", "_") in INT8_ONLY:
        return "int8" in precision
    if key == "io":
        return "fp16" in precision
    if key in _compiled():
        return not backends or bool({*backends} & {*ON_GPU, AUTO})
    return True


def _compiled() -> set[str]:
    """Options that only a compiler heeds."""

    @click.command()
    def probe() -> None: ...

    for option in BUILD:
        option(probe)
    return {max(param.opts, key=len).removeprefix("--") for param in probe.params}


def _backends(file: File, target: Any) -> tuple[str, ...]:
    tables = ((name, file.targets.get(str(name), {})) for name in _as_list(target))
    return tuple(str(backend) for name, table in tables for backend in _as_list(table.get("backend", name)))


def _needed(file: File, target: Any) -> dict[str, float]:
    needs: dict[str, float] = {}
    for name in map(str, _as_list(target)):
        if "needs" in file.targets.get(name, {}):
            needs |= _needs(file, name)
        elif "tensorrt" in _backends(file, name):
            needs |= GPU
    return needs


def _refusal(said: Settings, backends: tuple[str, ...]) -> str | None:
    """Why no machine can make the cell, where that is known beforehand."""
    if said["precision"] != "bf16":
        return None
    if lacking := [name for name in backends if name in PREFERRED and name not in FOR_BF16]:
        return f"{lacking[0]} has no BF16 convolutions on a CPU."
    opset = said.get("opset", BF16_OPSET if said["model"].endswith(FILES) else ExportOptions().opset)
    if int(opset) < BF16_OPSET:
        return f"BF16 needs opset {BF16_OPSET}, and this cell has {opset}: give [precision.bf16] opset = {BF16_OPSET}."
    return None


def _words(key: str, option: click.Option, value: Any) -> list[str]:
    if option.is_flag:
        return [f"--{key}"] if value else []
    return [word for text in _texts(option, value) for word in (f"--{key}", text)]


def _texts(option: click.Option, value: Any) -> list[str]:
    """A value as the command line has it: once, or as often as it has parts where the option may be repeated."""
    if isinstance(value, dict):
        return [f"{key}={_text(each)}" for key, each in value.items()]
    if isinstance(value, list):
        return [_text(each) for each in value] if option.multiple else [",".join(map(_text, value))]
    return [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _name(said: Settings, axes: Sequence[str]) -> str:
    """`resnet18-int8-openvino-batch1-8-32`: network, precision, target, and every further axis of the matrix."""
    parts = [_slug(said[key]) for key in FIRST if key in said]
    parts += [f"{'' if key == 'weights' else key}{_slug(said[key])}" for key in axes if key not in FIRST]
    return "-".join(parts)


def _slug(value: Any) -> str:
    """As a folder's name: what is neither letter, digit, dot nor underscore becomes a hyphen."""
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9._+]+", "-", text).strip("-.") or "x"
