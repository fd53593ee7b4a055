#!/usr/bin/env python3
"""cli.py: what a person meets on the command line: help, wrong arguments, bad files, pipes, signals, a terminal.

usage: cli.py POLYVISOR GUEST_DIR
"""
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import traceback

POLYVISOR, GUEST = sys.argv[1], sys.argv[2]
KERNEL, INITRD = f"{GUEST}/vmlinuz-cloud", f"{GUEST}/initrd.cpio"
PATIENCE = 240  # seconds, for what hangs
TESTS = []


def test(fn):
    TESTS.append(fn)
    return fn


def polyvisor(*args, timeout=120, stdin=subprocess.DEVNULL, data=None):
    if data is not None:
        stdin = None
    return subprocess.run([POLYVISOR, *args], stdin=stdin, input=data, capture_output=True, timeout=timeout)


def as_nobody(directory, *args):
    """The program run by a user without rights, from where that one can read it, with a kernel as well."""
    os.chmod(directory, 0o755)
    for path in (POLYVISOR, KERNEL):
        os.chmod(shutil.copy(path, directory), 0o755)
    program, kernel = (os.path.join(directory, os.path.basename(path)) for path in (POLYVISOR, KERNEL))
    return subprocess.run([program, *(kernel if arg == KERNEL else arg for arg in args)], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=60, user=65534, group=65534, extra_groups=[], cwd="/")


def refused(args, status, *words, timeout=30):
    """One clear sentence on stderr with these words, nothing on stdout, the right status."""
    p = polyvisor(*args, timeout=timeout)
    err = p.stderr.decode(errors="replace")
    assert p.returncode == status, f"{args}: status {p.returncode}, not {status}: {err}"
    assert not p.stdout, f"{args}: wrote to stdout: {p.stdout!r}"
    lines = [line for line in err.splitlines() if line and not line.startswith("polyvisor: engine ")]
    assert 1 <= len(lines) <= 2 and lines[0].startswith("polyvisor: "), f"{args}: not one sentence: {err!r}"
    for word in words:
        assert word in err, f"{args}: '{word}' is not in {err!r}"


@test
def help_goes_to_stdout_and_is_success():
    for args in (["--help"], ["run", "--help"], ["doctor", "--help"], ["help"]):
        p = polyvisor(*args)
        assert p.returncode == 0 and p.stdout and not p.stderr, args
        assert max(len(line) for line in p.stdout.decode().splitlines()) <= 96, f"{args}: lines too long"
    p = polyvisor("--version")
    assert p.returncode == 0 and re.fullmatch(rb"polyvisor \d+\.\d+\.\d+\n", p.stdout), p.stdout


@test
def no_command_shows_help_and_is_a_usage_error():
    p = polyvisor()
    assert p.returncode == 2 and b"usage: polyvisor" in p.stderr and not p.stdout


@test
def wrong_arguments_are_usage_errors_with_one_sentence():
    refused(["rum"], 2, "unknown command 'rum'", "did you mean 'run'")
    refused(["--frobnicate"], 2, "unknown option")
    refused(["run"], 2, "nothing to boot")
    refused(["run", "a.img", "b.img"], 2, "b.img", "--disk")
    refused(["run", "a.img,frob"], 2, "frob")
    refused(["run", "a.img", "--ssh-key", "k", "--user-data", "u"], 2, "--user-data")
    refused(["run", "a.img", "--hostname", "k", "--meta-data", "u"], 2, "--meta-data")
    refused(["run", "--kernel", KERNEL, "--firmware", "bios"], 2, "without firmware")
    refused(["run", "--kernel", KERNEL, "--boot-menu"], 2, "--boot-menu")
    refused(["run", "--firmware", "bios", "--append", "quiet"], 2, "--append")
    refused(["run", "--kernle", "x"], 2, "did you mean '--kernel'")
    refused(["run", "--kernel"], 2, "needs a value")
    refused(["run", "--kernel", KERNEL, "-z"], 2, "unknown option '-z'")
    refused(["run", "--kernel", KERNEL, "--engine", "warp"], 2, "warp", "auto, kvm or soft")
    refused(["run", "--kernel", KERNEL, "--soft", "direct=maybe"], 2, "direct=maybe", "direct=auto, direct=off or direct=on")
    refused(["run", "--kernel", KERNEL, "--personality", "xen"], 2, "xen")
    refused(["run", "--kernel", KERNEL, "--boot", "uefi"], 2, "uefi")
    refused(["doctor", "who"], 2, "who")


