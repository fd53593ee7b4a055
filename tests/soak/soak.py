#!/usr/bin/env python3
"""soak.py: a guest under load for a long time: does it stay as fast, and does its process stay as small?

usage: soak.py POLYVISOR CPUBENCH GUEST_DIR MINUTES [--soft KIND] [--cpus N] [--memory SIZE]

Each round measures a few loads in the guest (the same program as bench/cpu.py's), and between them starts hundreds of
programs, makes and runs code that is new each time, and fills memory with files until the kernel has to give pages up. A line a round
tells the rates as parts of the first rounds', and the process's memory beyond the guest's RAM. At the end the last third is compared
with the first: 15% slower, or 32 MiB larger, is a failure.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "bench"))
from cpu import make_initrd, mean  # noqa: E402

LOADS = "mix,indirect,nbody,memcpy-16k,getpid,fork,exec,page-fault,jit,gzip"
# $i counts rounds; the directory is on a tmpfs, which is memory.
ROUND = f"""
mkdir -p /soak; mount -t tmpfs -o size=85% soak /soak; i=0
while true; do
  i=$((i+1)); echo "soak round $i"
  cpubench -t 80 -o {LOADS}
  for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/soak/$n bs=64k count=200 2>/dev/null; done
  for n in 1 2 3 4 5 6 7 8; do gzip -1 -c /soak/$n 2>/dev/null | gunzip -c 2>/dev/null | cmp - /soak/$n || echo "soak WRONG $n"; done
  rm -f /soak/*
  for n in $(seq 60); do
    busybox ls -l /bin | busybox sort -k 5 | busybox awk '{{s+=$5}} END {{print s}}' >/dev/null
    busybox find /proc -maxdepth 1 -name '[0-9]*' | busybox xargs -n 4 busybox echo | busybox md5sum >/dev/null
  done
  cpubench -t 400 -o jit >/dev/null
done
"""


def resident(pid):
    """KiB of the process that are not the guest's RAM; a page that is mapped twice counts once."""
    total, name = 0, ""
    for line in open(f"/proc/{pid}/smaps"):
        if m := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)", line):
            name = m.group(1)
        elif (m := re.match(r"Pss: +(\d+) kB", line)) and "guest-ram" not in name and "polyvisor-ram" not in name:
            total += int(m.group(1))
    return total


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("polyvisor")
    p.add_argument("program")
    p.add_argument("guest")
    p.add_argument("minutes", type=float)
    p.add_argument("--soft", default="translate")
    p.add_argument("--cpus", default="2")
    p.add_argument("--memory", default="384M")
    args = p.parse_args()
    rounds, bad = [], []
    with tempfile.TemporaryDirectory() as tmp:
        make_initrd(f"{args.guest}/initrd.cpio", args.program, f"{tmp}/initrd", [("bin/soak.sh", ROUND.encode())])
        cmd = [args.polyvisor, "run", "--quiet", "--engine", "soft", "--soft", args.soft, "--net", "none", "-m", args.memory, "--cpus",
               args.cpus, "--stats", "--kernel", f"{args.guest}/vmlinuz-cloud", "--initrd", f"{tmp}/initrd", "--append",
               'console=ttyS0 quiet "polyvisor.run=sh /bin/soak.sh"']
        start = time.monotonic()
        vm = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace")
        stop = threading.Timer(args.minutes * 60, vm.terminate)
        stop.start()
        rates, tail = {}, []
        for line in vm.stdout:
            tail = [*tail[-60:], line]
            word = line.split()
            if len(word) == 4 and word[0] == "rate":
                rates[word[1]] = float(word[3])
            elif line.startswith("soak round"):
                rates = {}
            elif line.startswith("cpubench done") and len(rates) > 1:
                rounds.append((rates, resident(vm.pid)))
                first = rounds[0][0]
                parts = " ".join(f"{n} {v / first[n]:.2f}" for n, v in rates.items() if n in first)
                print(f"{(time.monotonic() - start) / 60:6.1f} min, {rounds[-1][1] / 1024:.1f} MiB: {parts}", flush=True)
                rates = {}
            elif any(w in line for w in ("WRONG", "Kernel panic", "Oops", "BUG:", "rcu_sched", "soft lockup", "segfault", "Killed")):
                bad.append(line.strip())
        stop.cancel()
        vm.wait()
    print("".join(t for t in tail if re.match(r"cpu\d+\.(emptied|invalidations|translated|blocks|lookups) ", t)), end="")
    for line in bad[:10]:
        print(f"the guest said: {line}")
    if len(rounds) < 3:
        print(f"soak: {len(rounds)} rounds are too few to compare\n{''.join(tail[-30:])}")
        return 1
    third = max(1, len(rounds) // 3)
    speed = mean([max(r[0].get(n, 0) for r in rounds[-third:]) / max(r[0][n] for r in rounds[:third]) for n in rounds[0][0]])
    growth = (rounds[-1][1] - max(r[1] for r in rounds[:third])) / 1024
    good = speed > 0.85 and growth < 32 and not bad
    print(f"soak: {len(rounds)} rounds; speed at the end {speed:.2f} of that at the beginning; memory grew by {growth:.1f} MiB: "
          f"{'good' if good else 'NOT GOOD'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
