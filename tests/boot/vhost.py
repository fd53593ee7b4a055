#!/usr/bin/env python3
"""vhost.py: real guests on devices that other processes serve: QEMU's storage daemon, virtiofsd.

usage: vhost.py POLYVISOR GUEST_DIR [CASE...]      exit status 77: all cases skipped, with their reasons
"""
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import boot
from boot import Failure, expect, run, with_modules


class Skip(Exception):
    pass


def program(*names):
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    raise Skip(f"{names[0]} is not installed")


class Daemon:
    """A back end that listens at a socket; it can be killed and started again."""

    def __init__(self, socket, command):
        self.socket, self.command, self.process = socket, command, None
        self.start()

    def start(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        if not boot.listens(self.socket, self.process):
            self.log.seek(0)
            raise Failure(f"{self.command[0]} does not listen:\n{self.log.read().decode(errors='replace')}")

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def storage_daemon(tmp, size):
    image, socket = f"{tmp}/image", f"{tmp}/blk.sock"
    with open(image, "wb") as f:
        f.truncate(size)
    daemon = Daemon(socket, [program("qemu-storage-daemon"),
                             "--blockdev", f"driver=file,node-name=file,filename={image}",
                             "--export", "type=vhost-user-blk,id=e,node-name=file,addr.type=unix,"
                             f"addr.path={socket},writable=on,num-queues=2"])
    try:
        yield daemon, image, f"vhost-user={socket}"
    finally:
        daemon.kill()


@contextlib.contextmanager
def virtiofsd(tmp):
    shared, socket = f"{tmp}/shared", f"{tmp}/fs.sock"
    os.mkdir(shared)
    path = program("virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
    old = b"fuse_lowlevel" in open(path, "rb").read()  # the one that came with QEMU has other options
    if os.geteuid():
        raise Skip("virtiofsd wants root")
    options = ["-o", f"source={shared}", "-o", "sandbox=chroot"] if old else ["--shared-dir", shared, "--sandbox", "chroot"]
    daemon = Daemon(socket, [path, f"--socket-path={socket}", *options])
    try:
        yield daemon, shared, f"vhost-user={socket},tag=lab"
    finally:
        daemon.kill()


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def a_disk_keeps_a_file_system(polyvisor, guest):
    work = ("mke2fs -F /dev/vda >/dev/null 2>&1 && mkdir /mnt && mount -t ext4 /dev/vda /mnt && "
            "dd if=/dev/urandom of=/mnt/file bs=64k count=40 conv=fsync 2>/dev/null && sha256sum /mnt/file && "
            "umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount -t ext4 /dev/vda /mnt && sha256sum /mnt/file && "
            "umount /mnt && sha256sum /dev/vda && cat /proc/interrupts")
    with tempfile.TemporaryDirectory() as tmp, storage_daemon(tmp, 32 << 20) as (_, image, disk):
        status, text, err, seconds = run(polyvisor, guest, "cloud",
                                         [*with_modules(guest, "cloud"), "--cpus", "2", "--disk", disk], f'polyvisor.run="{work}"')
        expect(status == 0 and "polyvisor-run: status 0" in text, f"the guest failed (status {status})", text, err)
        files = re.findall(r"([0-9a-f]{64})  /mnt/file", text)
        expect(len(files) == 2 and files[0] == files[1], "what was read is not what was written", text, err)
        expect(f"{digest(image)}  /dev/vda" in text, "what the guest has is not what is in the image", text, err)
        boot.drivers_are_content(text, err, 2)
    return seconds


def a_reboot_starts_over(polyvisor, guest):
    """With a file system mounted and a disk written: both are there again after it."""
    with tempfile.TemporaryDirectory() as tmp, storage_daemon(tmp, 4 << 20) as (_, image, disk), virtiofsd(tmp) as (_, shared, fs):
        with open(f"{shared}/file", "w") as f:
            f.write("from-the-host\n")
        work = (b"mkdir /mnt; mount -t virtiofs lab /mnt; cat /mnt/file; "
                b"dd if=/dev/urandom of=/dev/vda bs=64k count=64 conv=fsync 2>/dev/null && sha256sum /dev/vda; ")
        status, text, err, seconds = boot.interact(
            polyvisor, guest, "cloud", ["--initrd", f"{guest}/modules-cloud.cpio", "--disk", disk, "--fs", fs], "quiet",
            [(b"guest:~# ", work + b"reboot -f\n"), (b"guest:~# ", work + b"poweroff -f\n")])
        expect(status == 0, f"exit status {status}, not 0", text, err)
        expect(text.count("from-the-host") == 2, "the file system is not there after a reboot", text, err)
        expect(f"{digest(image)}  /dev/vda" in text and text.count("  /dev/vda") == 2, "the disk is not what was written", text, err)
    return seconds


def disturbed(polyvisor, guest, options, work):
    """A guest that does its work while this test does something to it."""
    return boot.Conversation([polyvisor, "run", "--kernel", f"{guest}/vmlinuz-cloud", "--initrd", f"{guest}/initrd.cpio",
                              *with_modules(guest, "cloud"), *boot.ENGINE, *options,
                              "--append", f'console=ttyS0 quiet polyvisor.run="{work}"'])


def writes_in_flight(vm):
    """What the guest's kernel says of its disk."""
    vm.type(b"?\n")
    return int(vm.until(rb"in-flight= *\d+ +(\d+)").group(1))


def a_disk_outlives_its_back_end(polyvisor, guest, rounds=3):
    """The back end is killed while the guest writes, and started again: nothing is lost, nothing fails.

    The guest writes until it is told to stop, and before each kill the back end is stopped until the guest's kernel has a request that
    nobody answers: so there is one at every kill, however fast or slow either side is. With a new back end the guest must go on.
    """
    work = ("dd if=/dev/urandom of=/tmp/r bs=64k count=160 2>/dev/null; "
            "(n=0; while [ ! -e /tmp/enough ]; do dd if=/tmp/r of=/dev/vda bs=64k oflag=direct conv=fsync 2>/dev/null || echo FAILED; "
            "n=$((n+1)); echo whole=$n; done; echo written) & "
            "while read what && [ x$what = x? ]; do echo in-flight=$(cat /sys/block/vda/inflight); done; touch /tmp/enough; wait; "
            "echo 3 >/proc/sys/vm/drop_caches; sha256sum /tmp/r /dev/vda; dmesg | tail -5")
    with tempfile.TemporaryDirectory() as tmp, storage_daemon(tmp, 160 << 16) as (daemon, image, disk), \
            disturbed(polyvisor, guest, ["--disk", disk], work) as vm:
        for _ in range(rounds):
            done = int(vm.until(rb"whole=(\d+)\r?\n").group(1))
            daemon.process.send_signal(signal.SIGSTOP)
            while not writes_in_flight(vm):
                pass
            daemon.kill()
            while not writes_in_flight(vm):  # the one of before may have been answered after all; then there is another
                pass
            daemon.start()
            while int(vm.until(rb"whole=(\d+)\r?\n").group(1)) < done + 3:
                pass
        vm.type(b"enough\n")
        status, text, err = vm.end()
        sums = re.findall(r"([0-9a-f]{64})  /(?:tmp/r|dev/vda)", text)
        expect(len(sums) == 2 and sums[0] == sums[1] == digest(image), "the disk is not what was written", text, err)
        expect(status == 0 and "error" not in text.lower() and "FAILED" not in text, "the guest saw an error", text, err)
        expect(err.count("its back end is there again") == rounds, "nobody was told", text, err)
        return vm.seconds()


def a_file_system_is_shared(polyvisor, guest):
    """Both ways, through a new mount as well."""
    with tempfile.TemporaryDirectory() as tmp, virtiofsd(tmp) as (_, shared, fs):
        blob = os.urandom(3 << 20)
        with open(f"{shared}/from-the-host", "wb") as f:
            f.write(blob)
        work = ("mkdir /mnt && mount -t virtiofs lab /mnt && sha256sum /mnt/from-the-host && "
                "mkdir /mnt/dir && cat /mnt/from-the-host /mnt/from-the-host >/mnt/dir/twice && umount /mnt && "
                "mount -t virtiofs lab /mnt && sha256sum /mnt/dir/twice && cat /proc/interrupts")
        status, text, err, seconds = run(polyvisor, guest, "cloud",
                                         [*with_modules(guest, "cloud"), "--cpus", "2", "--fs", fs], f'polyvisor.run="{work}"')
        expect(status == 0 and "polyvisor-run: status 0" in text, f"the guest failed (status {status})", text, err)
        twice = hashlib.sha256(blob + blob).hexdigest()
        expect(hashlib.sha256(blob).hexdigest() in text and f"{twice}  /mnt/dir/twice" in text, "the guest read something else", text, err)
        expect(digest(f"{shared}/dir/twice") == twice, "the host has something else", text, err)
        expect(re.search(r"PCI-MSI.*virtio\d+-requests\.0", text), "no MSI-X interrupt for requests", text, err)
    return seconds


def a_lost_file_system_says_so_and_can_be_mounted_again(polyvisor, guest):
    """virtiofsd dies: requests end with an error instead of waiting for ever, and a new mount uses a new one."""
    work = ("mkdir /mnt && mount -t virtiofs lab /mnt && cat /mnt/file && echo mounted; "
            "while cat /mnt/file >/dev/null 2>&1; do true; done; cat /mnt/file; umount /mnt; "
            "until mount -t virtiofs lab /mnt 2>/dev/null; do sleep 0.2; done; cat /mnt/file; echo again >/mnt/new")
    with tempfile.TemporaryDirectory() as tmp, virtiofsd(tmp) as (daemon, shared, fs):
        with open(f"{shared}/file", "w") as f:
            f.write("from-the-host\n")
        with disturbed(polyvisor, guest, ["--fs", fs], work) as vm:
            vm.until(b"mounted")
            daemon.kill()
            vm.until(b"not connected")  # as a request on an ended connection fails; nobody is there to be connected to anew
            daemon.start()
            status, text, err = vm.end()
        expect(status == 0 and text.count("from-the-host") == 2, "it was not mounted again", text, err)
        expect(os.path.exists(f"{shared}/new"), "the new mount cannot be written", text, err)
        return vm.seconds()


def refusals(polyvisor, guest):
    """One clear sentence for a back end that is not there, or is none."""
    def refused(options, sentence):
        p = subprocess.run([polyvisor, "run", "--kernel", f"{guest}/vmlinuz-cloud", *options], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        err = p.stderr.decode()
        expect(p.returncode == 1 and sentence in err and err.count("\n") == 1, f"{options}: not '{sentence}'", "", err)

    with tempfile.TemporaryDirectory() as tmp:
        refused(["--disk", f"vhost-user={tmp}/none"], f"no vhost-user back end listens at '{tmp}/none'")
        refused(["--fs", f"vhost-user={tmp}/none,tag=lab"], f"no vhost-user back end listens at '{tmp}/none'")
        program("qemu-storage-daemon")
        with storage_daemon(tmp, 1 << 20) as (_, _, disk):
            refused(["--disk", f"{disk},queues=9"], "the vhost-user back end has 2 request queues, not 9")
    return 0.0


CASES = {
    "errors": refusals,
    "blk": a_disk_keeps_a_file_system,
    "reboot": a_reboot_starts_over,
    "blk-again": a_disk_outlives_its_back_end,
    "fs": a_file_system_is_shared,
    "fs-lost": a_lost_file_system_says_so_and_can_be_mounted_again,
}


def main():
    polyvisor, guest, cases = sys.argv[1], sys.argv[2], sys.argv[3:] or list(CASES)
    run_now = []
    skipped = {}
    for case in cases:
        def guarded(p, g, case=case):
            try:
                return CASES[case](p, g)
            except Skip as e:
                skipped[case] = e
                print(f"skip {case}: {e}", flush=True)
                return 0.0
        run_now.append((case, guarded))
    status = boot.run_cases(dict(run_now), polyvisor, guest, cases)
    return 77 if not status and len(skipped) == len(cases) else status


if __name__ == "__main__":
    # A test that is ended leaves no daemon behind.
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(1))
    sys.exit(main())
