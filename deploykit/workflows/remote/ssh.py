"""Another machine, reached by the system's own ssh, with the keys and the configuration that its user has.

What is started there ends there, whatever happens here: every script has its standard input held open from here, and
its end, by our will, our death or the network's, is its sign to stop and to tidy up.
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
    "-T",  # no terminal: nothing is asked, and what comes back is what was written
    "-oBatchMode=yes",  # a password, or a question about a host key, would wait for ever
    "-oLogLevel=ERROR",  # a server's banner is no error
    "-oRemoteCommand=none",
    "-oClearAllForwardings=yes",  # a port that another connection forwards already
    "-oConnectTimeout=20",
    "-oServerAliveInterval=15",
    "-oServerAliveCountMax=4",  # a minute of silence: the connection is broken
)
"""What the user's configuration may not change: it would stop us, or let us wait for ever."""

PATIENCE_S: Final = 15.0
"""For a script that was told to end to tidy up."""

BROKEN: Final = 255
"""How ssh itself fails; what runs there is kept from ending with that."""

FULL: Final = re.compile(r"No space left on device|Disk quota exceeded|tar: .*Wrote only \d+ of \d+ bytes")
"""How programs there say that their disk is full."""


class Device(Value, frozen=True):
    """A machine, and how deploykit is called there."""

    host: str
    """`[user@]host`, as ssh takes it: a name, an address, or an alias of the user's configuration."""
    port: int | None = None
    command: str = "deploykit"
    """Words for a shell there, such as `~/venv/bin/deploykit`."""
    folder: str | None = None
    """Where to work; None: where that machine keeps what is temporary."""

    @property
    def name(self) -> str:
        """Without the user."""
        return self.host.rpartition("@")[2]

    @property
    def by_hand(self) -> str:
        """What a user types to get there."""
        return f"ssh {f'-p {self.port} ' if self.port is not None else ''}{shlex.quote(self.host)}"


def device(text: str, command: str = "deploykit", folder: str | None = None) -> Device:
    """The machine that `[user@]host[:port]` names; an IPv6 address with a port stands in brackets.

    UsageError for what is no such name, or what ssh would take for an option.
    """
    user, at, place = text.rpartition("@")
    host, port = place, None
    if found := re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\](?::(\d+))?|([^:\[\]]+):(\d+)", place):
        host, port = found[1] or found[3], found[2] or found[4]
    words = (user, host) if at else (host,)
    torn = host.count(":") == 1 or "[" in host or "]" in host  # a port that is no number, a bracket without the other
    if torn or any(not re.fullmatch(r"[^\s\x00-\x1f'\"\\/-][^\s\x00-\x1f'\"\\/]*", word) for word in words):
        raise UsageError(
            f"{text!r} names no machine.", "Write --on [user@]host[:port], or an alias of your ssh config."
        )
    if port is not None and not 1 <= int(port) <= 65535:
        raise UsageError(f"{text!r} names port {port}; there are 1 to 65535.", "")
    try:
        spoken = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--remote-command {command!r} is no command of a shell: {error}.", "") from error
    if not spoken:
        raise UsageError("--remote-command is empty.", "Leave it out, or say how deploykit is called there.")
    return Device(f"{user}{at}{host}", int(port) if port is not None else None, command, folder)


def words(device: Device) -> list[str]:
    """How ssh is called, without the host. BackendError where there is none on this machine."""
    if shutil.which("ssh") is None:
        raise BackendError("ssh is not installed on this machine.", "On Debian and Ubuntu: apt install openssh-client.")
    return ["ssh", *OPTIONS, *(["-p", str(device.port)] if device.port is not None else [])]


