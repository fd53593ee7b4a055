#!/usr/bin/env python3
"""cpu.py: one static program of small loads, natively, in Polyvisor and in QEMU's TCG, in alternate rounds of one run.

usage: cpu.py POLYVISOR CPUBENCH GUEST_DIR [--quick] [--rounds N] [--only NAME,...] [--engines LIST] [--json FILE]

ENGINES: native,translate,qemu (default), interp, direct=on, direct=auto. Each round runs every engine once; the best rate of each counts, as other
work on the machine only ever takes away. Ratios of one run can be compared; rates of different machines or days cannot.
"""
import argparse
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

QEMU = "qemu-system-x86_64"
# group: lower bounds of the geometric mean of translate/native, of translate/qemu, and of each load's translate/qemu
BARS = {
    "integer": (0.35, 3.0, None),
    "float": (0.60, None, None),
    "memory": (0.70, None, None),
    "stream": (None, None, None),
    "kernel": (None, 2.0, 1.0),
    "programs": (None, None, None),
}
# Direct execution: loads that compute, whose direct=auto is to be that part of native each and in the geometric mean; every load's
# direct=auto as a part of the better of translate and direct=on. The applets of a shell (gzip, sha256sum) are processes of a few
# milliseconds that read 4 KiB at a time: they belong to the second.
COMPUTE = ("mix", "sieve", "sha256", "chase-16k", "chase-32m", "nbody", "mandelbrot", "sse-matrix", "avx-matrix", "sse-bytes", "memcpy-16k",
           "memcpy-8m")
DIRECT_EACH, DIRECT_MEAN, DIRECT_CHOICE = 0.95, 0.97, 0.90
OURS = ("translate", "interp", "direct", "direct=on", "direct=auto")
BOOT_SECONDS = 60


def newc(name, data=b"", mode=0o100755):
    """One member of a cpio archive."""
    raw = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0]
    head = b"070701" + b"".join(b"%08X" % f for f in fields) + raw
    pad = lambda b: b + b"\0" * (-len(b) % 4)
    return pad(head) + pad(data)


def libraries(program):
    """What a program needs beside it, with the dynamic linker; nothing for a static one."""
    text = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", text)))


def make_initrd(base, program, path, files=()):
    """The tests' initramfs with the program and more files in it: archives follow each other."""
    with open(path, "wb") as out:
        data = open(base, "rb").read()
        out.write(data + b"\0" * (-len(data) % 4))
        out.write(newc("bin/cpubench", open(program, "rb").read()))
        directories = set()
        for library in libraries(program):
            for directory in [str(d).lstrip("/") for d in list(reversed(pathlib.PurePath(library).parents))[1:]]:
                if directory not in directories:
                    out.write(newc(directory, mode=0o040755))
                    directories.add(directory)
            out.write(newc(library.lstrip("/"), open(library, "rb").read()))
        for name, content in files:
            out.write(newc(name, content))
        out.write(newc("TRAILER!!!", mode=0))


class Run:
    """Rates of one engine: the best of all rounds."""

    def __init__(self):
        self.rates, self.groups, self.scale = {}, {}, {}

    def take(self, text):
        for line in text.splitlines():
            word = line.split()
            if len(word) == 4 and word[0] == "rate":
                self.groups[word[1]] = word[2]
                self.rates[word[1]] = max(self.rates.get(word[1], 0), float(word[3]))
            elif len(word) == 3 and word[0] == "scale":
                self.scale[int(word[1])] = max(self.scale.get(int(word[1]), 0), float(word[2]))


def finish(process, seconds):
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
    text = out.decode(errors="replace")
    if "cpubench done" not in text:
        print(f"cpu.py: {process.args[0]} did not come to its end:\n{text[-2000:]}", file=sys.stderr)
        sys.exit(1)
    return text


def keep_priority():
    """A session of its own is a scheduling group of its own where Linux groups by sessions: it gets the bench's nice value, too."""
    try:
        with open("/proc/self/autogroup", "w") as f:
            f.write(str(os.nice(0)))
    except OSError:
        pass


