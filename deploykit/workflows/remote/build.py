"""Engines built on another machine: the bundle goes there, the engine and what that machine says of it come back.

What goes is what an engine is made of and judged by: graph, golden vectors, labels. It lies in a folder that lives as
long as the connection. What comes back is an engine's file and its record, compared with what went, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from deploykit.backends import BACKENDS
from deploykit.bundle import manifest as manifests
from deploykit.bundle import records
from deploykit.bundle.manifest import MANIFEST, Manifest
from deploykit.bundle.verify import check_files
from deploykit.bundle.write import REPORT, add, tag
from deploykit.core.errors import (
    BackendError,
    CheckFailed,
    DeploykitError,
    InputError,
    InternalError,
    UsageError,
    unknown,
)
from deploykit.core.files import OF_THE_DISK, damage, explained
from deploykit.core.values import Beside, BuildOptions, Engine, FileRecord, Progress
from deploykit.workflows import reporting
from deploykit.workflows.remote import ssh
from deploykit.workflows.remote.ssh import Device, Session, session

ERRORS: Final = {error.exit_code: error for error in (CheckFailed, UsageError, InputError, BackendError, InternalError)}
"""What deploykit means by its exit codes, there as here."""

MANIFEST_AT_MOST: Final = 1 << 28
"""Bytes. A manifest of a thousand layers has one million."""

INSTALL: Final = (
    "Install it there, without PyTorch: pip install 'deploykit[compile,cpu]'. Where it is in an environment of its "
    "own, name it: --remote-command '~/venv/bin/deploykit'."
)


def compile_on(
    device: Device, folder: Path, names: Sequence[str], options: BuildOptions, progress: Progress
) -> tuple[Manifest, tuple[Beside, ...]]:
    """The manifest of a bundle to which the engines of these backends were added, and those, each built, judged and
    measured on `device` by its own deploykit.

    Until an engine and its record are here and are what they must be, the bundle stays as it is; what is left on the
    device is removed whatever happens. BackendError where the device cannot be reached or has no deploykit; where
    compiling fails there, the error is of the kind that it is there.
    """
    for name in names:
        if name not in BACKENDS:
            raise UsageError(unknown("backend", name, BACKENDS), "")
    manifest = manifests.read(folder)
    check_files(folder, manifest)
    reporting.pager(folder, records.read(folder, manifest))  # what the page cannot be made of is told before the work
    there_now = sent = _needed(manifest)
    made: list[Beside] = []
    with _workshop(device, progress) as there:
        with progress.step(f"sending {_size(sent)} to {device.host}"):
            _send(there, folder, sent)
        for name in names:
            with progress.step(f"compiling for {name} on {device.host}"):
                ended = _compile(there, folder, name, options)
            with progress.step(f"bringing back what {device.host} made"), tempfile.TemporaryDirectory() as elsewhere:
                there_now = _brought(there, folder, there_now, name, ended, Path(elsewhere))
                manifest = _filed(device, folder, sent, there_now.beside[-1], Path(elsewhere))
            if ended.said:
                progress.note(f"{device.host} says: {ended.said}")
            made.append(manifest.beside[-1])
    return manifest, tuple(made)


class Workshop(NamedTuple):
    """A folder on a device, and what is there to work with."""

    device: Device
    folder: str
    """Absolute."""
    version: str
    """Of its deploykit."""
    rsync: bool

    @property
    def bundle(self) -> str:
        """Where the bundle lies in it."""
        return f"{self.folder}/bundle"


# ── The folder there ────────────────────────────────────────────────────────────────────────────────────────────────

MARK: Final = "deploykit-remote"
"""Before each line that a script of ours prints."""

OPEN: Final = """
umask 077
cd -- {ground} || exit 72
work=$(LC_ALL=C mktemp -d "$PWD/deploykit-XXXXXXXX") || exit 73
remove() {{
    for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$work" 2>/dev/null && return; sleep 1; done
}}
trap remove EXIT
trap 'exit 143' HUP INT PIPE TERM
mkdir "$work/bundle" "$work/tmp" || exit 73
echo "{mark} folder $work"
command -v rsync >/dev/null 2>&1 && echo "{mark} rsync"
told=$({command} --version </dev/null 2>&1)
echo "{mark} exit $?"
printf '%s\\n' "$told"
echo "{mark} open"
while read -r _; do :; done
"""
"""A new folder, removed when this script's input ends; a compiler that is being stopped may still write to it."""

