"""The scripts' decisions, with an interpreter that only writes down what it was asked to do."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

INTERPRETER = """#!/usr/bin/env bash
# Stands for python3, and for the python of the environments that it makes.
state={state}
case "$*" in
    "-m pip --version") [[ ! -e $state/no-pip ]]; exit ;;
    "-m pip install "*)
        echo "pip: ${{*:3}}" >>"$state/log"
        echo "Collecting torch"
        [[ ! -e $state/kill-pip ]] || kill -KILL "$PPID"
        [[ ! -e $state/slow-pip ]] || sleep 1
        [[ ! -e $state/fail-pip ]]
        exit ;;
    "-m venv "*)
        echo "venv: $3" >>"$state/log"
        mkdir -p "$3/bin"
        touch "$3/pyvenv.cfg"
        cp "$0" "$3/bin/python"
        rm -f "$state/no-pip"
        exit ;;
    "-c import sys; sys.exit(sys.version_info < (3, 10))") [[ ! -e $state/old ]]; exit ;;
    "-c import ensurepip, venv") [[ ! -e $state/no-venv ]]; exit ;;
    "-c "*"from deploykit.cli"*)
        echo "start: $0" >>"$state/log"
        echo "tool in $PWD of $3:" "${{@:4}}"
        exit ;;
esac
echo "run: $*" >>"$state/log"
for word in $(cat "$state/failing" 2>/dev/null); do
    [[ "$*" != *"$word"* ]] || exit 1
done
"""


@dataclass
class Checkout:
    """A copy of the scripts in a folder with a space in its name, and the fake interpreter's state beside it."""

    root: Path
    state: Path
    programs: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.programs}{os.pathsep}/usr/bin{os.pathsep}/bin"
        return {"PATH": path, "HOME": str(self.state), **self.variables}

    def call(
        self, *words: str | Path, script: str = "scripts/deploykit", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / script, *words],
            env=self.environment,
            cwd=cwd or self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def log(self) -> list[str]:
        """What the interpreter was asked since the last look."""
        log = self.state / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def set(self, *marks: str) -> None:
        for mark in marks:
            (self.state / mark).touch()

    def unset(self, mark: str) -> None:
        (self.state / mark).unlink()

    @property
    def python(self) -> Path:
        return self.root / ".venv/bin/python"

    def pip(self, extras: str) -> str:
        return (
            "pip: install --disable-pip-version-check --no-input --quiet --quiet "
            f"--constraint {self.root}/constraints.txt --editable {self.root}[{extras}]"
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root, state, programs = (tmp_path / name for name in ("check out", "state", "programs"))
    for folder in (root, state, programs):
        folder.mkdir()
    shutil.copytree(REPOSITORY / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / ".ci", root / ".ci")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, root)
    (programs / "chromedriver").touch(mode=0o755)  # else scripts/test would install it
    # Every name that the scripts look for, so that they never meet a real interpreter.
    for name in ("python3", "python3.10", "python3.11", "python3.12", "python3.13"):
        interpreter = programs / name
        interpreter.write_text(INTERPRETER.format(state=state))
        interpreter.chmod(0o755)
    return Checkout(root, state, programs)


def starts(log: Sequence[str]) -> list[str]:
    return [line for line in log if line.startswith("start: ")]


def test_the_first_use_makes_an_environment_installs_and_runs(checkout: Checkout) -> None:
    done = checkout.call("list", "--json")
    assert done.returncode == 0
    assert checkout.log() == [
        f"venv: {checkout.root}/.venv",
        checkout.pip("cpu,datasets,export,openvino,rtx"),
        f"start: {checkout.python}",
    ]
    assert done.stdout == f"tool in {checkout.root} of {checkout.root}: list --json\n"
    assert "5 GB" in done.stderr
    assert "Collecting torch" in done.stderr


def test_the_second_use_starts_nothing_but_the_tool(checkout: Checkout) -> None:
    checkout.call()
    checkout.log()
    done = checkout.call("list")
    assert checkout.log() == [f"start: {checkout.python}"]
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_requirements_are_installed(checkout: Checkout, name: str) -> None:
    checkout.call()
    checkout.log()
    with (checkout.root / name).open("a") as file:
        file.write("\n# changed\n")
    checkout.call()
    assert checkout.log() == [checkout.pip("cpu,datasets,export,openvino,rtx"), f"start: {checkout.python}"]
    checkout.call()
    assert checkout.log() == [f"start: {checkout.python}"]


