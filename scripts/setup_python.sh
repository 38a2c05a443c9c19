#!/bin/bash
# The virtual environment .venv, exactly as requirements-dev.lock says, with this checkout in it (editable).
#
# PostgreSQL refuses to run as root, so root's servers run as the user "postgres", and what they start must be
# executable for that user. An interpreter below /root is not; neither is a checkout there, and then .venv and
# .tools are links to a place that is.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD

server_user=$(id -un)
as_server_user() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    server_user=postgres
    as_server_user() { (cd / && runuser -u postgres -- "$@"); }
fi

# The interpreter: Debian's own first, since other users can always execute it.
python=
for candidate in ${ICECORE_PYTHON:-/usr/bin/python3 /usr/local/bin/python3 python3}; do
    if as_server_user "$candidate" -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: no Python 3.11 or later with venv that user $server_user can execute; set ICECORE_PYTHON to one." >&2
    exit 1
fi

# A place that the servers' user can pass through.
place=$checkout
if ! as_server_user test -x "$checkout"; then
    place=/var/lib/icecore-checkouts/$(printf %s "$checkout" | sha256sum | cut -c1-12)
    echo "setup: user $server_user cannot pass through $checkout: .venv and .tools are kept in $place"
    mkdir -p "$place/.venv" "$place/.tools"
    chmod 755 /var/lib/icecore-checkouts "$place"
    for name in .venv .tools; do
        [ -L $name ] || rm -rf "${checkout:?}/$name"
        ln -sfn "$place/$name" $name
    done
fi

# Packages, by hash. setuptools and cffi are among them, so that building ours fetches nothing more.
[ -x "$place/.venv/bin/python" ] && "$place/.venv/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear "$place/.venv"
pip=("$place/.venv/bin/python" -m pip -qq --disable-pip-version-check --no-input)
PIP_ROOT_USER_ACTION=ignore "${pip[@]}" install --require-hashes -r requirements-dev.lock
PIP_ROOT_USER_ACTION=ignore "${pip[@]}" install --no-deps --no-build-isolation --no-index --editable .
