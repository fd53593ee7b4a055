#!/usr/bin/env bash
# run.sh: builds every fuzz target and runs each for SECONDS (60); fails on a finding, which it leaves in build-fuzz/findings.
# usage: fuzz/run.sh [--again] [SECONDS [TARGET...]]     FUZZ_SEED=N repeats a run (default: every run is another)
#
# --again: no new ground, but the same inputs wherever it runs: as many as fuzz/runs says (times FUZZ_TIMES, 1), from one seed and no corpus
# of before, for SECONDS at most.
set -euo pipefail
cd "$(dirname "$0")/.."
again=
[ "${1:-}" != --again ] || { again=1; shift; }
seconds=${1:-60}; shift || true
dir=build-fuzz
clang=$(command -v clang || command -v clang-14 || true)
[ -n "$clang" ] || { echo "fuzz: needs clang (apt-get install clang)" >&2; exit 1; }
if [ ! -f "$dir/build.ninja" ]; then
	CC=$clang meson setup "$dir" -Dfuzz=true -Dtests=false -Db_sanitize=address,undefined -Db_lundef=false \
		-Doptimization=1 >/dev/null || { cat "$dir/meson-logs/meson-log.txt"; exit 1; }
fi
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
	for source in fuzz/fuzz_*.c; do
		name=${source#fuzz/fuzz_}
		targets+=("${name%.c}")
	done
fi
ninja -C "$dir" --quiet "${targets[@]/#/fuzz/fuzz_}"
mkdir -p "$dir/findings"

fuzz_one() {
	local name=$1 corpus="$dir/corpus/$1" log="$dir/fuzz-$1.log" seeds=() limits=(-seed="${FUZZ_SEED:-0}" -timeout=10) wanted=
	if [ -n "$again" ]; then
		wanted=$(sed -n "s/^$name  *//p" fuzz/runs)
		[ -n "$wanted" ] || { echo "fuzz $name: fuzz/runs has no line for it"; return 1; }
		wanted=$((wanted * ${FUZZ_TIMES:-1}))
		corpus="$dir/again/$name"
		rm -rf "$corpus"
		# Slow inputs are for the other way to find: here a busy host would find them.
		limits=(-seed="${FUZZ_SEED:-1}" -timeout=120 -runs="$wanted")
	fi
	mkdir -p "$corpus"
	[ -d "fuzz/seeds/$name" ] && seeds=("fuzz/seeds/$name")
	if UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "$dir/fuzz/fuzz_$name" -max_total_time="$seconds" "${limits[@]}" \
		-rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
		-artifact_prefix="$dir/findings/$name-" "$corpus" "${seeds[@]}" >"$log" 2>&1; then
		printf 'fuzz %-12s ok: %s%s runs, %s inputs kept\n' "$name" \
			"$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "${wanted:+ of $wanted}" "$(ls "$corpus" | wc -l)"
	else
		printf 'fuzz %-12s FOUND something:\n' "$name"
		grep -vE '^#[0-9]+.*(REDUCE|NEW|pulse|INITED)' "$log" | tail -40
		return 1
	fi
}
export -f fuzz_one
export dir seconds again
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'set -e; fuzz_one {}'