def native_start(chosen):
    keep_priority()
    os.sched_setaffinity(0, chosen)


def run_native(args, options, cpus):
    env = dict(os.environ, BENCH_BUSYBOX=f"{args.guest}/busybox")
    # As many CPUs as the guest has: processes that wake each other do not cross over.
    count = os.cpu_count()
    chosen = set(range(count)) if cpus > 1 else {run_native.turn % count}
    run_native.turn += 1
    p = subprocess.Popen([args.program, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env, start_new_session=True,
                         preexec_fn=lambda: native_start(chosen))
    return finish(p, 600)


run_native.turn = 0


def guest_command(engine, args, options, cpus):
    append = f'console=ttyS0 quiet "polyvisor.run=cpubench {" ".join(options)}"'
    if engine == "qemu":
        return [QEMU, "-nographic", "-no-reboot", "-nic", "none", "-m", "512", "-M", "q35", "-cpu", "max", "-smp", str(cpus),
                "-accel", "tcg,thread=multi,tb-size=512", "-kernel", f"{args.guest}/vmlinuz-cloud", "-initrd", args.initrd, "-append", append]
    return [args.polyvisor, "run", "--quiet", "--engine", "soft", "--soft", engine, "--net", "none", "-m", "512", "--cpus", str(cpus),
            "--kernel", f"{args.guest}/vmlinuz-cloud", "--initrd", args.initrd, "--append", append]


def run_engine(engine, args, options, cpus):
    if engine == "native":
        return run_native(args, options, cpus)
    p = subprocess.Popen(guest_command(engine, args, options, cpus), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=keep_priority)
    return finish(p, 600 + BOOT_SECONDS)


def mean(values):
    values = [v for v in values if v > 0]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def verdict(value, bar):
    return "" if bar is None or math.isnan(value) else f" (bar {bar:g}: {'met' if value >= bar else 'MISSED'})"


class Table:
    def __init__(self, runs, engines):
        self.runs, self.engines, self.bad = runs, engines, 0
        self.native = runs.get("native", Run()).rates
        self.qemu = runs.get("qemu", Run()).rates
        self.ours = [e for e in engines if e in OURS]

    def ratio(self, a, b, name):
        return a[name] / b[name] if name in a and b.get(name) else float("nan")

    def line(self, name, cells):
        print(f"{name:<14}" + "".join(f" {c:>15}" for c in cells))

    def show(self):
        head = ["native/s"] + [f"{e}/nat" for e in self.engines if e != "native"] + [f"{e}/qemu" for e in self.ours if self.qemu]
        first = self.runs[self.engines[0]]
        for group in BARS:
            names = [n for n, g in first.groups.items() if g == group]
            if not names:
                continue
            self.line(f"[{group}]", head)
            columns = []
            for n in names:
                cells = [self.runs[e].rates.get(n, float("nan")) for e in self.engines if e == "native"] or [float("nan")]
                ratios = [self.ratio(self.runs[e].rates, self.native, n) for e in self.engines if e != "native"]
                ratios += [self.ratio(self.runs[e].rates, self.qemu, n) for e in self.ours if self.qemu]
                columns.append(ratios)
                self.line(n, [f"{cells[0]:.4g}"] + [f"{r:.3f}" for r in ratios])
            means = [mean([c[i] for c in columns]) for i in range(len(columns[0]))]
            if len(names) > 1:
                self.line("geo. mean", [""] + [f"{m:.3f}" for m in means])
            self.bars(group, names)
            print()

    def bars(self, group, names):
        if "translate" not in self.engines:
            return
        ours = self.runs["translate"].rates
        of_native, of_qemu, each = BARS[group]
        if of_native and self.native:
            m = mean([self.ratio(ours, self.native, n) for n in names])
            print(f"  of native {m:.2f}{verdict(m, of_native)}")
        if of_qemu and self.qemu:
            m = mean([self.ratio(ours, self.qemu, n) for n in names])
            print(f"  times qemu {m:.2f}{verdict(m, of_qemu)}")
        if each and self.qemu:
            slower = [n for n in names if self.ratio(ours, self.qemu, n) < each]
            print(f"  each faster than qemu: {'met' if not slower else 'MISSED by ' + ', '.join(slower)}")

    def show_direct(self):
        auto = next((e for e in ("direct=auto", "direct") if e in self.engines), None)
        if not auto:
            return
        rates = self.runs[auto].rates
        compute = {n: self.ratio(rates, self.native, n) for n in COMPUTE if n in rates and self.native}
        if compute:
            least = min(compute, key=compute.get)
            m = mean(compute.values())
            print(f"user compute, {auto}, of native: least {compute[least]:.3f}, {least}{verdict(compute[least], DIRECT_EACH)}")
            print(f"  geometric mean of {len(compute)} loads {m:.3f}{verdict(m, DIRECT_MEAN)}")
        others = [self.runs[e].rates for e in ("translate", "direct=on") if e in self.engines]
        choice = {n: rates[n] / max(o.get(n, 0) for o in others) for n in rates if any(o.get(n) for o in others)} if others else {}
        for n, c in sorted(choice.items(), key=lambda x: x[1]):
            if c < DIRECT_CHOICE:
                print(f"the chooser: {n} at {c:.3f} of the better way{verdict(c, DIRECT_CHOICE)}")
        if choice and min(choice.values()) >= DIRECT_CHOICE:
            least = min(choice, key=choice.get)
            print(f"the chooser: least {choice[least]:.3f} of the better way, {least}{verdict(choice[least], DIRECT_CHOICE)}")

    def show_scale(self):
        for e in self.engines:
            s = self.runs[e].scale
            if 1 in s and 2 in s:
                ratio = s[2] / s[1]
                print(f"two busy processes on two CPUs, {e}: {ratio:.2f} times one{verdict(ratio, 1.8 if e == 'translate' else None)}")


def parse():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("polyvisor")
    p.add_argument("program")
    p.add_argument("guest")
    p.add_argument("--quick", action="store_true", help="one short round")
    p.add_argument("--rounds", type=int)
    p.add_argument("--only", help="loads, by name")
    p.add_argument("--engines", default="native,translate,qemu")
    p.add_argument("--ms", type=int, help="time of a load in a round")
    p.add_argument("--no-scale", action="store_true")
    p.add_argument("--json")
    args = p.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 4)
    args.ms = args.ms or (60 if args.quick else 200)
    return args


