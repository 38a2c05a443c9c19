#!/bin/bash
# promtool, Prometheus' own checker of alert rules: Debian's package unpacked into .tools; nothing is installed or started.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$(readlink -f .tools)/prometheus
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
apt-get -qq download prometheus || { echo "setup: apt-get could not download the package prometheus (for promtool)." >&2; exit 1; }
dpkg -x prometheus_*.deb unpacked
mkdir -p "$place/usr/bin"
mv unpacked/usr/bin/promtool "$place/usr/bin/promtool"