FOLDER_FAILED: Final = (72, 73)


@contextmanager
def _workshop(device: Device, progress: Progress) -> Iterator[Workshop]:
    ground = shlex.quote(device.folder) if device.folder is not None else '"${TMPDIR:-/tmp}"'
    script = OPEN.format(ground=ground, mark=MARK, command=device.command)
    with session(device, script) as held:
        with progress.step(f"reaching {device.host}"):
            try:
                lines = _told(held)
            except KeyboardInterrupt:
                held.kill()  # a machine that does not answer would not hear that it shall end
                raise
            there = _opened(held, lines)
        if there.version != (here := metadata.version("deploykit")):
            progress.note(f"{device.host} has deploykit {there.version}, and this is {here}.")
        yield there


def _told(held: Session) -> list[str]:
    """What the script says until the folder is open."""
    lines: list[str] = []
    for raw in held.stdout:
        line = raw.decode(errors="replace").rstrip("\n")
        if line == f"{MARK} open":
            return lines
        lines.append(line)
    code, device = held.wait(), held.device
    said = held.said
    if ssh.FULL.search(said):
        raise ssh.full(device, device.folder or "temporary files")
    if code in FOLDER_FAILED:
        raise InputError(
            f"No folder to work in can be made on {device.host}: {ssh.last_words(said)}.",
            "Name one where you may write with --remote-folder.",
        )
    raise BackendError(
        f"{device.host} does not run a shell's script (exit code {code}): {ssh.last_words(said)}.",
        f"deploykit needs a login that runs commands; try: {device.by_hand} true",
    )


def _opened(held: Session, lines: list[str]) -> Workshop:
    device = held.device
    if not lines or not lines[0].startswith(f"{MARK} folder /"):
        printed = ssh.printable(lines[0]) if lines else ""
        raise InputError(
            f"Logging in at {device.host} prints {printed!r}, which would be taken for a part of what comes back.",
            "Let its shell's start-up files print nothing where standard output is no terminal.",
        )
    at = next(number for number, line in enumerate(lines) if line.startswith(f"{MARK} exit "))
    code, told = int(lines[at].rpartition(" ")[2]), ssh.printable("\n".join(lines[at + 1 :]))
    if code == 127:
        raise BackendError(f"{device.host} has no {device.command}: {ssh.last_words(told)}.", INSTALL)
    if code != 0:
        raise BackendError(
            f"{device.command} --version fails on {device.host} (exit code {code}): {ssh.last_words(told)}.", INSTALL
        )
    found = re.search(r"^deploykit, version (\S+)$", told, re.MULTILINE)
    if found is None:
        raise BackendError(
            f"{device.command} on {device.host} is not deploykit: to --version it says "
            f"{repr(ssh.last_words(told)) if told else 'nothing'}.",
            "Correct --remote-command.",
        )
    folder = lines[0].removeprefix(f"{MARK} folder ")
    return Workshop(device, folder, found[1], f"{MARK} rsync" in lines[:at])


# ── There ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _needed(manifest: Manifest) -> Manifest:
    """The bundle without what no engine is made of: other engines, records, the report."""
    alone = msgspec.structs.replace(manifest, beside=())
    wanted = {*alone.named, f"{manifest.graph.file}.data"}
    return msgspec.structs.replace(alone, files={path: file for path, file in manifest.files.items() if path in wanted})


def _size(manifest: Manifest) -> str:
    return f"{sum(file.bytes for file in manifest.files.values()) / 2**20:.1f} MiB"


def _send(there: Workshop, folder: Path, sent: Manifest) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        staged = Path(elsewhere)
        for path in sent.files:
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).symlink_to((folder / path).absolute())
        (staged / MANIFEST).write_bytes(manifests.encode(sent))
        if there.rsync and shutil.which("rsync") is not None:
            _send_by_rsync(there, staged)
        else:
            _send_by_tar(there, staged)


