#!/usr/bin/env bash
# Builds the wheel, installs it into a clean environment without any extra, and runs the tests marked `wheel` against it.
# The environment is kept and used again; only the wheel in it is replaced.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
venv=.venv-wheel
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

echo "wheel: building"
pip wheel --no-deps --wheel-dir "$built" .
wheel=$(echo "$built"/flowmason-*.whl)
echo "wheel: installing $(basename "$wheel") into $venv"
pip install --constraint constraints.txt "$wheel" pytest pytest-asyncio hypothesis
pip install --constraint constraints.txt --force-reinstall --no-deps "$wheel"
"$venv/bin/python" - <<'CHECK'
import importlib.util, pathlib, sys
found = pathlib.Path(importlib.util.find_spec("flowmason").origin)
assert "site-packages" in found.parts, f"not the wheel: {found}"
assert importlib.util.find_spec("ray") is None, "the environment is not clean: Ray is installed"
CHECK
echo "wheel: testing"
# Only the files that are marked: others import what the wheel does not bring.
mapfile -t marked < <(grep -rl --include='test_*.py' 'pytest\.mark\.wheel' tests | sort)
"$venv/bin/python" -m pytest -q -p no:cacheprovider -m "wheel and not slow" "${marked[@]}" "$@"
