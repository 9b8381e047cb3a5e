#!/usr/bin/env bash
# Makes .venv on first use, then runs `unet-bench "$@"`; without arguments, the default sweep.
#
#   ./run_bench.sh                 the default sweep on the best device there is
#   ./run_bench.sh test            the whole test suite, on two cores
#   ./run_bench.sh test ARGS       pytest with these
#   ./run_bench.sh COMMAND [ARGS]  any command of unet-bench
#
# UNET_BENCH_PYTHON=PYTHON uses that interpreter as it is and installs nothing.
set -euo pipefail
# A standard stream that is closed is opened, or the next file would get its number.
{ : <&0; } 2>/dev/null || exec 0</dev/null
{ : >&1; } 2>/dev/null || exec 1>/dev/null
{ : >&2; } 2>/dev/null || exec 2>/dev/null
# An interrupted check must not be taken for its answer: one of them decides whether .venv is remade.
trap 'exit 130' INT
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
venv=$here/.venv

fail() {
    printf 'run_bench.sh: %s\n' "$1" >&2
    exit 2
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python; do
        if command -v "$name" >/dev/null && new_enough "$name"; then
            printf '%s' "$name"
            return
        fi
    done
    fail "needs Python 3.11 or newer; found $(python3 --version 2>/dev/null || echo none)"
}

install() { # $1: what to install, "." or ".[dev]"
    local python hash quiet=()
    # pip comes last: without it, the environment was not made to its end.
    if [ ! -e "$venv/bin/pip" ] || ! new_enough "$venv/bin/python"; then
        python=$(find_python)
        printf 'Making %s\n' "$venv" >&2
        if ! "$python" -m venv --clear "$venv"; then
            rm -rf "$venv"
            fail "$python cannot make a virtual environment (on Debian: apt install python3-venv)"
        fi
    fi
    hash=$(cksum <"$here/pyproject.toml")
    # Written last, so that an interrupted installation is taken up again.
    if ! grep -qxF "$hash $1" "$venv/installed" 2>/dev/null; then
        printf 'Installing the packages: some 5 GB the first time, a few minutes\n' >&2
        [ -t 2 ] || quiet=(--quiet)
        (cd "$here" && "$venv/bin/python" -m pip install "${quiet[@]}" --editable "$1" >&2) ||
            fail "the installation failed; run again to go on"
        grep -F "$hash" "$venv/installed" >"$venv/installed.new" 2>/dev/null || true
        printf '%s\n' "$hash $1" >>"$venv/installed.new"
        mv "$venv/installed.new" "$venv/installed"
    fi
}

command=${1:-sweep}
[ $# -eq 0 ] || shift
if [ -n "${UNET_BENCH_PYTHON:-}" ]; then
    python=$UNET_BENCH_PYTHON
    command -v "$python" >/dev/null || fail "UNET_BENCH_PYTHON=$python: no such program"
    export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
else
    case $command in
    test | evidence) install '.[dev]' ;; # evidence runs tests too
    *) install '.' ;;
    esac
    python=$venv/bin/python
fi
if [ "$command" = test ]; then
    cd "$here"
    # The whole suite uses two cores, where it can; a part of it runs as pytest is told.
    if [ $# -eq 0 ] && "$python" -c 'import xdist' 2>/dev/null; then
        set -- -n 2 --dist loadfile --no-loadscope-reorder # else what takes longest may come last
    fi
    exec "$python" -m pytest "$@"
fi
# -P: what lies in the current folder is not imported.
exec "$python" -P -m bench "$command" "$@"
