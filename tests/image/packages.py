#!/usr/bin/env python3
"""packages.py: the tests and programs of Debian's packages in a guest, compared with what they should print and with this host.

usage: packages.py POLYVISOR IMAGE_DIR [--cpus N,...] [--seconds N] [--only CASE,...] [-- OPTION...]

IMAGE_DIR holds the image that `make image-packages` makes. Each case is run in one machine for each number of CPUs (1 and 2): stress
(stress-ng --verify, N seconds a stressor), crypto (openssl), compress (gzip and xz), perl, python (its own test modules), jit (LuaJIT,
node, Java). What follows -- goes to `polyvisor run`, for example --soft interp. A case may take CASE_CPU seconds of the process's CPU time
for each CPU, or CASE_HOURS: then the machine is ended, and what is left fails. Exit status 77 (skipped) when the image was not made.
"""
import argparse
import gzip
import hashlib
import lzma
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zlib

from image import Machine, complaints, copy_sparse, options_for  # with its path to boot.py
from boot import Failure, expect

PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
CASE_CPU, CASE_HOURS = 2400, 2
STRESSORS = ("cpu --cpu-method all", "vm --vm-bytes 64M --vm-method all", "fork", "vfork", "clone", "signal", "sigsegv", "sigfpe", "sigtrap", "sigrt",
             "futex", "mmap --mmap-bytes 64M", "mremap --mremap-bytes 8M", "mprotect", "madvise", "matrix --matrix-method all", "vecmath", "vecfp", "fp", "atomic",
             "qsort", "memcpy", "str", "context", "pthread", "switch", "pipe", "fault", "memthrash", "crypt", "bsearch", "longjmp")
# What these modules test is CPU and kernel; those about locales, networks and terminals say nothing about either.
PYTHON = ("test_struct test_array test_math test_cmath test_float test_complex test_int test_long test_decimal test_fractions test_random "
          "test_re test_hashlib test_hmac test_zlib test_gzip test_bz2 test_lzma test_json test_pickle test_thread "
          "test_threading test_queue test_signal test_mmap test_fork1 test_wait3 test_wait4 test_io test_select test_selectors test_poll "
          "test_epoll test_dict test_set test_list test_sort test_heapq test_bisect test_unicode test_bytes test_codecs test_ctypes test_gc "
          "test_time test_generators test_coroutines test_exceptions test_marshal test_binascii test_colorsys "
          "test_memoryview test_subprocess test_eintr test_faulthandler")
# Processes and threads that share queues, locks and pools. Whole, these modules take a quarter of an hour, most of it asleep or starting
# Python; tests of timeouts count seconds, and fail on a busy host.
PYTHON_SHARING = ("test_multiprocessing_fork test_concurrent_futures -m '*ThreadPool*' -m '*PoolFork[A-Z]*' -m '*TestLock*' -m '*TestCondition*' "
                  "-m '*TestQueue*' -m '*TestPool.*' -m '*TestValue*' -i '*timeout*' -i '*Wait*'")
ENOUGH_PYTHON = 55  # modules that have to have run


def pattern(size):
    """Bytes that are half random, half repetitions, and the same everywhere."""
    parts, seed = [], b"polyvisor"
    while sum(map(len, parts)) < size:
        seed = hashlib.sha256(seed).digest()
        parts.append(seed * (1 + seed[0] % 64) if seed[1] & 1 else b"".join(hashlib.sha512(seed + bytes([i])).digest() for i in range(64)))
    return b"".join(parts)[:size]


def here(*command, data=b""):
    """What a command on this host prints."""
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=600).stdout.decode()


def stress(m, cpus, seconds):
    missing, bad = [], []
    for stressor in STRESSORS:
        name, _, more = stressor.partition(" ")
        text = m.ssh(f"mkdir -p stress && cd stress && stress-ng --verify --timeout {seconds} --metrics-brief --{name} {cpus} {more} 2>&1; echo status $?",
                     check=False) or ""
        if re.search(r"skipped: [1-9]|not implemented|invalid option|unrecognized", text):
            missing.append(name)
        elif not text.rstrip().endswith("status 0") or re.search(r"stress-ng: (fail|error):", text) or \
                not re.search(rf"metrc: .*\] {name} +[1-9]", text):
            bad.append(f"stress-ng --{stressor} --verify:\n{text}")
    expect(not bad, f"{len(bad)} stressors failed or did nothing", "\n".join(bad)[-2500:])
    expect(len(missing) <= 3, f"stress-ng has none of {missing}", "")
    return f"{len(STRESSORS) - len(missing)} stressors" + (f", not here: {' '.join(missing)}" if missing else "")


