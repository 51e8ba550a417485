"""The shell scripts, with an interpreter that only logs its arguments."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

INTERPRETER = """#!/usr/bin/env bash
# Replaces python3, and the python of the environments that it creates.
state={state}
case "$*" in
    "-m pip --version") [[ ! -e $state/no-pip ]]; exit ;;
    "-m pip install "*)
        echo "pip: ${{*:3}}" >>"$state/log"
        echo "Collecting torch"
        [[ ! -e $state/kill-pip ]] || kill -KILL "$PPID"
        [[ ! -e $state/slow-pip ]] || sleep 1
        [[ ! -e $state/endless-pip ]] || sleep 60
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
    "-c import sys; sys.exit(sys.version_info < (3, 12))") [[ ! -e $state/before-3.12 ]]; exit ;;
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
    """A copy of the scripts in a folder with a space in its name, and the state of the fake interpreter."""

    root: Path
    state: Path
    programs: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.programs}{os.pathsep}/usr/bin{os.pathsep}/bin"
        return {"PATH": path, "HOME": str(self.state), **self.variables}

    def run_script(
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

    def take_log(self) -> list[str]:
        """Arguments of the interpreter since the previous call."""
        log = self.state / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def set_mark(self, *marks: str) -> None:
        for mark in marks:
            (self.state / mark).touch()

    def unset_mark(self, mark: str) -> None:
        (self.state / mark).unlink()

    @property
    def python(self) -> Path:
        return self.root / ".venv/bin/python"

    def pip_line(self, extras: str) -> str:
        """The log lines of an installation."""
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
    (programs / "chromedriver").touch(mode=0o755)  # otherwise scripts/test would install it
    # Every name that the scripts look for, so that they never meet a real interpreter.
    for name in ("python3", "python3.10", "python3.11", "python3.12", "python3.13"):
        interpreter = programs / name
        interpreter.write_text(INTERPRETER.format(state=state))
        interpreter.chmod(0o755)
    return Checkout(root, state, programs)


def select_starts(log: Sequence[str]) -> list[str]:
    return [line for line in log if line.startswith("start: ")]


def test_the_first_call_creates_an_environment_installs_and_runs(checkout: Checkout) -> None:
    done = checkout.run_script("list", "--json")
    assert done.returncode == 0
    assert checkout.take_log() == [
        f"venv: {checkout.root}/.venv",
        checkout.pip_line("cpu,datasets,export,openvino,rtx"),
        f"start: {checkout.python}",
    ]
    assert done.stdout == f"tool in {checkout.root} of {checkout.root}: list --json\n"
    assert "6.3 GiB" in done.stderr
    assert "Collecting torch" in done.stderr


def test_an_installation_ends_with_the_line_that_puts_the_command_on_the_path(checkout: Checkout) -> None:
    done = checkout.run_script("list")
    path = str(checkout.root).replace(" ", "\\ ")
    assert done.stderr.splitlines()[-1] == f"    source {path}/.venv/bin/activate"


def wait_for_pip(checkout: Checkout) -> None:
    deadline = time.monotonic() + 30
    while not (checkout.state / "log").exists() or "pip: " not in (checkout.state / "log").read_text():
        assert time.monotonic() < deadline, "pip was not started"
        time.sleep(0.02)


def test_ctrl_c_ends_the_installation_with_130_and_the_next_call_resumes(checkout: Checkout) -> None:
    checkout.set_mark("endless-pip")
    with subprocess.Popen(
        [checkout.root / "scripts/deploykit", "list"],
        env=checkout.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal sends the signal to the script and to pip
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    ) as call:
        wait_for_pip(checkout)
        os.killpg(call.pid, signal.SIGINT)
        _, errors = call.communicate(timeout=30)
    assert call.returncode == 130
    assert errors.endswith("deploykit: interrupted; the next call goes on with the installation\n")
    assert "pip failed" not in errors
    assert not select_starts(checkout.take_log())
    checkout.unset_mark("endless-pip")
    assert checkout.run_script("list").returncode == 0
    assert checkout.take_log() == [checkout.pip_line("cpu,datasets,export,openvino,rtx"), f"start: {checkout.python}"]


def test_the_second_use_starts_only_the_tool(checkout: Checkout) -> None:
    checkout.run_script()
    checkout.take_log()
    done = checkout.run_script("list")
    assert checkout.take_log() == [f"start: {checkout.python}"]
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_requirements_are_installed(checkout: Checkout, name: str) -> None:
    checkout.run_script()
    checkout.take_log()
    with (checkout.root / name).open("a") as file:
        file.write("\n# changed\n")
    checkout.run_script()
    assert checkout.take_log() == [checkout.pip_line("cpu,datasets,export,openvino,rtx"), f"start: {checkout.python}"]
    checkout.run_script()
    assert checkout.take_log() == [f"start: {checkout.python}"]


@pytest.mark.parametrize("mark", ["kill-pip", "fail-pip"])
def test_an_unfinished_install_is_resumed(checkout: Checkout, mark: str) -> None:
    checkout.set_mark(mark)
    assert checkout.run_script().returncode != 0
    assert not select_starts(checkout.take_log())
    checkout.unset_mark(mark)
    assert checkout.run_script("list").returncode == 0
    assert checkout.take_log() == [checkout.pip_line("cpu,datasets,export,openvino,rtx"), f"start: {checkout.python}"]


def test_a_failed_install_is_reported_without_a_traceback(checkout: Checkout) -> None:
    checkout.set_mark("fail-pip")
    done = checkout.run_script()
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.endswith("deploykit: pip failed; its error is above. The next call tries again.\n")


def test_a_failed_update_is_retried(checkout: Checkout) -> None:
    checkout.run_script()
    checkout.set_mark("kill-pip")
    checkout.run_script(script="scripts/check")  # wants the extra `dev` too
    checkout.unset_mark("kill-pip")
    checkout.take_log()
    checkout.run_script()
    assert checkout.take_log()[0] == checkout.pip_line("cpu,datasets,dev,export,openvino,rtx")


def test_an_environment_left_without_pip_is_created_again(checkout: Checkout) -> None:
    checkout.set_mark("kill-pip")
    checkout.run_script()
    checkout.unset_mark("kill-pip")
    checkout.set_mark("no-pip")
    checkout.take_log()
    assert checkout.run_script().returncode == 0
    assert checkout.take_log()[0] == f"venv: {checkout.root}/.venv"


def test_an_environment_with_a_missing_interpreter_is_created_again(checkout: Checkout) -> None:
    checkout.run_script()
    checkout.python.unlink()
    checkout.python.symlink_to("/nowhere/python3")
    checkout.take_log()
    assert checkout.run_script().returncode == 0
    assert checkout.take_log()[:2] == [
        f"venv: {checkout.root}/.venv",
        checkout.pip_line("cpu,datasets,export,openvino,rtx"),
    ]


def test_a_copy_of_a_checkout_creates_a_separate_environment(checkout: Checkout, tmp_path: Path) -> None:
    checkout.run_script()
    copy = Checkout(tmp_path / "copy", checkout.state, checkout.programs)
    shutil.copytree(checkout.root, copy.root, symlinks=True)
    checkout.take_log()
    assert copy.run_script().returncode == 0
    assert copy.take_log() == [
        f"venv: {copy.root}/.venv",
        copy.pip_line("cpu,datasets,export,openvino,rtx"),
        f"start: {copy.python}",
    ]


def test_a_manually_created_environment_is_adopted_if_it_has_pip(checkout: Checkout) -> None:
    venv = checkout.root / ".venv"
    subprocess.run(["python3", "-m", "venv", venv], env=checkout.environment, check=True)
    checkout.take_log()
    checkout.run_script()
    assert checkout.take_log() == [checkout.pip_line("cpu,datasets,export,openvino,rtx"), f"start: {checkout.python}"]


def test_a_manually_created_environment_without_pip_is_not_changed(checkout: Checkout) -> None:
    venv = checkout.root / ".venv"
    subprocess.run(["python3", "-m", "venv", venv], env=checkout.environment, check=True)
    checkout.set_mark("no-pip")
    checkout.take_log()
    done = checkout.run_script()
    assert done.returncode == 4
    assert "was not created by these scripts" in done.stderr
    assert checkout.take_log() == []


def test_extras_accumulate(checkout: Checkout) -> None:
    checkout.run_script()
    checkout.take_log()
    checkout.run_script(script="scripts/check")
    assert checkout.take_log()[0] == checkout.pip_line("cpu,datasets,dev,export,openvino,rtx")
    checkout.run_script()
    assert checkout.take_log() == [f"start: {checkout.python}"]


def test_the_tool_runs_in_the_callers_folder(checkout: Checkout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    done = checkout.run_script("run", "a picture.jpg", "", cwd=elsewhere)
    assert done.stdout == f"tool in {elsewhere} of {checkout.root}: run a picture.jpg \n"


def test_the_tool_runs_through_a_chain_of_symbolic_links(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "first").symlink_to(checkout.root / "scripts/deploykit")
    (tmp_path / "second").symlink_to("first")
    done = subprocess.run(
        [tmp_path / "second", "list"], env=checkout.environment, cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout == f"tool in / of {checkout.root}: list\n"


def test_two_first_uses_at_once_install_once(checkout: Checkout) -> None:
    checkout.set_mark("slow-pip")
    calls = [
        subprocess.Popen(
            [checkout.root / "scripts/deploykit", "list"], env=checkout.environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    messages = [call.communicate(timeout=60)[1] for call in calls]
    assert [call.returncode for call in calls] == [0, 0]
    log = checkout.take_log()
    assert log.count(checkout.pip_line("cpu,datasets,export,openvino,rtx")) == 1
    assert len(select_starts(log)) == 2
    assert sum("waiting" in message for message in messages) == 1


def test_an_explicitly_named_environment_is_used_unchanged(checkout: Checkout) -> None:
    checkout.variables["DEPLOYKIT_PYTHON"] = "python3.12"
    done = checkout.run_script("list")
    assert done.returncode == 0
    assert checkout.take_log() == [f"start: {checkout.programs}/python3.12"]
    assert not (checkout.root / ".venv").exists()


def test_an_interpreter_that_does_not_exist_is_refused(checkout: Checkout) -> None:
    checkout.variables["DEPLOYKIT_PYTHON"] = "/nowhere/python"
    done = checkout.run_script("list")
    assert done.returncode == 4
    assert done.stderr == "deploykit: DEPLOYKIT_PYTHON names no program: /nowhere/python\n"


def test_an_active_environment_is_unchanged(checkout: Checkout, tmp_path: Path) -> None:
    checkout.variables |= {"VIRTUAL_ENV": str(tmp_path / "active"), "CONDA_PREFIX": str(tmp_path / "conda")}
    checkout.run_script()
    assert select_starts(checkout.take_log()) == [f"start: {checkout.python}"]


@pytest.mark.parametrize(("mark", "reason"), [("old", "is older than 3.10"), ("no-venv", "apt install python3-venv")])
def test_a_python_that_cannot_be_used_is_named_with_the_reason(checkout: Checkout, mark: str, reason: str) -> None:
    checkout.set_mark(mark)
    done = checkout.run_script()
    assert done.returncode == 4
    assert "Python 3.10 or newer with the module venv is needed" in done.stderr
    assert reason in done.stderr
    assert checkout.take_log() == []


def test_modules_of_the_checkout_take_precedence_over_the_callers_folder(checkout: Checkout, tmp_path: Path) -> None:
    for folder, answer in [(checkout.root, "ours"), (tmp_path / "elsewhere", "theirs")]:
        cli = folder / "deploykit/cli"
        cli.mkdir(parents=True)
        (folder / "deploykit/__init__.py").touch()
        (cli / "__init__.py").write_text(f"import sys\ndef main():\n    print('{answer}', sys.argv)\n    return 3\n")
    checkout.variables["DEPLOYKIT_PYTHON"] = sys.executable
    done = checkout.run_script("list", cwd=tmp_path / "elsewhere")
    assert done.stdout == "ours ['deploykit', 'list']\n"
    assert done.returncode == 3


COVERAGE = "run: -m coverage report --format=total"
STATIC = [
    "ruff format --check",
    "ruff check",
    "-m mypy",
    "-m mypy --explicit-package-bases",
    "-m mypy --config-file tests/mypy.ini",
    "lint_imports",
    "update_generated --check",
]


@pytest.mark.parametrize(
    ("script", "pytest_call", "afterwards"),
    [
        ("scripts/check", "--dist worksteal -m not slow -k parity", []),
        ("scripts/test", "--dist worksteal --cov --cov-report= -k parity", [COVERAGE]),
    ],
)
def test_check_and_test_run_every_check_and_then_the_tests(
    checkout: Checkout, script: str, pytest_call: str, afterwards: list[str]
) -> None:
    (checkout.root / "scripts/update_generated").touch()
    done = checkout.run_script("-k", "parity", script=script, cwd=Path("/"))
    assert done.returncode == 0
    runs = [line for line in checkout.take_log() if line.startswith("run: ")]
    assert all(check in run for check, run in zip(STATIC, runs, strict=False))
    tests, *rest = runs[len(STATIC) :]
    assert tests.startswith("run: -m pytest --numprocesses ")
    assert tests.endswith(pytest_call)
    assert rest == afterwards


def pytest_line(checkout: Checkout) -> str:
    [line] = [line for line in checkout.take_log() if line.startswith("run: -m pytest ")]
    return line


@pytest.mark.parametrize(("words", "option"), [((), ""), (("--durations",), "--durations=25 ")])
def test_the_full_suite_has_a_minimum_coverage(checkout: Checkout, words: tuple[str, ...], option: str) -> None:
    assert checkout.run_script(*words, script="scripts/test").returncode == 0
    assert f"{option}--cov --cov-report= --cov-fail-under " in pytest_line(checkout)


def test_a_selection_of_tests_has_no_minimum_coverage(checkout: Checkout) -> None:
    checkout.run_script("--durations", "tests/core", script="scripts/test")
    assert pytest_line(checkout).endswith("--durations=25 --cov --cov-report= tests/core")


def test_before_python_3_12_coverage_is_measured_on_request_only(checkout: Checkout) -> None:
    checkout.set_mark("before-3.12")
    done = checkout.run_script(script="scripts/test")
    assert "--cov" not in pytest_line(checkout)
    assert done.stderr.endswith(
        "coverage was not measured: with this Python it needs the option --coverage, and time\n"
    )
    checkout.run_script("--coverage", script="scripts/test")
    assert "--cov --cov-report= --cov-fail-under " in pytest_line(checkout)


def test_the_lowest_versions_have_a_separate_environment(checkout: Checkout) -> None:
    done = checkout.run_script("--lowest", "-k", "parity", script="scripts/test")
    assert done.returncode == 0
    lowest = f"{checkout.root}/.venv-lowest"
    created, looked_up, installed, *runs = checkout.take_log()
    assert created == f"venv: {lowest}"
    assert looked_up == f"run: {checkout.root}/scripts/lowest_versions.py {checkout.root}"
    extras = "cpu,datasets,export,fleet,loadgen,openvino,rtx,timm"
    assert installed == (
        "pip: install --disable-pip-version-check --no-input --quiet --quiet "
        f"--constraint {lowest}/constraints.txt --editable {checkout.root}[{extras}] "
        "hatchling hypothesis jsonschema nvidia-ml-py packaging pytest pytest-xdist pyyaml tritonclient[grpc,http]"
    )
    assert [run.endswith("--dist worksteal -m not slow -k parity") for run in runs] == [True]
    assert not (checkout.root / ".venv").exists()
    checkout.run_script("--lowest", script="scripts/test")
    assert len(checkout.take_log()) == 1  # installed already


def test_one_call_shows_everything_to_repair(checkout: Checkout) -> None:
    (checkout.state / "failing").write_text("mypy lint_imports")
    done = checkout.run_script(script="scripts/check")
    assert done.returncode == 1
    failed = ("types", "types of the scripts", "types of the tests", "import contracts")
    assert done.stderr.endswith("".join(f"failed: {title}\n" for title in failed))
    assert not any("-m pytest" in line for line in checkout.take_log())


def test_failing_tests_fail_the_script(checkout: Checkout) -> None:
    (checkout.state / "failing").write_text("pytest")
    assert checkout.run_script(script="scripts/test").returncode == 1


def test_continuous_integration_runs_the_same_scripts_as_a_developer(checkout: Checkout) -> None:
    checkout.run_script(script="scripts/test")
    checkout.take_log()
    checkout.run_script(script="scripts/test")
    checkout.run_script(script="scripts/test_cpp")
    expected = checkout.take_log()
    checkout.run_script(script=".ci/run", cwd=Path("/"))
    assert checkout.take_log() == expected


def test_continuous_integration_stops_at_a_failed_check(checkout: Checkout) -> None:
    (checkout.state / "failing").write_text("pytest\n")
    result = checkout.run_script(script=".ci/run")
    assert result.returncode == 1
    assert not [line for line in checkout.take_log() if "scripts/cpp/main.py" in line]
