#!/usr/bin/env python3
"""uspace.py: the program of tests/uspace says the same natively and in guests, in whatever way their user code runs.

usage: uspace.py POLYVISOR GUEST_DIR [SOFT:CPUS...]      SOFT: interp, translate, direct=auto, direct=on

USPACE_ARGS: what the program is given. "quick": fewer rounds; "": more; "long": with the probes that take minutes, too; or names of probes.
"""
import difflib
import glob
import os
import subprocess
import sys
import tempfile

import boot
from boot import Failure, expect

USUAL = ["translate:2", "direct=auto:2", "direct=on:2"]
SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "uspace")


def lines(text, cpu):
    """What the probes said, in the order of the program; `cpu`: lines that only two runs on one CPU have in common, too."""
    found = [line.strip("\r") for line in text.split("\n")]
    probes = [line for line in found if ": " in line and not line.startswith(("polyvisor-run", "["))]
    return [line for line in probes if cpu or not line.startswith("cpu: ")]


def difference(a, b, one, other):
    found = list(difflib.unified_diff(a, b, one, other, lineterm="", n=1))
    return "\n".join(found[:60])


class Uspace:
    def __init__(self, polyvisor, guest, tmp):
        self.polyvisor, self.guest = polyvisor, guest
        self.args = os.environ.get("USPACE_ARGS", "quick")
        subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", f"{tmp}/uspace", *sorted(glob.glob(f"{SOURCES}/*.c"))], check=True)
        self.initrd = boot.archive(tmp, "uspace")
        p = subprocess.run([f"{tmp}/uspace", *self.args.split()], stdout=subprocess.PIPE, timeout=3600)
        self.native = lines(p.stdout.decode(), False)
        self.layers = {}
        expect(p.returncode == 0, "not even natively", p.stdout.decode())

    def same(self, soft, cpus):
        boot.ENGINE[-1] = soft
        status, text, err, seconds = boot.run(self.polyvisor, self.guest, "cloud", [*self.initrd, "--cpus", cpus, "-m", "768M", "--no-reboot"],
                                              f'quiet polyvisor.run="uspace {self.args}"',
                                              timeout=int(os.environ.get("USPACE_TIMEOUT", "600")))
        here = lines(text, False)
        expect(here == self.native, f"--soft {soft} with {cpus} CPUs differs from native:\n" +
               difference(self.native, here, "native", soft), "", err)
        expect(status == 0 and "polyvisor-run: status 0" in text, f"exit status {status}", text, err)
        every = lines(text, True)
        other, theirs = self.layers.setdefault(cpus, (soft, every))
        expect(every == theirs, f"--soft {soft} differs from {other}:\n" + difference(theirs, every, other, soft), "", err)
        return seconds


def main():
    polyvisor, guest, cases = sys.argv[1], sys.argv[2], sys.argv[3:] or USUAL
    with tempfile.TemporaryDirectory() as tmp:
        try:
            test = Uspace(polyvisor, guest, tmp)
        except Failure as e:
            print(f"FAIL native: {e}")
            return 1
        named = {case: lambda p, g, case=case: test.same(*case.split(":")) for case in cases}
        return boot.run_cases(named, polyvisor, guest, cases)


if __name__ == "__main__":
    sys.exit(main())
