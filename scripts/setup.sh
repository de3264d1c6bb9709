#!/bin/sh
# Make .venv and install the locked dependencies into it; look for the system libraries. Does nothing when all is there.
# Usage: scripts/setup.sh [test|faults]   (test: also what the tests need: Chromium, poppler, DCMTK; faults: and what breaks things)
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

# Install Debian packages where we may; otherwise print the command and go on or end ($1: need or want).
apt_install() {
    how=$1; shift
    if ! command -v apt-get >/dev/null; then
        say "Please install what Debian calls: $*"
    elif [ "$(id -u)" = 0 ]; then
        as_root="env"
    elif sudo -n true 2>/dev/null; then
        as_root="sudo"
    else
        say "Missing system packages. Please run:  sudo apt-get install -y --no-install-recommends $*"
    fi
    if [ -n "${as_root:-}" ]; then
        say "Installing system packages: $*"
        export DEBIAN_FRONTEND=noninteractive
        apt="$as_root apt-get -o DPkg::Lock::Timeout=300"  # somebody else may be installing
        if $apt install -y -q --no-install-recommends "$@" >/dev/null 2>&1 ||
            { $apt update -q >/dev/null && $apt install -y -q --no-install-recommends "$@" >/dev/null; }
        then return 0; fi
        say "That did not work. Please run:  apt-get install -y --no-install-recommends $*"
    fi
    [ "$how" = want ] || exit 1
}

has_library() { { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q "$1"; }

# 1. Python 3.11 to 3.13, with venv
if [ ! -x .venv/bin/python ]; then
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            found=$python; break
        fi
    done
    if [ -z "${found:-}" ]; then
        say "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/python if it is not on the PATH."
        exit 1
    fi
    if ! "$found" -c 'import ensurepip, venv' 2>/dev/null; then  # Debian ships it apart
        apt_install need "python$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
    rm -rf .venv
    "$found" -m venv .venv
fi

# 2. Libraries that WeasyPrint opens: the text layout (needed), and the subsetter that makes reports four times faster
missing=
has_library libpango-1.0.so.0 || missing="$missing libpango-1.0-0"
has_library libseccomp.so.2 || missing="$missing libseccomp2"  # what decodes files is confined by it
has_library libpangoft2-1.0.so.0 || missing="$missing libpangoft2-1.0-0"
[ -z "$missing" ] || apt_install need $missing
has_library libharfbuzz-subset.so.0 || apt_install want libharfbuzz-subset0

# 3. For the tests: a browser, pages of a PDF as pictures, DICOM programs of others, a tracer of connections
if [ "${1:-}" = test ] || [ "${1:-}" = faults ]; then
    missing=
    command -v pdftoppm >/dev/null || missing="$missing poppler-utils"
    command -v dcm2pnm >/dev/null || missing="$missing dcmtk"
    command -v strace >/dev/null || missing="$missing strace"
    # an archive that results are sent to (the tests run one of their own), and a verifier of DICOM objects
    [ -x /usr/sbin/Orthanc ] || missing="$missing orthanc"
    [ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$missing orthanc-dicomweb"
    command -v dciodvfy >/dev/null || missing="$missing dicom3tools"
    command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing="$missing chromium"
    # a clock that jumps, a pooler between us and the database
    if [ "$1" = faults ]; then
        [ -e /usr/share/java/pixelmed.jar ] || missing="$missing pixelmed-apps"  # another verifier of DICOM reports
        ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing="$missing libfaketime"
        [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
    fi
    [ -z "$missing" ] || apt_install want $missing
fi

# 4. What is locked, and the project itself; each again only when its file changed
changed() { [ "$(cat ".venv/$1.installed" 2>/dev/null)" != "$(sha256sum "$1")" ]; }
installed() { sha256sum "$1" >".venv/$1.installed"; }
pip() { .venv/bin/python -m pip --disable-pip-version-check -qq "$@"; }
if changed requirements.lock; then
    say "Installing the locked dependencies into .venv (a few minutes the first time)"
    pip install --no-deps --require-hashes -r requirements.lock  # the lock is whole: see [tool.uv] in pyproject.toml
    ! .venv/bin/python -m pip --disable-pip-version-check show -q openvino-telemetry 2>/dev/null || pip uninstall -y openvino-telemetry
    installed requirements.lock
fi
if changed pyproject.toml; then
    pip install --no-deps --no-build-isolation -e .
    installed pyproject.toml
fi