def crypto(m, cpus, seconds):
    data = pattern(6 << 20)
    m.ssh("cat >data", data=data)
    compared = 0
    for digest in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "blake2b512", "blake2s256", "shake128"):
        ours = m.ssh(f"openssl dgst -r -{digest} <data").split()[0]
        expect(ours == here("openssl", "dgst", "-r", f"-{digest}", data=data).split()[0], f"openssl's {digest} is not the host's", ours)
        compared += 1
    for cipher in ("aes-128-ctr", "aes-256-cbc", "aes-256-ctr", "chacha20", "camellia-256-cbc", "aria-128-ctr"):
        command = f"openssl enc -{cipher} -K {'1f' * (16 if '128' in cipher else 32)} -iv {'2e' * 16}"
        ours = m.ssh(f"{command} <data | sha256sum").split()[0]
        theirs = hashlib.sha256(subprocess.run(command.split(), input=data, capture_output=True, check=True).stdout).hexdigest()
        expect(ours == theirs, f"openssl's {cipher} is not the host's", ours)
        expect(m.ssh(f"{command} <data | {command} -d | cmp - data && echo same") == "same\n", f"openssl's {cipher} does not come back", "")
        compared += 1
    for kind in ("RSA -pkeyopt rsa_keygen_bits:2048", "EC -pkeyopt ec_paramgen_curve:P-256", "EC -pkeyopt ec_paramgen_curve:secp521r1"):
        m.ssh(f"openssl genpkey -quiet -algorithm {kind} -out key && openssl pkey -in key -pubout -out public && "
              "openssl dgst -sha256 -sign key -out signature data && openssl dgst -sha256 -verify public -signature signature data")
        with tempfile.TemporaryDirectory() as tmp:
            for name in ("public", "signature"):
                with open(f"{tmp}/{name}", "wb") as f:
                    f.write(bytes.fromhex(m.ssh(f"od -An -v -tx1 {name}")))
            expect("OK" in here("openssl", "dgst", "-sha256", "-verify", f"{tmp}/public", "-signature", f"{tmp}/signature", data=data),
                   f"the host does not believe the guest's signature ({kind})", "")
    speeds = m.ssh(f"openssl speed -mr -seconds 1 -multi {cpus} sha256 aes-128-cbc rsa2048 ecdsap256 2>&1")
    expect("error" not in speeds.lower() and re.search(r"^\+F[^:]*:", speeds, re.M), "openssl speed", speeds)
    return f"{compared} digests and ciphers as on the host, 3 signatures"


def compress(m, cpus, seconds):
    data = pattern(4 << 20)
    digest = hashlib.sha256(data).hexdigest()
    m.ssh("cat >data", data=data)
    ways = [f"gzip -{n}" for n in (1, 6, 9)] + ["xz -0", "xz -6 --check=crc64", "xz -3 --check=sha256", f"xz -2 -T{cpus} --block-size=1MiB"]
    for way in ways:
        tool = way.split()[0]
        expect(m.ssh(f"{way} -c data >packed && {tool} -t packed && {tool} -dc packed | sha256sum").split()[0] == digest, f"{way} does not come back", "")
        packed = bytes.fromhex(m.ssh("head -c 300000 packed | od -An -v -tx1"))
        part = (zlib.decompressobj(31) if tool == "gzip" else lzma.LZMADecompressor()).decompress(packed)
        expect(part and part == data[:len(part)], f"the host unpacks other bytes than {way} packed", "")
        pack = gzip.compress if tool == "gzip" else lzma.compress
        expect(m.ssh(f"{tool} -dc | sha256sum", data=pack(data)).split()[0] == digest, f"{tool} does not unpack what the host packed", "")
    rounds = m.ssh(f"end=$(($(date +%s) + {seconds})); n=0; while [ $(date +%s) -lt $end ]; do gzip -1 -c data | gzip -dc | cmp - data || echo wrong; "
                   "n=$((n+1)); done; echo $n")
    expect("wrong" not in rounds, "a round trip through gzip", rounds)
    return f"{len(ways)} ways and {rounds.strip()} more rounds"


def perl(m, cpus, seconds):
    with open(f"{PROGRAMS}/basic.pl", "rb") as f:
        program = f.read()
    ours, theirs = m.ssh("perl -", data=program), here("perl", "-", data=program)
    expect(ours == theirs, "perl prints other things than on the host", f"guest:\n{ours}\nhost:\n{theirs}")
    return f"{len(ours.splitlines())} lines as on the host"


def python(m, cpus, seconds):
    ran = 0
    for which in (PYTHON, PYTHON_SHARING):
        text = m.ssh(f"python3 -m test -j{cpus} --timeout 1800 {which} 2>&1; echo status $?")
        tests = re.search(r"(?:All )?(\d+) tests? OK", text)
        expect(re.search(r"status 0$", text.strip()) and tests, f"python3 -m test {which}", text)
        ran += int(tests.group(1))
    expect(ran >= ENOUGH_PYTHON, "too few of Python's tests ran", f"{ran}")
    return f"{ran} test modules"