def _send_by_rsync(there: Workshop, staged: Path) -> None:
    """Links are followed; no name is expanded by a shell there."""
    device = there.device
    user, at, host = device.host.rpartition("@")
    host = f"[{host}]" if ":" in host else host
    command = ["rsync", "-rLs", "-e", shlex.join(ssh.words(device)), f"{staged}/", f"{user}{at}{host}:{there.bundle}/"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, errors = process.communicate()
    finally:
        if process.poll() is None:
            process.terminate()  # it ends its ssh, and that what runs there
            process.wait()
    if process.returncode != 0:
        raise _unsent(there, process.returncode, ssh.printable(errors.decode(errors="replace")))


def _send_by_tar(there: Workshop, staged: Path) -> None:
    """Where one of the two machines has no rsync."""
    with session(there.device, f"LC_ALL=C exec tar -xf - -C {shlex.quote(there.bundle)}") as running:
        with (
            contextlib.suppress(BrokenPipeError),  # it has ended: its exit code says more
            tarfile.open(fileobj=running.stdin, mode="w|", dereference=True) as archive,
        ):
            for path in sorted(path for path in staged.rglob("*") if path.is_file()):
                archive.add(path, path.relative_to(staged).as_posix())
        if (code := running.finish()) != 0:
            raise _unsent(there, code, running.said)


def _unsent(there: Workshop, code: int, said: str) -> DeploykitError:
    device = there.device
    if ssh.FULL.search(said):
        return ssh.full(device, there.folder)
    if code == ssh.BROKEN:
        return ssh.refusal(device, said)
    return BackendError(
        f"The bundle could not be sent to {device.host} (exit code {code}): {ssh.last_words(said)}.",
        "The bundle is as it was. Mend what it names, and run it again.",
    )


COMPILE: Final = """
cd -- {folder} || exit 72
TMPDIR=$PWD/tmp
export TMPDIR
exec 3<&0
trap 'exit 143' TERM
(read -r _ <&3; kill 0) &
watcher=$!
{command} compile "$PWD/bundle" {words} </dev/null 3<&- >/dev/null &
wait $!
code=$?
kill $watcher
[ $code -eq 255 ] && code=254
exit $code
"""
"""Whatever was started ends when the input does: sshd made this shell the leader of a group of its own."""


class Ended(NamedTuple):
    """How compiling ended there: 0, or 1 where a check failed, and what it said meanwhile."""

    code: int
    said: str


def _compile(there: Workshop, folder: Path, name: str, options: BuildOptions) -> Ended:
    """What fails there is raised as an error of its kind."""
    words = shlex.join(("--target", name, *spoken(options)))
    script = COMPILE.format(folder=shlex.quote(there.folder), command=there.device.command, words=words)
    with session(there.device, script) as running:
        ended = Ended(running.wait(), running.said)
    if ended.code not in (0, 1):
        raise _failed(there, folder, ended)
    return ended


def _failed(there: Workshop, folder: Path, ended: Ended) -> DeploykitError:
    """What ended it there, in its own words, about the bundle as it is called here."""
    error = re.split(r"^Error: ", ended.said, flags=re.MULTILINE)[-1]
    device, code, told = there.device, ended.code, " ".join(error.split())
    if ssh.FULL.search(told) or re.search(r"The disk that holds .* is full", told):
        return ssh.full(device, there.folder)
    told = told.replace(there.bundle, str(folder))
    if code > 128:
        return BackendError(
            f"deploykit was ended on {device.host} by signal {code - 128}: {ssh.last_words(told)}.",
            "A machine that runs out of memory does that: close what else runs there, or lower --workspace.",
        )
    kind = ERRORS.get(code, BackendError)
    versions = "" if there.version == metadata.version("deploykit") else f" (its deploykit is {there.version})"
    return kind(f"On {device.host}{versions}: {told or f'deploykit ended with exit code {code}.'}", "")


def spoken(options: BuildOptions) -> Iterator[str]:
    """What a user types for these; the batch sizes are the bundle's own."""
    if options.compute_capabilities:
        yield f"--compute-capability={','.join(map(str, options.compute_capabilities))}"
    for word, number in (
        ("--workspace", options.workspace_mib),
        ("--optimization-level", options.optimization_level),
        ("--dla-core", options.dla_core),
    ):
        if number is not None:
            yield f"{word}={number}"
    for word, wanted in (
        ("--version-compatible", options.version_compatible),
        ("--hardware-compatible", options.hardware_compatible),
        ("--strip-weights", options.strip_weights),
        ("--refittable", options.refittable),
    ):
        if wanted:
            yield word


# ── Back ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _brought(there: Workshop, folder: Path, before: Manifest, name: str, ended: Ended, elsewhere: Path) -> Manifest:
    """The manifest of the bundle there, `before` with an engine more at its end, and that engine's file in `elsewhere`.
    CheckFailed where either is not what it must be.
    """
    device = there.device
    _fetch(there, MANIFEST, elsewhere / MANIFEST, MANIFEST_AT_MOST)
    try:
        back = manifests.read(elsewhere)
    except InputError as error:
        raise _distrusted(device, error.what) from error
    if ended.code == 1 and len(back.beside) == len(before.beside):  # a check failed before there was an engine
        raise _failed(there, folder, ended)
    beside = _added(device, before, back, name)
    if (ended.code == 1) != bool(beside.failures):
        raise _distrusted(device, f"deploykit's exit code is {ended.code}, which is not what the engine's record says")
    engine = beside.engine.file
    if engine.path != before.graph.file:
        _fetch(there, engine.path, elsewhere / engine.path, engine.bytes)
        if wrong := damage(elsewhere, engine):
            raise _distrusted(device, wrong)
    return back


def _added(device: Device, before: Manifest, back: Manifest, name: str) -> Beside:
    """The one engine by which the manifest that came back differs from the one before. CheckFailed where it differs by
    anything else: that machine is asked for an engine, and for no other change.
    """
    *others, beside = back.beside or (None,)
    if beside is None or tuple(others) != before.beside:
        raise _distrusted(device, "it is not the bundle that was sent with an engine more")
    engine, files = beside.engine, _but_report(back)
    if engine.backend != name:
        raise _distrusted(device, f"it is an engine of {engine.backend}, not of {name}")
    if engine.file.path != before.graph.file:
        expected = f"engines/{tag(engine)}/{Path(engine.file.path).name}"
        if engine.file.path != expected or files.pop(expected) != engine.file:
            raise _distrusted(device, f"its engine is not recorded as {expected}")
    rest = msgspec.structs.replace(back, beside=before.beside, files=files)
    if manifests.encode(rest) != manifests.encode(msgspec.structs.replace(before, files=_but_report(before))):
        raise _distrusted(device, "its manifest differs by more than an engine from the one that was sent")
    if _graph(engine) != before.files[before.graph.file]:
        raise _distrusted(device, "its engine was built from another graph")
    return beside


def _but_report(manifest: Manifest) -> dict[str, FileRecord]:
    """Its files without the report, which is made anew with every change, here as there."""
    return {path: file for path, file in manifest.files.items() if path != REPORT}


def _filed(device: Device, folder: Path, sent: Manifest, beside: Beside, source: Path) -> Manifest:
    """The bundle here with the engine, whatever else was added to it meanwhile: another device's engine, say."""
    with _one_at_a_time(folder):
        now = manifests.read(folder)
        if manifests.encode(_needed(now)) != manifests.encode(sent):
            raise InputError(
                f"{folder} was changed while {device.host} compiled: the engine is not of its graph.", "Run it again."
            )
        return add(folder, now, beside, source, reporting.pager(folder, records.read(folder, now)))


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Two devices that are ready in the same second would each add to a bundle without the other's engine. The lock is
    on the folder around it, since the bundle itself is replaced, and goes with this process.
    """
    descriptor = os.open(folder.absolute().parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _graph(engine: Engine) -> FileRecord:
    return engine.file if engine.build is None else engine.build.graph


def _distrusted(device: Device, reason: str) -> CheckFailed:
    return CheckFailed(
        f"What came back from {device.host} is refused: {reason}.",
        "The bundle is as it was. Run it again, with the same version of deploykit on both machines.",
    )


PIECE: Final = 1 << 20


def _fetch(there: Workshop, path: str, destination: Path, at_most: int) -> None:
    """A file of the bundle there, by its name: nothing that it does not have here can come with it."""
    device = there.device
    destination.parent.mkdir(parents=True, exist_ok=True)
    with session(device, f"exec cat -- {shlex.quote(f'{there.bundle}/{path}')}") as running:
        try:
            with destination.open("wb") as file:
                while piece := running.stdout.read(PIECE):
                    file.write(piece)
                    if file.tell() > at_most:
                        raise _distrusted(device, f"{path} is longer than the {at_most} bytes that it may have")
        except OSError as error:
            if error.errno not in OF_THE_DISK:
                raise
            raise explained(error, destination, "Free some space, or name another disk in TMPDIR.") from error
        if (code := running.finish()) != 0:
            raise BackendError(
                f"{path} could not be brought back from {device.host} (exit code {code}): "
                f"{ssh.last_words(running.said)}.",
                "The bundle is as it was. Run it again.",
            )