class Session:
    """A script that runs on a device. `session` starts it and ends it."""

    def __init__(self, device: Device, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.device = device
        self.stdin: IO[bytes] = process.stdin
        self.stdout: IO[bytes] = process.stdout
        self._process = process
        self._errors = errors

    @property
    def said(self) -> str:
        """On standard error, so far, without what would move a terminal's cursor."""
        self._errors.seek(0)
        return printable(self._errors.read().decode(errors="replace"))

    def wait(self) -> int:
        """The script's exit code, once it has ended by itself. DeploykitError where the connection did."""
        code = self._process.wait()
        if code == BROKEN:
            raise refusal(self.device, self.said)
        return code

    def finish(self) -> int:
        """The script's exit code, once it has ended behind all that it was given."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        return self.wait()

    def end(self) -> None:
        """Tell it to end, and see to it."""
        for pipe in (self.stdout, self.stdin):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(PATIENCE_S)
        finally:  # a connection that is gone, or a user without patience
            self.kill()

    def kill(self) -> None:
        """End the connection at once. What runs there ends too, and nobody waits for it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextmanager
def session(device: Device, script: str) -> Iterator[Session]:
    """A shell script of POSIX's language, started on the device whatever its user's own shell is.

    It does not hear Ctrl-C, which reaches all that a terminal has started: it is ended when the block is left.
    """
    command = [*words(device), device.host, f"exec sh -c {shlex.quote(script)}"]
    with tempfile.TemporaryFile() as errors:  # as a third pipe it would hold ssh up when it is full
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        started = Session(device, process, errors)
        try:
            yield started
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.end()


def printable(text: str) -> str:
    """What another machine says, without control characters: it is shown on this one's terminal."""
    return "".join(letter for letter in text if letter.isprintable() or letter == "\n").strip()


def last_words(text: str) -> str:
    """The last line that says something, as half a sentence."""
    lines = [line.strip(" .") for line in text.splitlines() if line.strip(" .")]
    return lines[-1] if lines else "it does not say why"


def refusal(device: Device, said: str) -> DeploykitError:
    """Why ssh failed, by what it said."""
    for sign, what, remedy in REFUSALS:
        if re.search(sign, said):
            fill = {"host": device.host, "name": device.name, "hand": device.by_hand, "said": last_words(said)}
            return BackendError(what.format(**fill), remedy.format(**fill))
    return BackendError(
        f"The connection to {device.host} broke{f': {last_words(said)}' if said else ''}.",
        f"The bundle is as it was. Run it again; if that does not help, try: {device.by_hand}",
    )


REFUSALS: Final[Sequence[tuple[str, str, str]]] = (
    (
        "IDENTIFICATION HAS CHANGED",
        "{host} shows another host key than the one that ssh remembers: it may be another machine.",
        "Find out why. If it was set up anew, forget the old key with ssh-keygen -R, and connect by hand: {hand}",
    ),
    (
        "Host key verification failed|host key is known",
        "ssh does not know the host key of {host}.",
        "Connect once by hand, compare the fingerprint that it shows, and say yes: {hand}",
    ),
    (
        r"Permission denied|Too many authentication failures|[Nn]o more authentication methods",
        "{host} does not let us in: {said}.",
        "A password is never asked for here. Give that machine your key with ssh-copy-id {host}; a key with a "
        "passphrase goes to the agent first, with ssh-add. This must succeed: {hand} true",
    ),
    (
        "Could not resolve hostname|contains invalid characters",
        "No machine is called {name}: {said}.",
        "Check the name, or describe the machine in ~/.ssh/config.",
    ),
    (
        r"connect to (host|address) .*|Connection timed out during banner exchange|[Pp]roxy",
        "{host} cannot be reached: {said}.",
        "Check that it is on, in this network, and that its ssh server listens there: {hand}",
    ),
    (
        "Bad configuration option|Bad owner or permissions|line [0-9]+: |not accessible",
        "ssh does not work on this machine: {said}.",
        "Mend what it names.",
    ),
)
"""What ssh says, what that means, and what to do."""


def full(device: Device, where: str) -> InputError:
    """The disk there."""
    return InputError(
        f"The disk of {device.host} that holds {where} is full.",
        "Free some space there, or name a folder on another of its disks with --remote-folder.",
    )
