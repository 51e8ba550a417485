# shellcheck shell=bash
# Sourced by scripts/check and scripts/test: the checks and the tests, run by the interpreter that use_environment set.

# All checks run even after one fails, so that one call shows everything to repair.
# shellcheck disable=SC2154 # $checkout is set by scripts/environment.sh
static_checks() {
    local failed=()
    check "format" -m ruff format --check --quiet .
    check "lint" -m ruff check --quiet .
    check "types" -m mypy
    # The programs have no suffix and are no package: mypy is told their names, and where they find each other.
    local programs=(scripts/{cpp,gpu,verdicts,check_verdicts,gpu_check,make_outlier_layer,picture_report,train_digits}
        scripts/update_generated
        scripts/{chromium,lowest_versions,benchmarks/common}.py
        scripts/benchmarks/{cpp_overhead,engines,faithfulness,harness,latency,parity,quantization,sweep})
    MYPYPATH="$checkout/scripts:$checkout/scripts/benchmarks:$checkout/.venv/stubs" \
        check "types of the scripts" -m mypy --explicit-package-bases --scripts-are-modules "${programs[@]}"
    check "types of the tests" -m mypy --config-file tests/mypy.ini
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

# The tests, in one worker per processor. Arguments go to pytest, after ours.
run_tests() {
    local processors workers
    # nproc would print OMP_NUM_THREADS where that is set, which limits the threads of one worker instead.
    processors=$(env --unset=OMP_NUM_THREADS nproc)
    # PyTorch and a network's weights need 1 to 2 GB per worker.
    workers=$((processors < 8 ? processors : 8))
    # Otherwise PyTorch and OpenBLAS start one thread per processor in each worker, and the threads wait for each other.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((processors / workers))}
    echo "── tests"
    "$python" -m pytest --numprocesses "$workers" --dist worksteal "$@"
}
