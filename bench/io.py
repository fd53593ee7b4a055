#!/usr/bin/env python3
"""io.py: a virtio disk and a virtio network card, in Polyvisor and in QEMU's TCG, in alternate rounds of one run.

usage: io.py disk|net POLYVISOR IOBENCH GUEST_DIR [--rounds N] [--repeats N] [--ms N] [--engines LIST] [--aio io_uring|threads] [--cpus N] [--json FILE]

ENGINES: translate,qemu (default), interp. The same guest, the same program, the same kind of back end: a raw file through the host's
page cache with io_uring (threads: around it, with O_DIRECT), one queue; the network is libslirp's user network in both. The best of
all rounds counts, as other work on the machine only ever takes away.
"""
import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(__file__))
from cpu import QEMU, mean, newc  # noqa: E402

DISK_MIB = 256


def make_initrd(guest, program, path):
    """The tests' initramfs, the virtio drivers, and the program: archives follow each other."""
    with open(path, "wb") as out:
        for name in ("initrd.cpio", "modules-cloud.cpio"):
            with open(f"{guest}/{name}", "rb") as f:
                data = f.read()
            out.write(data + b"\0" * (-len(data) % 4))
        with open(program, "rb") as f:
            out.write(newc("bin/iobench", f.read()) + newc("TRAILER!!!", mode=0))


class Server:
    """The other end of `iobench net`, on the host's loopback interface."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, c):
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        block, buffer = bytes(256 << 10), bytearray(256 << 10)
        try:
            what = c.recv(1)
            while what == b"R":
                c.sendall(block)
            while what == b"W" and c.recv_into(buffer):
                pass
            while what == b"E":
                data = c.recv(64)
                if not data:
                    break
                c.sendall(data)
            if what == b"W":
                c.sendall(b"!")
        except OSError:
            pass
        c.close()


def command(engine, args, initrd, disk, work):
    append = f'console=ttyS0 quiet "polyvisor.run={work}"'
    common = ["kernel", f"{args.guest}/vmlinuz-cloud", "initrd", initrd, "append", append]
    if engine == "qemu":
        cache = "writeback,aio=io_uring" if args.aio == "io_uring" else "none,aio=threads"
        return [QEMU, "-nographic", "-no-reboot", "-m", "512", "-M", "q35", "-cpu", "max", "-smp", str(args.cpus),
                "-accel", "tcg,thread=multi,tb-size=512", "-nic", "user,model=virtio-net-pci" if args.what == "net" else "none",
                *(["-drive", f"file={disk},if=none,id=d,format=raw,cache={cache}",
                   "-device", "virtio-blk-pci,drive=d,num-queues=1"] if args.what == "disk" else []),
                *[f"-{w}" if not i % 2 else w for i, w in enumerate(common)]]
    direct = "" if args.aio == "io_uring" else ",direct"
    return [args.polyvisor, "run", "--quiet", "--engine", "soft", "--soft", engine, "--no-reboot", "-m", "512",
            "--cpus", str(args.cpus), "--net", "user" if args.what == "net" else "none",
            *(["--disk", f"{disk},queues=1{direct}"] if args.what == "disk" else []),
            *[f"--{w}" if not i % 2 else w for i, w in enumerate(common)]]


def run(argv, rates):
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        out, _ = p.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, _ = p.communicate()
    text = out.decode(errors="replace")
    if "iobench done" not in text:
        sys.exit(f"io.py: {argv[0]} did not come to its end:\n{text[-2000:]}")
    for line in text.splitlines():
        word = line.split()
        if len(word) == 4 and word[0] == "rate":
            best, unit = rates.get(word[1], (0.0, word[3]))
            rates[word[1]] = (max(best, float(word[2])), unit)


def show(rates, engines):
    ours = [e for e in engines if e != "qemu"]
    columns = engines + [f"{e}/qemu" for e in ours if "qemu" in engines]
    print(f"{'':<18}" + "".join(f"{c:>20}" for c in columns))
    for name, (_, unit) in rates[engines[0]].items():
        cells = [f"{rates[e][name][0]:,.4g} {unit}" for e in engines]
        if "qemu" in engines:
            cells += [f"{rates[e][name][0] / rates['qemu'][name][0]:.2f}" for e in ours]
        print(f"{name:<18}" + "".join(f" {c:>19}" for c in cells))
    if "qemu" in engines:
        for e in ours:
            ratios = {n: rates[e][n][0] / rates["qemu"][n][0] for n in rates[e]}
            slower = [n for n in ratios if ratios[n] < 1]
            print(f"{e}: geometric mean {mean(ratios.values()):.2f} of qemu; "
                  f"each as fast: {'met' if not slower else 'MISSED by ' + ', '.join(slower)}")


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("what", choices=["disk", "net"])
    for name in ("polyvisor", "program", "guest"):
        p.add_argument(name)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--repeats", type=int, default=1, help="of all loads in each boot: many short ones find quiet moments on a busy machine")
    p.add_argument("--ms", type=int, default=1000)
    p.add_argument("--engines", default="translate,qemu")
    p.add_argument("--aio", choices=["io_uring", "threads"], default="io_uring")
    p.add_argument("--cpus", type=int, default=1)
    p.add_argument("--json")
    args = p.parse_args()
    engines = args.engines.split(",")
    if "qemu" in engines and not shutil.which(QEMU):
        print("qemu: not installed (qemu-system-x86)")
        engines.remove("qemu")
    rates = {e: {} for e in engines}
    with tempfile.TemporaryDirectory(dir=args.guest) as tmp:
        initrd, disk = f"{tmp}/initrd", f"{tmp}/disk"
        make_initrd(args.guest, args.program, initrd)
        if args.what == "disk":
            work = f"for i in {' '.join(map(str, range(args.repeats)))}; do iobench disk /dev/vda {args.ms}; done"
            with open(disk, "wb") as f:
                for _ in range(DISK_MIB):
                    f.write(os.urandom(1 << 20))
        else:
            work = ("ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && "
                    f"for i in {' '.join(map(str, range(args.repeats)))}; do iobench net 10.0.2.2 {Server().port} {args.ms}; done")
        for _ in range(args.rounds):
            for e in engines:
                run(command(e, args, initrd, disk, work), rates[e])
    show(rates, engines)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(rates, f, indent=1)


if __name__ == "__main__":
    main()
