#!/usr/bin/env bash
# run.sh: what `make bench` does: measures Polyvisor, beside native programs and QEMU's TCG where it is installed, in one run.
#
#   bench/run.sh BUILD [loop|boot|memory|cpu|cpu-quick|direct|disk|net|real ...]      (default: loop boot memory cpu disk net)
#
# Environment: BENCH_RUNS, rounds of boot (3); BENCH_CPU, more options of bench/cpu.py, for example "--only sieve,pipe"; BENCH_IO, more
# options of bench/io.py, for example "--engines translate,interp,qemu"; BENCH_REAL, more options of bench/real.py, for example "--only
# sqlite --rounds 2". real needs what `make image-packages` makes.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
shift
polyvisor=$build/polyvisor
guest=${POLYVISOR_CACHE:-.cache}/guest

bench_loop() {
	echo "## Plain integer loop, on the interpreter"
	ninja -C "$build" --quiet bench/interp_loop
	"$build/bench/interp_loop"
}

bench_boot() {
	echo "## Boot of Debian's cloud kernel, process start to the first line of init"
	bench/boot.py "$polyvisor" "$guest" "${BENCH_RUNS:-3}"
}

bench_memory() {
	echo "## Memory of the process at the shell beyond the guest's RAM, one CPU"
	python3 bench/memory.py "$polyvisor" "$guest"
}

bench_cpu() {
	echo "## One program in guests and natively: rates as parts of the native one"
	ninja -C "$build" --quiet bench/cpubench
	# shellcheck disable=SC2086 # several options
	bench/cpu.py "$polyvisor" "$build/bench/cpubench" "$guest" ${BENCH_CPU:-} "$@"
}

bench_direct() {
	echo "## The same, with direct execution: a program with shared libraries, as most are"
	ninja -C "$build" --quiet bench/cpubench-shared
	# shellcheck disable=SC2086 # several options
	bench/cpu.py "$polyvisor" "$build/bench/cpubench-shared" "$guest" --engines native,translate,direct=on,direct=auto,qemu ${BENCH_CPU:-} "$@"
}

bench_io() {
	ninja -C "$build" --quiet bench/iobench
	# shellcheck disable=SC2086 # several options
	bench/io.py "$1" "$polyvisor" "$build/bench/iobench" "$guest" ${BENCH_IO:-}
}

bench_disk() {
	echo "## A virtio disk, one queue, raw file: around the guest's cache"
	bench_io disk
}

bench_net() {
	echo "## A virtio network card on the user network: one TCP connection"
	bench_io net
}

bench_real() {
	echo "## Everyday work in the Debian guest: seconds"
	# shellcheck disable=SC2086 # several options
	bench/real.py "$polyvisor" "${guest%/guest}/image-packages" ${BENCH_REAL:-} || [ $? -eq 77 ]
}

[ $# -gt 0 ] || set -- loop boot memory cpu disk net
for what; do
	case $what in
	loop | boot | memory | cpu | direct | disk | net | real) "bench_$what" ;;
	cpu-quick) bench_cpu --quick ;;
	*) echo "run.sh: '$what' is not one of: loop, boot, memory, cpu, cpu-quick, direct, disk, net, real" >&2 && exit 2 ;;
	esac
done
