#!/usr/bin/env bash
# run-demo.sh: what `make run` does: a Debian kernel and busybox, to a shell in this terminal; in a pipe, a self-check.
set -euo pipefail
polyvisor=$1
guest=${POLYVISOR_CACHE:-$(dirname "$0")/../.cache}/guest

if [ -t 0 ] && [ -t 1 ]; then
	read -r rows cols < <(stty size)
	echo "Booting Debian's kernel $(cat "$guest/version-cloud"). In the guest's shell, 'exit' ends it; Ctrl-A X leaves at once."
	exec "$polyvisor" run --kernel "$guest/vmlinuz-cloud" --initrd "$guest/initrd.cpio" -m 512M --cpus 2 \
		--append "console=ttyS0 quiet polyvisor.size=${cols}x${rows} polyvisor.term=${TERM:-vt102}"
fi

# No terminal: boot, let the guest say what it is, and insist on its answer.
out=$(mktemp)
trap 'rm -f "$out"' EXIT
"$polyvisor" run --kernel "$guest/vmlinuz-cloud" --initrd "$guest/initrd.cpio" -m 512M --cpus 2 \
	--append "console=ttyS0 panic=-1 polyvisor.selfcheck" --no-reboot </dev/null | tee "$out"
grep -q "polyvisor-selfcheck: kernel=$(cat "$guest/version-cloud") cpus=2 memory=" "$out" || {
	echo "run-demo.sh: the guest did not print its self-check line" >&2
	exit 1
}