@pytest.mark.parametrize("mark", ["kill-pip", "fail-pip"])
def test_an_unfinished_install_is_resumed(checkout: Checkout, mark: str) -> None:
    checkout.set(mark)
    assert checkout.call().returncode != 0
    assert not starts(checkout.log())
    checkout.unset(mark)
    assert checkout.call("list").returncode == 0
    assert checkout.log() == [checkout.pip("cpu,datasets,export,openvino,rtx"), f"start: {checkout.python}"]


def test_a_failed_install_says_so_without_a_traceback(checkout: Checkout) -> None:
    checkout.set("fail-pip")
    done = checkout.call()
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.endswith(
        "deploykit: pip could not install; its reason stands above. The next call tries again.\n"
    )


def test_an_update_that_fails_is_tried_again(checkout: Checkout) -> None:
    checkout.call()
    checkout.set("kill-pip")
    checkout.call(script="scripts/check")  # wants the extra `dev` too
    checkout.unset("kill-pip")
    checkout.log()
    checkout.call()
    assert checkout.log()[0] == checkout.pip("cpu,datasets,dev,export,openvino,rtx")


def test_an_environment_left_without_pip_is_made_anew(checkout: Checkout) -> None:
    checkout.set("kill-pip")
    checkout.call()
    checkout.unset("kill-pip")
    checkout.set("no-pip")
    checkout.log()
    assert checkout.call().returncode == 0
    assert checkout.log()[0] == f"venv: {checkout.root}/.venv"


def test_an_environment_whose_interpreter_has_gone_is_made_anew(checkout: Checkout) -> None:
    checkout.call()
    checkout.python.unlink()
    checkout.python.symlink_to("/nowhere/python3")
    checkout.log()
    assert checkout.call().returncode == 0
    assert checkout.log()[:2] == [f"venv: {checkout.root}/.venv", checkout.pip("cpu,datasets,export,openvino,rtx")]


def test_a_copy_of_a_checkout_makes_an_environment_of_its_own(checkout: Checkout, tmp_path: Path) -> None:
    checkout.call()
    copy = Checkout(tmp_path / "copy", checkout.state, checkout.programs)
    shutil.copytree(checkout.root, copy.root, symlinks=True)
    checkout.log()
    assert copy.call().returncode == 0
    assert copy.log() == [
        f"venv: {copy.root}/.venv",
        copy.pip("cpu,datasets,export,openvino,rtx"),
        f"start: {copy.python}",
    ]


def test_an_environment_made_by_hand_is_adopted_if_it_has_pip(checkout: Checkout) -> None:
    venv = checkout.root / ".venv"
    subprocess.run(["python3", "-m", "venv", venv], env=checkout.environment, check=True)
    checkout.log()
    checkout.call()
    assert checkout.log() == [checkout.pip("cpu,datasets,export,openvino,rtx"), f"start: {checkout.python}"]


def test_an_environment_made_by_hand_without_pip_is_not_touched(checkout: Checkout) -> None:
    venv = checkout.root / ".venv"
    subprocess.run(["python3", "-m", "venv", venv], env=checkout.environment, check=True)
    checkout.set("no-pip")
    checkout.log()
    done = checkout.call()
    assert done.returncode == 4
    assert "not of our making" in done.stderr
    assert checkout.log() == []


def test_extras_add_up(checkout: Checkout) -> None:
    checkout.call()
    checkout.log()
    checkout.call(script="scripts/check")
    assert checkout.log()[0] == checkout.pip("cpu,datasets,dev,export,openvino,rtx")
    checkout.call()
    assert checkout.log() == [f"start: {checkout.python}"]


