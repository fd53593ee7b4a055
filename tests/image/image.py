#!/usr/bin/env python3
"""image.py: boots the disk that `make image` makes, to its login prompt and off again, and looks at what is left on it.

usage: image.py POLYVISOR IMAGE_DIR CASE [CASE...]     where CASE is bios:CPUS or direct:CPUS

Exit status 77 (skipped) when the image was not made.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "boot"))
from boot import Failure, converse, expect  # noqa: E402

TIMEOUT = int(os.environ.get("BOOT_TIMEOUT", "400"))
ROOT_OFFSET = 4096 * 512
COMMANDS = ("systemctl is-system-running --wait; systemctl --failed --no-legend --no-pager; cat .ssh/authorized_keys; "
            "grep -c MSI /proc/interrupts; sudo dmesg -l err,crit,alert,emerg; sync; echo all-$((1))done")


def copy_sparse(source, target):
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)


def boots_answers_and_powers_off(polyvisor, images, how, cpus):
    with tempfile.TemporaryDirectory(dir=images) as tmp:
        disk, key = f"{tmp}/debian.img", f"{tmp}/key.pub"
        copy_sparse(f"{images}/debian.img", disk)
        with open(key, "w") as f:
            f.write("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE5vdEFLZXlCdXRFbm91Z2hGb3JBVGVzdAAAAAA somebody@somewhere\n")
        options = [disk, "-m", "512M", "--cpus", str(cpus), "--hostname", "seeded", "--ssh-key", key]
        if how == "direct":
            with open(f"{images}/debian.cmdline") as f:
                options += ["--kernel", f"{images}/debian.vmlinuz", "--initrd", f"{images}/debian.initrd",
                            "--append", f.read().strip()]
        status, text, err, seconds = converse(polyvisor, options, [
            (b"login: ", b"debian\n"), (b"$ ", COMMANDS.encode() + b"\n"), (b"all-1done", b"sudo poweroff\n")], TIMEOUT)
        expect(status == 0, f"exit status {status}, not 0", text, err)
        expect(("SeaBIOS (version" in text and "GRUB" in text) == (how == "bios"), "not booted as asked", text, err)
        expect("seeded login:" in text, "the host name is not the seed's", text, err)
        answer = text[text.index("seeded login:"):]
        expect(re.search(r"[\r\n]running\r*$", answer, re.M), "the system is not running", text, err)
        expect("somebody@somewhere" in answer, "the key is not the seed's", text, err)
        for bad in ("FAILED", "Kernel panic", "Oops", "WARNING: CPU", "BUG:", "rcu_sched", "soft lockup", "I/O error"):
            expect(bad not in text, f"'{bad}' was printed", text, err)
        if shutil.which("e2fsck", path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            check = subprocess.run(["/usr/sbin/e2fsck", "-fn", f"{disk}?offset={ROOT_OFFSET}"], capture_output=True)
            expect(check.returncode == 0, "the file system is not clean", check.stdout.decode(), check.stderr.decode())
        return seconds


def main():
    polyvisor, images, cases = sys.argv[1], sys.argv[2], sys.argv[3:]
    failed = 0
    if not os.path.exists(f"{images}/debian.img"):
        print(f"no {images}/debian.img: 'make image' makes it")
        return 77
    for case in cases:
        how, cpus = case.split(":")
        try:
            print(f"ok   {case} ({boots_answers_and_powers_off(polyvisor, images, how, int(cpus)):.1f} s)", flush=True)
        except Failure as e:
            failed += 1
            print(f"FAIL {case}: {e}", flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
