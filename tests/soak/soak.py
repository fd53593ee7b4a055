#!/usr/bin/env python3
"""soak.py: a guest under load for a long time: does it stay as fast, and does its process stay as small?

usage: soak.py POLYVISOR CPUBENCH GUEST_DIR MINUTES [--soft KIND] [--cpus N] [--memory SIZE]

Each round measures a few loads in the guest (the same program as bench/cpu.py's), and between them does a fixed piece of work: it
starts hundreds of programs, makes and runs code that is new each time, and fills memory with files until the kernel has to give pages
up. Then a second of new code that is run often enough to be translated fills the code memory. A line a round tells the rates as parts of the first round's, what the fixed work costs, and the process's memory beyond the
guest's RAM.

Time is the process's own CPU time, so that other work on the machine does not count: the guest says how many units of a load it did,
and this program looks at what they cost. What a busy neighbour takes away in caches still shows; medians are compared.

At the end the last third of the rounds is compared with the first. It fails when the mean speed (all loads and the fixed work) is 10%
less, any single one 25%, memory is 32 MiB more, a file came back from gzip with other bytes, the guest's kernel complained, a program
was killed or crashed, or the code memory was not emptied once.
"""
import argparse
import os
import re
import statistics
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
  cpubench -w -t 200 -o {LOADS}
  echo "soak work"
  for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/soak/$n bs=64k count=200 2>/dev/null; done
  for n in 1 2 3 4 5 6 7 8; do gzip -1 -c /soak/$n 2>/dev/null | gunzip -c 2>/dev/null | cmp - /soak/$n || echo "soak WRONG $n"; done
  rm -f /soak/*
  for n in $(seq 60); do
    busybox ls -l /bin | busybox sort -k 5 | busybox awk '{{s+=$5}} END {{print s}}' >/dev/null
    busybox find /proc -maxdepth 1 -name '[0-9]*' | busybox xargs -n 4 busybox echo | busybox md5sum >/dev/null
  done
  for n in $(seq 40); do cpubench -t 10 -o jit >/dev/null; done
  echo "soak worked"
  cpubench -t 1000 -o jit-hot >/dev/null
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


class Watch:
    """CPU seconds of a process since it was last asked."""

    def __init__(self, pid):
        self.clock = (~pid << 3) | 2  # the kernel's number for that process's CPU clock
        self.before = time.clock_gettime(self.clock)

    def lap(self):
        before, self.before = self.before, time.clock_gettime(self.clock)
        return self.before - before


class Round:
    def __init__(self):
        self.speeds = {}  # by load; of the fixed work, 1 / its CPU seconds
        self.cost = 0
        self.resident = 0


class Soak:
    """What the guest says, line by line, and what it means."""

    BAD = ("WRONG", "Kernel panic", "Oops", "BUG:", "rcu_sched", "soft lockup", "segfault", "Killed", "no load is called")

    def __init__(self, pid):
        self.pid, self.watch, self.start = pid, Watch(pid), time.monotonic()
        self.rounds, self.bad, self.tail, self.current = [], [], [], Round()

    def hear(self, line):
        self.tail = [*self.tail[-300:], line]
        word = line.split()
        if line.startswith("soak round"):
            self.current = Round()
            self.watch.lap()
        elif len(word) == 3 and word[0] == "work":
            self.current.speeds[word[1]] = float(word[2]) / max(self.watch.lap(), 1e-3)
        elif line.startswith("soak worked"):
            self.current.cost = self.watch.lap()
            self.current.speeds["work"] = 1 / self.current.cost
            self.current.resident = resident(self.pid)
            self.rounds.append(self.current)
            self.tell()
        elif line.startswith("soak work"):
            self.watch.lap()
        elif any(w in line for w in self.BAD):
            self.bad.append(line.strip())

    def tell(self):
        r, first = self.rounds[-1], self.rounds[0].speeds
        parts = " ".join(f"{n} {v / first[n]:.2f}" for n, v in r.speeds.items() if n in first)
        print(f"{(time.monotonic() - self.start) / 60:6.1f} min, {r.resident / 1024:.1f} MiB, {r.cost:.1f} s: {parts}", flush=True)

    def verdict(self):
        print("".join(t for t in self.tail if re.match(r"cpu\d+\.(emptied|invalidations|translated|blocks|lookups) ", t)), end="")
        for line in self.bad[:10]:
            print(f"the guest said: {line}")
        if len(self.rounds) < 3:
            print(f"soak: {len(self.rounds)} rounds are too few to compare\n{''.join(self.tail[-30:])}")
            return 1
        third = max(1, len(self.rounds) // 3)
        begin, end = self.rounds[:third], self.rounds[-third:]
        parts = {n: statistics.median(r.speeds.get(n, 0) for r in end) / statistics.median(r.speeds[n] for r in begin)
                 for n in self.rounds[0].speeds}
        speed, (least, name) = mean(list(parts.values())), min((v, n) for n, v in parts.items())
        growth = (self.rounds[-1].resident - max(r.resident for r in begin)) / 1024
        emptied = sum(int(m.group(1)) for t in self.tail if (m := re.match(r"cpu\d+\.emptied +(\d+)", t)))
        print(f"soak: {len(self.rounds)} rounds; speed at the end {speed:.2f} of that at the beginning (least: {name} {least:.2f}); "
              f"memory grew by {growth:.1f} MiB; code memory was emptied {emptied} times; {len(self.bad)} complaints")
        good = speed > 0.9 and least > 0.75 and growth < 32 and emptied and not self.bad
        print(f"soak: {'good' if good else 'NOT GOOD'}")
        return 0 if good else 1


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
    with tempfile.TemporaryDirectory() as tmp:
        make_initrd(f"{args.guest}/initrd.cpio", args.program, f"{tmp}/initrd", [("bin/soak.sh", ROUND.encode())])
        cmd = [args.polyvisor, "run", "--quiet", "--engine", "soft", "--soft", args.soft, "--net", "none", "-m", args.memory, "--cpus",
               args.cpus, "--stats", "--kernel", f"{args.guest}/vmlinuz-cloud", "--initrd", f"{tmp}/initrd", "--append",
               'console=ttyS0 quiet "polyvisor.run=sh /bin/soak.sh"']
        vm = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace")
        soak = Soak(vm.pid)
        stop = threading.Timer(args.minutes * 60, vm.terminate)
        stop.start()
        for line in vm.stdout:
            soak.hear(line)
        stop.cancel()
        vm.wait()
    return soak.verdict()


if __name__ == "__main__":
    sys.exit(main())
