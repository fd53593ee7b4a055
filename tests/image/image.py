#!/usr/bin/env python3
"""image.py: boots the disk that `make image` makes, to its login prompt and off again, and looks at what is left on it.

usage: image.py POLYVISOR IMAGE_DIR CASE [CASE...]     where CASE is bios:CPUS, direct:CPUS or services:CPUS

bios and direct work on the serial console: through firmware and GRUB, or the kernel directly. services works through ssh: a package
from a repository of the host, the devices' interrupts and messages, a disc, the power button, and a second boot on what the first left.
Exit status 77 (skipped) when the image was not made.
"""
import hashlib
import http.server
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "boot"))
from boot import ENGINE, Failure, converse, el_torito_image, expect, free_port  # noqa: E402

TIMEOUT = int(os.environ.get("BOOT_TIMEOUT", "400"))
ROOT_OFFSET = 4096 * 512
ALL_LEVELS = "sudo dmesg --level=emerg,alert,crit,err,warn"
COMMANDS = ("systemctl is-system-running --wait; systemctl --failed --no-legend --no-pager; cat .ssh/authorized_keys; "
            f"echo dmesg-; {ALL_LEVELS}; echo -dmesg; sync; echo all-$((1))done")
# What a sound machine's kernel says at these levels all the same: about the CPU that it runs on, its mitigations, and a busy host.
CONTENT = re.compile(r"(Spectre|RETBleed|Speculative|L1TF|MDS|TAA|MMIO Stale|SRSO|Retbleed|Transient|TSA|VMSCAPE|ITS)\b.*|"
                     r".*(spectre|mitigation|microcode|SMT (enabled|disabled)|IBPB).*|"
                     r"hrtimer: interrupt took \d+ ns", re.I)


def copy_sparse(source, target):
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)


def options_for(images, how, cpus, disk):
    options = [disk, "-m", "512M", "--cpus", str(cpus)]
    if how == "direct":
        with open(f"{images}/debian.cmdline") as f:
            options += ["--kernel", f"{images}/debian.vmlinuz", "--initrd", f"{images}/debian.initrd",
                        "--append", f.read().strip()]
    return options


def expect_clean_file_system(disk):
    """As whoever finds the disk would: nothing to replay, nothing to repair."""
    if shutil.which("e2fsck", path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        with open(disk, "rb") as f:
            f.seek(ROOT_OFFSET + 1024)
            block = f.read(1024)
        needs_recovery, state = block[0x60] & 4, block[0x3a]
        expect(not needs_recovery and state == 1, f"the file system was not unmounted (state {state}, recovery {needs_recovery})", "")
        check = subprocess.run(["/usr/sbin/e2fsck", "-fn", f"{disk}?offset={ROOT_OFFSET}"], capture_output=True)
        expect(check.returncode == 0, "the file system is not clean", check.stdout.decode(), check.stderr.decode())


def complaints(dmesg):
    """The lines of dmesg that are no device's business to print."""
    lines = [re.sub(r"^\[ *[\d.]+\] *", "", line.strip()) for line in dmesg.splitlines()]
    return [line for line in lines if line and not CONTENT.fullmatch(line)]


def boots_answers_and_powers_off(polyvisor, images, how, cpus):
    with tempfile.TemporaryDirectory(dir=images) as tmp:
        disk, key = f"{tmp}/debian.img", f"{tmp}/key.pub"
        copy_sparse(f"{images}/debian.img", disk)
        with open(key, "w") as f:
            f.write("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE5vdEFLZXlCdXRFbm91Z2hGb3JBVGVzdAAAAAA somebody@somewhere\n")
        options = [*options_for(images, how, cpus, disk), "--hostname", "seeded", "--ssh-key", key]
        status, text, err, seconds = converse(polyvisor, options, [
            (b"login: ", b"debian\n"), (b"$ ", COMMANDS.encode() + b"\n"), (b"all-1done", b"sudo poweroff\n")], TIMEOUT)
        expect(status == 0, f"exit status {status}, not 0", text, err)
        expect(("SeaBIOS (version" in text and "GRUB" in text) == (how == "bios"), "not booted as asked", text, err)
        expect("seeded login:" in text, "the host name is not the seed's", text, err)
        answer = text[text.index("seeded login:"):]
        expect(re.search(r"[\r\n]running\r*$", answer, re.M), "the system is not running", text, err)
        expect("somebody@somewhere" in answer, "the key is not the seed's", text, err)
        dmesg = re.search(r"^dmesg-\r*\n(.*?)^-dmesg", answer, re.M | re.S)
        expect(dmesg, "no dmesg", text, err)
        expect(not complaints(dmesg.group(1)), f"the kernel complains: {complaints(dmesg.group(1))}", text, err)
        for bad in ("FAILED", "Kernel panic", "Oops", "WARNING: CPU", "BUG:", "rcu_sched", "soft lockup", "I/O error"):
            expect(bad not in text, f"'{bad}' was printed", text, err)
        expect_clean_file_system(disk)
        return seconds


def make_repository(directory):
    """A flat package repository with one package, made as a person would by hand."""
    tree = f"{directory}/tree"
    os.makedirs(f"{tree}/DEBIAN")
    os.makedirs(f"{tree}/usr/bin")
    control = ("Package: hello-from-host\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
               "Section: misc\nPriority: optional\nDescription: a package of a repository on the host\n")
    with open(f"{tree}/DEBIAN/control", "w") as f:
        f.write(control)
    with open(f"{tree}/usr/bin/hello-from-host", "w") as f:
        f.write("#!/bin/sh\necho installed and runs\n")
    os.chmod(f.name, 0o755)
    served = f"{directory}/served"
    os.mkdir(served)
    deb = f"{served}/hello-from-host_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, deb], check=True, stdout=subprocess.DEVNULL)
    with open(deb, "rb") as f:
        data = f.read()
    with open(f"{served}/Packages", "w") as f:
        f.write(f"{control}Filename: ./{os.path.basename(deb)}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n")
    return served


class FileServer:
    """A directory over HTTP on this host's loopback interface, which a guest on the user network reaches as 10.0.2.2."""

    def __init__(self, directory):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=directory)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()


