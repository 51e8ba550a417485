"""`sweep.toml`: many command lines of `deploykit export` in one file.

Its keys are the options of `deploykit export` without their dashes, and `model` and `precision`; a new option of
`export` is a key at once. docs/sweeps.md describes the format.
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
from deploykit.backends.choice import AUTO, FOR_BF16, PREFERRED, WITH_BUILD_OPTIONS
from deploykit.cli.build_options import OPTIONS as BUILD
from deploykit.cli.export import INT8_ONLY
from deploykit.cli.export import export_command as export
from deploykit.core.errors import InputError, format_unknown
from deploykit.core.values import ExportOptions, Precision
from deploykit.core.values.sweeps import Cell, FleetOptions, Sweep
from deploykit.export.networks import sources

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings: TypeAlias = Mapping[str, Any]
"""A table of the file; every value was checked against the option of that name."""

TABLES: Final = ("matrix", "common", "model", "precision", "target", "exclude", "fleet")

FLAGS: Final[Mapping[Precision, tuple[str, ...]]] = {
    "fp32": ("--fp32",), "fp16": ("--fp16",), "bf16": ("--bf16",), "int8": ("--int8",),
    "int8-fp16": ("--int8", "--fp16"),
}  # fmt: skip

NOT_KEYS: Final = {"fp32", "fp16", "bf16", "int8", "output", "force", "json", "help"}
"""Options of `export` that are no keys: `precision` stands for the first four, the others are options of `sweep`."""

NAME_KEYS: Final = ("model", "precision", "target")
"""Keys whose values begin every bundle's name."""

BF16_OPSET: Final = 22
"""First opset with convolutions in BF16."""

FILE_SUFFIXES: Final = (".onnx", ".pt2")
"""Suffixes of files that have an opset of their own."""

GPU_RESOURCE: Final = {"GPU": 1.0}
"""Resources of a target of NEED_GPU without a table: Ray's name for any GPU."""

NEED_GPU: Final = ("tensorrt", "onnxruntime-cuda")
"""Backends that build on a GPU only."""


