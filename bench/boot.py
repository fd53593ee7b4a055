#!/usr/bin/env python3
"""boot.py: time from process start to the first line of init of Debian's cloud kernel, in alternate rounds of one run.

usage: boot.py POLYVISOR GUEST_DIR [ROUNDS]

QEMU runs in its fastest set-up found: no network card, a large code cache, and, where lz4 is there to unpack it, the kernel as
a plain ELF image, which spares it the decompression in the guest.
"""
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

TEXT = b"polyvisor-selfcheck"
APPEND = "console=ttyS0 quiet polyvisor.selfcheck"
QEMU = ["qemu-system-x86_64", "-nographic", "-no-reboot", "-nic", "none", "-m", "512", "-M", "q35", "-cpu", "max", "-accel",
        "tcg,thread=multi,tb-size=512"]


def plain_kernel(path, out):
    """The ELF image within a bzImage whose payload is LZ4; None without lz4."""
    if not shutil.which("lz4"):
        return None
    image = open(path, "rb").read()
    setup = (image[0x1F1] or 4) * 512 + 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup + offset : setup + offset + length - 4]
    if payload[:4] != b"\x02\x21\x4c\x18":
        return None
    # Four bytes of size follow the last block: lz4 grumbles about them when all is done.
    elf = subprocess.run(["lz4", "-dc"], input=payload, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    if elf[:4] != b"\x7fELF":
        return None
    open(out, "wb").write(elf)
    return out


def seconds(command):
    start = time.monotonic()
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seen = b""
    while TEXT not in seen:
        chunk = os.read(p.stdout.fileno(), 65536)
        if not chunk:
            sys.exit(f"boot.py: {command[0]} ended early:\n{seen.decode(errors='replace')[-2000:]}")
        seen += chunk
    took = time.monotonic() - start
    p.kill()
    p.wait()
    return took


def main():
    polyvisor, guest = sys.argv[1], sys.argv[2]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    common = ["--kernel", f"{guest}/vmlinuz-cloud", "--initrd", f"{guest}/initrd.cpio", "--append", APPEND]
    commands = {f"polyvisor {s}": [polyvisor, "run", "--engine", "soft", "--soft", s, *common] for s in ("interp", "translate")}
    with tempfile.TemporaryDirectory() as tmp:
        if shutil.which(QEMU[0]):
            dashed = [w.replace("--", "-", 1) if w.startswith("--") else w for w in common]
            commands["qemu"] = QEMU + dashed
            elf = plain_kernel(f"{guest}/vmlinuz-cloud", f"{tmp}/vmlinux")
            if elf:
                commands["qemu, plain ELF"] = QEMU + ["-kernel", elf] + dashed[2:]
        times = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(seconds(command))
    for name, t in times.items():
        print(f"{name:<20} best {min(t):.2f} s, median {sorted(t)[len(t) // 2]:.2f} s")
    qemu = [min(t) for name, t in times.items() if name.startswith("qemu")]
    ours = min(times["polyvisor translate"])
    if qemu:
        ratio = ours / min(qemu)
        print(f"translate takes {ratio:.2f} of qemu's best (bar 1.00: {'met' if ratio <= 1 else 'MISSED'}; aim 0.50)")
    else:
        print("qemu: not installed (qemu-system-x86)")


if __name__ == "__main__":
    main()
