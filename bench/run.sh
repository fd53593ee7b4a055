#!/usr/bin/env bash
# run.sh: what `make bench` does: measures Polyvisor, beside QEMU's TCG where it is installed, in one run, and prints figures and ratios.
#
#   bench/run.sh BUILD [loop|boot|memory ...]      (default: all)
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
shift
polyvisor=$build/polyvisor
guest=${POLYVISOR_CACHE:-.cache}/guest
runs=${BENCH_RUNS:-3}

# Seconds from process start to a text on the console; the process is ended then.
until_text() {
	local text=$1
	shift
	python3 - "$text" "$@" <<'PY'
import subprocess, sys, time, os
text, cmd = sys.argv[1].encode(), sys.argv[2:]
start = time.monotonic()
p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
seen = b""
while text not in seen:
    chunk = os.read(p.stdout.fileno(), 65536)
    if not chunk:
        print("nan")
        sys.exit(0)
    seen += chunk
print(f"{time.monotonic() - start:.2f}")
p.kill()
p.wait()
PY
}

median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

times() {
	local n=$1
	shift
	for _ in $(seq "$n"); do "$@"; done | median
}

bench_loop() {
	echo "## Plain integer loop"
	"$build/bench/interp_loop"
}

bench_boot() {
	local ours qemu=
	echo "## Boot of Debian's cloud kernel, process start to the first line of init (median of $runs)"
	ours=$(times "$runs" until_text "polyvisor-selfcheck" "$polyvisor" run --engine soft --kernel "$guest/vmlinuz-cloud" \
		--initrd "$guest/initrd.cpio" --append "console=ttyS0 quiet polyvisor.selfcheck")
	echo "polyvisor soft: $ours s"
	if command -v qemu-system-x86_64 >/dev/null; then
		qemu=$(times "$runs" until_text "polyvisor-selfcheck" qemu-system-x86_64 -nographic -no-reboot -m 512 -M q35 -accel tcg \
			-cpu max -kernel "$guest/vmlinuz-cloud" -initrd "$guest/initrd.cpio" -append "console=ttyS0 quiet polyvisor.selfcheck")
		echo "qemu tcg:       $qemu s"
		awk -v a="$qemu" -v b="$ours" 'BEGIN {printf "ratio qemu/polyvisor: %.2f (higher is better)\n", a / b}'
	else
		echo "qemu tcg:       not installed (qemu-system-x86)"
	fi
}

bench_memory() {
	echo "## Memory of the process at the shell beyond the guest's RAM, one CPU"
	python3 bench/memory.py "$polyvisor" "$guest"
}

[ $# -gt 0 ] || set -- loop boot memory
ninja -C "$build" --quiet bench/interp_loop
for what; do
	case $what in
	loop | boot | memory) "bench_$what" ;;
	*) echo "run.sh: '$what' is not one of: loop, boot, memory" >&2 && exit 2 ;;
	esac
done
