"""Remote compilation: send the bundle to another machine, compile and measure the engine there, fetch the engine.

Only the files that an engine is built and checked with are sent: graph, golden vectors, labels. They are stored in a
temporary folder that is removed when the connection ends. Only the engine's file and its record are fetched, and both
are checked against the files that were sent.
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
from deploykit.bundle.write import REPORT, engine_tag, pack_engine
from deploykit.core.errors import (
    BackendError,
    CheckFailed,
    DeploykitError,
    InputError,
    InternalError,
    UsageError,
    format_unknown,
)
from deploykit.core.extras import remote_install_remedy
from deploykit.core.files import DISK_ERRORS, explain_os_error, find_damage
from deploykit.core.values import BuildOptions, Engine, FileRecord, Progress, SecondaryEngine
from deploykit.workflows import reporting
from deploykit.workflows.remote import ssh
from deploykit.workflows.remote.ssh import Device, Session, open_session

ERRORS_BY_EXIT_CODE: Final = {
    error.exit_code: error for error in (CheckFailed, UsageError, InputError, BackendError, InternalError)
}
"""Error class by exit code of deploykit."""

MAX_MANIFEST_BYTES: Final = 1 << 28
"""Size limit of a received manifest. A manifest of a thousand layers has one million bytes."""


def compile_remotely(
    device: Device, folder: Path, names: Sequence[str], options: BuildOptions, progress: Progress
) -> tuple[Manifest, tuple[SecondaryEngine, ...]]:
    """Compile engines for the backends `names` on `device`, with the deploykit installed there, and add them to the
    bundle. Returns the new manifest and the added engines, each checked and measured on the device.

    The bundle changes only once an engine and its record have been received and checked; the temporary folder on the
    device is always removed. BackendError if the device cannot be reached or has no deploykit; an error of the remote
    deploykit is raised here with the same class.
    """
    for name in names:
        if name not in BACKENDS:
            raise UsageError(format_unknown("backend", name, BACKENDS), "")
    manifest = manifests.read_manifest(folder)
    check_files(folder, manifest)
    reporting.report_renderer(folder, records.read_records(folder, manifest))  # fails early if no report can be written
    remote_manifest = sent = _stage_bundle(manifest)
    compiled: list[SecondaryEngine] = []
    with _open_remote_folder(device, progress) as remote:
        with progress.step(f"sending {_format_file_sizes(sent)} to {device.host}"):
            _send_bundle(remote, folder, sent)
        for name in names:
            with progress.step(f"compiling for {name} on {device.host}"):
                result = _run_compile(remote, folder, name, options)
            with progress.step(f"fetching the engine from {device.host}"), tempfile.TemporaryDirectory() as temporary:
                remote_manifest = _fetch_engine(remote, folder, remote_manifest, name, result, Path(temporary))
                manifest = _add_to_bundle(device, folder, sent, remote_manifest.extra_engines[-1], Path(temporary))
            if result.stderr_text:
                progress.note(f"output of {device.host}: {result.stderr_text}")
            compiled.append(manifest.extra_engines[-1])
    return manifest, tuple(compiled)


class RemoteFolder(NamedTuple):
    """Temporary folder on a device, and the tools available there."""

    device: Device
    folder: str
    """Absolute path."""
    version: str
    """Version of the device's deploykit."""
    rsync: bool
    """Whether the device has rsync."""

    @property
    def bundle(self) -> str:
        """Path of the bundle in it."""
        return f"{self.folder}/bundle"


# ── Remote folder ────────────────────────────────────────────────────────────────────────────────────────────────────

OUTPUT_MARK: Final = "deploykit-remote"
"""Prefix of the lines printed by the remote scripts."""

OPEN_SCRIPT: Final = """
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
version=$({command} --version </dev/null 2>&1)
echo "{mark} exit $?"
printf '%s\\n' "$version"
echo "{mark} open"
while read -r _; do :; done
"""
"""Creates a folder and removes it when the script's input ends. A compiler that is being stopped may still write to it,
so removal is repeated."""

FOLDER_EXIT_CODES: Final = (72, 73)


@contextmanager
def _open_remote_folder(device: Device, progress: Progress) -> Iterator[RemoteFolder]:
    ground = shlex.quote(device.folder) if device.folder is not None else '"${TMPDIR:-/tmp}"'
    script = OPEN_SCRIPT.format(ground=ground, mark=OUTPUT_MARK, command=device.command)
    with open_session(device, script) as session:
        with progress.step(f"connecting to {device.host}"):
            try:
                lines = _read_preamble(session)
            except KeyboardInterrupt:
                session.kill()  # a machine that does not respond would not stop by itself
                raise
            remote = _parse_preamble(session, lines)
        if remote.version != (here := metadata.version("deploykit")):
            progress.note(f"{device.host} has deploykit {remote.version}, this machine has {here}.")
        yield remote