def main():
    args = parse()
    engines = args.engines.split(",")
    for e in engines:
        if e not in ("native", *OURS, "qemu"):
            sys.exit(f"cpu.py: '{e}' is not one of: native, {', '.join(OURS)}, qemu")
    if "qemu" in engines and not shutil.which(QEMU):
        print("qemu: not installed (qemu-system-x86)")
        engines.remove("qemu")
    options = ["-t", str(args.ms)] + (["-o", args.only] if args.only else [])
    runs = {e: Run() for e in engines}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as tmp:
        args.initrd = f"{tmp}/initrd"
        make_initrd(f"{args.guest}/initrd.cpio", args.program, args.initrd)
        for _ in range(args.rounds):
            for e in engines:
                runs[e].take(run_engine(e, args, options, 1))
                if not args.no_scale and not args.only:
                    runs[e].take(run_engine(e, args, ["-s", "-t", str(args.ms)], 2))
    table = Table(runs, engines)
    table.show()
    table.show_direct()
    table.show_scale()
    print(f"{args.rounds} round(s) of {args.ms} ms a load, {time.monotonic() - start:.0f} s in all; best of each")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({e: {"rates": r.rates, "scale": r.scale} for e, r in runs.items()}, f, indent=1)


if __name__ == "__main__":
    main()
