#!/usr/bin/env python3
"""run.py: runs a bare-metal image under an engine and checks that all its tests passed.

usage: run.py POLYVISOR ENGINE IMAGE CPUS [WORD...]     words select groups or tests; ENGINE is kvm
                                                  or one of the soft engine's ways (interp, translate, lockstep, ...)
"""
import os
import re
import subprocess
import sys

SKIP = 77


def host_has_avx512():
    with open("/proc/cpuinfo") as f:
        flags = next((line.split() for line in f if line.startswith("flags")), [])
    return {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags)


def main():
    polyvisor, engine, image, cpus, words = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:]
    if engine == "kvm":
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR))
        except OSError as e:
            print(f"skipped: the kvm engine needs /dev/kvm: {e.strerror}")
            return SKIP
        words = [*words, "kvm"]
        doctor = subprocess.run([polyvisor, "doctor"], capture_output=True, text=True, timeout=30).stdout
        if "emulator" in doctor or "without SSE" in doctor:
            words = [*words, "nosse", "slow"]
    if len(os.sched_getaffinity(0)) < int(cpus):
        print("fewer rounds: CPUs that wait for each other take turns on this host")
        words = [*words, "few"]
    engine_words = ["--engine", "kvm"] if engine == "kvm" else ["--engine", "soft", "--soft", engine]
    if engine != "kvm" and host_has_avx512():
        engine_words += ["--cpu-features", "+avx512"]
    cmd = [polyvisor, "run", "--quiet", *engine_words, "--debug-exit", "--no-reboot", "--cpus", cpus, "-m", "256M",
           "--kernel", image, "--append", " ".join(words)]
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = p.stdout.decode(errors="replace")
    print(text)
    total = re.search(r"guest tests: (\d+) passed, 0 failed", text)
    if p.returncode != 33 or not total:
        print(f"FAIL: exit status {p.returncode}, not 33")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