@test
def files_that_are_no_firmware_are_refused():
    refused(["run", "--firmware", "/nowhere/bios.bin"], 1, "/nowhere/bios.bin", "No such file")
    refused(["run", "--firmware", "/"], 1, "not a file")
    refused(["run", "--firmware", INITRD], 1, "64 KiB")
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"\0" * 0x28 + b"_FVH" + b"\xea" * (65536 - 0x2c))
        f.flush()
        refused(["run", "--firmware", f.name], 1, "UEFI")


@test
def bad_seeds_are_refused():
    with tempfile.NamedTemporaryFile(suffix=".img") as disk, tempfile.NamedTemporaryFile() as key:
        disk.truncate(1 << 20)
        refused(["run", disk.name, "--hostname", "a b"], 1, "'a b' is no host name")
        refused(["run", disk.name, "--ssh-key", "/nowhere/id.pub"], 1, "/nowhere/id.pub")
        refused(["run", disk.name, "--user-data", "/"], 1, "directory")
        key.write(b"-----BEGIN OPENSSH PRIVATE KEY-----\n")
        key.flush()
        refused(["run", disk.name, "--ssh-key", key.name], 1, "private key")
    refused(["run", "/nowhere/disk.img"], 1, "/nowhere/disk.img")
    refused(["run", "--cdrom", "/nowhere/disc.iso"], 1, "/nowhere/disc.iso")

@test
def impossible_machines_are_usage_errors():
    for cpus in ("0", "10000", "-1", "two", "99999999999999999999"):
        refused(["run", "--kernel", KERNEL, "--cpus", cpus], 2, "--cpus")
    for size in ("0", "1K", "lots", "-5", "9999999T", "512Q"):
        refused(["run", "--kernel", KERNEL, "-m", size], 2, "memory")
    refused(["run", "--kernel", KERNEL, "-m", "2048G"], 2, "memory")


