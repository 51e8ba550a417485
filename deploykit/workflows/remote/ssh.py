"""Connection to another machine through the system's ssh, with the user's keys and configuration.

Remote scripts end in every case: each watches its standard input, which is held open from here. When the input ends
(deliberately, because this process died or because the connection broke), the script stops and cleans up.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

from deploykit.core.errors import BackendError, DeploykitError, InputError, UsageError
from deploykit.core.values import Value

OPTIONS: Final = (
    "-T",  # no terminal: no prompts, and output is transferred unchanged
    "-oBatchMode=yes",  # a prompt for a password or a host key would wait for ever
    "-oLogLevel=ERROR",  # a server's banner is not an error
    "-oRemoteCommand=none",
    "-oClearAllForwardings=yes",  # the port may already be forwarded by another connection
    "-oConnectTimeout=20",
    "-oServerAliveInterval=15",
    "-oServerAliveCountMax=4",  # the connection counts as broken after a minute of silence
)
"""Options that override the user's configuration, where that could make a connection fail or hang."""

TERMINATE_TIMEOUT_S: Final = 15.0
"""Time for a stopped script to clean up."""

CONNECTION_FAILED: Final = 255
"""Exit code of ssh's own failures; remote scripts never exit with it."""

DISK_FULL: Final = re.compile(r"No space left on device|Disk quota exceeded|tar: .*Wrote only \d+ of \d+ bytes")
"""Messages of remote programs about a full disk."""


class Device(Value, frozen=True):
    """A remote machine, and the command that starts deploykit on it."""

    host: str
    """`[user@]host` for ssh: a name, an address, or an alias of the user's configuration."""
    port: int | None = None
    command: str = "deploykit"
    """Command for the remote shell, such as `~/venv/bin/deploykit`."""
    folder: str | None = None
    """Parent of the temporary folder; None: the machine's default for temporary files."""

    @property
    def name(self) -> str:
        """Host without the user."""
        return self.host.rpartition("@")[2]

    @property
    def login_command(self) -> str:
        """The command that a user types to log in."""
        return f"ssh {f'-p {self.port} ' if self.port is not None else ''}{shlex.quote(self.host)}"


def parse_device(text: str, command: str = "deploykit", folder: str | None = None) -> Device:
    """Parse `[user@]host[:port]`; an IPv6 address with a port is in brackets.

    UsageError for an invalid name, or one that ssh would read as an option.
    """
    user, at, place = text.rpartition("@")
    host, port = place, None
    if match := re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\](?::(\d+))?|([^:\[\]]+):(\d+)", place):
        host, port = match[1] or match[3], match[2] or match[4]
    parts = (user, host) if at else (host,)
    malformed = host.count(":") == 1 or "[" in host or "]" in host  # a port that is not a number, a single bracket
    if malformed or any(not re.fullmatch(r"[^\s\x00-\x1f'\"\\/-][^\s\x00-\x1f'\"\\/]*", part) for part in parts):
        raise UsageError(
            f"{text!r} is not a valid host.", "Write --on [user@]host[:port], or an alias of your ssh config."
        )
    if port is not None and not 1 <= int(port) <= 65535:
        raise UsageError(f"{text!r} has port {port}; ports are 1 to 65535.", "")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--remote-command {command!r} is not a valid shell command: {error}.", "") from error
    if not words:
        raise UsageError("--remote-command is empty.", "Omit it, or give the command that starts deploykit there.")
    return Device(f"{user}{at}{host}", int(port) if port is not None else None, command, folder)


def ssh_command(device: Device) -> list[str]:
    """The ssh command without the host. BackendError if ssh is not installed on this machine."""
    if shutil.which("ssh") is None:
        raise BackendError("ssh is not installed on this machine.", "On Debian and Ubuntu: apt install openssh-client.")
    return ["ssh", *OPTIONS, *(["-p", str(device.port)] if device.port is not None else [])]


