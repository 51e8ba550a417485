# shellcheck shell=bash
# Sourced by scripts/check and scripts/test: what they run, with the interpreter that use_environment found.

# Every check runs, so that one call shows all there is to repair.
static_checks() {
    local failed=()
    check "format" -m ruff format --check --quiet .
    check "lint" -m ruff check --quiet .
    check "types" -m mypy
    check "import contracts" -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo
    if [[ -e scripts/update_generated ]]; then
        check "generated files" scripts/update_generated --check
    fi
    if ((${#failed[@]})); then
        printf 'failed: %s\n' "${failed[@]}" >&2
        return 1
    fi
}

# shellcheck disable=SC2154 # $python is set by use_environment
check() {
    local title=$1
    shift
    echo "── $title"
    "$python" "$@" || failed+=("$title")
}

# The tests, as many at once as there are processors; pytest has the last word.
run_tests() {
    local processors workers
    # nproc answers with OMP_NUM_THREADS where that is set, and it is the threads within a worker that it limits.
    processors=$(env --unset=OMP_NUM_THREADS nproc)
    # PyTorch and a network's weights take 1 to 2 GB per worker.
    workers=$((processors < 8 ? processors : 8))
    # Each worker's PyTorch and OpenBLAS would else start a thread per processor, and they would wait for each other.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((processors / workers))}
    echo "── tests"
    "$python" -m pytest --numprocesses "$workers" --dist worksteal "$@"
}