class SweepFile(NamedTuple):
    """The tables of a sweep.toml."""

    path: Path
    matrix: Settings
    common: Settings
    models: Mapping[str, Settings]
    precisions: Mapping[str, Settings]
    targets: Mapping[str, Settings]
    excluded: tuple[Settings, ...]
    fleet: FleetOptions


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file. InputError with the file and the key for anything that is not allowed."""
    file = _read_file(path)
    cells: dict[str, Cell] = {}
    used: set[int] = set()
    for model in file.matrix["model"]:
        for choice in _combinations(file, model):
            if (number := _find_exclusion(file, choice)) is not None:
                used.add(number)
                continue
            cell = _build_cell(file, choice)
            if cells.setdefault(cell.name, cell).export_arguments != cell.export_arguments:
                raise _input_error(
                    path, "[matrix]", f"two different cells would both be called {cell.name}; rename a file"
                )
    if idle := set(range(len(file.excluded))) - used:
        raise _input_error(path, f"[[exclude]] number {min(idle) + 1}", "it excludes no cell")
    if not cells:
        raise _input_error(path, "[[exclude]]", "every cell is excluded")
    return Sweep(path.stem, str(path.absolute().parent), tuple(cells.values()), file.fleet)


def export_options() -> dict[str, click.Option]:
    """The options of `export` that a sweep file may set, by name."""
    named = {max(param.opts, key=len).removeprefix("--"): param for param in export.params}
    return {name: param for name, param in named.items() if isinstance(param, click.Option) and name not in NOT_KEYS}


# ── The file ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_file(path: Path) -> SweepFile:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"There is no {path}.", "docs/sweeps.md describes the format.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder.", "Give the .toml file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}.", "docs/sweeps.md describes the format.") from error
    for key in document:
        if key not in TABLES:
            raise _input_error(path, f"[{key}]", format_unknown("table", key, TABLES))
    matrix = _require_table(path, "matrix", document.get("matrix", {}))
    common = _require_table(path, "common", document.get("common", {}))
    known = _known_keys()
    for key, values in matrix.items():
        _require_key(path, "[matrix]", key, known)
        if not isinstance(values, list):
            raise _input_error(path, f"[matrix] {key}", f"write a list, such as {key} = [{_format_value(values)}]")
        if not values:
            raise _input_error(path, f"[matrix] {key}", "the list is empty")
        if len({str(value) for value in values}) < len(values):
            raise _input_error(path, f"[matrix] {key}", "a value is in the list twice")
    if "model" not in matrix:
        raise _input_error(path, "[matrix]", 'networks are missing: model = ["resnet18"]')
    file = SweepFile(
        path,
        matrix,
        common,
        _read_named_tables(path, "model", document, [str(name) for name in matrix["model"]]),
        _read_named_tables(path, "precision", document, get_args(Precision)),
        _read_named_tables(path, "target", document, None),
        tuple(
            _require_table(path, "exclude", table)
            for table in _require_list(path, "exclude", document.get("exclude", []))
        ),
        _read_fleet(path, _require_table(path, "fleet", document.get("fleet", {}))),
    )
    _check_file(file)
    return file


def _known_keys() -> list[str]:
    return ["model", "precision", *export_options()]


def _check_file(file: SweepFile) -> None:
    """Check every value against its option."""
    for key, values in file.matrix.items():
        for value in values:
            _check_value(file, "[matrix]", key, value)
    for where, table, extra in _setting_tables(file):
        for key, value in table.items():
            if key in extra:
                continue
            _require_key(file.path, where, key, [name for name in _known_keys() if name != "model"])
            overrides = where.startswith("[model.") and key in file.matrix and isinstance(value, list)
            for one in value if overrides else [value]:
                _check_value(file, where, key, one)
            if key in file.matrix and not where.startswith("[model."):
                raise _input_error(file.path, f"{where} {key}", "[matrix] has it too; set it in one place")
    for name in file.targets:
        _check_target(file, name)
    for number, table in enumerate(file.excluded, 1):
        for key in table:
            _require_key(file.path, f"[[exclude]] number {number}", key, [*NAME_KEYS, *file.matrix])


def _check_target(file: SweepFile, name: str) -> None:
    """Check that a target is used, and that its backend and resources are valid."""
    place, table = f"[target.{_quote_key(name)}]", file.targets[name]
    used = [table.get("target", []) for table in (file.matrix, file.common, *file.models.values())]
    used += [table.get("target", []) for table in file.precisions.values()]
    if name not in [str(target) for value in used for entry in _as_list(value) for target in _as_list(entry)]:
        raise _input_error(file.path, place, "no cell has this target")
    if "backend" not in table and name not in BACKENDS:
        raise _input_error(file.path, place, f'name its backend: backend = "tensorrt", or {", ".join(BACKENDS)}')
    for backend in _as_list(table.get("backend", name)):
        if backend not in BACKENDS:
            raise _input_error(file.path, f"{place} backend", format_unknown("backend", str(backend), BACKENDS))
    if "needs" in table:
        _read_needs(file, name)


def _setting_tables(file: SweepFile) -> Iterator[tuple[str, Settings, tuple[str, ...]]]:
    """Each table of settings with its place in the file and its additional keys."""
    yield "[common]", file.common, ()
    yield from ((f"[model.{_quote_key(name)}]", table, ()) for name, table in file.models.items())
    yield from ((f"[precision.{name}]", table, ()) for name, table in file.precisions.items())
    yield from ((f"[target.{_quote_key(name)}]", table, ("backend", "needs")) for name, table in file.targets.items())


def _check_value(file: SweepFile, where: str, key: str, value: Any) -> None:
    """Refuse a value that the option of its name refuses."""
    place = f"{where} {key}"
    if key == "model":
        if not isinstance(value, str) or not value or value.startswith("-"):
            raise _input_error(file.path, place, f"{_format_value(value)} is not the name of a network")
        if ":" not in value and not value.lower().endswith(
            FILE_SUFFIXES
        ):  # a library or a file may be on the node alone
            _check_model_name(file, place, value)
        return
    if key == "precision":
        if not isinstance(value, str) or value not in FLAGS:
            raise _input_error(file.path, place, format_unknown("precision", str(value), FLAGS))
        return
    if value in ("", [], {}):
        raise _input_error(file.path, place, "it is empty; remove the key, or give a value")
    option = export_options()[key]
    if isinstance(value, bool) != bool(option.is_flag):
        wanted = "true or false" if option.is_flag else "a value, and not true or false"
        raise _input_error(file.path, place, f"write {wanted}")
    if not isinstance(value, bool | int | float | str | list) and not (key == "model-arg" and isinstance(value, dict)):
        raise _input_error(file.path, place, f"{_format_value(value)} is not a string, a number or a list of these")
    for text in _option_values(option, value):
        if key == "target":
            names = (*BACKENDS, *file.targets, AUTO)
            if text not in names:
                raise _input_error(file.path, place, format_unknown("target", text, names))
        elif not option.is_flag:
            try:
                option.type(text, option, click.Context(export))
            except click.BadParameter as error:
                raise _input_error(file.path, place, error.message) from error


def _check_model_name(file: SweepFile, place: str, name: str) -> None:
    try:
        sources.require_known_model(name)
    except InputError as error:
        raise _input_error(file.path, place, error.what) from error


def _read_fleet(path: Path, table: Settings) -> FleetOptions:
    names = {name.replace("_", "-"): name for name in FleetOptions.__struct_fields__}
    for key in table:
        _require_key(path, "[fleet]", key, names)
    try:
        return msgspec.convert({names[key]: value for key, value in table.items()}, FleetOptions)
    except msgspec.ValidationError as error:
        why, _, key = str(error).replace("_", "-").partition(" - at `$.")
        place = f"[fleet] {key.rstrip('`')}" if key else "[fleet]"
        raise _input_error(path, place, why.replace("`", "").replace("Expected", "expected")) from error


def _read_needs(file: SweepFile, name: str) -> dict[str, float]:
    needs, place = file.targets[name]["needs"], f"[target.{_quote_key(name)}] needs"
    if isinstance(needs, str) and needs:
        return {needs: 1.0}
    if isinstance(needs, dict) and needs and all(_is_amount(amount) for amount in needs.values()):
        return {key: float(value) for key, value in needs.items()}
    raise _input_error(file.path, place, 'write a Ray resource, "sm87", or how much of each, { sm87 = 1 }')


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _read_named_tables(
    path: Path, kind: str, document: Mapping[str, Any], names: Sequence[str] | None
) -> dict[str, Settings]:
    """`[kind.NAME]` by name; with `names`, no others."""
    tables = _require_table(path, kind, document.get(kind, {}))
    for name, table in tables.items():
        if names is not None and name not in names:
            raise _input_error(path, f"[{kind}.{_quote_key(name)}]", format_unknown(kind, name, names))
        _require_table(path, f"{kind}.{_quote_key(name)}", table)
    return dict(tables)


def _require_table(path: Path, name: str, value: Any) -> Settings:
    if not isinstance(value, dict):
        raise _input_error(path, name, f"write it as a table: [{name}]")
    return value


def _require_list(path: Path, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _input_error(path, name, f"write it as [[{name}]], once for each combination")
    return value


def _require_key(path: Path, where: str, key: str, known: Sequence[str] | Mapping[str, str]) -> None:
    if key not in known:
        raise _input_error(path, where, format_unknown("key", key, known))


def _input_error(path: Path, where: str, why: str) -> InputError:
    return InputError(f"{path}: {where}: {why}{'' if why.endswith(('.', '?')) else '.'}", "See docs/sweeps.md.")


def _quote_key(name: str) -> str:
    """Quote a key as TOML does."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _format_value(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