@test
def bad_kernels_are_refused_with_a_sentence():
    with tempfile.TemporaryDirectory() as d:
        def put(name, data):
            with open(f"{d}/{name}", "wb") as f:
                f.write(data)
            return f"{d}/{name}"
        real = open(KERNEL, "rb").read()
        refused(["run", "--kernel", f"{d}/missing"], 1, "missing", "does not exist")
        refused(["run", "--kernel", d], 1, d)
        refused(["run", "--kernel", put("empty", b"")], 1, "empty")
        refused(["run", "--kernel", put("random", os.urandom(100000))], 1, "random")
        refused(["run", "--kernel", put("text", b"#!/bin/sh\necho hello\n")], 1, "text")
        for cut in (100, 600, 5000, len(real) // 2, len(real) - 100000):
            refused(["run", "--kernel", put("short", real[:cut])], 1, "short")
        refused(["run", "--kernel", KERNEL, "-m", "16M"], 1, "16 MiB of RAM")
        big = f"{d}/big"
        with open(big, "wb") as f:
            f.write(real[:4096])
            f.truncate(1 << 40)
        refused(["run", "--kernel", big], 1, "big")
        refused(["run", "--kernel", "/dev/zero"], 1, "/dev/zero")


@test
def bad_initrds_are_refused_with_a_sentence():
    with tempfile.TemporaryDirectory() as d:
        refused(["run", "--kernel", KERNEL, "--initrd", f"{d}/missing"], 1, "missing", "does not exist")
        refused(["run", "--kernel", KERNEL, "--initrd", d], 1, d)
        huge = f"{d}/huge"
        with open(huge, "wb") as f:
            f.truncate(2 << 30)
        refused(["run", "--kernel", KERNEL, "--initrd", huge, "-m", "512M"], 1, "2048 MiB", "512 MiB of RAM")


@test
def bad_disks_are_refused_with_a_sentence():
    run = ["run", "--kernel", KERNEL, "--disk"]
    with tempfile.TemporaryDirectory() as d:
        good, odd = f"{d}/good", f"{d}/odd"
        for path, size in ((good, 4096), (odd, 1000), (f"{d}/empty", 0)):
            with open(path, "wb") as f:
                f.truncate(size)
        with open(f"{d}/other", "wb") as f:
            f.write(b"QFI\xfb" + bytes(1020))
        refused([*run, f"{d}/missing"], 1, "there is no disk image", "missing")
        refused([*run, d], 1, d, "is a directory")
        refused([*run, odd], 1, "not a multiple of 512")
        refused([*run, f"{d}/empty"], 1, "is empty")
        refused([*run, f"{d}/other"], 1, "qcow2", "qemu-img convert")
        refused([*run, good, "--disk", good], 1, "in use by another")
        with open(good, "rb") as f:
            fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))  # F_OFD_SETLK
            refused([*run, good], 1, "in use by another")
        refused([*run, f"{good},serial=123456789012345678901"], 2, "serial number")
        refused([*run, f"{good},queues=17"], 2, "queues '17'")
        refused([*run, f"{good},cache=none"], 2, "'cache=none' is not one of ro, serial=TEXT")
        refused([*run, ",ro"], 2, "name of the image is missing")
        refused([*run[:-1], *["--disk", good] * 17], 2, "more than 16 disks")
        if os.geteuid() == 0:
            os.chmod(good, 0o444)
            p = as_nobody(d, *run, good)
            assert p.returncode == 1 and b"may only be read" in p.stderr and b",ro" in p.stderr, p.stderr


@test
def bad_shares_are_refused_with_a_sentence():
    run = ["run", "--kernel", KERNEL, "--share"]
    with tempfile.TemporaryDirectory() as d:
        for name in ("a", "b", "b/a"):
            os.mkdir(f"{d}/{name}")
        refused([*run, f"{d}/missing"], 1, "there is no directory", "missing")
        refused([*run, f"{KERNEL}:tag"], 1, "is not a directory")
        refused([*run, "/proc"], 1, "other processes")
        refused([*run, f"{d}/a:{'t' * 32}"], 2, "tag", "1 to 31 bytes")
        refused([*run, "/"], 2, "--share DIR:TAG")
        refused([*run, ":ro"], 2, "name of the directory is missing")
        refused([*run, f"{d}/a", "--share", f"{d}/b/a"], 2, "two shares have the tag 'a'")
        refused([*run[:-1], *["--share", f"{d}/a"] * 9], 2, "more than 8 shared directories")
        if os.geteuid() == 0:
            os.chmod(f"{d}/a", 0o700)
            p = as_nobody(d, *run, f"{d}/a")
            assert p.returncode == 1 and b"may not be read" in p.stderr, p.stderr


@test
def bad_discs_are_refused_with_a_sentence():
    run = ["run", "--kernel", KERNEL]
    with tempfile.TemporaryDirectory() as d:
        for name, size in (("empty", 0), ("cut", 1000), ("disc", 4096)):
            with open(f"{d}/{name}", "wb") as f:
                f.truncate(size)
        refused([*run, "--cdrom", d], 1, "is a directory")
        refused([*run, "--cdrom", f"{d}/empty"], 1, "is empty")
        refused([*run, "--cdrom", f"{d}/cut"], 1, "1000 bytes", "not a multiple")
        refused([*run, "--disk", f"{d}/disc", "--cdrom", f"{d}/disc"], 1, "in use by another")
        refused([*run, "--disk", "/dev/null"], 1, "neither a file nor a block device")


