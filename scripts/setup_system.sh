#!/bin/bash
# What must come from the operating system: a PostgreSQL, a C compiler, Python with venv and headers, and, for
# "test" only, Node.js with npm, a browser and the languages of the API's samples. Installs only what is missing, only
# as root, only where apt-get is.
#
#   scripts/setup_system.sh demo|test|bench
set -euo pipefail
purpose=${1:-test}

missing=()
need() { # need PACKAGE COMMAND...: PACKAGE is missing unless COMMAND succeeds
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
server_binaries() { compgen -G '/usr/lib/postgresql/*/bin/postgres' || command -v initdb; }
python_with_venv() { /usr/bin/python3 -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)'; }
python_headers() { /usr/bin/python3 -c 'import sysconfig, pathlib; assert (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists()'; }
amcheck() { compgen -G '/usr/share/postgresql/*/extension/amcheck.control'; }

need postgresql server_binaries
need postgresql-contrib amcheck
need python3-venv python_with_venv
need python3-dev python_headers
need gcc command -v gcc
need libc6-dev test -e /usr/include/stdlib.h
case $purpose in
    test)
        need nodejs command -v node
        need npm command -v npm
        need curl command -v curl
        need chromium command -v chromium
        need xfsprogs test -x /usr/sbin/mkfs.xfs
        need btrfs-progs test -x /usr/sbin/mkfs.btrfs
        need openssl command -v openssl
        # samples of the API in languages whose libraries no registry here has: read by their compilers
        need openjdk-17-jdk-headless command -v javac
        need golang-go command -v go
        need php-cli command -v php
        need ruby command -v ruby
        need mono-mcs command -v mcs
        need g++ command -v g++
        ;;
    bench)
        need pgbackrest command -v "${ICECORE_BENCH_PGBACKREST:-pgbackrest}"
        need restic command -v restic
        need borgbackup command -v borg
        # for --file-system
        need xfsprogs test -x /usr/sbin/mkfs.xfs
        need btrfs-progs test -x /usr/sbin/mkfs.btrfs
        ;;
esac

if [ ${#missing[@]} = 0 ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: not installed here: ${missing[*]} (Debian's names)." >&2
    echo "setup: install them, e.g. \"sudo apt-get install ${missing[*]}\", then run make again." >&2
    exit 1
fi

# Debian's package makes and starts a cluster of its own; ours are made where they are needed. Both are kept from
# happening for the time of the installation only, and without touching a file that belongs to the package.
snippet=/etc/postgresql-common/createcluster.d/icecore-setup.conf
policy=/usr/sbin/policy-rc.d
own_policy=no
restore() {
    rm -f "$snippet"
    [ $own_policy = no ] || rm -f "$policy"
}
trap restore EXIT
mkdir -p "$(dirname "$snippet")"
echo "create_main_cluster = false" > "$snippet"
if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi

echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