def _read_preamble(session: Session) -> list[str]:
    """Read the script's output until the folder is open."""
    lines: list[str] = []
    for raw in session.stdout:
        line = raw.decode(errors="replace").rstrip("\n")
        if line == f"{OUTPUT_MARK} open":
            return lines
        lines.append(line)
    code, device = session.wait(), session.device
    stderr_text = session.stderr_text
    if ssh.DISK_FULL.search(stderr_text):
        raise ssh.create_disk_full_error(device, device.folder or "temporary files")
    if code in FOLDER_EXIT_CODES:
        raise InputError(
            f"Cannot create a temporary folder on {device.host}: {ssh.find_last_line(stderr_text)}.",
            "Name a writable folder with --remote-folder.",
        )
    raise BackendError(
        f"{device.host} cannot run a shell script (exit code {code}): {ssh.find_last_line(stderr_text)}.",
        f"deploykit needs a login that can run commands; try: {device.login_command} true",
    )


def _install_remedy() -> str:
    return (
        f"{remote_install_remedy('compile', 'cpu')}\n"
        "If it is in a virtual environment, give its path: --remote-command '~/venv/bin/deploykit'."
    )


def _parse_preamble(session: Session, lines: list[str]) -> RemoteFolder:
    device = session.device
    if not lines or not lines[0].startswith(f"{OUTPUT_MARK} folder /"):
        printed = ssh.make_printable(lines[0]) if lines else ""
        raise InputError(
            f"Logging in at {device.host} prints {printed!r}, which would corrupt the transferred data.",
            "Change the shell's start-up files there to print nothing unless standard output is a terminal.",
        )
    at = next(number for number, line in enumerate(lines) if line.startswith(f"{OUTPUT_MARK} exit "))
    code, output = int(lines[at].rpartition(" ")[2]), ssh.make_printable("\n".join(lines[at + 1 :]))
    if code == 127:
        raise BackendError(f"{device.host} has no {device.command}: {ssh.find_last_line(output)}.", _install_remedy())
    if code != 0:
        raise BackendError(
            f"{device.command} --version fails on {device.host} (exit code {code}): {ssh.find_last_line(output)}.",
            _install_remedy(),
        )
    match = re.search(r"^deploykit, version (\S+)$", output, re.MULTILINE)
    if match is None:
        raise BackendError(
            f"{device.command} on {device.host} is not deploykit: --version prints "
            f"{repr(ssh.find_last_line(output)) if output else 'nothing'}.",
            "Correct --remote-command.",
        )
    folder = lines[0].removeprefix(f"{OUTPUT_MARK} folder ")
    return RemoteFolder(device, folder, match[1], f"{OUTPUT_MARK} rsync" in lines[:at])


# ── Sending the bundle and compiling ─────────────────────────────────────────────────────────────────────────────────


def _stage_bundle(manifest: Manifest) -> Manifest:
    """The manifest of the files to send: without additional engines, records and the report."""
    reduced = msgspec.structs.replace(manifest, extra_engines=())
    wanted = {*reduced.referenced_paths, f"{manifest.graph.file}.data"}
    return msgspec.structs.replace(
        reduced, files={path: file for path, file in manifest.files.items() if path in wanted}
    )


def _format_file_sizes(manifest: Manifest) -> str:
    return f"{sum(file.bytes for file in manifest.files.values()) / 2**20:.1f} MiB"


def _send_bundle(remote: RemoteFolder, folder: Path, sent: Manifest) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for path in sent.files:
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).symlink_to((folder / path).absolute())
        (staged / MANIFEST).write_bytes(manifests.encode_manifest(sent))
        if remote.rsync and shutil.which("rsync") is not None:
            _send_by_rsync(remote, staged)
        else:
            _send_by_tar(remote, staged)