@test
def bad_networks_are_refused_with_a_sentence():
    run = ["run", "--kernel", KERNEL]
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        refused([*run, "--publish", f"{port}:22"], 1, f"127.0.0.1:{port}", "listens there already")
        refused([*run, "--gdb", f":{port}"], 1, str(port), "in use")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
            u.bind(("127.0.0.1", 0))
            refused([*run, "--publish", f"{u.getsockname()[1]}:53/udp"], 1, "UDP", "listens there already")
    refused([*run, "--publish", "192.0.2.1:2222:22"], 1, "192.0.2.1:2222", "no such address")
    refused([*run, "--publish", "22"], 2, "'22'", "HOSTPORT:GUESTPORT")
    refused([*run, "--publish", "65536:22"], 2, "65536")
    refused([*run, "--publish", "2222:0"], 2, "'0'")
    refused([*run, "--net", "none", "--publish", "2222:22"], 2, "--publish needs the user network")
    refused([*run, "--net", "tap=nosuchtap0"], 1, "tap")
    refused([*run, "--net", "tap=a-name-of-more-than-15-bytes"], 1, "1 to 15 characters")
    refused([*run, "--net", "switch=a/b"], 1, "'a/b'")
    refused([*run, "--net", "bridge=br0"], 2, "'bridge'", "user, tap=NAME")
    refused([*run, "--net", "user,mtu=5"], 2, "mtu '5'")
    refused([*run, "--net", "user,mac=zz"], 2, "'zz' is not a MAC address")


@test
def a_control_socket_that_cannot_be_is_refused():
    refused(["run", "--kernel", KERNEL, "--control", "/nowhere/socket"], 1, "/nowhere/socket", "No such file")
    refused(["run", "--kernel", KERNEL, "--control", "/tmp/" + "x" * 200], 1, "control socket")


@test
def bad_virtio_sockets_are_refused_with_a_sentence():
    run = ["run", "--kernel", KERNEL, "--vsock"]
    with tempfile.TemporaryDirectory() as d:
        refused([*run, "2,unix:/tmp/x"], 2, "CID")
        refused([*run, "3"], 2, "CID,unix:PATH")
        refused([*run, f"3,unix:{d}/a", "--vsock", f"4,unix:{d}/b"], 2, "given twice")
        refused([*run, f"3,unix:{d}/none/a"], 1, "none/a")
        refused([*run, f"3,unix:{d}/{'x' * 100}"], 1, "too long")


@test
def unreadable_files_are_refused():
    if os.geteuid() == 0:
        with tempfile.TemporaryDirectory() as d:
            path = f"{d}/secret"
            with open(path, "wb") as f:
                f.write(b"x")
            os.chmod(path, 0)
            p = as_nobody(d, "run", "--kernel", path)
            assert p.returncode == 1 and b"may not be read" in p.stderr, p.stderr
    else:
        refused(["run", "--kernel", "/etc/shadow"], 1, "may not be read")


@test
def a_kernel_command_line_that_is_too_long_is_refused():
    refused(["run", "--kernel", KERNEL, "--append", "x" * 100000], 1, "command line")


@test
def more_memory_than_the_host_can_map_is_refused():
    import resource
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    p = subprocess.run([POLYVISOR, "run", "--kernel", KERNEL, "-m", "8G", "--engine", "soft"], stdin=subprocess.DEVNULL,
                       capture_output=True, timeout=30, preexec_fn=limit)
    if b"AddressSanitizer" in p.stderr:
        return  # a sanitized build needs terabytes of address space for itself
    assert p.returncode == 1 and b"memory" in p.stderr, (p.returncode, p.stderr)


