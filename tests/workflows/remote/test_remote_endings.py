"""Remote work ends with the local process: by Ctrl-C, by a kill, by a lost connection."""

import os
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class RunningCompilation(NamedTuple):
    """A local deploykit with a remote compiler that never ends."""

    process: subprocess.Popen
    compiler: int

    @property
    def alive_there(self):
        try:
            status = (Path("/proc") / str(self.compiler) / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return "State:\tZ" not in status  # a zombie: ended, exit code not yet collected


@pytest.fixture
def running_compilation(device, bundle, remote_folder, program, tmp_path, wait_until):
    """A separate process group, as a terminal creates for its jobs."""
    pid = tmp_path / "pid"
    endless = device.script(
        "endless", f'[ "$1" = compile ] && {{ echo $$ >{pid}; exec sleep 1000; }}\nexec "$REAL" "$@"'
    )
    words = ("--on", "jetson", "--remote-command", endless, "--remote-folder", remote_folder)
    with subprocess.Popen(
        program("compile", bundle, "--target", "openvino", *words),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: (pid.exists() and pid.read_text().strip()) or process.poll() is not None)
            assert process.poll() is None, process.stdout.read()
            assert [path.name for path in remote_folder.glob("*/bundle/manifest.json")] == ["manifest.json"]
            yield RunningCompilation(process, int(pid.read_text()))
        finally:
            process.kill()


def test_ctrl_c_stops_the_remote_compiler_and_removes_its_folder_before_returning(
    running_compilation, bundle, remote_folder, snapshot
):
    before = snapshot(bundle)
    os.killpg(running_compilation.process.pid, signal.SIGINT)
    output, _ = running_compilation.process.communicate(timeout=120)
    assert (running_compilation.process.returncode, output.strip().splitlines()[-1]) == (
        130,
        "Interrupted. Nothing was written.",
    )
    assert not running_compilation.alive_there
    assert list(remote_folder.iterdir()) == []
    assert snapshot(bundle) == before


def test_killing_the_local_process_leaves_no_remote_files_or_processes(running_compilation, remote_folder, wait_until):
    running_compilation.process.kill()
    wait_until(lambda: not running_compilation.alive_there and not list(remote_folder.iterdir()))


def test_a_broken_connection_leaves_the_bundle_unchanged(
    running_compilation, bundle, remote_folder, device, snapshot, wait_until
):
    before = snapshot(bundle)
    device.drop()
    output, _ = running_compilation.process.communicate(timeout=120)
    assert running_compilation.process.returncode == 4
    assert "Error: The connection to jetson broke" in output
    assert "The bundle is unchanged. Run the command again" in " ".join(output.split())
    assert snapshot(bundle) == before
    wait_until(lambda: not running_compilation.alive_there and not list(remote_folder.iterdir()))
