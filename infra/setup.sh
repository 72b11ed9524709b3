#!/bin/sh
# Creates the virtual environment .venv with the locked dependencies. Run again, it does nothing unless
# pyproject.toml, constraints.txt or this script changed, or .venv is broken, of another Python, or was copied or moved.
#
#   sh infra/setup.sh          what relume runs with
#   sh infra/setup.sh dev      and what its tests and checks need
#   PYTHON=python3.12 sh infra/setup.sh
set -eu

cd -P "$(dirname "$0")/.."
extra=${1:-}

fail() {
    printf 'error: %s\n' "$1" >&2
    printf '  next: %s\n' "$2" >&2
    exit 1
}

# A name on PATH can be a stub of a version manager that has no such version: only one that runs counts.
suits() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }
python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3.11 python3.12 python3; do
        if suits "$candidate"; then
            python=$candidate
            break
        fi
    done
fi
[ -n "$python" ] && suits "$python" ||
    fail "relume needs Python 3.11 or 3.12" "sudo apt-get install -y python3 python3-venv, or PYTHON=/path/to/python3.11 make setup"

# Its programs name the folder that it was made in: a copy would run the code of the other checkout. A link is as wanted.
intact() {
    [ -L .venv ] && return
    suits .venv/bin/python && grep -qF "$(pwd)/.venv/bin/python" .venv/bin/pip &&
        { [ -z "${PYTHON:-}" ] || [ "$(.venv/bin/python -V)" = "$("$python" -V)" ]; }
}
if [ -e .venv ] && ! intact; then
    echo "Removing .venv: it is broken, of another Python than $python, or was made in another folder"
    rm -rf .venv
fi

stamp=.venv/relume-stamp${extra:+-$extra}
key=$(cat pyproject.toml constraints.txt "$0" | sha256sum | cut -c1-16)
if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
    exit 0
fi

# Installs a Debian package where this user may; elsewhere it is for the caller to say what is missing.
debian() {
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -q && apt-get install -y --no-install-recommends "$1"
    elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n apt-get update -q && sudo -n apt-get install -y --no-install-recommends "$1"
    fi
}

# Debian keeps the module that makes virtual environments in a package of its own.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    debian "$package"
    "$python" -c 'import ensurepip' 2>/dev/null ||
        fail "Python's venv module is missing" "sudo apt-get install -y $package"
fi

# Tests look at the studio's page in a real browser; without one they are skipped, which the test run says.
if [ "$extra" = dev ] && ! command -v chromium >/dev/null; then
    debian chromium >/dev/null || echo "chromium could not be installed: the tests of the studio's page are skipped"
fi

# Metadata is read back by an independent program, in the same way.
if [ "$extra" = dev ] && ! command -v exiftool >/dev/null; then
    debian libimage-exiftool-perl >/dev/null || echo "exiftool could not be installed: tests of metadata are skipped"
fi

echo "Installing relume and its dependencies into .venv (some minutes, 3 GB)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".${extra:+[$extra]}"
printf '%s' "$key" >"$stamp"
printf '%s' "$key" >.venv/relume-stamp # what relume runs with is part of either
