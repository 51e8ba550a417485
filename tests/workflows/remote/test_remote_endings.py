"""Work on a device ends with whoever asked for it: by Ctrl-C, by death, by a network that is gone."""

import os
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Working(NamedTuple):
    """A deploykit here, whose compiler there never ends."""

    process: subprocess.Popen
    compiler: int

    @property
    def alive_there(self):
        try:
            status = (Path("/proc") / str(self.compiler) / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return "State:\tZ" not in status  # ended, and only not yet asked for its exit code


@pytest.fixture
def working(device, bundle, ground, program, tmp_path, eventually):
    """A process group of its own, as a terminal gives one to what it starts."""
    pid = tmp_path / "pid"
    endless = device.script(
        "endless", f'[ "$1" = compile ] && {{ echo $$ >{pid}; exec sleep 1000; }}\nexec "$REAL" "$@"'
    )
    words = ("--on", "jetson", "--remote-command", endless, "--remote-folder", ground)
    with subprocess.Popen(
        program("compile", bundle, "--target", "openvino", *words),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            eventually(lambda: (pid.exists() and pid.read_text().strip()) or process.poll() is not None)
            assert process.poll() is None, process.stdout.read()
            assert [path.name for path in ground.glob("*/bundle/manifest.json")] == ["manifest.json"]
            yield Working(process, int(pid.read_text()))
        finally:
            process.kill()


def test_ctrl_c_ends_the_compiler_there_and_removes_its_folder_before_we_return(working, bundle, ground, snapshot):
    before = snapshot(bundle)
    os.killpg(working.process.pid, signal.SIGINT)
    said, _ = working.process.communicate(timeout=120)
    assert (working.process.returncode, said.strip().splitlines()[-1]) == (130, "Interrupted. Nothing was written.")
    assert not working.alive_there
    assert list(ground.iterdir()) == []
    assert snapshot(bundle) == before


def test_a_deploykit_that_is_killed_here_leaves_nothing_there(working, ground, eventually):
    working.process.kill()
    eventually(lambda: not working.alive_there and not list(ground.iterdir()))


def test_a_broken_connection_is_said_and_the_bundle_stays(working, bundle, ground, device, snapshot, eventually):
    before = snapshot(bundle)
    device.drop()
    said, _ = working.process.communicate(timeout=120)
    assert working.process.returncode == 4
    assert "Error: The connection to jetson broke" in said
    assert "The bundle is unchanged. Run the command again" in " ".join(said.split())
    assert snapshot(bundle) == before
    eventually(lambda: not working.alive_there and not list(ground.iterdir()))
