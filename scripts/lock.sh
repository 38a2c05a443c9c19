#!/bin/bash
# Rewrites requirements.lock (what an installation needs) and requirements-dev.lock (the same, with what
# tests and linters need) from pyproject.toml. Run it after a change there, and commit all three.
set -euo pipefail
cd "$(dirname "$0")/.."

# The resolver lives in a throw-away environment: nothing else here needs it.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
/usr/bin/python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" -q install uv==0.13.9

# Build requirements are locked too, so that the package is built without fetching anything more.
sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '" ' | tr ',' '\n' > "$scratch/build.in"
compile() {
    "$scratch/env/bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-header --no-annotate "$@"
}
compile pyproject.toml "$scratch/build.in" -o requirements.lock
compile pyproject.toml "$scratch/build.in" --extra dev -c requirements.lock -o requirements-dev.lock
