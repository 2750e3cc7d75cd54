#!/usr/bin/env bash
# The demo: a pipeline with a real language model, live on Ray; killed half-way, and resumed.
# Needs no account, no key and no network. Running it again changes nothing but the list of runs.
set -euo pipefail
cd "$(dirname "$0")/../examples/10_local_llm"
PATH="$(cd ../../.venv/bin && pwd):$PATH"
export PATH
unset FLOWMASON_ON RAY_ADDRESS DATABASE_URL FLOWMASON_VALUES_URL

say() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }
note() { printf '   %s\n' "$@" >&2; }
shown() { printf '\n$ %s\n' "$*" >&2; "$@"; }

started=""
victim=""
finish() {
  [ -z "$victim" ] || kill -9 "$victim" 2>/dev/null || true
  [ ! -t 2 ] || printf '\033[?25h' >&2 # a killed live view leaves the cursor hidden
  [ -z "$started" ] || fm cluster down >&2
}
trap finish EXIT

fm doctor --json | python3 -c '
import json, sys
wrong = [c for c in json.load(sys.stdin)["checks"] if c["name"] in ("extra ray", "model") and c["status"] != "ok"]
for check in wrong:
    print("demo:", check["name"] + ":", check["detail"], check["help"] or "", file=sys.stderr)
sys.exit(bool(wrong))' || { note "make setup installs what is missing"; exit 4; }

say "1. A Ray cluster on this machine, under its own token (some ten seconds)"
if ! fm cluster status >/dev/null 2>&1; then
  shown fm cluster up
  started=yes
fi

say "2. A pipeline: prepare, ask a local language model about three topics, then what its answers are about; put it together"
note "the file: examples/10_local_llm/briefing.pipeline.json"
note "the model: SmolLM2-135M-Instruct, inside a worker process; small, fast, not clever"
shown fm run -f input.json

say "3. The same with nine topics. After the third answer this script kills it: kill -9, no goodbye"
topics='["tea", "rain", "bicycles", "bread", "maps", "clocks", "glass", "salt", "paper"]'
printf '\n$ fm run --set topics=%s\n' "'$topics'" >&2
fm run --set "topics=$topics" >/dev/null &
victim=$!
run=""
for _ in $(seq 240); do
  kill -0 "$victim" 2>/dev/null || break
  run=$(fm runs list --limit 1 --status running --json | python3 -c '
import json, sys
print(next((run["run_id"] for run in json.load(sys.stdin)["items"]), ""))')
  if [ -n "$run" ]; then
    answers=$(fm runs show "$run" --items --json | python3 -c '
import json, sys
stages = json.load(sys.stdin)["stages"]
print(sum(path.endswith(".ask") and stage["status"] == "completed" for path, stage in stages.items()))')
    [ "$answers" -lt 3 ] || break
  fi
  sleep 0.2
done
if ! kill -9 "$victim" 2>/dev/null; then
  note "it was faster than this script; nothing is left to kill"
  exit 1
fi
wait "$victim" 2>/dev/null || true
victim=""
[ ! -t 2 ] || printf '\033[?25h\n' >&2
note "" "killed: $run had $answers of 9 answers"

say "4. fm resume: the answers that were there are kept, the rest is done"
shown fm resume "$run"

say "That was it. Try it yourself:"
note "cd examples/10_local_llm && export PATH=\"$(cd ../../.venv/bin && pwd):\$PATH\"" \
  "fm run                      # kill -9 it from another terminal, or press Ctrl-C twice" \
  "fm resume                   # goes on where it was" \
  "fm runs list                # what ran; fm runs show tells more" \
  "fm run --on local           # the same without Ray"
