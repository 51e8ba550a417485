# shellcheck shell=bash
# Sourced by the other scripts: the Python environment that they run in, created on first use.
#
# The environment is .venv in the checkout and belongs to these scripts. The file .venv/installed records what was
# installed last: a checksum of pyproject.toml and constraints.txt, the extras, and the checkout. While these match, a
# call costs one checksum and starts no Python of its own.
#
# DEPLOYKIT_PYTHON=/path/to/python uses that interpreter with the packages it has, and installs nothing. An active
# virtual or conda environment is not used unless that variable names it: 6 GiB do not belong into whatever is active.

checkout=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
venv=$checkout/.venv
stamp=$venv/installed
constraints=$checkout/constraints.txt
pythons=(python3 python3.13 python3.12 python3.11 python3.10)

# Sets $python to an interpreter that has what deploykit and these extras need.
use_environment() {
    if [[ -n ${DEPLOYKIT_PYTHON:-} ]]; then
        python=$(command -v "$DEPLOYKIT_PYTHON") || fail "DEPLOYKIT_PYTHON names no program: $DEPLOYKIT_PYTHON"
        return
    fi
    python=$venv/bin/python
    is_installed "$@" || install_once "$@"
}

# The same with the lowest versions that pyproject.toml allows, in an environment of its own. Python 3.13 has no wheels
# of some of them.
use_lowest_environment() {
    venv=$checkout/.venv-lowest
    stamp=$venv/installed
    constraints=$venv/constraints.txt
    pythons=(python3.10 python3.11 python3.12)
    use_environment "$@"
}

# Extras accumulate: an environment made for the tests serves the tool as it is.
is_installed() {
    local extra
    [[ -x $python ]] || return 1
    read_stamp
    [[ $stamped_place == "$checkout" && $stamped_requirements == "$(hash_requirements)" ]] || return 1
    for extra in "$@"; do
        [[ " ${stamped_extras[*]} " == *" $extra "* ]] || return 1
    done
}

hash_requirements() {
    cat "$checkout/pyproject.toml" "$checkout/constraints.txt" | sha256sum | cut -d ' ' -f 1
}

# Of two first calls at once, the second waits and then finds the work done.
install_once() {
    trap interrupt INT
    command -v flock >/dev/null || fail "the program flock is missing; install the package util-linux"
    mkdir -p "$venv"
    exec 9>"$venv/lock"
    if ! flock --nonblock 9; then
        say "another call is installing into $venv; waiting for it"
        flock 9
    fi
    is_installed "$@" || install "$@"
    exec 9>&-
    trap - INT
}

# After Ctrl-C, which ends pip too. The stamp still says "unfinished", so that the next call goes on.
interrupt() {
    say "interrupted; the next call goes on with the installation"
    exit 130
}

install() {
    local extras now progress=()
    read_stamp
    extras=$(printf '%s\n' "${stamped_extras[@]}" "$@" | sort -u | paste -s -d ,)
    # The tool's standard output is its result, so that pip prints to standard error: everything to a terminal, errors
    # only to a log.
    [[ -t 2 ]] || progress=(--quiet --quiet)
    # The checksum is computed before pip reads the files, so that an edit made meanwhile counts as a change.
    now=$(hash_requirements)

    say "installing into $venv; the first time this takes a few minutes and 6.3 GiB on disk, or 7.1 GiB with the" \
        "development tools; after an interruption the next call goes on"
    make_venv "$extras"
    write_stamp unfinished "$extras"
    if [[ $constraints != "$checkout/constraints.txt" ]]; then
        install_lowest_versions
    else
        pip_install --editable "${checkout}[$extras]"
        [[ ,$extras, != *,dev,* ]] || install_development_packages
    fi
    write_stamp "$now" "$extras"
    say "installed"
    if [[ $venv == "$checkout/.venv" ]]; then
        say "to call deploykit by its name in this shell, type:"
        printf '    source %q\n' "$venv/bin/activate" >&2
    fi
}

# pip chooses the newest versions, so that a script looks the lowest up. The tools for static checks are left out: some
# require newer versions of what deploykit uses.
install_lowest_versions() {
    local test_tools=(hatchling hypothesis jsonschema nvidia-ml-py packaging pytest pytest-xdist pyyaml)
    test_tools+=('tritonclient[grpc,http]')
    "$python" "$checkout/scripts/lowest_versions.py" "$checkout" >"$constraints.new" ||
        fail "the lowest versions could not be looked up"
    mv "$constraints.new" "$constraints"
    pip_install --editable "${checkout}[$extras]" "${test_tools[@]}"
}

# What pip would not install with the extra `dev` alone.
install_development_packages() {
    pip_install --no-deps tensorrt-stubs # they require the whole of TensorRT; mypy needs none of it
    install_triton
    repair_stubs
}

# NVIDIA's own server for the tests of served bundles. Its wheel requires an older numpy, for a client that nothing here
# uses. Without it, those tests are skipped and say why.
install_triton() {
    [[ $(uname -sm) == "Linux x86_64" ]] || return 0
    (pip_install --no-deps nvidia-pytriton) || say "Triton could not be installed; its tests will be skipped"
}

# As published these stubs do not parse (parameters named `in`, one without a default after others that have one), and
# they shadow the built-in bool and lack an import. mypy reads a repaired copy; without it, TensorRT is Any.
repair_stubs() {
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
        --constraint "$constraints" "$@" >&2 ||
        fail "pip failed; its error is above. The next call tries again."
}

make_venv() {
    local extras=$1 base
    if [[ $stamped_place == "$checkout" || -z $stamped_place ]] && "$python" -m pip --version &>/dev/null; then
        return
    fi
    # The interpreter was removed, an interruption left it without pip, or the folder was copied from another checkout,
    # which its programs still point to.
    if [[ -z $stamped_place && -e $venv/pyvenv.cfg ]]; then
        fail "$venv has no pip and was not created by these scripts; remove it, or name its python in DEPLOYKIT_PYTHON"
    fi
    base=$(find_base_python)
    find "$venv" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
    write_stamp unfinished "$extras"
    "$base" -m venv "$venv" >&2 || fail "$base could not create a virtual environment in $venv"
}

# Prints the first Python on the PATH that is new enough and can create virtual environments.
find_base_python() {
    local candidate refused=''
    for candidate in "${pythons[@]}"; do
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

# Sets three variables from the stamp; all are empty without one.
read_stamp() {
    stamped_requirements='' stamped_extras=() stamped_place=''
    [[ -r $stamp ]] || return 0
    {
        read -r stamped_requirements
        IFS=, read -r -a stamped_extras
        read -r stamped_place
    } <"$stamp"
}

# Written to a second file and renamed, so that a half-written stamp is never read.
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
