#!/usr/bin/env bash
# PostgreSQL for the tests of the journal. Nothing is done where it is there already.
set -euo pipefail
if command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "setup: PostgreSQL is not installed; install it so that initdb can be found" >&2
  exit 1
fi
echo "setup: installing PostgreSQL (apt-get)"
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends postgresql >/dev/null