class Machine:
    """The image under polyvisor, its console collected, entered through ssh."""

    def __init__(self, polyvisor, options, key, timeout=TIMEOUT):
        self.port, self.key, self.console = free_port(), key, b""
        self.end = time.monotonic() + timeout
        self.p = subprocess.Popen([polyvisor, "run", *ENGINE, *options, "--publish", f"{self.port}:22", "--grace", str(TIMEOUT)],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.kill()
        self.p.wait()

    def text(self):
        return self.console.decode(errors="replace")

    def read_console(self, until=None):
        """Up to a text, or to the end."""
        while until is None or until not in self.console:
            left = self.end - time.monotonic()
            expect(left > 0 and select.select([self.p.stdout], [], [], left)[0], f"no {until or 'end'} in time", self.text())
            chunk = os.read(self.p.stdout.fileno(), 65536)
            if not chunk:
                expect(until is None, f"ended without {until}", self.text())
                return
            self.console += chunk

    def ssh(self, command, check=True, data=b""):
        """What a command in the guest prints, with `data` to read."""
        p = subprocess.run(["ssh", "-F", "none", "-p", str(self.port), "-i", self.key, "-o", "IdentitiesOnly=yes",
                            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
                            "-o", "ConnectTimeout=60", "-o", "ConnectionAttempts=1", "debian@127.0.0.1", command],
                           input=data, capture_output=True, timeout=max(1, self.end - time.monotonic()))
        text = p.stdout.decode(errors="replace")
        expect(not check or p.returncode == 0, f"in the guest, '{command}' ended with {p.returncode}",
               text + "\n--- console:\n" + self.text()[-1500:], p.stderr.decode(errors="replace"))
        return text if p.returncode == 0 else None

    def wait_for_ssh(self):
        self.read_console(b" login: ")
        while self.ssh("true", check=False) is None:
            expect(time.monotonic() < self.end and self.p.poll() is None, "nobody answers to ssh", self.text())
            time.sleep(1)

    def wait(self):
        self.read_console()
        return self.p.wait(max(1, self.end - time.monotonic()))


def expect_working_devices(machine):
    """Every virtio device is driven, by MSI-X interrupts that count; no driver has anything to complain about."""
    driven = machine.ssh("cd /sys/bus/virtio/devices && for d in *; do echo $d $(basename $(readlink $d/driver)); done")
    interrupts, listing = machine.ssh("cat /proc/interrupts"), machine.ssh("sudo lspci -v")
    for device in driven.splitlines():
        name, _, driver = device.partition(" ")
        expect(driver, f"{name} has no driver", driven)
        counts = [sum(int(n) for n in re.findall(r" (\d+)(?= )", line.split("PCI-MSI")[0]))
                  for line in interrupts.splitlines() if f" {name}-" in line and "PCI-MSI" in line]
        expect(counts and sum(counts) > 0, f"{name} ({driver}) has had no MSI-X interrupt", interrupts)
    expect({"virtio_blk", "virtio_net", "virtio_scsi"} <= set(driven.split()), "a driver is missing", driven)
    functions = [f for f in listing.split("\n\n") if "Kernel driver in use: virtio-pci" in f]
    expect(len(functions) == len(driven.splitlines()), "not as many virtio functions as devices", listing)
    for f in functions:
        expect(re.search(r"MSI-X: Enable\+", f), "MSI-X is off", f)
    warned = complaints(machine.ssh(ALL_LEVELS))
    expect(not warned, "the kernel complains", "\n".join(warned))
    journal = machine.ssh("sudo journalctl -b -q -p err --no-pager")
    expect(not journal.strip(), "the journal has errors", journal)


def serves_a_person_who_comes_through_ssh(polyvisor, images, cpus):
    for tool in ("ssh", "ssh-keygen", "dpkg-deb"):
        if not shutil.which(tool):
            raise Failure(f"'{tool}' is missing on this host")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=images) as tmp, FileServer(make_repository(tmp)) as server:
        disk, key, disc = f"{tmp}/debian.img", f"{tmp}/key", f"{tmp}/disc.iso"
        copy_sparse(f"{images}/debian.img", disk)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        with open(disc, "wb") as f:
            f.write(el_torito_image(b"not booted from") + os.urandom(5 << 20))
        with open(disc, "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        seed = ["--hostname", "served", "--ssh-key", f"{key}.pub"]
        with Machine(polyvisor, [*options_for(images, "direct", cpus, disk), *seed, "--cdrom", disc], key) as m:
            m.wait_for_ssh()
            expect(m.ssh("systemctl is-system-running --wait").strip() == "running", "the system is not running", m.text())
            expect(int(m.ssh("nproc")) == cpus, "not as many CPUs as asked", m.text())
            expect(digest in m.ssh("sudo sha256sum /dev/sr0"), "the disc reads wrong", m.text())
            m.ssh(f"echo 'deb [trusted=yes] http://10.0.2.2:{server.port}/ ./' | sudo tee /etc/apt/sources.list && "
                  "sudo apt-get -q update && sudo DEBIAN_FRONTEND=noninteractive apt-get -q -y install hello-from-host")
            expect(m.ssh("hello-from-host") == "installed and runs\n", "the package does not run", m.text())
            file = m.ssh("head -c 3000000 /dev/urandom >kept && sha256sum kept")
            expect_working_devices(m)
            m.p.send_signal(signal.SIGTERM)
            status = m.wait()
            expect(status == 0, f"SIGTERM: exit status {status}, not that of a guest that powered off", m.text())
            expect("Power down" in m.text(), "the power button was not heard", m.text())
        expect_clean_file_system(disk)
        with Machine(polyvisor, [*options_for(images, "bios", cpus, disk), *seed], key) as m:
            m.wait_for_ssh()
            expect(m.ssh("hello-from-host; sha256sum kept") == "installed and runs\n" + file, "what was written is lost", m.text())
            m.ssh("sudo systemctl poweroff", check=False)
            status = m.wait()
            expect(status == 0, f"exit status {status}, not 0", m.text())
        expect_clean_file_system(disk)
    return time.monotonic() - start


def main():
    polyvisor, images, cases = sys.argv[1], sys.argv[2], sys.argv[3:]
    failed = 0
    if not os.path.exists(f"{images}/debian.img"):
        print(f"no {images}/debian.img: 'make image' makes it")
        return 77
    for case in cases:
        how, cpus = case.split(":")
        try:
            if how == "services":
                seconds = serves_a_person_who_comes_through_ssh(polyvisor, images, int(cpus))
            else:
                seconds = boots_answers_and_powers_off(polyvisor, images, how, int(cpus))
            print(f"ok   {case} ({seconds:.1f} s)", flush=True)
        except Failure as e:
            failed += 1
            print(f"FAIL {case}: {e}", flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
