"""user.py: user seconds of programs that compute, as the kernel under which they run counts them: DIRECTORY SCALE.

Lines: NAME seconds N, and NAME result DIGEST. Time in the kernel does not count; what they read and write is little beside what they
compute. OpenSSL is told to do without AVX-512, which a guest has only when asked for (RSA is three times as fast with it).
"""
import hashlib
import os
import resource
import subprocess
import sys

from compute import Random

ROUNDS = 3
NO_AVX512 = ":~0xdc230000"  # the bits of CPUID.7.EBX


def run(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def user_seconds(command):
    """The best of some rounds, and what the first one wrote."""
    seconds, out = [], None
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        wrote = run(command)
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        out = out or wrote
    return min(seconds), out


def openssl_seconds(what, words):
    """Of user time for a GiB, or for an operation, which openssl takes itself."""
    figures = []
    for _ in range(ROUNDS):
        last = run(["openssl", "speed", "-seconds", "1", *words]).decode().rstrip().splitlines()[-1].split()
        figures.append(float(last[-1].rstrip("k")) * 1000 / (1 << 30) if what == "per GiB" else float(last[-2]))
    return 1 / max(figures)


def text(size):
    """Words, so many bytes of them; a part of them again and again."""
    r = Random(7)
    words = ["".join(chr(97 + r.next(26)) for _ in range(2 + r.next(9))) for _ in range(5000)]
    part = " ".join(words[r.next(5000)] for _ in range(150000)).encode()
    return (part * (size // len(part) + 1))[:size]


def main():
    here, scale = sys.argv[1], float(sys.argv[2])
    os.environ["OPENSSL_ia32cap"] = NO_AVX512
    with open("text", "wb") as f:
        f.write(text(max(1 << 20, int(scale * (24 << 20)))))
    project = f"{here}/project"
    source = max((os.path.join(project, n) for n in os.listdir(project) if n.endswith(".c")), key=os.path.getsize)
    compile = 'for i in $(seq "$0"); do gcc -O2 -c -o one.o "$1" || exit 1; done; cat one.o'
    count = 'my %h; $/ = \\65536; while (<>) { $h{$1}++ while /([a-z]+)/g } print map "$_ $h{$_}\\n", sort keys %h'
    commands = {
        "gzip": ["gzip", "-6", "-n", "-c", "text"],
        "xz": ["xz", "-1", "-T1", "-c", "text"],
        "sha256sum": ["sha256sum", *["text"] * 8],
        "md5sum": ["md5sum", *["text"] * 8],
        "gcc": ["sh", "-c", compile, str(max(1, round(4 * scale))), source],
        "perl": ["perl", "-e", count, "text"],
    }
    for name, command in commands.items():
        seconds, out = user_seconds(command)
        print(name, "seconds", f"{seconds:.3f}", flush=True)
        print(name, "result", hashlib.sha256(out).hexdigest()[:16], flush=True)
    for name in ("sha256", "aes-128-cbc"):
        print(f"openssl-{name}", "seconds", f"{openssl_seconds('per GiB', ['-bytes', '16384', '-evp', name]):.4f}", flush=True)
    print("openssl-rsa2048", "seconds", f"{openssl_seconds('each', ['rsa2048']):.7f}", flush=True)


main()