def _send_by_rsync(remote: RemoteFolder, staged: Path) -> None:
    """Send the staged files with rsync: links are followed, and the remote shell does not expand names."""
    device = remote.device
    user, at, host = device.host.rpartition("@")
    host = f"[{host}]" if ":" in host else host
    command = [
        "rsync",
        "-rLs",
        "-e",
        shlex.join(ssh.ssh_command(device)),
        f"{staged}/",
        f"{user}{at}{host}:{remote.bundle}/",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, errors = process.communicate()
    finally:
        if process.poll() is None:
            process.terminate()  # also ends its ssh and the remote process
            process.wait()
    if process.returncode != 0:
        raise _transfer_error(remote, process.returncode, ssh.make_printable(errors.decode(errors="replace")))


def _send_by_tar(remote: RemoteFolder, staged: Path) -> None:
    """Send the staged files as a tar archive, if one of the machines has no rsync."""
    with open_session(remote.device, f"LC_ALL=C exec tar -xf - -C {shlex.quote(remote.bundle)}") as session:
        with (
            contextlib.suppress(BrokenPipeError),  # the remote tar has ended; its exit code is checked below
            tarfile.open(fileobj=session.stdin, mode="w|", dereference=True) as archive,
        ):
            for path in sorted(path for path in staged.rglob("*") if path.is_file()):
                archive.add(path, path.relative_to(staged).as_posix())
        if (code := session.close_and_wait()) != 0:
            raise _transfer_error(remote, code, session.stderr_text)


def _transfer_error(remote: RemoteFolder, code: int, stderr_text: str) -> DeploykitError:
    device = remote.device
    if ssh.DISK_FULL.search(stderr_text):
        return ssh.create_disk_full_error(device, remote.folder)
    if code == ssh.CONNECTION_FAILED:
        return ssh.create_connection_error(device, stderr_text)
    return BackendError(
        f"The bundle could not be sent to {device.host} (exit code {code}): {ssh.find_last_line(stderr_text)}.",
        "The bundle is unchanged. Fix the reported problem and run the command again.",
    )


COMPILE_SCRIPT: Final = """
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
"""All started processes end with the script's input: sshd makes this shell the leader of its own process group."""


class CompileResult(NamedTuple):
    """Exit code of the remote compilation (0, or 1 if a check failed) and its standard error."""

    code: int
    stderr_text: str


def _run_compile(remote: RemoteFolder, folder: Path, name: str, options: BuildOptions) -> CompileResult:
    """Run `deploykit compile` on the device; its errors are raised here with the same class."""
    words = shlex.join(("--target", name, *format_options(options)))
    script = COMPILE_SCRIPT.format(folder=shlex.quote(remote.folder), command=remote.device.command, words=words)
    with open_session(remote.device, script) as session:
        result = CompileResult(session.wait(), session.stderr_text)
    if result.code not in (0, 1):
        raise _compile_error(remote, folder, result)
    return result


def _compile_error(remote: RemoteFolder, folder: Path, result: CompileResult) -> DeploykitError:
    """Convert the remote error, with the path of the local bundle."""
    error = re.split(r"^Error: ", result.stderr_text, flags=re.MULTILINE)[-1]
    device, code, message = remote.device, result.code, " ".join(error.split())
    if ssh.DISK_FULL.search(message) or re.search(r"The disk that holds .* is full", message):
        return ssh.create_disk_full_error(device, remote.folder)
    message = message.replace(remote.bundle, str(folder))
    if code > 128:
        last = ssh.find_last_line(result.stderr_text).replace(remote.bundle, str(folder))  # the current step
        return BackendError(
            f"deploykit was killed on {device.host} by signal {code - 128}: {last}.",
            "The machine probably ran out of memory: close other programs on it, or lower --workspace.",
        )
    kind = ERRORS_BY_EXIT_CODE.get(code, BackendError)
    versions = "" if remote.version == metadata.version("deploykit") else f" (its deploykit is {remote.version})"
    return kind(f"On {device.host}{versions}: {message or f'deploykit ended with exit code {code}.'}", "")


def format_options(options: BuildOptions) -> Iterator[str]:
    """Format build options as command-line arguments, except batch sizes, which are part of the bundle."""
    if options.compute_capabilities:
        yield f"--compute-capability={','.join(map(str, options.compute_capabilities))}"
    for option, number in (
        ("--workspace", options.workspace_mib),
        ("--optimization-level", options.optimization_level),
        ("--dla-core", options.dla_core),
    ):
        if number is not None:
            yield f"{option}={number}"
    for option, enabled in (
        ("--version-compatible", options.version_compatible),
        ("--hardware-compatible", options.hardware_compatible),
        ("--strip-weights", options.strip_weights),
        ("--refittable", options.refittable),
    ):
        if enabled:
            yield option


# ── Fetching the engine ──────────────────────────────────────────────────────────────────────────────────────────────


def _fetch_engine(
    remote: RemoteFolder, folder: Path, expected_manifest: Manifest, name: str, result: CompileResult, temporary: Path
) -> Manifest:
    """Fetch the remote manifest, which must be `expected_manifest` plus one engine, and that engine's file and external
    weights into `temporary`. CheckFailed if any is not as expected.
    """
    device = remote.device
    _fetch_file(remote, MANIFEST, temporary / MANIFEST, MAX_MANIFEST_BYTES)
    try:
        received = manifests.read_manifest(temporary)
    except InputError as error:
        raise _untrusted_answer(device, error.what) from error
    if result.code == 1 and len(received.extra_engines) == len(expected_manifest.extra_engines):
        raise _compile_error(remote, folder, result)  # a check failed before an engine was written
    engine_record = _find_added_engine(device, expected_manifest, received, name)
    if (result.code == 1) != bool(engine_record.failures):
        raise _untrusted_answer(
            device, f"deploykit's exit code is {result.code}, which contradicts the engine's record"
        )
    engine = engine_record.engine.file
    if engine.path != expected_manifest.graph.file:
        weights = received.files.get(f"{engine.path}.data")
        for file in (engine, weights) if weights is not None else (engine,):
            _fetch_file(remote, file.path, temporary / file.path, file.bytes)
            if damage := find_damage(temporary, file):
                raise _untrusted_answer(device, damage)
    return received


def _find_added_engine(device: Device, expected_manifest: Manifest, received: Manifest, name: str) -> SecondaryEngine:
    """Find the one engine by which the received manifest extends the expected one. CheckFailed if it differs in any
    other way.
    """
    *others, engine_record = received.extra_engines or (None,)
    if engine_record is None or tuple(others) != expected_manifest.extra_engines:
        raise _untrusted_answer(device, "it is not the sent bundle plus one engine")
    engine, files = engine_record.engine, _files_without_report(received)
    if engine.backend != name:
        raise _untrusted_answer(device, f"it is an engine of {engine.backend}, not of {name}")
    if engine.file.path != expected_manifest.graph.file:
        expected = f"engines/{engine_tag(engine)}/{Path(engine.file.path).name}"
        if engine.file.path != expected or files.pop(expected) != engine.file:
            raise _untrusted_answer(device, f"its engine is not recorded as {expected}")
        files.pop(f"{expected}.data", None)  # external weights of a graph that is too large for one file
    rest = msgspec.structs.replace(received, extra_engines=expected_manifest.extra_engines, files=files)
    if manifests.encode_manifest(rest) != manifests.encode_manifest(
        msgspec.structs.replace(expected_manifest, files=_files_without_report(expected_manifest))
    ):
        raise _untrusted_answer(device, "its manifest differs from the sent one by more than an engine")
    if _source_graph(engine) != expected_manifest.files[expected_manifest.graph.file]:
        raise _untrusted_answer(device, "its engine was built from another graph")
    return engine_record


def _files_without_report(manifest: Manifest) -> dict[str, FileRecord]:
    """The bundle's files without the report, which is rendered again after every change on both machines."""
    return {path: file for path, file in manifest.files.items() if path != REPORT}


def _add_to_bundle(
    device: Device, folder: Path, sent: Manifest, engine_record: SecondaryEngine, source: Path
) -> Manifest:
    """Add the engine to the local bundle, which may have got engines of other devices in the meantime."""
    with _lock_bundle(folder):
        current = manifests.read_manifest(folder)
        if manifests.encode_manifest(_stage_bundle(current)) != manifests.encode_manifest(sent):
            raise InputError(
                f"{folder} changed while {device.host} was compiling: the engine does not belong to its graph.",
                "Run the command again.",
            )
        return pack_engine(
            folder,
            current,
            engine_record,
            source,
            reporting.report_renderer(folder, records.read_records(folder, current)),
        )


@contextmanager
def _lock_bundle(folder: Path) -> Iterator[None]:
    """Lock the bundle, so that two devices that finish at the same time do not drop each other's engine. The lock is on
    the parent folder, since the bundle itself is replaced, and is released when this process ends.
    """
    descriptor = os.open(folder.absolute().parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # the file system may not support locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _source_graph(engine: Engine) -> FileRecord:
    return engine.file if engine.build is None else engine.build.graph


def _untrusted_answer(device: Device, reason: str) -> CheckFailed:
    return CheckFailed(
        f"The engine from {device.host} is refused: {reason}.",
        "The bundle is unchanged. Run the command again, with the same version of deploykit on both machines.",
    )


CHUNK_BYTES: Final = 1 << 20


def _fetch_file(remote: RemoteFolder, path: str, destination: Path, max_bytes: int) -> None:
    """Fetch a single file of the remote bundle by its path."""
    device = remote.device
    destination.parent.mkdir(parents=True, exist_ok=True)
    with open_session(device, f"exec cat -- {shlex.quote(f'{remote.bundle}/{path}')}") as session:
        try:
            with destination.open("wb") as file:
                while piece := session.stdout.read(CHUNK_BYTES):
                    file.write(piece)
                    if file.tell() > max_bytes:
                        raise _untrusted_answer(device, f"{path} is larger than {max_bytes} bytes")
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            raise explain_os_error(
                error, destination, "Free some space, or set TMPDIR to a folder on another disk."
            ) from error
        if (code := session.close_and_wait()) != 0:
            raise BackendError(
                f"{path} could not be fetched from {device.host} (exit code {code}): "
                f"{ssh.find_last_line(session.stderr_text)}.",
                "The bundle is unchanged. Run the command again.",
            )
