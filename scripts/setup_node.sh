#!/bin/bash
# Alibaba Cloud's JavaScript clients for the tests, as tests/live/node/package-lock.json says.
set -euo pipefail
cd "$(dirname "$0")/../tests/live/node"
npm ci --ignore-scripts --no-audit --no-fund --silent
