# shellcheck shell=bash
# Sourced by the scripts beside it: the Python environment that they run in, made on first use.
#
# The environment is .venv in the checkout and belongs to these scripts. What was installed into it last stands in
# .venv/installed: a checksum of what pip was told, the extras, and the checkout. As long as these hold, a call costs
# one checksum and no Python start.
#
# DEPLOYKIT_PYTHON=/path/to/python uses that interpreter with the packages it has, and installs nothing. An active
# virtual or conda environment is left alone unless it is named that way: nobody expects 5 GB in whatever was active.

checkout=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
venv=$checkout/.venv
stamp=$venv/installed

# Sets $python to an interpreter that has what the checkout and the given extras need.
use_environment() {
    if [[ -n ${DEPLOYKIT_PYTHON:-} ]]; then
        python=$(command -v "$DEPLOYKIT_PYTHON") || fail "DEPLOYKIT_PYTHON names no program: $DEPLOYKIT_PYTHON"
        return
    fi
    python=$venv/bin/python
    installed "$@" || install_alone "$@"
}

# Extras add up: an environment made for the tests serves the tool as it is.
installed() {
    local extra
    [[ -x $python ]] || return 1
    read_stamp
    [[ $stamped_place == "$checkout" && $stamped_requirements == "$(requirements)" ]] || return 1
    for extra in "$@"; do
        [[ " ${stamped_extras[*]} " == *" $extra "* ]] || return 1
    done
}

requirements() {
    cat "$checkout/pyproject.toml" "$checkout/constraints.txt" | sha256sum | cut -d ' ' -f 1
}

# Of two first uses at once, the second waits and then finds the work done.
install_alone() {
    command -v flock >/dev/null || fail "the program flock is missing; install the package util-linux"
    mkdir -p "$venv"
    exec 9>"$venv/lock"
    if ! flock --nonblock 9; then
        say "another call is installing into $venv; waiting for it"
        flock 9
    fi
    installed "$@" || install "$@"
    exec 9>&-
}

install() {
    local extras now progress=()
    read_stamp
    extras=$(printf '%s\n' "${stamped_extras[@]}" "$@" | sort -u | paste -s -d ,)
    # A tool's standard output is its result, so that pip talks on standard error: to a person in full, to a log of
    # errors only.
    [[ -t 2 ]] || progress=(--quiet --quiet)
    # The checksum is taken before pip reads the files: what is edited meanwhile counts as a change.
    now=$(requirements)

    say "installing into $venv; the first time it takes about 5 GB and a few minutes (interrupted, it goes on next time)"
    make_venv "$extras"
    write_stamp unfinished "$extras"
    pip_install --editable "${checkout}[$extras]"
    if [[ ,$extras, == *,dev,* ]]; then
        pip_install --no-deps tensorrt-stubs # which name the whole of TensorRT as what they need; mypy needs none of it
        install_triton
        mend_stubs
    fi
    write_stamp "$now" "$extras"
    say "installed"
}

# NVIDIA's own server for the tests of served bundles. The wheel asks for an older numpy, for a client of its own that
# nothing here uses. Where there is none for this machine, those tests say so.
install_triton() {
    [[ $(uname -sm) == "Linux x86_64" ]] || return 0
    (pip_install --no-deps nvidia-pytriton) || say "Triton could not be installed; the tests that it serves are left out"
}

# As published these stubs do not parse (parameters called `in`, one without a default behind others that have one), and
# what parses hides the built-in bool and lacks an import. mypy reads a mended copy, and does without where there is none.
mend_stubs() {
    local packages=("$venv"/lib/python*/site-packages) stubs=$venv/stubs
    [[ -d $packages/tensorrt_bindings ]] || return 0
    rm -rf "$stubs"
    mkdir -p "$stubs"
    cp -r "$packages/tensorrt" "$packages/tensorrt_bindings" "$stubs"
    sed -i -E -e 's/\bin: list\[/in_: list[/' -e '/^bool: DataType/d' -e '1a import typing_extensions' \
        -e 's/channel_axis: int\) -> IScaleLayer/channel_axis: int = ...) -> IScaleLayer/' \
        "$stubs/tensorrt_bindings/tensorrt.pyi"
}

pip_install() {
    "$python" -m pip install --disable-pip-version-check --no-input "${progress[@]}" \
        --constraint "$checkout/constraints.txt" "$@" >&2 ||
        fail "pip could not install; its reason stands above. The next call tries again."
}

make_venv() {
    local extras=$1 base
    if [[ $stamped_place == "$checkout" || -z $stamped_place ]] && "$python" -m pip --version &>/dev/null; then
        return
    fi
    # The interpreter has gone, was left without pip by an interruption, or the folder is a copy of another checkout's,
    # whose programs still point there.
    if [[ -z $stamped_place && -e $venv/pyvenv.cfg ]]; then
        fail "$venv is not usable (no pip) and not of our making; remove it, or name its python in DEPLOYKIT_PYTHON"
    fi
    base=$(base_python)
    find "$venv" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
    write_stamp unfinished "$extras"
    "$base" -m venv "$venv" >&2 || fail "$base could not make a virtual environment in $venv"
}

# The first Python on the PATH that is new enough and can make virtual environments.
base_python() {
    local candidate refused=''
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        command -v "$candidate" >/dev/null || continue
        if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' &>/dev/null; then
            refused+=$'\n'"  $candidate is older than 3.10"
        elif ! "$candidate" -c 'import ensurepip, venv' &>/dev/null; then
            refused+=$'\n'"  $candidate has no venv (on Debian and Ubuntu: apt install $candidate-venv)"
        else
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.10 or newer with the module venv is needed; on the PATH there is:${refused:- none}"
}

# Sets what the stamp says, all empty where there is none.
read_stamp() {
    stamped_requirements='' stamped_extras=() stamped_place=''
    [[ -r $stamp ]] || return 0
    {
        read -r stamped_requirements
        IFS=, read -r -a stamped_extras
        read -r stamped_place
    } <"$stamp"
}

# Written beside and moved into place, so that no half-written stamp is ever read.
write_stamp() {
    printf '%s\n' "$1" "$2" "$checkout" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

say() {
    echo "deploykit: $*" >&2
}

fail() {
    say "$*"
    exit 4 # a missing or unusable backend: the tool's own exit codes
}
