#!/usr/bin/env bash
# Makes .venv from the pins, once, and again only when something it was made from changes. Called by `make setup`.
#
# A stamp is written after a part is finished and removed before it is begun, so an environment that was interrupted
# half-way has no stamp and is made anew. Settings: PYTHON, TORCH, TORCH_PIP_ARGS (explained in the Makefile).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
pins_stamp=$venv/made-from-pins
project_stamp=$venv/made-from-project
log=$venv/setup.log

fail() {
    printf '\n' >&2
    printf '%s\n' "$@" >&2
    exit 2
}

fingerprint() { # of the files named, and of where they lie: an environment cannot be moved
    { pwd; cat "$@"; } | cksum
}

is_made_from() { # STAMP FINGERPRINT
    [ -x $venv/bin/python ] && [ "$(cat "$1" 2>/dev/null)" = "$2" ]
}

phase() { # TITLE COMMAND...: one line that shows it lives, the details in the log, the tail of the log on failure
    local title=$1 began=$SECONDS ticker=
    shift
    printf '  %-58s' "$title"
    if [ -t 1 ]; then
        while sleep 1 && kill -0 $$ 2>/dev/null; do printf '\r  %-58s%4d s' "$title" $((SECONDS - began)); done &
        ticker=$!
    fi
    local status=0
    "$@" >>"$log" 2>&1 </dev/null || status=$?
    if [ -n "$ticker" ]; then
        kill "$ticker" 2>/dev/null || true
        wait "$ticker" 2>/dev/null || true
        printf '\r  %-58s' "$title"
    fi
    printf '%4d s%s\n' $((SECONDS - began)) "$([ $status = 0 ] || echo '   FAILED')"
    [ $status = 0 ] && return
    printf '\nThe end of %s:\n' "$log" >&2
    tail -n 15 "$log" >&2
    return $status
}

pip() {
    $venv/bin/python -m pip --disable-pip-version-check --no-input "$@"
}

# Byte-compiling in parallel afterwards is faster than pip's own, which uses one core.
install() {
    pip install --quiet --no-deps --no-compile "$@"
}

byte_compile() { # packages ship a few templates and Python 2 files that do not compile: not our concern
    $venv/bin/python -m compileall -q -j 0 "$venv/lib" || true
}

version_of() {
    "$1" --version 2>/dev/null || echo "not there"
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

choose_python() { # sets PYTHON, unless it was given, to the first that will do
    local candidate
    for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
        if is_new_enough "$candidate"; then
            PYTHON=$candidate
            return
        fi
    done
    fail "Licet needs Python 3.11 or newer; ${PYTHON:-python3} is $(version_of "${PYTHON:-python3}")." \
        "Install one (Debian and Ubuntu: apt install python3.11 python3.11-venv), then: make setup PYTHON=python3.11"
}

check_python() {
    choose_python
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail \
        "$PYTHON cannot make virtual environments: its venv or ensurepip module is missing." \
        "Install it (Debian and Ubuntu: apt install python3-venv, or python3.11-venv), then: make setup"
}

make_environment() {
    check_python
    case $("$PYTHON" -c 'import platform, sys; print(sys.platform, platform.machine())') in
        "linux x86_64") ;;
        *) echo "note: the pins are resolved for Linux on x86-64; elsewhere some may have no wheel." ;;
    esac
    echo "Setting up .venv: once, a few minutes, 1 GB to fetch and 4 GB of disk; details in $log"
    rm -rf $venv
    mkdir $venv
    phase "1/5 environment ($(version_of "$PYTHON"))" "$PYTHON" -m venv $venv
    # shellcheck disable=SC2086  # TORCH_PIP_ARGS is a list of arguments
    phase "2/5 $TORCH" install ${TORCH_PIP_ARGS:-} "$TORCH" || fail \
        "pip found no $TORCH. It is the CPU build, which PyTorch keeps on an index of its own; show pip the way:" \
        "    make setup TORCH_PIP_ARGS='--index-url <address of the PyTorch project's CPU wheels>'" \
        "The address stands in PyTorch's installation guide (choose Linux, Pip, CPU)."
    phase "3/5 $(grep -c '^[a-z]' requirements/cpu.txt) pinned packages" \
        install --require-hashes --requirement requirements/cpu.txt
    phase "4/5 byte-compiling" byte_compile
}

# mypy cannot see through setuptools' map of folders to packages; it finds them through these links (pyproject.toml).
link_for_mypy() {
    mkdir -p $venv/typing/licet
    local folder
    for folder in ledger policies train runtime; do
        ln -sfn "../../../$folder" "$venv/typing/licet/$folder"
    done
}

install_project() {
    pip install --quiet --no-deps --no-build-isolation --editable .
    link_for_mypy
}

main() {
    if command -v flock >/dev/null; then # two at once would undo each other's work
        exec 9<pyproject.toml
        flock 9
    fi
    local pins project
    pins=$(fingerprint requirements/cpu.txt)
    project=$(fingerprint pyproject.toml setup.py)

    if ! is_made_from $pins_stamp "$pins"; then
        make_environment
        echo "$pins" >$pins_stamp
    fi
    if ! is_made_from $project_stamp "$project"; then
        rm -f $project_stamp
        phase "5/5 licet itself (editable)" install_project
        echo "$project" >$project_stamp
        echo "Ready: .venv/bin/licet --help"
    fi
}

main