def test_it_runs_where_the_caller_is(checkout: Checkout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = checkout.call("run", "a picture.jpg", "", cwd=elsewhere)
    assert done.stdout == f"tool in {elsewhere} of {checkout.root}: run a picture.jpg \n"


def test_it_runs_through_a_chain_of_symbolic_links(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "first").symlink_to(checkout.root / "scripts/deploykit")
    (tmp_path / "second").symlink_to("first")
    done = subprocess.run(
        [tmp_path / "second", "list"], env=checkout.environment, cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout == f"tool in / of {checkout.root}: list\n"


def test_two_first_uses_at_once_install_once(checkout: Checkout) -> None:
    checkout.set("slow-pip")
    calls = [
        subprocess.Popen(
            [checkout.root / "scripts/deploykit", "list"], env=checkout.environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [call.communicate(timeout=60)[1] for call in calls]
    assert [call.returncode for call in calls] == [0, 0]
    log = checkout.log()
    assert log.count(checkout.pip("cpu,datasets,export,openvino,rtx")) == 1
    assert len(starts(log)) == 2
    assert sum("waiting" in each for each in said) == 1


def test_an_environment_that_is_named_is_used_as_it_is(checkout: Checkout) -> None:
    checkout.variables["DEPLOYKIT_PYTHON"] = "python3.12"
    done = checkout.call("list")
    assert done.returncode == 0
    assert checkout.log() == [f"start: {checkout.programs}/python3.12"]
    assert not (checkout.root / ".venv").exists()


def test_an_interpreter_that_does_not_exist_is_refused(checkout: Checkout) -> None:
    checkout.variables["DEPLOYKIT_PYTHON"] = "/nowhere/python"
    done = checkout.call("list")
    assert done.returncode == 4
    assert done.stderr == "deploykit: DEPLOYKIT_PYTHON names no program: /nowhere/python\n"


def test_an_active_environment_is_left_alone(checkout: Checkout, tmp_path: Path) -> None:
    checkout.variables |= {"VIRTUAL_ENV": str(tmp_path / "active"), "CONDA_PREFIX": str(tmp_path / "conda")}
    checkout.call()
    assert starts(checkout.log()) == [f"start: {checkout.python}"]


@pytest.mark.parametrize(("mark", "reason"), [("old", "is older than 3.10"), ("no-venv", "apt install python3-venv")])
def test_a_python_that_cannot_serve_is_said(checkout: Checkout, mark: str, reason: str) -> None:
    checkout.set(mark)
    done = checkout.call()
    assert done.returncode == 4
    assert "Python 3.10 or newer with the module venv is needed" in done.stderr
    assert reason in done.stderr
    assert checkout.log() == []


def test_the_checkouts_modules_win_over_the_callers_folder(checkout: Checkout, tmp_path: Path) -> None:
    for folder, answer in [(checkout.root, "ours"), (tmp_path / "elsewhere", "theirs")]:
        cli = folder / "deploykit/cli"
        cli.mkdir(parents=True)
        (folder / "deploykit/__init__.py").touch()
        (cli / "__init__.py").write_text(f"import sys\ndef main():\n    print('{answer}', sys.argv)\n    return 3\n")
    checkout.variables["DEPLOYKIT_PYTHON"] = sys.executable
    done = checkout.call("list", cwd=tmp_path / "elsewhere")
    assert done.stdout == "ours ['deploykit', 'list']\n"
    assert done.returncode == 3


STATIC = ["ruff format --check", "ruff check", "mypy", "lint_imports", "update_generated --check"]


@pytest.mark.parametrize(
    ("script", "pytest_call"),
    [
        ("scripts/check", r"--dist worksteal -m not slow -k parity"),
        ("scripts/test", r"--dist worksteal -k parity"),
    ],
)
def test_check_and_test_run_every_check_and_then_the_tests(checkout: Checkout, script: str, pytest_call: str) -> None:
    (checkout.root / "scripts/update_generated").touch()
    done = checkout.call("-k", "parity", script=script, cwd=Path("/"))
    assert done.returncode == 0
    runs = [line for line in checkout.log() if line.startswith("run: ")]
    assert all(check in run for check, run in zip(STATIC, runs[:-1], strict=True))
    assert runs[-1].startswith("run: -m pytest --numprocesses ")
    assert runs[-1].endswith(pytest_call)


def test_one_call_shows_all_that_is_to_be_repaired(checkout: Checkout) -> None:
    (checkout.state / "failing").write_text("mypy lint_imports")
    done = checkout.call(script="scripts/check")
    assert done.returncode == 1
    assert done.stderr.endswith("failed: types\nfailed: import contracts\n")
    assert not any("-m pytest" in line for line in checkout.log())


def test_failing_tests_fail_the_script(checkout: Checkout) -> None:
    (checkout.state / "failing").write_text("pytest")
    assert checkout.call(script="scripts/test").returncode == 1


def test_continuous_integration_does_what_a_developer_does(checkout: Checkout) -> None:
    checkout.call(script="scripts/test")
    checkout.log()
    checkout.call(script="scripts/test")
    checkout.call(script="scripts/test_cpp")
    expected = checkout.log()
    checkout.call(script=".ci/run", cwd=Path("/"))
    assert checkout.log() == expected


def test_continuous_integration_ends_where_a_check_failed(checkout: Checkout) -> None:
    (checkout.state / "failing").write_text("pytest\n")
    result = checkout.call(script=".ci/run")
    assert result.returncode == 1
    assert not [line for line in checkout.log() if "scripts/cpp" in line]
