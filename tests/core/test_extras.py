"""Remedies for missing packages: a command that works as printed, for every way of installing deploykit."""

import json
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from deploykit.core import extras
from deploykit.core.extras import install_command, install_remedy, reinstall_command, remote_install_remedy

ROOT = Path(__file__).resolve().parents[2]
PYTHON = shlex.quote(sys.executable)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """An installation outside a checkout, with this content of direct_url.json (PEP 610), or without the file."""

    def install(origin=None):
        record = tmp_path / "site-packages" / "deploykit-0.1.0.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text("Metadata-Version: 2.4\nName: deploykit\nVersion: 0.1.0\n")
        if origin is not None:
            (record / "direct_url.json").write_text(json.dumps(origin))
        monkeypatch.setattr(extras, "PACKAGE_PARENT", record.parent)
        monkeypatch.setattr(extras.metadata, "distribution", lambda _: metadata.Distribution.at(record))

    return install


def test_a_checkout_is_installed_editable_at_the_tested_versions():
    command = f"{PYTHON} -m pip install --constraint {ROOT}/constraints.txt --editable '{ROOT}[cpu,openvino]'"
    assert install_command("cpu", "openvino") == command


def test_without_extras_there_are_no_brackets():
    assert install_command().endswith(f"--editable {ROOT}")


def test_paths_with_blanks_are_quoted(monkeypatch, tmp_path):
    checkout = tmp_path / "check out"
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    monkeypatch.setattr(extras, "PACKAGE_PARENT", checkout)
    monkeypatch.setattr(sys, "executable", "/opt/my python/bin/python")
    words = ["/opt/my python/bin/python", "-m", "pip", "install", "--editable", f"{checkout}[cpu]"]
    assert shlex.split(install_command("cpu")) == words


def test_a_wheel_file_is_named_by_its_path(installed, tmp_path):
    wheel = tmp_path / "a folder" / "deploykit-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert install_command("cpu") == f"{PYTHON} -m pip install '{wheel}[cpu]'"


def test_a_wheel_file_that_has_gone_is_not_named(installed, tmp_path):
    installed({"url": (tmp_path / "gone.whl").as_uri(), "archive_info": {}})
    assert install_command("cpu") == f"{PYTHON} -m pip install 'deploykit[cpu]==0.1.0'"


def test_a_folder_that_was_installed_is_named_with_its_constraints(installed, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "constraints.txt").touch()
    installed({"url": folder.as_uri(), "dir_info": {}})
    assert install_command("cpu") == f"{PYTHON} -m pip install --constraint {folder}/constraints.txt '{folder}[cpu]'"


def test_a_repository_is_named_with_its_commit(installed):
    installed({"url": "https://example.org/deploykit.git", "vcs_info": {"vcs": "git", "commit_id": "1f2e3d"}})
    expected = "'deploykit[gpu] @ git+https://example.org/deploykit.git@1f2e3d'"
    assert install_command("gpu") == f"{PYTHON} -m pip install {expected}"


def test_an_archive_on_a_server_is_named_by_its_address(installed):
    installed({"url": "https://example.org/deploykit.whl", "archive_info": {}})
    assert install_command("gpu").endswith("'deploykit[gpu] @ https://example.org/deploykit.whl'")


def test_from_an_index_the_installed_version_is_pinned(installed):
    installed()
    assert install_command("rtx") == f"{PYTHON} -m pip install 'deploykit[rtx]==0.1.0'"


def test_a_damaged_package_is_reinstalled_without_the_rest_of_the_extra():
    command = f"{PYTHON} -m pip install --force-reinstall --constraint {ROOT}/constraints.txt tensorrt"
    assert reinstall_command("tensorrt") == command


def test_an_environment_without_pip_uses_uv_if_available(monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(extras.shutil, "which", lambda _: "/usr/bin/uv")
    assert install_command("cpu").startswith(f"uv pip install --python {PYTHON} ")
    monkeypatch.setattr(extras.shutil, "which", lambda _: None)
    assert install_command("cpu").startswith(f"{PYTHON} -m pip install ")


def test_the_command_is_on_a_separate_line():
    first, second = install_remedy("cpu").splitlines()
    assert (first, second) == ("Install it with:", f"  {install_command('cpu')}")


def test_another_machine_gets_a_wheel_that_is_built_here():
    lines = remote_install_remedy("compile", "cpu").splitlines()
    assert lines[1] == f"  {PYTHON} -m pip wheel --no-deps --wheel-dir build {ROOT}"
    assert lines[-1] == "  python3 -m pip install './deploykit-0.1.0-py3-none-any.whl[compile,cpu]'"


def test_an_installed_wheel_is_not_rebuilt(installed):
    installed()
    assert "pip wheel" not in remote_install_remedy("cpu")


def test_the_command_line_prints_the_command_unwrapped(cli, monkeypatch):
    def fail():
        raise ModuleNotFoundError(name="onnx")

    monkeypatch.setattr("deploykit.workflows.doctor.examine_machine", fail)
    result = cli("doctor")
    assert result.code == 4
    assert f"\n  {install_command('compile')}\n" in result.err


@pytest.mark.parametrize("folder", ["deploykit", "architectures", "calibration", "scripts", "docs"])
def test_no_text_recommends_the_bare_name_from_an_index(folder):
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in ("", ".py", ".md", ".sh") and path.is_file()]
    bare = re.compile(rb"pip install (--\S+ )*'?deploykit\b")
    assert [str(path) for path in files if bare.search(path.read_bytes())] == []


@pytest.mark.slow
def test_the_printed_command_is_accepted_by_pip():
    """Only resolved: the packages are installed already, so only build requirements are fetched."""
    command = f"{install_command('compile')} --dry-run --no-build-isolation --no-deps --quiet"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
