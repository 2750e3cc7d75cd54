#!/usr/bin/env bash
# What the tests need of the system: PostgreSQL, Redis, and bubblewrap (the sandbox). Nothing is done where it is there already.
set -euo pipefail
missing=()
command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v bwrap >/dev/null || missing+=(bubblewrap)
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
  echo "setup: not installed: ${missing[*]}; install them with your system's package manager" >&2
  exit 1
fi
echo "setup: installing ${missing[*]} (apt-get)"
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