# ── Its cells ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _combinations(file: SweepFile, model: str) -> Iterator[Settings]:
    """Every combination of the axes for one network; its own table may replace an axis's values."""
    own = file.models.get(model, {})
    axes = {**file.matrix, **{key: _as_list(own[key]) for key in own if key in file.matrix}, "model": [model]}
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _find_exclusion(file: SweepFile, choice: Settings) -> int | None:
    settings = _merge_settings(file, choice)
    for number, table in enumerate(file.excluded):
        if all(settings.get(key) in _as_list(value) for key, value in table.items()):
            return number
    return None


def _merge_settings(file: SweepFile, choice: Settings) -> dict[str, Any]:
    """Settings of one cell: a specific table overrides a general one."""
    own = {key: value for key, value in file.models.get(choice["model"], {}).items() if key not in file.matrix}
    settings: dict[str, Any] = {"precision": "fp32", **file.common, **own, **choice}
    target = settings.get("target")
    table = {} if isinstance(target, list) else file.targets.get(str(target), {})
    target_settings = {key: value for key, value in table.items() if key not in ("backend", "needs")}
    return {**file.common, **file.precisions.get(settings["precision"], {}), **target_settings, **own, **choice,
            "precision": settings["precision"]}  # fmt: skip


def _build_cell(file: SweepFile, choice: Settings) -> Cell:
    settings = _merge_settings(file, choice)
    backends = _resolve_backends(file, settings.get("target", []))
    needs = _required_resources(file, settings.get("target", []))
    settings = {key: value for key, value in settings.items() if _applies_to(key, settings["precision"], backends)}
    if "int8" in settings["precision"] and "calibration" not in settings:
        why = f'{settings["precision"]} needs calibration data: give calibration = "photos" or a folder'
        raise _input_error(file.path, "[common]", why)
    words = [settings["model"], *FLAGS[settings["precision"]]]
    for key, value in settings.items():
        if key == "target":
            words += [word for backend in backends for word in ("--target", backend)]
        elif key not in NAME_KEYS:
            words += _option_words(key, export_options()[key], value)
    name = _cell_name(settings, [key for key in file.matrix if key in settings])
    return Cell(name, tuple(words), needs, _known_refusal(settings, backends))


