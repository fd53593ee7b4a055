#!/usr/bin/env bash
# run-tests.sh: what `make test` does: all of Meson's tests, and a last line that counts them.
set -uo pipefail
build=$1
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

python3 tools/check_layers.py || exit 1
meson test -C "$build" --print-errorlogs --timeout-multiplier "${TEST_TIMEOUT_MULTIPLIER:-1}" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
count() { sed -n "s/^$1: *\([0-9]*\).*/\1/p" "$log" | tail -n 1; }
ok=$(count Ok) fail=$(count Fail) timeout=$(count Timeout) skip=$(count Skipped)
echo "tests: ${ok:-0} passed, $((${fail:-0} + ${timeout:-0})) failed, ${skip:-0} skipped"
exit "$status"
