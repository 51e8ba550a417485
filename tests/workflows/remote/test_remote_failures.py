"""What goes wrong on the way to a device, there, and on the way back: said clearly, and the bundle stays as it was."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest

from deploykit.backends import is_installed
from deploykit.core.errors import UsageError
from deploykit.workflows.remote import ssh


@pytest.fixture
def refused(on, bundle, ground, snapshot):
    """A call that must fail, in one paragraph, and leave nothing anywhere."""

    def call(host, **options):
        before = snapshot(bundle)
        result = on(host, **options)
        assert result.code != 0
        assert snapshot(bundle) == before
        assert list(ground.iterdir()) == []
        return result

    return call


# ── The way there ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("stranger", "ssh does not know the host key of stranger. Connect once manually, compare the fingerprint"),
        ("replaced", "The host key of replaced differs from the one known to ssh: it may be another machine."),
        ("locked", "locked refuses the login: "),
        ("away", "away cannot be reached: ssh: connect to host 127.0.0.1 port"),
    ],
)
def test_a_machine_that_cannot_be_entered_is_named_with_what_to_do(refused, host, said):
    result = refused(host)
    assert result.code == 4
    assert said in result.text
    assert f"ssh {host}" in result.text


def test_a_record_that_no_report_can_be_made_of_is_told_before_the_machine_is_asked(refused, bundle):
    path, manifest = bundle / "records" / "stages.json", bundle / "manifest.json"
    content = json.loads(manifest.read_text())
    path.write_text("{}")
    content["files"]["records/stages.json"] |= {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    manifest.write_text(json.dumps(content))
    assert "records/stages.json is not a record that this deploykit can read" in refused("away").text


def test_a_machine_that_nobody_knows_is_named(cli, fp32_bundle):
    result = cli("compile", fp32_bundle, "--target", "openvino", "--on", "me@nowhere:2222")
    assert result.code == 4
    assert "The host nowhere is unknown: ssh: Could not resolve hostname nowhere.invalid" in result.text


def test_without_ssh_the_package_is_named(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ssh is not installed on this machine. On Debian and Ubuntu: apt install" in refused("jetson").text


def test_a_login_that_runs_no_commands_is_quoted(refused):
    result = refused("mute")
    assert result.code == 4
    assert "mute cannot run a shell script (exit code 1): only files here." in result.text


def test_a_login_that_prints_is_refused_since_that_would_be_taken_for_an_answer(refused):
    assert "Logging in at chatty prints 'Welcome, stranger'" in refused("chatty").text


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=touch x",
        "me@-oProxyCommand=x",
        "",
        "@host",
        "me@",
        "a b",
        "host:0",
        "host:70000",
        "h:x:y/",
        "h:x",
        "[::1",
        "[::1]:x",
    ],
)
def test_what_names_no_machine_is_refused_before_ssh_sees_it(text):
    with pytest.raises(UsageError):
        ssh.parse_device(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("orin", "orin", None),
        ("me@orin.local:2222", "me@orin.local", 2222),
        ("me@corp@orin", "me@corp@orin", None),
        ("fe80::1%eth0", "fe80::1%eth0", None),
        ("me@[fe80::1]:22", "me@fe80::1", 22),
    ],
)
def test_user_host_and_port_are_told_apart(text, host, port):
    device = ssh.parse_device(text)
    assert (device.host, device.port) == (host, port)


@pytest.mark.parametrize("command", ["", "  ", "env 'X=1 deploykit"])
def test_a_command_that_no_shell_takes_is_refused_here(cli, fp32_bundle, command):
    result = cli("compile", fp32_bundle, "--target", "openvino", "--on", "orin", "--remote-command", command)
    assert result.code == 2
    assert "--remote-command" in result.text


def test_words_for_another_machine_need_one(cli, fp32_bundle):
    result = cli("compile", fp32_bundle, "--target", "openvino", "--remote-command", "deploykit")
    assert result.code == 2
    assert "--remote-command and --remote-folder need --on." in result.text


# ── There ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_machine_without_deploykit_is_told_how_to_get_it(refused):
    result = refused("jetson", command="~/no/deploykit")
    assert result.code == 4
    assert "jetson has no ~/no/deploykit: " in result.text
    assert "python3 -m pip install './deploykit-" in result.text
    assert "--remote-command '~/venv/bin/deploykit'" in result.text


def test_a_deploykit_that_does_not_start_is_quoted(refused, device):
    broken = device.script("broken", "echo \"ModuleNotFoundError: No module named 'click'\" >&2; exit 1")
    assert "(exit code 1): ModuleNotFoundError: No module named 'click'." in refused("jetson", command=broken).text


def test_another_program_is_not_taken_for_deploykit(refused):
    assert "echo on jetson is not deploykit: --version prints '--version'." in refused("jetson", command="echo").text


def test_another_version_is_noted_and_its_refusal_quoted(refused, device):
    said = "manifest.json has schema version 3, and this deploykit reads version 2."
    older = device.script(
        "older",
        f'[ "$1" = --version ] && exec echo "deploykit, version 0.0.9"\necho "Error: $2/{said}" >&2; exit 3',
    )
    result = refused("jetson", command=older)
    assert result.code == 3
    assert "jetson has deploykit 0.0.9, this machine has " in result.text
    assert "On jetson (its deploykit is 0.0.9): " in result.text
    assert said in result.text


def test_what_fails_there_fails_here_in_the_same_words_and_with_the_same_code(refused):
    result = refused("jetson", target="onnxruntime")
    assert result.code == 3
    assert "Error: On jetson: onnxruntime " in result.text
    assert "is the bundle's primary engine already. Compile for another backend, or on another machine." in result.text


def test_a_backend_that_does_not_exist_is_refused_before_anything_is_sent(cli, fp32_bundle):
    result = cli("compile", fp32_bundle, "--target", "openvno", "--on", "nowhere.invalid")
    assert result.code == 2
    assert "unknown backend 'openvno'; did you mean openvino?" in result.text


def test_a_compiler_that_is_killed_is_said_to_be(refused, device):
    dying = device.script("dying", '[ "$1" = compile ] && kill -9 $$\nexec "$REAL" "$@"')
    result = refused("jetson", command=dying)
    assert result.code == 4
    assert "deploykit was killed on jetson by signal 9: Killed. The machine probably ran out of memory" in result.text


def test_a_fault_inside_is_quoted_whole(refused, device):
    said = "Error: deploykit failed inside: ModuleNotFoundError: No module named x. Report it."
    faulty = device.script("faulty", f'[ "$1" = compile ] && echo "{said}" >&2 && exit 5\nexec "$REAL" "$@"')
    result = refused("jetson", command=faulty)
    assert result.code == 5
    assert "On jetson: deploykit failed inside: ModuleNotFoundError: No module named x. Report it." in result.text


def test_its_errors_move_no_cursor_here(refused, device):
    loud = device.script(
        "loud", '[ "$1" = compile ] && printf "Error: \\033[2Jgone\\007\\n" >&2 && exit 3\nexec "$REAL" "$@"'
    )
    assert "On jetson: [2Jgone" in refused("jetson", command=loud).text


def test_a_folder_that_is_not_there_is_said(cli, bundle, device):
    words = ("--on", "jetson", "--remote-command", device.command, "--remote-folder", "/no such/place")
    result = cli("compile", bundle, "--target", "openvino", *words)
    assert result.code == 3
    assert "Cannot create a temporary folder on jetson: " in result.text
    assert "can't cd to /no such/place" in result.text or "/no such/place: No such file" in result.text


@pytest.fixture
def narrow(tmp_path):
    """A disk of a megabyte."""
    folder = tmp_path / "narrow"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("host", ["jetson", "bare"])
def test_a_disk_that_is_full_there_is_said(cli, bundle, device, narrow, host):
    words = ("--on", host, "--remote-command", device.command, "--remote-folder", narrow)
    result = cli("compile", bundle, "--target", "openvino", *words)
    assert result.code == 3
    assert f"The disk of {host} that holds {narrow}" in result.text
    assert "is full. Free some space there, or choose a folder on another disk" in result.text
    assert list(narrow.iterdir()) == []


# ── The way back ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def made(device, fp32_bundle, tmp_path_factory):
    """What a device made of the bundle: the folder as it was there, its engine a file."""
    if not is_installed("tensorrt-rtx"):
        pytest.skip("an engine that is a file needs TensorRT-RTX: install the extra rtx")
    from deploykit.cli import run

    folder = tmp_path_factory.mktemp("made")
    bundle, kept = shutil.copytree(fp32_bundle, folder / "bundle"), folder / "kept"
    keeping = device.script("keeping", f'"$REAL" "$@" && [ "$1" != compile ] || cp -R "$2" {kept}')
    words = ("--target", "tensorrt-rtx", "--on", "jetson", "--remote-command", keeping)
    assert run(["compile", str(bundle), *words]) == 0
    return kept


@pytest.fixture
def returning(refused, device, made, tmp_path):
    """A device that gives back what another had made, changed by a line of Python and with that exit code."""

    def call(change, code=0):
        edit = tmp_path / "edit.py"
        edit.write_text(EDIT.format(change=change))
        answer = f'cp -R {made}/. "$2"; {sys.executable} {edit} "$2"; exit {code}'
        command = device.script("returning", f'[ "$1" = compile ] && {{ {answer}; }}\nexec "$REAL" "$@"')
        return refused("jetson", target="tensorrt-rtx", command=command)

    return call


EDIT = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
manifest = folder / "manifest.json"
content = json.loads(manifest.read_text())
beside = content["extra_engines"][0]
plan = folder / beside["engine"]["file"]["path"]
{change}
if manifest.exists():
    manifest.write_text(json.dumps(content))
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "plan.write_bytes(bytes([plan.read_bytes()[0] ^ 1]) + plan.read_bytes()[1:])",
            "differs from its recorded SHA",
        ),
        ("plan.write_bytes(plan.read_bytes()[:-1])", "bytes instead of"),
        ("plan.write_bytes(plan.read_bytes() + bytes(1))", "is larger than"),
        ("content['weights']['trained'] = True", "differs from the sent one by more than an engine"),
        ("content['files']['model.onnx']['sha256'] = '0' * 64", "differs from the sent one by more than an engine"),
        (
            "content['files']['more.sh'] = dict(path='more.sh', sha256='', bytes=0)",
            "differs from the sent one by more than an engine",
        ),
        ("content['extra_engines'] = []", "it is not the sent bundle plus one engine"),
        ("content['extra_engines'] *= 2", "it is not the sent bundle plus one engine"),
        ("beside['engine']['backend'] = 'tensorrt'", "it is an engine of tensorrt, not of tensorrt-rtx"),
        ("beside['engine']['build']['graph']['sha256'] = '0' * 64", "its engine was built from another graph"),
        (
            "beside['engine']['version'] = '/../../../x'",
            "its engine is not recorded as engines/tensorrt-rtx-/../../../x",
        ),
        ("beside['engine']['file']['path'] = '../../x'", "leaves the bundle"),
        ("content['schema_version'] = 2", "has schema version 2, and this deploykit reads version"),
        ("content = []", "manifest.json is damaged"),
    ],
)
def test_what_comes_back_must_be_what_went_with_an_engine_more(returning, change, said):
    result = returning(change)
    assert result.code == 1
    assert "The engine from jetson is refused: " in result.text
    assert said in result.text


def test_an_exit_code_that_the_record_contradicts_is_refused(returning):
    result = returning("", code=1)
    assert result.code == 1
    assert "deploykit's exit code is 1, which contradicts the engine's record" in result.text


def test_a_check_that_failed_there_before_there_was_an_engine_is_quoted(refused, device):
    failing = device.script(
        "failing",
        '[ "$1" = compile ] && { echo "Error: $2 is damaged: x." >&2; exit 1; }\nexec "$REAL" "$@"',
    )
    result = refused("jetson", command=failing)
    assert result.code == 1
    assert re.search(r"On jetson: \S+/bundle is damaged: x\.", result.text)


def test_a_bundle_that_was_exported_anew_meanwhile_gets_no_engine_of_the_graph_before(on, bundle, device, made):
    path = bundle / "manifest.json"
    change = f"sed -i s/synthetic/elsewhere/ {path}"
    command = device.script(
        "slow", f'[ "$1" = compile ] && {{ cp -R {made}/. "$2"; {change}; exit; }}\nexec "$REAL" "$@"'
    )
    result = on("jetson", target="tensorrt-rtx", command=command)
    assert result.code == 3
    assert (
        "changed while jetson was compiling: the engine does not belong to its graph. Run the command again."
        in result.text
    )
    assert list(bundle.rglob("engine.plan")) == []
