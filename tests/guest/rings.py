#!/usr/bin/env python3
"""rings.py: runs the guest that attacks every virtio device through its rings and registers.

usage: rings.py POLYVISOR ENGINE IMAGE [WORD...]     words select tests; "long": many more rounds
"""
import os
import re
import subprocess
import sys
import tempfile
import time

SKIP = 77
PASSED = 33
MIB = 1 << 20
POLYVISOR, ENGINE, IMAGE = sys.argv[1:4]
# "interp" and "translate" are the soft engine's ways.
ENGINE_WORDS = [ENGINE] if ENGINE == "kvm" else ["soft", "--soft", ENGINE]


def disk(directory, name):
    """The guest reads in the upper half, and its attacks are in the lower one."""
    path = os.path.join(directory, name)
    with open(path, "wb") as f:
        f.truncate(4 * MIB)
        f.seek(4 * MIB)
        f.write(b"GNIR" * MIB)
    return path


def direct(path):
    """Around the host's page cache requests take their time, so that resets meet them. Not every file system can."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        return ""
    return ",direct"


def devices(directory, disks):
    """One of every kind that there is."""
    usage = subprocess.run([POLYVISOR, "run", "--help"], capture_output=True, text=True, timeout=60).stdout
    with open(os.path.join(directory, "cd.iso"), "wb") as f:
        f.truncate(MIB)
    share = os.path.join(directory, "share")
    os.mkdir(share)
    options = ["--disk", f"{disks[0]},queues=2{direct(disks[0])}", "--disk", f"{disks[1]},mmio", "--disk", f"{disks[2]},ro", "--cdrom", f.name, "--net", "user"]
    # Those that have a line in the usage are there by an option; others (random numbers) are always there.
    for option, value in (("--share", share), ("--vsock", "3,unix:" + os.path.join(directory, "vsock")), ("--balloon", "free-page-reporting,stats=1"), ("--port", "port=unix:" + os.path.join(directory, "port"))):
        line = re.search(rf"^ +{option}\b(.*)$", usage, re.M)
        if line:
            options += [option, value]
    return options


def main():
    words = sys.argv[4:] or ["rings"]
    if ENGINE == "kvm":
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR))
        except OSError as e:
            print(f"skipped: the kvm engine needs /dev/kvm: {e.strerror}")
            return SKIP
        doctor = subprocess.run([POLYVISOR, "doctor"], capture_output=True, text=True, timeout=60).stdout
        if "emulator" in doctor or "without SSE" in doctor:
            words += ["slow", "nosse"]
    with tempfile.TemporaryDirectory() as directory:
        disks = [disk(directory, name) for name in ("two-queues.img", "mmio.img", "read-only.img")]
        cmd = [POLYVISOR, "run", "--quiet", "--engine", *ENGINE_WORDS, "--debug-exit", "--no-reboot", "--cpus", "2", "-m", "64M",
               *devices(directory, disks), "--kernel", IMAGE, "--append", " ".join(words)]
        began = time.monotonic()
        p = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True)
        out, err = p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")
        print(out, err, f"{time.monotonic() - began:.1f} s", sep="\n")
        assert "Sanitizer" not in err and "runtime error" not in err, "a sanitizer found something"
        assert p.returncode == PASSED and re.search(r"guest tests: \d+ passed, 0 failed", out), f"exit status {p.returncode}, not {PASSED}"
        assert len(err) <= 20_000, f"{len(err)} bytes of messages"
        for path in disks:
            with open(path, "rb") as f:
                untouched = 0 if path == disks[2] else 4 * MIB
                f.seek(untouched)
                assert f.read() == bytes(4 * MIB - untouched) + b"GNIR" * MIB, f"{path} was written where no request was"
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AssertionError as e:
        sys.exit(f"FAIL: {e}")
