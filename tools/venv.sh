#!/bin/sh
# Builds .venv from the pinned, hashed requirements; the Makefile calls it.
#
#   venv.sh run | dev | bench   brings .venv to that set, each holding the one before
#   venv.sh intact              says "yes" when nothing is missing from .venv
#   venv.sh uv ARGUMENTS        runs uv, fetched if need be
#
# Needs Python 3.11+ and either uv or pip, and no root. PYTHON=... names an interpreter.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd -P)

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

contents() { LC_ALL=C ls .venv/bin .venv/lib/python3*/site-packages | grep -v __pycache__ | LC_ALL=C sort; }

# The list is written last and taken away first, so an interrupted set-up has none. The import
# finds an interpreter that is gone and a .venv that was copied here from another folder.
intact() {
    [ -e .venv/.contents ] &&
        [ "$(.venv/bin/python -I -B -c 'import os, ml_registry_pipelines as m
print(os.path.realpath(os.path.dirname(m.__file__)))' 2>/dev/null)" = "$root/ml_registry_pipelines" ] &&
        [ -z "$(contents 2>/dev/null | LC_ALL=C comm -13 - .venv/.contents)" ]
}

find_python() {
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    fail "Python 3.11 or newer is needed, and ${PYTHON:-python3} is not; install one, or name it: make PYTHON=/path/to/python3.11 ..."
}

# Debian's python3 comes without ensurepip, so that a venv has no pip; then its own pip will do.
find_pip() {
    if [ -x .tools/bin/pip ] || "$python" -m venv .tools >/dev/null 2>&1; then
        pip=.tools/bin/pip
    elif rm -rf .tools && "$python" -m pip --version >/dev/null 2>&1; then
        pip="$python -m pip"
    else
        fail "neither uv nor pip is here: install uv, or your system's python3-venv or python3-pip, and run make again"
    fi
}

find_uv() {
    if command -v uv >/dev/null; then
        uv=uv
        return
    fi
    uv=.tools/bin/uv
    [ .tools/.uv -nt requirements-uv.txt ] && "$uv" --version >/dev/null 2>&1 && return
    rm -rf .tools
    find_pip
    say "fetching uv with pip"
    case $pip in
        .tools/*) target= ;;
        *) target="--target .tools" ;;
    esac
    $pip install --quiet --no-input --disable-pip-version-check $target \
        --only-binary :all: --require-hashes -r requirements-uv.txt && touch .tools/.uv
}

# uv does not read pip's configuration: an index that only pip knows is handed on. It is listed,
# since `pip config get` looks into one file only; [install] sorts after [global] and wins, as in pip.
hand_on_index() {
    [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ] || return 0
    pip="$python -m pip"
    [ ! -x .tools/bin/pip ] || pip=.tools/bin/pip
    index=${PIP_INDEX_URL:-$($pip config list 2>/dev/null |
        sed -n -e "s/^global\.index-url='\(.*\)'$/\1/p" -e "s/^install\.index-url='\(.*\)'$/\1/p" | tail -n 1)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
}

# Only wheels: building would need a compiler and packages that no hash covers.
# The project comes last, offline, with the pinned build backend.
with_uv() {
    find_uv || return 1
    hand_on_index
    "$uv" pip sync --python .venv/bin/python --only-binary :all: --require-hashes "$requirements" &&
        "$uv" pip install --quiet --python .venv/bin/python --offline --no-deps --no-build-isolation --editable .
}

with_pip() {
    find_pip
    say "uv could not install the requirements; trying pip"
    $pip --python .venv/bin/python install --no-input --no-deps --only-binary :all: --require-hashes -r "$requirements" &&
        $pip --python .venv/bin/python install --quiet --no-index --no-deps --no-build-isolation --editable .
}

case ${1:-} in
    intact) intact && echo yes; exit ;;
    uv) shift; find_python; find_uv; hand_on_index; exec "$uv" "$@" ;;
    run | dev | bench) ;;
    *) fail "usage: venv.sh run | dev | bench | intact | uv ARGUMENTS" ;;
esac

# What is installed stays installed: a runtime set-up after a change takes no test tools away.
sets=run
requirements=requirements.txt
if [ "$1" != run ] || [ -e .venv/.dev ]; then sets="run dev" requirements=requirements-dev.txt; fi
if [ "$1" = bench ] || [ -e .venv/.bench ]; then sets="run dev bench" requirements=requirements-bench.txt; fi

find_python
intact || { rm -rf .venv && "$python" -m venv --without-pip .venv; }
rm -f .venv/.contents .venv/.run .venv/.dev .venv/.bench
with_uv || with_pip || fail "the requirements could not be installed; the reason stands above"

# What most processes import. Else those that start together each compile all of it anew.
(cd .venv/lib/python*/site-packages && ../../../bin/python -m compileall -q -j 0 \
    dagster dagster_* sqlalchemy alembic graphql pydantic pandas numpy scipy sklearn altair >/dev/null 2>&1) || :
for set in $sets; do touch ".venv/.$set"; done
contents >.venv/.contents.new
mv .venv/.contents.new .venv/.contents
