"""Failures before, during and after the work on a device: reported clearly, with the bundle unchanged."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest

from deploykit.backends import is_installed
from deploykit.bundle import manifest as manifests
from deploykit.core.errors import UsageError
from deploykit.workflows.remote import ssh


@pytest.fixture
def compile_refused(compile_on, bundle, remote_folder, snapshot):
    """A call that must fail, in one paragraph, without leaving files on either side."""

    def call(host, **options):
        before = snapshot(bundle)
        result = compile_on(host, **options)
        assert result.code != 0
        assert snapshot(bundle) == before
        assert list(remote_folder.iterdir()) == []
        return result

    return call


# ── Sending ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("stranger", "ssh does not know the host key of stranger. Connect once manually, compare the fingerprint"),
        ("replaced", "The host key of replaced differs from the one known to ssh: it may be another machine."),
        ("locked", "locked refuses the login: "),
        ("away", "away cannot be reached: ssh: connect to host 127.0.0.1 port"),
    ],
)
def test_an_ssh_login_failure_names_the_machine_and_the_remedy(compile_refused, host, said):
    result = compile_refused(host)
    assert result.code == 4
    assert said in result.text
    assert f"ssh {host}" in result.text


def test_a_record_that_cannot_be_rendered_is_refused_before_any_connection(compile_refused, bundle):
    path, manifest = bundle / "records" / "stages.json", bundle / "manifest.json"
    content = json.loads(manifest.read_text())
    path.write_text("{}")
    content["files"]["records/stages.json"] |= {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    manifest.write_text(json.dumps(content))
    assert "records/stages.json is not a record that this deploykit can read" in compile_refused("away").text


def test_an_unresolvable_host_is_named(cli, fp32_bundle):
    result = cli("compile", fp32_bundle, "--target", "openvino", "--on", "me@nowhere:2222")
    assert result.code == 4
    assert "The host nowhere is unknown: ssh: Could not resolve hostname nowhere.invalid" in result.text


def test_without_ssh_the_package_is_named(compile_refused, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ssh is not installed on this machine. On Debian and Ubuntu: apt install" in compile_refused("jetson").text


def test_a_login_that_runs_no_commands_is_quoted(compile_refused):
    result = compile_refused("mute")
    assert result.code == 4
    assert "mute cannot run a shell script (exit code 1): only files here." in result.text


def test_a_login_shell_that_prints_is_refused_because_its_output_would_corrupt_the_protocol(compile_refused):
    assert "Logging in at chatty prints 'Welcome, stranger'" in compile_refused("chatty").text


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
def test_an_invalid_host_is_refused_before_ssh_runs(text):
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
def test_user_host_and_port_are_parsed(text, host, port):
    device = ssh.parse_device(text)
    assert (device.host, device.port) == (host, port)


@pytest.mark.parametrize("command", ["", "  ", "env 'X=1 deploykit"])
def test_a_command_with_invalid_quoting_is_refused_before_any_connection(cli, fp32_bundle, command):
    result = cli("compile", fp32_bundle, "--target", "openvino", "--on", "orin", "--remote-command", command)
    assert result.code == 2
    assert "--remote-command" in result.text


def test_remote_options_require_a_remote_machine(cli, fp32_bundle):
    result = cli("compile", fp32_bundle, "--target", "openvino", "--remote-command", "deploykit")
    assert result.code == 2
    assert "--remote-command and --remote-folder need --on." in result.text


# ── Remote work ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_machine_without_deploykit_gets_an_error_with_the_install_command(compile_refused):
    result = compile_refused("jetson", command="~/no/deploykit")
    assert result.code == 4
    assert "jetson has no ~/no/deploykit: " in result.text
    assert "python3 -m pip install './deploykit-" in result.text
    assert "--remote-command '~/venv/bin/deploykit'" in result.text


def test_the_error_of_a_remote_deploykit_that_does_not_start_is_quoted(compile_refused, device):
    broken = device.script("broken", "echo \"ModuleNotFoundError: No module named 'click'\" >&2; exit 1")
    assert (
        "(exit code 1): ModuleNotFoundError: No module named 'click'." in compile_refused("jetson", command=broken).text
    )


def test_another_program_named_deploykit_is_refused(compile_refused):
    assert (
        "echo on jetson is not deploykit: --version prints '--version'."
        in compile_refused("jetson", command="echo").text
    )


def test_another_version_is_noted_and_its_refusal_quoted(compile_refused, device):
    message = "manifest.json has schema version 3, and this deploykit reads version 2."
    older = device.script(
        "older",
        f'[ "$1" = --version ] && exec echo "deploykit, version 0.0.9"\necho "Error: $2/{message}" >&2; exit 3',
    )
    result = compile_refused("jetson", command=older)
    assert result.code == 3
    assert "jetson has deploykit 0.0.9, this machine has " in result.text
    assert "On jetson (its deploykit is 0.0.9): " in result.text
    assert message in result.text


def test_a_remote_failure_has_the_same_message_and_exit_code_locally(compile_refused):
    result = compile_refused("jetson", target="onnxruntime")
    assert result.code == 3
    assert "Error: On jetson: onnxruntime " in result.text
    assert "is the bundle's primary engine already. Compile for another backend, or on another machine." in result.text


def test_a_backend_that_does_not_exist_is_refused_before_anything_is_sent(cli, fp32_bundle):
    result = cli("compile", fp32_bundle, "--target", "openvno", "--on", "nowhere.invalid")
    assert result.code == 2
    assert "unknown backend 'openvno'; did you mean openvino?" in result.text


def test_a_killed_remote_compiler_is_reported(compile_refused, device):
    dying = device.script("dying", '[ "$1" = compile ] && kill -9 $$\nexec "$REAL" "$@"')
    result = compile_refused("jetson", command=dying)
    assert result.code == 4
    assert "deploykit was killed on jetson by signal 9: Killed. The machine probably ran out of memory" in result.text


def test_an_internal_error_on_the_remote_is_quoted_in_full(compile_refused, device):
    message = "Error: deploykit failed inside: ModuleNotFoundError: No module named x. Report it."
    faulty = device.script("faulty", f'[ "$1" = compile ] && echo "{message}" >&2 && exit 5\nexec "$REAL" "$@"')
    result = compile_refused("jetson", command=faulty)
    assert result.code == 5
    assert "On jetson: deploykit failed inside: ModuleNotFoundError: No module named x. Report it." in result.text


def test_control_characters_in_remote_errors_are_removed(compile_refused, device):
    loud = device.script(
        "loud", '[ "$1" = compile ] && printf "Error: \\033[2Jgone\\007\\n" >&2 && exit 3\nexec "$REAL" "$@"'
    )
    assert "On jetson: [2Jgone" in compile_refused("jetson", command=loud).text


def test_a_missing_remote_folder_is_reported(cli, bundle, device):
    words = ("--on", "jetson", "--remote-command", device.command, "--remote-folder", "/no such/place")
    result = cli("compile", bundle, "--target", "openvino", *words)
    assert result.code == 3
    assert "Cannot create a temporary folder on jetson: " in result.text
    assert "can't cd to /no such/place" in result.text or "/no such/place: No such file" in result.text


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
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
def test_a_full_remote_disk_is_reported(cli, bundle, device, small_disk, host):
    words = ("--on", host, "--remote-command", device.command, "--remote-folder", small_disk)
    result = cli("compile", bundle, "--target", "openvino", *words)
    assert result.code == 3
    assert f"The disk of {host} that holds {small_disk}" in result.text
    assert "is full. Free some space there, or choose a folder on another disk" in result.text
    assert list(small_disk.iterdir()) == []


# ── Returning ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def device_result(device, fp32_bundle, tmp_path_factory):
    """The result of a device: the remote folder, with an engine as a file."""
    if not is_installed("tensorrt-rtx"):
        pytest.skip("an engine that is a file needs TensorRT-RTX: install the extra rtx")
    from deploykit.cli import run

    folder = tmp_path_factory.mktemp("made")
    bundle, result = shutil.copytree(fp32_bundle, folder / "bundle"), folder / "kept"
    keeping = device.script("keeping", f'"$REAL" "$@" && [ "$1" != compile ] || cp -R "$2" {result}')
    words = ("--target", "tensorrt-rtx", "--on", "jetson", "--remote-command", keeping)
    assert run(["compile", str(bundle), *words]) == 0
    return result


@pytest.fixture
def return_from_device(compile_refused, device, device_result, tmp_path):
    """A device that returns a recorded result, changed by a line of Python, with that exit code."""

    def call(change, code=0):
        edit = tmp_path / "edit.py"
        edit.write_text(EDIT.format(change=change))
        answer = f'cp -R {device_result}/. "$2"; {sys.executable} {edit} "$2"; exit {code}'
        command = device.script("returning", f'[ "$1" = compile ] && {{ {answer}; }}\nexec "$REAL" "$@"')
        return compile_refused("jetson", target="tensorrt-rtx", command=command)

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
def test_the_returned_bundle_must_be_the_one_sent_plus_an_engine(return_from_device, change, said):
    result = return_from_device(change)
    assert result.code == 1
    assert "The engine from jetson is refused: " in result.text
    assert said in result.text


WITH_WEIGHTS = """
import hashlib
weights = plan.with_name(plan.name + ".data")
weights.write_bytes(b"weights")
path = beside["engine"]["file"]["path"] + ".data"
content["files"][path] = dict(path=path, sha256=hashlib.sha256(b"weights").hexdigest(), bytes=7)
"""


def test_an_engine_is_returned_with_its_external_weights(compile_on, bundle, device, device_result, tmp_path):
    edit = tmp_path / "edit.py"
    edit.write_text(EDIT.format(change=WITH_WEIGHTS))
    answer = f'cp -R {device_result}/. "$2"; {sys.executable} {edit} "$2"; exit'
    command = device.script("weighty", f'[ "$1" = compile ] && {{ {answer}; }}\nexec "$REAL" "$@"')
    assert compile_on("jetson", target="tensorrt-rtx", command=command).code == 0
    ((name, record),) = [
        (name, file) for name, file in manifests.read_manifest(bundle).files.items() if name.endswith("plan.data")
    ]
    assert (bundle / name).read_bytes() == b"weights"
    assert record.bytes == 7


def test_external_weights_that_differ_from_their_record_are_refused(return_from_device):
    result = return_from_device(f"{WITH_WEIGHTS}weights.write_bytes(b'Weights')")
    assert result.code == 1
    assert "The engine from jetson is refused: " in result.text
    assert "plan.data differs from its recorded SHA" in result.text


def test_an_exit_code_that_the_record_contradicts_is_refused(return_from_device):
    result = return_from_device("", code=1)
    assert result.code == 1
    assert "deploykit's exit code is 1, which contradicts the engine's record" in result.text


def test_a_remote_check_that_fails_before_compilation_is_quoted(compile_refused, device):
    failing = device.script(
        "failing",
        '[ "$1" = compile ] && { echo "Error: $2 is damaged: x." >&2; exit 1; }\nexec "$REAL" "$@"',
    )
    result = compile_refused("jetson", command=failing)
    assert result.code == 1
    assert re.search(r"On jetson: \S+/bundle is damaged: x\.", result.text)


def test_a_bundle_exported_again_during_the_run_does_not_get_an_engine_of_the_old_graph(
    compile_on, bundle, device, device_result
):
    path = bundle / "manifest.json"
    change = f"sed -i s/synthetic/elsewhere/ {path}"
    command = device.script(
        "slow", f'[ "$1" = compile ] && {{ cp -R {device_result}/. "$2"; {change}; exit; }}\nexec "$REAL" "$@"'
    )
    result = compile_on("jetson", target="tensorrt-rtx", command=command)
    assert result.code == 3
    assert (
        "changed while jetson was compiling: the engine does not belong to its graph. Run the command again."
        in result.text
    )
    assert list(bundle.rglob("engine.plan")) == []