@test
def doctor_says_which_engine_and_why():
    p = polyvisor("doctor")
    assert p.returncode == 0 and b"engine soft" in p.stdout and b"engine kvm" in p.stdout, p.stdout
    assert p.stdout.count(b"'--engine auto' chooses it") == 1
    assert b"\x1b" not in p.stdout


@test
def a_closed_output_pipe_does_not_hang_the_vm():
    p = subprocess.Popen([POLYVISOR, "run", "--kernel", KERNEL, "--initrd", INITRD, "--engine", "soft", "--append",
                          "console=ttyS0 polyvisor.selfcheck"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
    p.stdout.read(100)
    p.stdout.close()
    assert p.wait(120) == 0


@test
def sigterm_ends_the_vm_with_status_143():
    p = subprocess.Popen([POLYVISOR, "run", "--kernel", KERNEL, "--engine", "soft", "--append", "console=ttyS0"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    p.stdout.read(20)
    p.send_signal(signal.SIGTERM)
    assert p.wait(60) == 143


class Terminal:
    """polyvisor run in a pseudo-terminal."""

    def __init__(self, *args):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.seen = b""
        self.p = subprocess.Popen([POLYVISOR, "run", *args], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)

    def wait_for(self, what, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while what not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"no {what!r} in {self.seen[-2000:]!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 65536)

    def send(self, data):
        os.write(self.master, data)

    def finish(self, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while self.p.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        status = self.p.wait(0)
        after = termios.tcgetattr(self.slave)
        os.close(self.master)
        os.close(self.slave)
        assert after == self.before, "the terminal was not put back as it was"
        return status


GUEST_ARGS = ["--engine", "soft", "--kernel", KERNEL, "--initrd", INITRD, "--append", "console=ttyS0 quiet"]
# For who waits until the machine runs: it says something at once.
TALKING_ARGS = [*GUEST_ARGS[:-1], "console=ttyS0 earlyprintk=ttyS0"]


@test
def ctrl_a_x_quits_and_restores_the_terminal():
    t = Terminal(*TALKING_ARGS)
    t.wait_for(b"Linux version")
    assert termios.tcgetattr(t.slave) != t.before, "not in raw mode"
    t.send(b"\x01h")
    t.wait_for(b"Ctrl-A")
    t.send(b"\x01x")
    assert t.finish() == 0


@test
def a_killing_signal_restores_the_terminal():
    for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        t = Terminal(*TALKING_ARGS)
        t.wait_for(b"Linux version")
        t.p.send_signal(sig)
        assert t.finish() == 128 + sig


@test
def a_reset_starts_the_firmware_again():
    t = Terminal("--engine", "soft", "--firmware", "bios")
    t.wait_for(b"No bootable device.")
    t.seen = b""
    t.send(b"\x01r")
    t.wait_for(b"SeaBIOS (version")
    t.wait_for(b"No bootable device.")
    t.send(b"\x01x")
    assert t.finish() == 0


@test
def a_shell_in_a_terminal_is_usable():
    t = Terminal(*GUEST_ARGS)
    t.wait_for(b"guest:~# ")
    t.send(b"echo one-$((20+3))\r")
    t.wait_for(b"one-23")
    t.send(b"sh -c 'echo asleep-$((20+5)); exec sleep 1000'\r")  # it speaks when the terminal is its own: Ctrl-C is not the outer shell's
    t.wait_for(b"asleep-25")
    t.seen = b""
    t.send(b"\x03")
    t.wait_for(b"guest:~# ")
    t.send(b"echo two-$((20+4))\r")
    t.wait_for(b"two-24")
    t.send(b"exit\r")
    assert t.finish() == 0


def main():
    wanted = sys.argv[3:]
    failed = 0
    tests = [t for t in TESTS if not wanted or t.__name__ in wanted]
    for t in tests:
        try:
            t()
            print(f"ok   {t.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {t.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