class Session:
    """A script that runs on a device; `open_session` starts and stops it."""

    def __init__(self, device: Device, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.device = device
        self.stdin: IO[bytes] = process.stdin
        self.stdout: IO[bytes] = process.stdout
        self._process = process
        self._errors = errors

    @property
    def stderr_text(self) -> str:
        """Standard error so far, without control characters."""
        self._errors.seek(0)
        return make_printable(self._errors.read().decode(errors="replace"))

    def wait(self) -> int:
        """Wait until the script ends by itself, and return its exit code. DeploykitError if the connection failed."""
        code = self._process.wait()
        if code == CONNECTION_FAILED:
            raise create_connection_error(self.device, self.stderr_text)
        return code

    def close_and_wait(self) -> int:
        """Close the script's input, wait until it ends, and return its exit code."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        return self.wait()

    def stop(self) -> None:
        """Close the script's streams; kill the connection if the script does not end in time."""
        for pipe in (self.stdout, self.stdin):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(TERMINATE_TIMEOUT_S)
        finally:  # the connection is lost, or the user interrupts the wait
            self.kill()

    def kill(self) -> None:
        """End the connection at once. The remote script ends by itself, without being waited for."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextmanager
def open_session(device: Device, script: str) -> Iterator[Session]:
    """Run a POSIX shell script on the device, whatever the login shell is; it is stopped when the block ends.

    The ssh process is in its own session, so that Ctrl-C in the terminal does not reach it directly.
    """
    command = [*ssh_command(device), device.host, f"exec sh -c {shlex.quote(script)}"]
    with tempfile.TemporaryFile() as errors:  # a full pipe would block ssh
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        started = Session(device, process, errors)
        try:
            yield started
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.stop()


def make_printable(text: str) -> str:
    """Remove control characters from another machine's output, which is shown on this one's terminal."""
    return "".join(letter for letter in text if letter.isprintable() or letter == "\n").strip()


def find_last_line(text: str) -> str:
    """The last line that is not empty, without a full stop."""
    lines = [line.strip(" .") for line in text.splitlines() if line.strip(" .")]
    return lines[-1] if lines else "no reason given"


def create_connection_error(device: Device, stderr_text: str) -> DeploykitError:
    """Create the error for a failure of ssh, by its message."""
    for pattern, what, remedy in FAILURES:
        if re.search(pattern, stderr_text):
            values = {
                "host": device.host,
                "name": device.name,
                "login": device.login_command,
                "reason": find_last_line(stderr_text),
            }
            return BackendError(what.format(**values), remedy.format(**values))
    return BackendError(
        f"The connection to {device.host} broke{f': {find_last_line(stderr_text)}' if stderr_text else ''}.",
        f"The bundle is unchanged. Run the command again; if that does not help, try: {device.login_command}",
    )


FAILURES: Final[Sequence[tuple[str, str, str]]] = (
    (
        "IDENTIFICATION HAS CHANGED",
        "The host key of {host} differs from the one known to ssh: it may be another machine.",
        "Find out why. If it was reinstalled, remove the old key with ssh-keygen -R, then connect manually: {login}",
    ),
    (
        "Host key verification failed|host key is known",
        "ssh does not know the host key of {host}.",
        "Connect once manually, compare the fingerprint, and accept it: {login}",
    ),
    (
        r"Permission denied|Too many authentication failures|[Nn]o more authentication methods",
        "{host} refuses the login: {reason}.",
        "Passwords are not supported. Install your key there with ssh-copy-id {host}; add a key with a passphrase to "
        "the agent with ssh-add. This must succeed: {login} true",
    ),
    (
        "Could not resolve hostname|contains invalid characters",
        "The host {name} is unknown: {reason}.",
        "Check the name, or describe the machine in ~/.ssh/config.",
    ),
    (
        r"connect to (host|address) .*|Connection timed out during banner exchange|[Pp]roxy",
        "{host} cannot be reached: {reason}.",
        "Check that it is running and in this network, and that its ssh server listens on that port: {login}",
    ),
    (
        "Bad configuration option|Bad owner or permissions|line [0-9]+: |not accessible",
        "ssh does not work on this machine: {reason}.",
        "Fix the reported problem.",
    ),
)
"""(pattern in ssh's output, error message, remedy)."""


def create_disk_full_error(device: Device, where: str) -> InputError:
    """Create the error for a full disk on the device."""
    return InputError(
        f"The disk of {device.host} that holds {where} is full.",
        "Free some space there, or choose a folder on another disk with --remote-folder.",
    )
