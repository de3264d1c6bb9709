#!/bin/sh
# Run the tests on each Python that is installed here, in an environment of its own below .pythons: what README names.
# Usage: scripts/pythons.sh [pytest's arguments]; PYTHONS names others: PYTHONS="python3.12 /opt/py313/bin/python3"
set -u
cd "$(dirname "$0")/.."
failed=
for python in ${PYTHONS:-python3.11 python3.12 python3.13}; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || {
        echo "$python is not here" >&2; continue
    }
    env=.pythons/$version
    if [ "$(cat "$env/installed" 2>/dev/null)" != "$(sha256sum requirements.lock)" ]; then
        rm -rf "$env" && "$python" -m venv "$env" &&
            "$env/bin/python" -m pip --disable-pip-version-check -qq install --no-deps --require-hashes -r requirements.lock &&
            "$env/bin/python" -m pip --disable-pip-version-check -qq install --no-deps --no-build-isolation -e . &&
            sha256sum requirements.lock >"$env/installed" || { failed="$failed $version"; continue; }
    fi
    echo "Python $version" >&2
    "$env/bin/python" -m pytest -q -n 3 --dist loadfile "$@" || failed="$failed $version"
done
[ -z "$failed" ] || { echo "Not passed on:$failed" >&2; exit 1; }
