#!/usr/bin/env bash
# run-sanitized.sh: the tests again with clang's address and undefined-behaviour sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build-sanitize
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1
if [ ! -f $build/build.ninja ]; then
	CC=clang meson setup $build -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1 -Dwerror=true >/dev/null
fi
ninja -C $build --quiet
exec meson test -C $build --print-errorlogs --no-suite slow --timeout-multiplier 6
