#!/usr/bin/env python3
"""control.py: a running VM spoken to from outside: control socket, ctl, ls, names, signals.

usage: control.py POLYVISOR GUEST_DIR [TEST...]
"""
import errno
import hashlib
import json
import os
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

import harness
from harness import ENV, GUEST, KERNEL, PATIENCE, POLYVISOR, RUNTIME, Vm, main, polyvisor, test, wait_until


def dial(path):
    return harness.dial(path).makefile("rw")


def ask(f, command, **arguments):
    f.write(json.dumps({"id": command, "command": command, "arguments": arguments}) + "\n")
    f.flush()
    while True:
        message = json.loads(f.readline())
        if "event" not in message:
            assert message["id"] == command
            return message


@test
def a_named_vm_is_listed_paused_resumed_and_ended():
    with Vm("--name", "one") as vm:
        wait_until(lambda: polyvisor("ctl", "one", "status").returncode == 0)
        out = polyvisor("ls").stdout
        assert re.search(r"^one +running +soft +1 +512 MiB", out, re.M), out
        assert polyvisor("ctl", "one", "pause").stdout == "state: paused\n"
        clock = lambda: json.loads(polyvisor("ctl", "--json", "one", "status").stdout)["guest_clock_ns"]
        before = clock()
        time.sleep(0.2)
        assert clock() == before, "the guest's clock went on"
        assert polyvisor("ctl", "one", "pause").stdout == "state: paused\n"
        assert polyvisor("ctl", "one", "resume").stdout == "state: running\n"
        wait_until(lambda: clock() > before)
        assert "uart0" in polyvisor("ctl", "one", "devices").stdout
        vm.wait_for(b"Linux version")
        statistics = json.loads(polyvisor("ctl", "-j", "one", "statistics").stdout)
        assert statistics["counters"]["cpu0_exit_port"] > 0 and statistics["memory"]["guest_allocated_bytes"] > 1 << 20
        assert polyvisor("ctl", "one", "quit").returncode == 0
        assert vm.wait() == 0
    assert "one" not in polyvisor("ls").stdout
    assert not os.path.exists(f"{RUNTIME.name}/polyvisor/one.sock")


@test
def a_name_is_taken_once_and_a_killed_vm_leaves_it_free():
    with Vm("--name", "two") as vm:
        wait_until(lambda: polyvisor("ctl", "two", "status").returncode == 0)
        p = polyvisor("run", "--kernel", KERNEL, "--name", "two")
        assert p.returncode == 1 and "a VM named 'two' is running already" in p.stderr, p.stderr
        vm.p.kill()
        vm.wait()
    p = polyvisor("ls")
    assert p.returncode == 0 and not p.stdout and not p.stderr, p
    p = polyvisor("ctl", "two", "status")
    assert p.returncode == 1 and "no VM named 'two' is running" in p.stderr, p.stderr
    with Vm("--name", "two"):
        wait_until(lambda: polyvisor("ctl", "two", "status").returncode == 0)


@test
def wrong_use_is_one_sentence():
    for args, status, words in (
            (["ctl"], 2, "which VM?"), (["ctl", "x"], 2, "which command?"), (["ctl", "../x", "status"], 2, "not a name"),
            (["ctl", "nobody", "status"], 1, "no VM named 'nobody'"), (["ctl", "-s", "/nonexistent", "status"], 1, "/nonexistent"),
            (["ctl", "x", "stop", "grace"], 2, "ARGUMENT=VALUE"), (["ctl", "--frob"], 2, "unknown option"), (["ls", "x"], 2, "no arguments"),
            (["run", "--kernel", KERNEL, "--name", "a/b"], 2, "not a name"),
            (["run", "--kernel", KERNEL, "--grace", "never"], 2, "--grace"),
            (["run", "--kernel", KERNEL, "--control", "/nonexistent/x"], 1, "/nonexistent/x"),
            (["run", "--kernel", KERNEL, "--control", GUEST], 1, "not a socket"),
            (["run", "--kernel", KERNEL, "--control", "/tmp/" + "a" * 120], 1, "longer than")):
        p = polyvisor(*args)
        assert p.returncode == status and words in p.stderr and not p.stdout, (args, p)
    for args in (["ctl", "--help"], ["ls", "--help"]):
        p = polyvisor(*args)
        assert p.returncode == 0 and p.stdout and not p.stderr