def _applies_to(key: str, precision: str, backends: tuple[str, ...]) -> bool:
    """Whether a setting applies to a cell: a common setting is left out of cells that it does not concern."""
    if key.replace("-", "_") in INT8_ONLY:
        return "int8" in precision
    if key == "io":
        return "fp16" in precision
    if key in _build_option_names():
        return not backends or bool({*backends} & {*WITH_BUILD_OPTIONS, AUTO})
    return True


def _build_option_names() -> set[str]:
    """Names of the options that only a compiler uses."""

    @click.command()
    def all_options() -> None: ...

    for option in BUILD:
        option(all_options)
    return {max(param.opts, key=len).removeprefix("--") for param in all_options.params}


def _resolve_backends(file: SweepFile, target: Any) -> tuple[str, ...]:
    tables = ((name, file.targets.get(str(name), {})) for name in _as_list(target))
    return tuple(str(backend) for name, table in tables for backend in _as_list(table.get("backend", name)))


def _required_resources(file: SweepFile, target: Any) -> dict[str, float]:
    needs: dict[str, float] = {}
    for name in map(str, _as_list(target)):
        if "needs" in file.targets.get(name, {}):
            needs |= _read_needs(file, name)
        elif {*NEED_GPU} & {*_resolve_backends(file, name)}:
            needs |= GPU_RESOURCE
    return needs


def _known_refusal(settings: Settings, backends: tuple[str, ...]) -> str | None:
    """Why no machine can export the cell, if that is known in advance."""
    if settings["precision"] != "bf16":
        return None
    if lacking := [name for name in backends if name in PREFERRED and name not in FOR_BF16]:
        return f"{lacking[0]} has no BF16 convolutions on a CPU."
    opset = settings.get("opset", BF16_OPSET if settings["model"].endswith(FILE_SUFFIXES) else ExportOptions().opset)
    if int(opset) < BF16_OPSET:
        return f"BF16 needs opset {BF16_OPSET}, and this cell has {opset}: set [precision.bf16] opset = {BF16_OPSET}."
    return None


def _option_words(key: str, option: click.Option, value: Any) -> list[str]:
    if option.is_flag:
        return [f"--{key}"] if value else []
    return [word for text in _option_values(option, value) for word in (f"--{key}", text)]


def _option_values(option: click.Option, value: Any) -> list[str]:
    """A value as on the command line; several values if the option is repeatable."""
    if isinstance(value, dict):
        return [f"{key}={_format_option(item)}" for key, item in value.items()]
    if isinstance(value, list):
        return [_format_option(item) for item in value] if option.multiple else [",".join(map(_format_option, value))]
    return [_format_option(value)]


def _format_option(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_format_option, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell_name(settings: Settings, axes: Sequence[str]) -> str:
    """`resnet18-int8-openvino-batch1-8-32`: network, precision, target, and every further axis of the matrix."""
    parts = [_to_slug(settings[key]) for key in NAME_KEYS if key in settings]
    parts += [f"{'' if key == 'weights' else key}{_to_slug(settings[key])}" for key in axes if key not in NAME_KEYS]
    return "-".join(parts)


def _to_slug(value: Any) -> str:
    """Make a folder's name: anything but letters, digits, dots, underscores and plus signs becomes a hyphen."""
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9._+]+", "-", text).strip("-.") or "x"