def jit(m, cpus, seconds):
    with open(f"{PROGRAMS}/same.py", "rb") as f:
        wanted = here("python3", "-", data=f.read())
    commands = {"same.py": ["python3 same.py"], "same.lua": ["luajit same.lua", "luajit -joff same.lua", "luajit -Ohotloop=2,hotexit=2 same.lua"],
                "same.js": ["node same.js", "node --jitless --no-expose-wasm same.js", "node --always-opt same.js", "node --stress-compaction --gc-interval=5000 same.js"],
                "Same.java": ["java -Xmx128m Same.java", "java -Xmx128m -Xint -cp classes Same", "java -Xmx128m -Xcomp -cp classes Same",
                              "java -Xmx128m -XX:TieredStopAtLevel=1 -cp classes Same", "java -Xmx128m -XX:+UseParallelGC -cp classes Same"]}
    for name in commands:
        with open(f"{PROGRAMS}/{name}", "rb") as f:
            m.ssh(f"cat >{name}", data=f.read())
    m.ssh("mkdir -p classes && javac -J-Xmx128m -d classes Same.java")
    for command in sum(commands.values(), []):
        text = m.ssh(f"{command} 2>&1 || echo status $?")
        expect(text == wanted, f"'{command}' prints other things than Python on the host", f"guest:\n{text}\nhost:\n{wanted}")
    return f"{sum(map(len, commands.values()))} runs print the same"


class Watch:
    """Ends a process that took more than a case may. A busy host makes a case longer, but hardly dearer."""

    def __init__(self, process):
        self.process, self.over = process, threading.Event()
        self.begin(1)
        threading.Thread(target=self.look, daemon=True).start()

    def spent(self):
        """Seconds of CPU time, and of time."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as f:
                user, system = f.read().rpartition(")")[2].split()[11:13]
        except OSError:
            user = system = 0
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK"), time.monotonic()

    def begin(self, cpus):
        self.start = self.spent()
        self.end = self.start[0] + CASE_CPU * cpus, self.start[1] + CASE_HOURS * 3600

    def since_begin(self):
        return "{1:.0f} s, {0:.0f} s of CPU time".format(*(now - then for now, then in zip(self.spent(), self.start)))

    def look(self):
        while not self.over.wait(2):
            if any(now > end for now, end in zip(self.spent(), self.end)):
                print(f"ended: {self.since_begin()}", flush=True)
                self.process.kill()
                return


CASES = {"stress": stress, "crypto": crypto, "compress": compress, "perl": perl, "python": python, "jit": jit}


def run_on(args, cpus):
    """All cases in one machine; how many failed."""
    failed = 0
    with tempfile.TemporaryDirectory(dir=args.images) as tmp:
        disk, key = f"{tmp}/debian.img", f"{tmp}/key"
        copy_sparse(f"{args.images}/debian.img", disk)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        options = [*options_for(args.images, "direct", cpus, disk), "-m", "1G", "--ssh-key", f"{key}.pub", *args.options]
        with Machine(args.polyvisor, options, key, len(CASES) * CASE_HOURS * 3600) as m:
            watch = Watch(m.p)
            try:
                m.wait_for_ssh()
                m.ssh("sudo dmesg -C")
            except Failure as e:
                print(f"FAIL boot, {cpus} CPU(s): {e}", flush=True)
                return 1
            for name in args.only.split(",") if args.only else CASES:
                watch.begin(cpus)
                try:
                    said = CASES[name](m, cpus, args.seconds)
                    bad = [line for line in complaints(m.ssh("sudo dmesg -c --level=emerg,alert,crit,err,warn"))
                           if re.search(r"BUG|Oops|WARNING|stall|lockup|corrupt|Bad page", line)]
                    expect(not bad, "the kernel complains", "\n".join(bad))
                    print(f"ok   {name}, {cpus} CPU(s): {said} ({watch.since_begin()})", flush=True)
                except Failure as e:
                    failed += 1
                    print(f"FAIL {name}, {cpus} CPU(s): {e}", flush=True)
            watch.over.set()
    return failed


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("polyvisor")
    p.add_argument("images")
    p.add_argument("--cpus", default="1,2")
    p.add_argument("--seconds", type=int, default=4)
    p.add_argument("--only", default="")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    args = p.parse_args(words[:at])
    args.options = words[at + 1:]
    if not os.path.exists(f"{args.images}/debian.img"):
        print(f"no {args.images}/debian.img: 'make image-packages' makes it")
        return 77
    failed = sum(run_on(args, int(cpus)) for cpus in args.cpus.split(","))
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