@test
def the_socket_speaks_the_protocol():
    path = f"{RUNTIME.name}/s"
    with Vm("--control", path, "--paused") as vm:
        f = dial(path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert ask(f, "status")["result"]["state"] == "paused"
        assert ask(f, "events")["result"] == {"subscribed": True}
        g = dial(path)
        assert ask(g, "resume")["result"] == {"state": "running"}
        assert json.loads(f.readline())["event"] == "resumed"
        vm.wait_for(b"Linux version")
        error = ask(g, "inflate", bytes=1)["error"]
        assert error["code"] == "unknown-command" and "statistics" in error["message"]
        assert ask(g, "nmi", cpu=1)["error"]["code"] == "bad-argument"
        # A kernel that was just reset, and got no further, does not listen to the button.
        assert ask(g, "pause")["result"] == {"state": "paused"}
        assert json.loads(f.readline())["event"] == "paused"
        assert ask(g, "reset")["result"] == {}
        assert json.loads(f.readline())["event"] == "reset"
        assert ask(g, "stop", grace=1)["result"] == {"noticed": False, "grace": 0}
        ended = json.loads(f.readline())
        assert (ended["event"], ended["reason"]) == ("ended", "quit"), ended
        assert vm.wait() == 0
    assert not os.path.exists(path)


@test
def whoever_is_turned_away_hears_why():
    with Vm("--name", "many", "--paused"):
        wait_until(lambda: polyvisor("ctl", "many", "status").returncode == 0)
        held = [dial(f"{RUNTIME.name}/polyvisor/many.sock") for _ in range(16)]
        for f in held:
            ask(f, "status")
        for _ in range(5):
            p = polyvisor("ls")
            assert p.returncode == 0 and not p.stdout and p.stderr == "polyvisor: 'many': too many clients are connected\n", p
            p = polyvisor("ctl", "many", "status")
            assert p.returncode == 1 and "too many clients are connected" in p.stderr, p
            p = polyvisor("ls", "--json")
            assert p.stdout == "[]\n" and "too many clients" in p.stderr, p


@test
def a_vm_without_descriptors_is_still_spoken_to():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    vm = Vm("--name", "short", "--paused")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with vm:
        path = f"{RUNTIME.name}/polyvisor/short.sock"
        wait_until(lambda: polyvisor("ctl", "short", "status").returncode == 0)
        assert resource.prlimit(vm.p.pid, resource.RLIMIT_NOFILE) == (hard, hard), "not as many as it may have"
        # No number below the limit is free.
        used = lambda: [int(n) for n in os.listdir(f"/proc/{vm.p.pid}/fd")]
        held = []
        while not held or len(used()) <= max(used()):
            held.append(dial(path))
            ask(held[-1], "status")
        resource.prlimit(vm.p.pid, resource.RLIMIT_NOFILE, (len(used()), hard))
        assert polyvisor("ctl", "short", "status").stdout.count("paused") == 1
        assert "short" in polyvisor("ls").stdout
        for _ in range(3):
            held.append(dial(path))
            assert ask(held[-1], "statistics")["result"]["counters"]
        p = polyvisor("ctl", "short", "status")
        assert p.returncode == 1 and "no descriptor left" in p.stderr, p
        del held[-2:]
        assert polyvisor("ctl", "short", "quit").returncode == 0
        assert vm.wait() == 0


@test
def a_vm_that_is_stopped_does_not_hold_up_who_asks():
    with Vm("--name", "stuck", "--paused") as vm:
        wait_until(lambda: polyvisor("ctl", "stuck", "status").returncode == 0)
        os.kill(vm.p.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, vm.p.pid, os.WSTOPPED)
        queue, full = [], False
        while not full:  # its queue of connections
            queue.append(socket.socket(socket.AF_UNIX))
            queue[-1].setblocking(False)
            full = queue[-1].connect_ex(f"{RUNTIME.name}/polyvisor/stuck.sock") == errno.EAGAIN
        asking = [subprocess.Popen([POLYVISOR, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
                  for args in (["ctl", "stuck", "status"], ["ls"])]
        for p, status in zip(asking, (1, 0)):
            out, err = p.communicate(timeout=PATIENCE)
            assert p.returncode == status and not out and "nobody answers at" in err, (p.args, out, err)
        p = polyvisor("run", "--kernel", KERNEL, "--name", "stuck")
        assert p.returncode == 1 and "is running already" in p.stderr, p
        os.kill(vm.p.pid, signal.SIGCONT)


MIB = 1 << 20


def disk_guest(name, image, *options):
    return Vm("--name", name, "--disk", image, "--initrd", f"{GUEST}/modules-cloud.cpio", *options, shell=True)


def statistics(name):
    return json.loads(polyvisor("ctl", "-j", name, "statistics").stdout)


@test
def a_disk_grows_while_the_guest_uses_it():
    image = f"{RUNTIME.name}/grows.img"
    with open(image, "wb") as f:
        f.truncate(8 * MIB)
    with disk_guest("grows", image) as vm:
        vm.wait_for(b"guest:~# ")
        f = dial(f"{RUNTIME.name}/polyvisor/grows.sock")
        assert ask(f, "events")["result"]["subscribed"]
        p = polyvisor("ctl", "grows", "resize", "blk0", "12M")
        assert p.returncode == 0 and p.stdout == f"disk: blk0\nsize_bytes: {12 * MIB}\n", p
        assert os.path.getsize(image) == 12 * MIB
        event = json.loads(f.readline())
        assert event == {"event": "disk-resized", "disk": "blk0", "size_bytes": 12 * MIB}, event
        vm.say(b"until grep -q 24576 /sys/block/vda/size; do sleep 0.1; done; echo gro''wn\n")
        vm.wait_for(b"grown")
        # The new part works.
        vm.say(b"echo hello | dd of=/dev/vda bs=1M seek=11 conv=fsync 2>&1 | grep -c copied; echo writ''ten\n")
        vm.wait_for(b"written")
        with open(image, "rb") as image_file:
            image_file.seek(11 * MIB)
            assert image_file.read(6) == b"hello\n"
        # Something else grew it.
        os.truncate(image, 16 * MIB)
        assert ask(f, "resize", disk="blk0")["result"] == {"disk": "blk0", "size_bytes": 16 * MIB}
        vm.say(b"until grep -q 32768 /sys/block/vda/size; do sleep 0.1; done; echo ag''ain\n")
        vm.wait_for(b"again")
        for arguments, words in ((["blk0", "4M"], "smaller"), (["blk7", "4M"], "no disk 'blk7'"), (["blk0", "size=8388609"], "multiple of 512"),
                                 (["blk0", "huge"], "size"), ([], "disk")):
            p = polyvisor("ctl", "grows", "resize", *arguments)
            assert p.returncode in (1, 2) and words in p.stderr and p.stderr.count("\n") <= 2, p
        assert os.path.getsize(image) == 16 * MIB


@test
def statistics_count_what_disks_and_cards_do():
    image = f"{RUNTIME.name}/counts.img"
    with open(image, "wb") as f:
        f.truncate(8 * MIB)
    with disk_guest("counts", image) as vm:
        vm.wait_for(b"guest:~# ")
        # What follows goes through packed rings (feature bit 34), which Linux takes when they are offered.
        vm.say(b"for d in /sys/bus/virtio/drivers/virtio_blk/virtio* /sys/bus/virtio/drivers/virtio_net/virtio*; do echo packed''=$(cut -c35 $d/features); done\n")
        vm.wait_for(b"packed=1\r\npacked=1\r\n")
        before = statistics("counts")
        vm.say(b"dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null; echo writ''ten\n")
        vm.wait_for(b"written")
        vm.say(b"echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=64k count=16 2>/dev/null; echo re''ad\n")
        vm.wait_for(b"read")
        vm.say(b"ifconfig eth0 10.0.2.15 up; ping -c 1 10.0.2.2 >/dev/null; echo ask''ed\n")
        vm.wait_for(b"asked")
        after = statistics("counts")
        disk, was = after["disks"][0], before["disks"][0]
        assert (disk["id"], disk["path"], disk["size_bytes"], disk["read_only"]) == ("blk0", image, 8 * MIB, False), disk
        assert disk["written_bytes"] - was["written_bytes"] == MIB and disk["writes"] > was["writes"], (was, disk)
        assert disk["read_bytes"] - was["read_bytes"] >= MIB and disk["reads"] > was["reads"], (was, disk)
        assert disk["flushes"] > was["flushes"] and disk["errors"] == 0, disk
        wait_until(lambda: statistics("counts")["disks"][0]["in_flight"] == 0)  # the guest reads ahead
        card, was = after["nets"][0], before["nets"][0]
        assert (card["id"], card["link"]) == ("net0", True) and re.fullmatch("(..:){5}..", card["mac"]), card
        assert card["sent"] > was["sent"] and card["sent_bytes"] > was["sent_bytes"] + 100 and card["received"] > was["received"], (was, card)
        devices = {d["id"] for d in json.loads(polyvisor("ctl", "-j", "counts", "devices").stdout)}
        assert {"blk0", "net0"} <= devices, devices
        assert f"blk0:\n    id: blk0\n    path: {image}" in polyvisor("ctl", "counts", "statistics").stdout


@test
def an_error_of_the_host_is_told():
    image = f"{RUNTIME.name}/fails.img"
    with open(image, "wb") as f:
        f.truncate(8 * MIB)
    with disk_guest("fails", image) as vm:
        vm.wait_for(b"guest:~# ")
        f = dial(f"{RUNTIME.name}/polyvisor/fails.sock")
        assert ask(f, "events")["result"]["subscribed"]
        os.truncate(image, 4 * MIB)  # under its feet
        vm.say(b"for i in 1 2 3; do dd if=/dev/vda of=/dev/null bs=4k skip=$((1280 + i)) count=1 2>&1 | grep error; done; echo tri''ed\n")
        vm.wait_for(b"tried")
        assert vm.seen.count(b"I/O error") >= 3, vm.seen[-500:]
        event = json.loads(f.readline())
        assert (event["event"], event["disk"], event["operation"]) == ("disk-error", "blk0", "read"), event
        assert event["offset"] >= 5 * MIB and event["errors"] >= 1 and event["error"], event
        assert statistics("fails")["disks"][0]["errors"] >= 3
        vm.p.kill()
        _, err = vm.p.communicate()
        said = err.decode().count("blk0 (" + image + "): a read at byte ")
        assert 1 <= said <= 10, err


@test
def discs_are_changed_by_the_host_and_by_the_guest():
    discs, sums = [f"{RUNTIME.name}/{name}.iso" for name in ("first", "second")], []
    for disc, size in zip(discs, (3 * MIB, MIB + 4096)):
        data = os.urandom(size)
        sums.append(hashlib.sha256(data).hexdigest().encode() + b"  /dev/sr0")
        with open(disc, "wb") as f:
            f.write(data)
    with Vm("--name", "discs", "--cdrom", discs[0], "--initrd", f"{GUEST}/modules-cloud.cpio", shell=True) as vm:
        def disc():
            return statistics("discs")["disks"][0]["path"]

        def event(name, **members):
            seen = json.loads(f.readline())
            assert seen == {"event": name, "drive": "scsi0", **members}, seen

        vm.wait_for(b"guest:~# ")
        f = dial(f"{RUNTIME.name}/polyvisor/discs.sock")
        assert ask(f, "events")["result"]["subscribed"]
        vm.say(b"modprobe -a virtio_scsi sr_mod; until [ -b /dev/sr0 ]; do sleep 0.1; done; sha256sum /dev/sr0\n")
        vm.wait_for(sums[0])
        # What the guest holds it is asked for, and keeps.
        vm.say(b"exec 3</dev/sr0; echo he''ld\n")
        vm.wait_for(b"held")
        for command in (["eject"], ["insert", discs[1]]):
            p = polyvisor("ctl", "discs", *command)
            assert p.returncode == 1 and "the guest uses the disc" in p.stderr and disc() == discs[0], p
        vm.say(b"exec 3<&-; echo releas''ed\n")
        vm.wait_for(b"released")
        # A file that cannot be one leaves the old disc where it is.
        for arguments, words in ((["scsi0", RUNTIME.name], "is a directory"), (["/nowhere.iso"], "/nowhere.iso"), (["scsi7", discs[1]], "no drive 'scsi7'")):
            p = polyvisor("ctl", "discs", "insert", *arguments)
            assert p.returncode in (1, 2) and words in p.stderr and disc() == discs[0], p
        p = polyvisor("ctl", "discs", "insert", os.path.relpath(discs[1]))
        assert p.returncode == 0 and p.stdout == f"drive: scsi0\nsize_bytes: {MIB + 4096}\n", p
        event("disc-ejected", by="host")
        event("disc-inserted")
        vm.say(b"sha256sum /dev/sr0\n")
        vm.wait_for(sums[1])
        # The guest's driver opens the tray when the last reader has gone.
        vm.say(b"echo 1 >/proc/sys/dev/cdrom/autoeject; head -c 2048 /dev/sr0 >/dev/null; echo 0 >/proc/sys/dev/cdrom/autoeject\n")
        event("disc-ejected", by="guest")
        assert disc() is None
        vm.say(b"cat /dev/sr0\n")
        vm.wait_for(b"No medium found")
        assert polyvisor("ctl", "discs", "eject").returncode == 0  # it is out
        assert polyvisor("ctl", "discs", "insert", "scsi0", discs[0]).returncode == 0
        event("disc-inserted")
        vm.seen = b""
        vm.say(b"sha256sum /dev/sr0; exec 3</dev/sr0; echo he''ld\n")
        vm.wait_for(sums[0])
        vm.wait_for(b"held")
        assert polyvisor("ctl", "discs", "eject", "force=true").returncode == 0
        event("disc-ejected", by="host")
        vm.say(b"echo 3 >/proc/sys/vm/drop_caches; cat <&3 2>&1 >/dev/null | tail -n 1; exec 3<&-; echo go''ne\n")
        vm.wait_for(b"rror")
        vm.wait_for(b"gone")


@test
def a_drive_may_be_empty_or_missing():
    with Vm("--name", "empty", "--cdrom", "none", "--paused"):
        wait_until(lambda: polyvisor("ctl", "empty", "status").returncode == 0)
        assert statistics("empty")["disks"] == [{"id": "scsi0", "path": None, "size_bytes": 0}]
        disc = f"{RUNTIME.name}/disc.iso"
        with open(disc, "wb") as f:
            f.truncate(MIB)
        assert polyvisor("ctl", "empty", "insert", disc).returncode == 0
        assert statistics("empty")["disks"][0]["path"] == disc
    with Vm("--name", "without", "--paused"):
        wait_until(lambda: polyvisor("ctl", "without", "status").returncode == 0)
        p = polyvisor("ctl", "without", "eject")
        assert p.returncode == 1 and "no CD drive" in p.stderr, p


@test
def an_nmi_reaches_the_guest():
    with Vm("--name", "nmi", shell=True) as vm:
        vm.wait_for(b"guest:~# ")
        assert polyvisor("ctl", "nmi", "nmi").returncode == 0
        vm.say(b"grep NMI: /proc/interrupts\n")
        vm.wait_for(b"Non-maskable interrupts")
        assert re.search(rb"NMI: +1 +Non-maskable", vm.seen), vm.seen[-500:]


def button_guest(name, obeys):
    """A Multiboot kernel that enables the power button's event in PM1, says so, and powers off at the button or does not."""
    out16 = lambda port, value: b"\x66\xba" + struct.pack("<H", port) + b"\x66\xb8" + struct.pack("<H", value) + b"\x66\xef"
    code = out16(0x602, 0x100)
    for c in b"listening\n":
        code += b"\x66\xba\xf8\x03\xb0" + bytes([c]) + b"\xee"  # to COM1
    if obeys:
        code += b"\x66\xba\x00\x06\x66\xed\xf6\xc4\x01\x74\xf5"  # until PWRBTN_STS
        code += out16(0x604, 0x2000 | 5 << 10)  # SLP_EN, S5
    code += b"\xf4\xeb\xfd"
    base, flags = 0x100000, 0x10000
    end = base + 32 + len(code)
    path = f"{RUNTIME.name}/{name}"
    with open(path, "wb") as f:
        f.write(struct.pack("<8I", 0x1badb002, flags, -(0x1badb002 + flags) & 0xffffffff, base, base, end, end, base + 32) + code)
    return path


@test
def sigterm_gives_a_listening_guest_its_grace():
    kernel = button_guest("deaf", False)
    for count, grace, least in ((1, 1, 1.0), (2, 60, 0)):
        with Vm("--name", "term", "--grace", str(grace), kernel=kernel) as vm:
            vm.wait_for(b"listening")
            f = dial(f"{RUNTIME.name}/polyvisor/term.sock")
            assert ask(f, "events")["result"]["subscribed"]
            start = time.monotonic()
            vm.p.send_signal(signal.SIGTERM)
            while json.loads(f.readline())["event"] != "stopping":
                pass
            if count == 2:
                assert "asked to power off" in polyvisor("ctl", "term", "status").stdout
                vm.p.send_signal(signal.SIGTERM)
            assert vm.wait() == 128 + signal.SIGTERM
            assert least <= time.monotonic() - start <= 30


@test
def a_guest_that_powers_off_in_its_grace_ends_with_status_0():
    kernel = button_guest("obedient", True)
    with Vm("--name", "off", kernel=kernel) as vm:
        vm.wait_for(b"listening")
        vm.p.send_signal(signal.SIGTERM)
        assert vm.wait() == 0
    with Vm("--name", "off", "--grace", "60", kernel=kernel) as vm:
        vm.wait_for(b"listening")
        assert polyvisor("ctl", "off", "pause").returncode == 0
        assert json.loads(polyvisor("ctl", "-j", "off", "stop").stdout) == {"noticed": True, "grace": 60}
        assert vm.wait() == 0


@test
def other_signals_end_a_listening_guest_at_once():
    with Vm(kernel=button_guest("deaf", False)) as vm:
        vm.wait_for(b"listening")
        vm.p.send_signal(signal.SIGINT)
        assert vm.wait() == 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
