"""This machine as a device: a separate ssh server on a loopback port, with its own keys.

Neither the user's ~/.ssh nor the machine's server is touched: an `ssh` first on PATH reads another configuration.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
MISSING = [name for name in ("ssh", "ssh-keygen", "rsync") if shutil.which(name) is None] + (
    ["sshd"] if not SSHD else []
)
ROOT = Path(__file__).resolve().parents[3]

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
"""

CLIENT = """
Host stranger
    UserKnownHostsFile /dev/null
Host replaced
    UserKnownHostsFile {folder}/known-before
Host locked
    IdentityFile {folder}/locked
Host away
    Port {closed}
Host nowhere
    HostName nowhere.invalid
Host *
    HostName 127.0.0.1
    Port {port}
    UserKnownHostsFile {folder}/known
    GlobalKnownHostsFile /dev/null
    IdentityFile {folder}/%n
    IdentitiesOnly yes
    IdentityAgent none
"""

QUICK = """
import functools
import sys
sys.path[0] = {root!r}
if "compile" in sys.argv:
    from deploykit.workflows import bundles
    from deploykit.evaluate.latency.measure import Settings, measure_calls
    few = Settings(window_s=0, agreement=1e9, iterations_at_least=3, seconds_at_least=0.001)
    bundles.measure_calls = functools.partial(measure_calls, settings=few)
from deploykit.cli import main
sys.argv[0] = "deploykit"
main()
"""
"""deploykit from this checkout, which measures a few calls only."""


class Device(NamedTuple):
    """The server, and a deploykit in a folder with a blank in its name."""

    server: subprocess.Popen
    folder: Path
    program: Path

    @property
    def command(self):
        """For --remote-command."""
        return shlex.quote(str(self.program))

    def script(self, name, text):
        """Another remote program; `$REAL` is deploykit. For --remote-command too."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\nREAL={shlex.quote(str(self.program))}\n{text}\n")
        path.chmod(0o755)
        return shlex.quote(str(path))

    def drop(self):
        """Drop every connection, like a network failure."""
        for pid in reversed(descendants(self.server.pid)):
            if (Path("/proc") / str(pid) / "comm").read_text().startswith("sshd"):
                os.kill(pid, signal.SIGKILL)


def descendants(pid):
    """Descendants of a process, parents before children."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    pids = [pid]
    for each in pids:
        pids += [child for child, parent in parents.items() if parent == each]
    return pids[1:]


def create_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text().strip()


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def listening(number):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", number)) == 0


@pytest.fixture(scope="session")
def device(tmp_path_factory):
    """The host of `--on jetson` for every deploykit started by a test."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} is not installed: apt install openssh-server openssh-client rsync")
    folder = tmp_path_factory.mktemp("device")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # a server started by root ends without it
    number, closed, host = port(), port(), create_key(folder / "host")
    bare = folder / "bare-bin"
    bare.mkdir()
    for name in ("sh", "mktemp", "rm", "mkdir", "tar", "cat", "sleep", "env"):
        (bare / name).symlink_to(shutil.which(name))
    commands = {
        "jetson": "",
        "bare": f'command="PATH={bare} exec sh -c \\"$SSH_ORIGINAL_COMMAND\\"" ',
        "chatty": 'command="echo Welcome, stranger; exec sh -c \\"$SSH_ORIGINAL_COMMAND\\"" ',
        "mute": 'command="echo only files here >&2; exit 1" ',
    }
    (folder / "authorized").write_text(
        "".join(f"{said}{create_key(folder / name)}\n" for name, said in commands.items())
    )
    create_key(folder / "locked")
    (folder / "known").write_text(f"[127.0.0.1]:{number} {host}\n")
    (folder / "known-before").write_text(f"[127.0.0.1]:{number} {create_key(folder / 'host-before')}\n")
    (folder / "sshd_config").write_text(SERVER.format(port=number, folder=folder))
    (folder / "ssh_config").write_text(CLIENT.format(port=number, folder=folder, closed=closed))
    (folder / "bin").mkdir()
    ssh = folder / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "ssh_config"} "$@"\n')
    ssh.chmod(0o755)
    program = folder / "my tools" / "deploykit"
    program.parent.mkdir()
    (folder / "quick.py").write_text(QUICK.format(root=str(ROOT)))
    program.write_text(
        f"#!/bin/sh\nDEPLOYKIT_CACHE_DIR={folder / 'cache'}\nexport DEPLOYKIT_CACHE_DIR\n"
        f'exec {sys.executable} {folder / "quick.py"} "$@"\n'
    )
    program.chmod(0o755)
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
        running_device = Device(server, folder, program)
        try:
            while not listening(number):
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield running_device
        finally:
            running_device.drop()
            server.terminate()


@pytest.fixture
def remote_folder(tmp_path):
    """The remote work folder; empty when no work is running."""
    folder = tmp_path / "work there"
    folder.mkdir()
    return folder


@pytest.fixture
def compile_on(cli, bundle, device, remote_folder):
    """`deploykit compile BUNDLE --on HOST …`"""

    def call(host, *words, target="openvino", command=None):
        there = ("--remote-command", command or device.command, "--remote-folder", remote_folder)
        return cli("compile", bundle, "--target", target, "--on", host, *there, *words)

    return call


@pytest.fixture
def wait_until():
    """Wait until a condition is true, with a timeout for busy machines."""

    def wait(holds):
        end = time.monotonic() + 120
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.05)

    return wait
