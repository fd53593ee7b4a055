#!/usr/bin/env python3
"""boot.py: boots unmodified Debian kernels under polyvisor and looks at what a person would see.

usage: boot.py POLYVISOR GUEST_DIR CASE [CASE...]     where CASE is KERNEL:CPUS:HOW, for example cloud:2:pvh,
                                                      or a named case of CASES below
"""
import hashlib
import http.server
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib

TIMEOUT = int(os.environ.get("BOOT_TIMEOUT", "240"))

ENGINE = ["--engine", os.environ.get("BOOT_ENGINE", "soft"), "--soft", os.environ.get("BOOT_SOFT", "direct")]

HOWS = {
    "host": ["--boot", "linux64", "--unpack", "host"],
    "guest": ["--boot", "linux64", "--unpack", "guest"],
    "linux32": ["--boot", "linux32", "--unpack", "guest"],
    "pvh": ["--boot", "pvh"],
}


class Failure(Exception):
    pass


def run(polyvisor, guest, kernel, options, append, stdin=None, timeout=TIMEOUT):
    """One VM to its end: (exit status, stdout as text, seconds)."""
    cmd = [polyvisor, "run", "--kernel", f"{guest}/vmlinuz-{kernel}", "--initrd", f"{guest}/initrd.cpio",
           *ENGINE, "--append", f"console=ttyS0 panic=-1 {append}", *options]
    start = time.monotonic()
    try:
        p = subprocess.run(cmd, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
    except subprocess.TimeoutExpired as e:
        tail = (e.stdout or b"")[-3000:].decode(errors="replace")
        raise Failure(f"no end after {timeout} s; the last it said:\n{tail}") from None
    text = p.stdout.decode(errors="replace")
    return p.returncode, text, p.stderr.decode(errors="replace"), time.monotonic() - start


def expect(condition, why, text, err=""):
    if not condition:
        raise Failure(f"{why}\n--- the last of the console:\n{text[-3000:]}\n--- stderr:\n{err[-2000:]}")


def boots_to_a_self_check(polyvisor, guest, kernel, cpus, how):
    version = open(f"{guest}/version-{kernel}").read().strip()
    status, text, err, seconds = run(polyvisor, guest, kernel,
                                     ["--cpus", str(cpus), "-m", "512M", "--no-reboot", *HOWS[how]], "polyvisor.selfcheck")
    expect(status == 0, f"exit status {status}, not 0", text, err)
    line = re.search(r"polyvisor-selfcheck: kernel=(\S+) cpus=(\d+) memory=(\d+)MiB", text)
    expect(line, "no self-check line", text, err)
    expect(line.group(1) == version and int(line.group(2)) == cpus, f"self-check says {line.group(0)}", text, err)
    expect(380 < int(line.group(3)) <= 512, f"memory is {line.group(3)} MiB", text, err)
    for bad in ("Kernel panic", "Oops", "WARNING: CPU", "BUG:", "rcu_sched detected stalls", "soft lockup", "[Firmware Bug]"):
        expect(bad not in text, f"the kernel printed '{bad}'", text, err)
    return seconds


def gives_a_shell_that_answers(polyvisor, guest):
    status, text, err, seconds = run(polyvisor, guest, "cloud", ["--cpus", "2", "--no-reboot"], "quiet",
                                     stdin=b"echo $((6 * 7))-answer; uname -s; nproc; exit\n")
    expect(status == 0, f"exit status {status}, not 0", text, err)
    expect("42-answer" in text and "\nLinux" in text, "the shell did not answer", text, err)
    return seconds


def reboot_with_no_reboot_is_status_4(polyvisor, guest):
    status, text, err, seconds = run(polyvisor, guest, "cloud", ["--no-reboot"], 'quiet polyvisor.run="reboot -f"')
    expect(status == 4, f"exit status {status}, not 4", text, err)
    return seconds


def interact(polyvisor, guest, kernel, options, append, steps, timeout=TIMEOUT):
    """A kernel through pipes: for each (text, input), waits for the text on the console, then types."""
    return converse(polyvisor, ["--kernel", f"{guest}/vmlinuz-{kernel}", "--initrd", f"{guest}/initrd.cpio",
                                "--append", f"console=ttyS0 panic=-1 {append}", *options], steps, timeout)


def listens(path, process):
    """Waits until somebody listens at a Unix socket (that it is there is not enough); false when `process` ended before."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        with open("/proc/net/unix") as f:
            if any(line.endswith(f" {path}\n") and line.split()[3] == "00010000" for line in f):
                return True
        time.sleep(0.01)
    return False


class Conversation:
    """One VM through pipes: what it says is waited for, and answered. In a `with` statement: it is killed at the end of that."""

    def __init__(self, cmd, timeout=None):
        self.start, self.timeout = time.monotonic(), timeout or TIMEOUT
        self.p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.seen, self.at = b"", 0

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.p.kill()
        self.p.wait()

    def seconds(self):
        return time.monotonic() - self.start

    def text(self):
        return self.seen.decode(errors="replace")

    def until(self, pattern):
        """Waits for a regular expression in what was not looked at yet; the match."""
        while not (found := re.compile(pattern).search(self.seen, self.at)):
            left = self.timeout - self.seconds()
            chunk = os.read(self.p.stdout.fileno(), 65536) if left > 0 and select.select([self.p.stdout], [], [], left)[0] else b""
            expect(chunk, f"no {pattern!r} on the console", self.text())
            self.seen += chunk
        self.at = found.end()
        return found

    def type(self, what):
        self.p.stdin.write(what)
        self.p.stdin.flush()

    def end(self):
        """Waits for its end: (exit status, what it has said from the beginning, standard error)."""
        try:
            rest, err = self.p.communicate(timeout=max(1, self.timeout - self.seconds()))
        except subprocess.TimeoutExpired:
            raise Failure(f"no end after {self.timeout} s; the last it said:\n{self.text()[-3000:]}") from None
        self.seen += rest
        return self.p.returncode, self.text(), err.decode(errors="replace")


def converse(polyvisor, options, steps, timeout=TIMEOUT, end_with=None):
    """One VM through pipes, as above. It ends by itself, or by the signal `end_with`."""
    with Conversation([polyvisor, "run", *ENGINE, *options], timeout) as vm:
        for text, typed in steps:
            vm.until(re.escape(text))
            vm.type(typed)
        if end_with:
            vm.p.send_signal(end_with)
        return *vm.end(), vm.seconds()


def reboot_starts_over(polyvisor, guest):
    """Boots, reboots from the shell, boots again, powers off."""
    status, text, err, seconds = interact(polyvisor, guest, "cloud", ["--cpus", "2"], "",
                                          [(b"guest:~# ", b"reboot -f\n"), (b"guest:~# ", b"poweroff -f\n")])
    expect(status == 0, f"exit status {status}, not 0", text, err)
    expect(text.count("Linux version") == 2, "the kernel did not boot twice", text, err)
    return seconds


def a_kernel_panic_with_panic_minus_1_resets(polyvisor, guest):
    status, text, err, seconds = run(polyvisor, guest, "cloud", ["--no-reboot"], 'polyvisor.run="echo c > /proc/sysrq-trigger"')
    expect("Kernel panic" in text, "no panic", text, err)
    expect(status == 4, f"exit status {status}, not 4", text, err)
    return seconds


def bios_finds_nothing_to_boot(polyvisor, guest):
    """SeaBIOS on the serial console, with two CPUs: it says what it does not find, and does not start over."""
    status, text, err, seconds = converse(polyvisor, ["--firmware", "bios", "--cpus", "2", "-v"],
                                          [(b"No bootable device.", b"")], end_with=signal.SIGTERM)
    expect(status == 128 + signal.SIGTERM, f"exit status {status}", text, err)
    expect("SeaBIOS (version" in text, "no banner", text, err)
    expect("Found 2 cpu(s)" in err, "it did not find both CPUs", text, err)
    expect("(via xsdt)" in err, "it did not find the ACPI tables", text, err)
    return seconds


def bios_menu_answers_a_key(polyvisor, guest):
    status, text, err, seconds = converse(polyvisor, ["--firmware", "bios", "--boot-menu"],
                                          [(b"Press ESC for boot menu.", b"\x1b"), (b"Select boot device:", b"")],
                                          end_with=signal.SIGTERM)
    expect(status == 128 + signal.SIGTERM, f"exit status {status}", text, err)
    return seconds


def with_modules(guest, kernel):
    return ["--initrd", f"{guest}/modules-{kernel}.cpio", "--no-reboot"]


def drivers_are_content(text, err, cpus):
    """No complaint of a driver, and message-signalled interrupts in use."""
    expect(re.search(rf"PCI-MSI.*virtio\d+-req\.{cpus - 1}", text), "no MSI-X interrupt for the disk's last queue", text, err)
    for bad in ("I/O error", "Buffer I/O", "[vda] new", "critical", "timed out", "call trace"):
        expect(bad.lower() not in text.lower(), f"the kernel printed '{bad}'", text, err)


def a_disk_keeps_a_file_system(polyvisor, guest, kernel="cloud", cpus=2):
    """mkfs, write with fsync, power off; boot again and read the same bytes back."""
    with tempfile.TemporaryDirectory() as tmp:
        image, constant = f"{tmp}/disk", f"{tmp}/constant"
        with open(image, "wb") as f:
            f.truncate(32 << 20)
        with open(constant, "wb") as f:
            f.write(b"constant" * 8192)
        before = hashlib.sha256(b"constant" * 8192).hexdigest()
        options = [*with_modules(guest, kernel), "--cpus", str(cpus), "--disk", f"{image},serial=first-disk",
                   "--disk", f"{constant},ro"]
        first = ("mke2fs -F /dev/vda >/dev/null 2>&1 && mkdir /mnt && mount -t ext4 /dev/vda /mnt && "
                 "dd if=/dev/urandom of=/mnt/file bs=64k count=40 conv=fsync 2>/dev/null && sha256sum /mnt/file && "
                 "umount /mnt && cat /proc/interrupts && echo serial=$(cat /sys/block/vda/serial) && "
                 "sha256sum /dev/vdb && echo ro=$(cat /sys/block/vdb/ro)")
        status, text, err, one = run(polyvisor, guest, kernel, options, f'polyvisor.run="{first}"')
        expect(status == 0 and "polyvisor-run: status 0" in text, f"the first boot failed (status {status})", text, err)
        digest = re.search(r"([0-9a-f]{64})  /mnt/file", text)
        expect(digest, "no digest", text, err)
        expect("serial=first-disk" in text and "ro=1" in text and before in text, "serial or second disk is wrong", text, err)
        drivers_are_content(text, err, cpus)
        second = "mkdir /mnt && mount -t ext4 /dev/vda /mnt && sha256sum /mnt/file && cat /proc/interrupts"
        status, text, err, two = run(polyvisor, guest, kernel, options, f'polyvisor.run="{second}"')
        expect(f"{digest.group(1)}  /mnt/file" in text, "the file is another one after a reboot", text, err)
        drivers_are_content(text, err, cpus)
        with open(constant, "rb") as f:
            expect(f.read() == b"constant" * 8192, "the read-only disk was written", text, err)
    return one + two


def a_generic_kernel_uses_the_disk(polyvisor, guest):
    """Without a file system (there it is a module): written, read back around the guest's cache, and on the host."""
    with tempfile.TemporaryDirectory() as tmp:
        image = f"{tmp}/disk"
        with open(image, "wb") as f:
            f.truncate(8 << 20)
        work = ("dd if=/dev/urandom of=/dev/vda bs=64k count=40 conv=fsync 2>/dev/null && echo 3 >/proc/sys/vm/drop_caches && "
                "sha256sum /dev/vda && cat /proc/interrupts")
        status, text, err, seconds = run(polyvisor, guest, "generic", [*with_modules(guest, "generic"), "--disk", image],
                                         f'polyvisor.run="{work}"')
        with open(image, "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        expect(status == 0 and f"{digest}  /dev/vda" in text, "what the guest read is not what is on the host", text, err)
        drivers_are_content(text, err, 1)
    return seconds


def records_of_a_killed_round(cmd, enough):
    """Runs the VM until it has said all that is `enough`, kills it, and says what was the last record of each writer that it knew to be safe."""
    start = time.monotonic()
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    seen = b""
    try:
        while not all(line in seen.replace(b"\r", b"") for line in enough):
            left = start + TIMEOUT - time.monotonic()
            chunk = os.read(p.stdout.fileno(), 65536) if left > 0 and select.select([p.stdout], [], [], left)[0] else b""
            expect(chunk, "the guest stopped writing", seen.decode(errors="replace"))
            seen += chunk
    finally:
        p.send_signal(signal.SIGKILL)
        seen += p.stdout.read()
        p.wait()
    last = {}
    for writer, i in re.findall(rb"synced=(\d+)/(\d+)\r?\n", seen):
        last[int(writer)] = max(last.get(int(writer), 0), int(i))
    return last


def what_was_synced_survives_sigkill(polyvisor, guest, options="", writers=1):
    """Each writer writes records, each with fsync, and says so; then the process is killed in the middle."""
    start = time.monotonic()
    record = "printf 'record %d/%08d' $w $i | dd of=/dev/vda bs=4096 seek=$((w*100000+i)) conv=sync,fsync,notrunc 2>/dev/null"
    loop = f"w={{}}; i=0; while {record}; do echo synced=$w/$i; i=$((i+1)); done"
    work = " & ".join(f"({loop.format(w)})" for w in range(writers)) + "; wait"
    for n in range(int(os.environ.get("BOOT_KILL_ROUNDS", "2"))):
        with tempfile.TemporaryDirectory() as tmp:
            image = f"{tmp}/disk"
            with open(image, "wb") as f:
                f.truncate(1 << 30)
            cmd = [polyvisor, "run", "--kernel", f"{guest}/vmlinuz-cloud", "--initrd", f"{guest}/initrd.cpio",
                   *with_modules(guest, "cloud"), *ENGINE, "--disk", image + options, "--cpus", str(writers),
                   "--append", f'console=ttyS0 quiet panic=-1 polyvisor.run="{work}"']
            last = records_of_a_killed_round(cmd, [b"synced=%d/%d\n" % (w, 20 + 13 * n) for w in range(writers)])
            with open(image, "rb") as f:
                for w, i in ((w, i) for w in last for i in range(last[w] + 1)):
                    f.seek((w * 100000 + i) * 4096)
                    expect(f.read(4096).rstrip(b"\0") == b"record %d/%08d" % (w, i),
                           f"round {n}: record {i} of {last[w]} of writer {w} is lost", "")
    return time.monotonic() - start


def a_memory_mapped_disk_is_found_through_acpi(polyvisor, guest):
    with tempfile.TemporaryDirectory() as tmp:
        image = f"{tmp}/disk"
        with open(image, "wb") as f:
            f.truncate(4 << 20)
        work = ("readlink /sys/block/vda && dd if=/dev/urandom of=/dev/vda bs=64k count=20 conv=fsync 2>/dev/null && "
                "echo 3 >/proc/sys/vm/drop_caches && sha256sum /dev/vda")
        status, text, err, seconds = run(polyvisor, guest, "cloud", [*with_modules(guest, "cloud"), "--disk", f"{image},mmio"],
                                         f'polyvisor.run="{work}"')
        with open(image, "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        expect(status == 0 and f"{digest}  /dev/vda" in text, "what the guest read is not what is on the host", text, err)
        expect("LNRO0005:00" in text, "the disk is not the memory-mapped one", text, err)
        return seconds


def el_torito_image(text):
    """A disc of 21 blocks whose boot image writes a text to the serial line (El Torito 1.0, ECMA-119 8)."""
    code = bytes.fromhex("31c08ed8be157cbaf803ac84c07403eeebf8f4ebfd") + text + b"\0"
    check = bytearray(b"\x01\0\0\0" + b"test".ljust(24, b"\0") + b"\0\0\x55\xaa")
    struct.pack_into("<H", check, 28, -sum(struct.unpack("<16H", check)) & 0xffff)
    entry = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, 20)
    blocks = {16: b"\x01CD001\x01", 17: b"\0CD001\x01" + b"EL TORITO SPECIFICATION".ljust(64, b"\0") + struct.pack("<I", 19),
              18: b"\xffCD001\x01", 19: bytes(check) + entry, 20: code}
    return b"".join(blocks.get(i, b"").ljust(2048, b"\0") for i in range(21))


def bios_boots_a_cd_after_an_empty_disk(polyvisor, guest):
    with tempfile.NamedTemporaryFile(suffix=".img") as disk, tempfile.NamedTemporaryFile(suffix=".iso") as disc:
        disk.truncate(1 << 20)
        disc.write(el_torito_image(b"this came from a disc"))
        disc.flush()
        status, text, err, seconds = converse(polyvisor, [disk.name, "--cdrom", disc.name],
                                              [(b"this came from a disc", b"")], end_with=signal.SIGTERM)
    expect(status == 128 + signal.SIGTERM, f"exit status {status}", text, err)
    expect(text.index("Booting from Hard Disk") < text.index("Booting from DVD/CD"), "the disk is not first", text, err)
    return seconds


class HostService:
    """HTTP on this host: /blob, and /done once the guest's own server has been reached."""

    def __init__(self, blob, address="127.0.0.1"):
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = {"/blob": service.blob, "/done": b"done" if service.done else None}.get(self.path)
                self.send_response(200 if body else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def do_POST(self):
                service.posted = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.blob, self.done, self.posted, self.stopping = blob, False, None, False
        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def look_for_guest(self, port, address="127.0.0.1", body=b"from-the-guest\n"):
        """Fetches /index.html from the published port until it is there."""
        def look():
            while not self.done and not self.stopping:
                try:
                    with urllib.request.urlopen(f"http://{address}:{port}/index.html", timeout=5) as f:
                        self.done = f.read() == body
                except OSError:
                    time.sleep(0.2)
        threading.Thread(target=look, daemon=True).start()

    def close(self):
        self.stopping = True
        self.server.shutdown()


def free_port():
    """A TCP port that is free, and not one of those that this host gives to whoever asks for any."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        low, high = map(int, f.read().split())
    while True:
        port = random.randrange(2000, 65536)
        with socket.socket() as s:
            try:
                if not low <= port <= high or (low <= 2000 and high >= 65000):
                    s.bind(("127.0.0.1", port))
                    return port
            except OSError:
                pass


def the_user_network_carries_both_ways(polyvisor, guest, kernel="cloud", cpus=2, card="user"):
    """DHCP, a file from a service of the host and one to it, a connection from the host to a published port."""
    blob = os.urandom(3 << 20)
    service, published = HostService(blob), free_port()
    service.look_for_guest(published)
    work = ("printf '[ $1 = bound ] && ip addr add $ip/$mask dev eth0 && ip route add default via $router && "
            "echo lease $ip dns $dns\\n' >/tmp/s; sed -i '1i#!/bin/sh' /tmp/s; chmod 755 /tmp/s; "
            "ip link set eth0 up; udhcpc -i eth0 -n -q -s /tmp/s; "
            f"wget -q -O /tmp/b http://10.0.2.2:{service.port}/blob; sha256sum /tmp/b; "
            f"(printf 'POST /take HTTP/1.0\\r\\nContent-Length: {len(blob)}\\r\\n\\r\\n'; cat /tmp/b) | "
            f"nc 10.0.2.2 {service.port} >/dev/null; "
            "mkdir /www; echo from-the-guest >/www/index.html; httpd -p 80 -h /www; "
            f"until wget -q -O /dev/null http://10.0.2.2:{service.port}/done; do sleep 1; done; "
            "cat /proc/interrupts; ip link show eth0; dmesg | grep -i virtio\npoweroff -f\n")
    try:
        status, text, err, seconds = interact(polyvisor, guest, kernel,
                                              [*with_modules(guest, kernel), "--cpus", str(cpus), "--net", card,
                                               "--publish", f"{published}:80"], "quiet", [(b"guest:~# ", work.encode())])
    finally:
        service.close()
    expect(status == 0, f"exit status {status}, not 0", text, err)
    expect("lease 10.0.2.15 dns 10.0.2.3" in text, "no lease", text, err)
    expect(hashlib.sha256(blob).hexdigest() in text, "the guest did not get the host's file", text, err)
    expect(service.posted == blob, "the host did not get the guest's file", text, err)
    expect(service.done, "the published port did not lead to the guest", text, err)
    expect("52:54:00:12:34:56" in text, "the card has another address", text, err)
    expect(re.search(r"PCI-MSI.*virtio\d+-input\.0", text), "no MSI-X interrupt for received frames", text, err)
    for bad in ("virtio_net: probe", "failed", "TX timeout", "bad csum", "Call Trace"):
        expect(bad not in text, f"the kernel printed '{bad}'", text, err)
    return seconds


def two_vms_on_a_switch_reach_each_other(polyvisor, guest):
    """One serves, the other fetches, over --net switch=NAME."""
    with tempfile.TemporaryDirectory() as tmp:
        common = [polyvisor, "run", "--kernel", f"{guest}/vmlinuz-cloud", "--initrd", f"{guest}/initrd.cpio",
                  *with_modules(guest, "cloud"), *ENGINE, "--net", "switch=lab"]
        up = "ip link set eth0 up && ip addr add 192.168.7.{}/24 dev eth0 && "
        serve = up.format(1) + "mkdir /www && echo over-the-switch >/www/index.html && httpd -p 80 -h /www && sleep 1000"
        fetch = up.format(2) + "until wget -q -O - http://192.168.7.1/index.html; do sleep 1; done"
        env = {**os.environ, "XDG_RUNTIME_DIR": tmp}
        start = time.monotonic()
        server = subprocess.Popen([*common, "--append", f'console=ttyS0 quiet polyvisor.run="{serve}"'], env=env,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            p = subprocess.run([*common, "--append", f'console=ttyS0 quiet polyvisor.run="{fetch}"'], env=env,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=TIMEOUT)
        finally:
            server.kill()
            server.wait()
        text = p.stdout.decode(errors="replace")
        expect(p.returncode == 0 and "over-the-switch" in text, "the other VM was not reached", text, p.stderr.decode())
        return time.monotonic() - start


def host_tree(path):
    """The files below a directory by their names, with what is in them (links: where they lead)."""
    tree = {}
    for top, dirs, files in os.walk(path):
        for name in dirs + files:
            full = os.path.join(top, name)
            if os.path.islink(full):
                tree[os.path.relpath(full, path)] = os.readlink(full)
            elif os.path.isfile(full):
                with open(full, "rb") as f:
                    tree[os.path.relpath(full, path)] = hashlib.sha256(f.read()).hexdigest()
    return tree


def a_share_is_mounted_and_cannot_be_left(polyvisor, guest):
    """9p in the generic kernel (the cloud kernel has none): both ways, a small stress, and attempts to get out."""
    rounds = int(os.environ.get("BOOT_SHARE_ROUNDS", "8"))
    with tempfile.TemporaryDirectory() as tmp:
        for name in ("share", "share/deep", "share/deep/er", "fixed"):
            os.mkdir(f"{tmp}/{name}")
        for name, size in (("share/blob", 1 << 19), ("share/deep/er/small", 100), ("fixed/only-read", 70000), ("secret", 40)):
            with open(f"{tmp}/{name}", "wb") as f:
                f.write(os.urandom(size))
        with open(f"{tmp}/secret", "rb") as f:
            secret = hashlib.sha256(f.read()).hexdigest()
        os.symlink("../secret", f"{tmp}/share/way-out")
        os.symlink(f"{tmp}/secret", f"{tmp}/share/way-out-absolute")
        before = host_tree(f"{tmp}/share")
        work = ("modprobe 9p; mkdir /mnt /fixed; mount -t 9p -o trans=virtio,version=9p2000.L,msize=500000 share /mnt && "
                "mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,ro fixed /fixed && cd /mnt && "
                "sha256sum blob deep/er/small /fixed/only-read; "
                "cp blob copy && dd if=/dev/urandom of=made bs=70001 count=5 conv=fsync 2>/dev/null && ln -s made link && ln made hard; "
                f"for i in $(seq {rounds}); do mkdir -p t/$i; for j in 1 2 3 4 5; do echo $i-$j >t/$i/$j; done; "
                "mv t/$i t/m$i; rm t/m$i/3; cat t/m$i/4 >>log; done; rm -r t/m1; "
                "find . -type f | xargs sha256sum; readlink link; "
                "cat way-out way-out-absolute ../secret /mnt/../secret 2>/dev/null | sha256sum; "
                "echo x >/fixed/new; mkfifo pipe; mknod null c 1 3; cd /; umount /mnt && umount /fixed; "
                "grep virtio /proc/interrupts; dmesg | grep -i 9p")
        status, text, err, seconds = run(polyvisor, guest, "generic", [*with_modules(guest, "generic"), "--share", f"{tmp}/share",
                                         "--share", f"{tmp}/fixed:fixed:ro"], f'quiet polyvisor.run="{work}"')
        after = host_tree(f"{tmp}/share")
        expect(status == 0 and "polyvisor-run: status 0" in text, f"exit status {status}", text, err)
        for name in ("blob", "deep/er/small"):
            expect(f"{before[name]}  {name}" in text and after[name] == before[name], f"{name} is another one", text, err)
        expect(f"{host_tree(tmp + '/fixed')['only-read']}  /fixed/only-read" in text, "the read-only share's file", text, err)
        seen = dict((name, digest) for digest, name in re.findall(r"([0-9a-f]{64})  \./(\S+)\r?\n", text))
        files = {name: digest for name, digest in after.items() if not os.path.islink(f"{tmp}/share/{name}")}
        expect(seen == {k: v for k, v in files.items() if k != "pipe"}, "guest and host do not see the same files", text, err)
        expect(after["copy"] == before["blob"] and after["link"] == "made" and after["hard"] == after["made"], "links", text, err)
        expect(len(seen) == 6 + 4 * (rounds - 1) and os.path.getsize(f"{tmp}/share/made") == 5 * 70001, "the stress", text, err)
        empty = hashlib.sha256(b"").hexdigest()
        expect(f"{empty}  -" in text and secret not in text, "the guest read what is outside", text, err)
        expect(os.listdir(f"{tmp}/fixed") == ["only-read"], "the read-only share was written", text, err)
        expect(not os.path.lexists(f"{tmp}/share/null"), "the guest made a device", text, err)
        expect(sorted(os.listdir(tmp)) == ["fixed", "secret", "share"], "something was made outside", text, err)
        expect(re.search(r"PCI-MSI.*virtio\d+-requests", text), "no MSI-X interrupt for the share", text, err)
        for bad in ("9pnet: bogus", "Call Trace", "error"):
            expect(bad not in text, f"the kernel printed '{bad}'", text, err)
    return seconds


def with_program(tmp, name, *options):
    """An archive with a program of tests/initramfs in the guest's /bin, built here."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "initramfs", f"{name}.c")
    subprocess.run(["gcc", "-O2", "-static", *options, "-o", f"{tmp}/{name}", source], check=True)
    return archive(tmp, name)


def archive(tmp, name):
    """An archive with tmp/name in the guest's /bin."""
    with open(f"{tmp}/{name}", "rb") as f:
        data = f.read()

    def entry(path, mode, body):
        head = "070701" + "".join(f"{v:08x}" for v in (1, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(path) + 1, 0))
        record = head.encode() + path.encode() + b"\0"
        return record + bytes(-len(record) % 4) + body + bytes(-len(body) % 4)

    with open(f"{tmp}/{name}.cpio", "wb") as f:
        f.write(entry(f"bin/{name}", 0o100755, data) + entry("TRAILER!!!", 0, b""))
    return ["--initrd", f"{tmp}/{name}.cpio"]


def a_32_bit_program_runs(polyvisor, guest):
    """Without a library, so that no more is needed than any gcc: what it sorted has the right checksum, and it has checked the rest."""
    x, words = 1, []
    for _ in range(16384):
        x = (x * 1103515245 + 12345) & 0xffffffff
        words.append(x)
    want = zlib.crc32(struct.pack("<16384I", *sorted(words)))
    with tempfile.TemporaryDirectory() as tmp:
        initrd = with_program(tmp, "flat32", "-m32", "-nostdlib", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fcf-protection=none")
        status, text, err, seconds = run(polyvisor, guest, "cloud", ["--no-reboot", *initrd], "polyvisor.run=flat32")
    expect(status == 0 and "polyvisor-run: status 0" in text, "the program failed", text, err)
    expect(f"flat32: sorted {want:08x}" in text, f"not the checksum {want:08x}", text, err)
    return seconds


def vsock_echo_server(path, met):
    """A Unix socket that sends back what it is sent; `met` is set when somebody came."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve(conn):
        with conn:
            while data := conn.recv(65536):
                conn.sendall(data)

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
            met.set()
    threading.Thread(target=accept, daemon=True).start()


def vsock_dial(path, port):
    """A connection into the guest, or None where nobody listens."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(TIMEOUT)
    s.connect(path)
    s.sendall(b"CONNECT %d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        c = s.recv(1)
        if not c:
            return None
        line += c
    expect(re.fullmatch(rb"OK \d+\n", line), f"the answer to CONNECT is {line!r}", "")
    return s


def vsock_carries_both_ways(polyvisor, guest, kernel="cloud"):
    """The guest's connection to the host and the host's to the guest: every byte comes back; a port nobody listens at refuses."""
    failures, met = [], threading.Event()
    with tempfile.TemporaryDirectory() as tmp:
        path, blob = f"{tmp}/v", os.urandom(300000)
        vsock_echo_server(f"{path}_5000", met)

        def from_host():
            try:
                met.wait(TIMEOUT)
                while not (first := vsock_dial(path, 1234)):
                    time.sleep(0.3)
                second = vsock_dial(path, 1234)  # waits its turn in the guest
                threading.Thread(target=lambda: (first.sendall(blob), first.shutdown(socket.SHUT_WR)), daemon=True).start()
                got = b""
                while data := first.recv(65536):
                    got += data
                expect(got == blob, f"{len(got)} bytes came back from the guest, or others", "")
                second.sendall(b"again")
                expect(second.recv(100) == b"again", "the second connection is dead", "")
                second.close()
            except (OSError, Failure) as e:
                failures.append(e)
        threading.Thread(target=from_host, daemon=True).start()
        work = ("modprobe vmw_vsock_virtio_transport; vsock send 5000 400000; vsock send 5001 10 || echo nobody-there; "
                "vsock echo 1234 2 && echo echoed; grep virtio /proc/interrupts")
        status, text, err, seconds = run(polyvisor, guest, kernel, [*with_modules(guest, kernel), *with_program(tmp, "vsock"),
                                         "--vsock", f"7,unix:{path}"], f'quiet polyvisor.run="{work}"')
        expect(status == 0, f"exit status {status}", text, err)
        expect("vsock: 400000 bytes came back" in text, "the guest's connection", text, err)
        expect("nobody-there" in text, "a port without a listener was connected to", text, err)
        expect("echoed" in text and not failures, f"the host's connections: {failures}", text, err)
        expect(re.search(r"PCI-MSI.*virtio\d+-rx", text), "no MSI-X interrupt for received packets", text, err)
        expect(not os.path.exists(path), "the socket was left behind", text, err)
    return seconds


CASES = {
    "vsock": vsock_carries_both_ways,
    "flat32": a_32_bit_program_runs,
    "share": a_share_is_mounted_and_cannot_be_left,
    "net": the_user_network_carries_both_ways,
    "net-mq": lambda p, g: the_user_network_carries_both_ways(p, g, "generic", 2, "user,queues=2,restrict=off"),
    "net-switch": two_vms_on_a_switch_reach_each_other,
    "disk-mmio": a_memory_mapped_disk_is_found_through_acpi,
    "bios-cd": bios_boots_a_cd_after_an_empty_disk,
    "disk": a_disk_keeps_a_file_system,
    "disk-generic": a_generic_kernel_uses_the_disk,
    "disk-kill": what_was_synced_survives_sigkill,
    "disk-kill-queues": lambda p, g: what_was_synced_survives_sigkill(p, g, ",queues=2", 2),
    "disk-kill-direct": lambda p, g: what_was_synced_survives_sigkill(p, g, ",direct,queues=2", 2),
    "bios": bios_finds_nothing_to_boot,
    "bios-menu": bios_menu_answers_a_key,
    "shell": gives_a_shell_that_answers,
    "no-reboot": reboot_with_no_reboot_is_status_4,
    "reboot": reboot_starts_over,
    "panic": a_kernel_panic_with_panic_minus_1_resets,
}


def run_cases(known, polyvisor, guest, cases):
    failed = 0
    for case in cases:
        try:
            if case in known:
                seconds = known[case](polyvisor, guest)
            else:
                kernel, cpus, how = case.split(":")
                seconds = boots_to_a_self_check(polyvisor, guest, kernel, int(cpus), how)
            print(f"ok   {case} ({seconds:.1f} s)", flush=True)
        except Failure as e:
            failed += 1
            print(f"FAIL {case}: {e}", flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed else 0


def main():
    return run_cases(CASES, sys.argv[1], sys.argv[2], sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
