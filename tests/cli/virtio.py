#!/usr/bin/env python3
"""virtio.py: Debian's drivers with the entropy device, the balloon, the console and its ports.

usage: virtio.py POLYVISOR GUEST_DIR [TEST...]
"""
import json
import os
import re
import socket
import sys
import time

from harness import GUEST, KERNEL, PATIENCE, RUNTIME, Vm, dial, main, polyvisor, test, wait_until

SOFT = ["--soft", os.environ.get("BOOT_SOFT", "direct")]
MIB = 1 << 20


def guest(*args, kernel="cloud"):
    return Vm("--initrd", f"{GUEST}/modules-{kernel}.cpio", *SOFT, *args, shell=True, kernel=f"{GUEST}/vmlinuz-{kernel}")


def run(vm, command, timeout=PATIENCE):
    """The output of a command in the guest's shell."""
    n = time.monotonic_ns()  # in the echo of what is typed there are quotes between the words and it
    vm.say(f"echo begin''{n}; {command}; echo end''{n}\n".encode())
    vm.wait_for(f"\nend{n}\r\n".encode(), timeout)
    return vm.seen.decode(errors="replace").replace("\r", "").split(f"\nbegin{n}\n")[1].split(f"\nend{n}\n")[0]


def meminfo(vm):
    return {k: int(v) // 1024 for k, v in re.findall(r"(\w+): +(\d+) kB", run(vm, "grep Mem /proc/meminfo"))}


def balloon(name, *args):
    p = polyvisor("ctl", "--json", name, "balloon", *args)
    assert p.returncode == 0, p
    return json.loads(p.stdout)


def resident(vm):
    """MiB of guest RAM and all that this host keeps for the process."""
    text = open(f"/proc/{vm.p.pid}/status").read()
    return int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) // 1024


def drivers_are_content(vm):
    log = run(vm, "dmesg | grep -iE 'virtio|hwrng|balloon|BUG|Call Trace|oom'")
    for bad in ("fail", "error", "BUG", "Call Trace", "Out of memory"):
        assert bad not in log, log
    return run(vm, "cat /proc/interrupts")


@test
def the_guest_gets_random_numbers():
    with guest("--rng", "rate=64K") as vm:
        vm.wait_for(b"guest:~# ")
        assert run(vm, "cat /sys/class/misc/hw_random/rng_current").strip() == "virtio_rng.0"
        out = run(vm, "dd if=/dev/hwrng bs=1024 count=16 2>/dev/null | sort -u | wc -c; dd if=/dev/hwrng bs=1k count=128 of=/dev/null")
        assert int(out.split()[0]) > 15000, out
        assert "crng" in run(vm, "dmesg | grep -i crng")
        assert re.search(r"PCI-MSI.*virtio\d+-input", drivers_are_content(vm))


@test
def the_balloon_takes_memory_and_gives_it_back():
    with guest("-m", "512M", "--cpus", "2", "--name", "bal") as vm:
        vm.wait_for(b"guest:~# ")
        # The guest has touched its memory once.
        run(vm, "mount -t tmpfs -o size=300m none /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs -o size=300m none /mnt; "
                "dd if=/dev/zero of=/mnt/fill bs=1M count=256 2>/dev/null; rm /mnt/fill")
        before, full = meminfo(vm), resident(vm)
        assert balloon("bal")["actual_bytes"] == 0 and balloon("bal")["driver"]
        assert balloon("bal", "256M")["target_bytes"] == 256 * MIB
        wait_until(lambda: balloon("bal")["actual_bytes"] == 256 * MIB)
        wait_until(lambda: resident(vm) < full - 200)
        inside, small = meminfo(vm), resident(vm)
        assert abs(before["MemTotal"] - inside["MemTotal"] - 256) <= 1, (before, inside)
        assert inside["MemFree"] < before["MemFree"] - 200, (before, inside)
        told = json.loads(polyvisor("ctl", "-j", "bal", "statistics").stdout)["balloon"]
        assert told["actual_bytes"] == 256 * MIB and told["inflated_bytes"] >= 256 * MIB
        wait_until(lambda: abs(balloon("bal")["guest"]["free_bytes"] // MIB - inside["MemFree"]) < 30)
        assert "asked for:       0.0 MiB" in polyvisor("ctl", "bal", "balloon", "0").stdout
        wait_until(lambda: balloon("bal")["actual_bytes"] == 0, 60)
        after = meminfo(vm)
        assert after["MemTotal"] == before["MemTotal"], (before, after)
        # And it is there to be used.
        run(vm, "dd if=/dev/zero of=/mnt/fill bs=1M count=256 2>/dev/null")
        assert resident(vm) > small + 200
        assert re.search(r"PCI-MSI.*virtio\d+-inflate", drivers_are_content(vm))
        print(f"     resident {full} -> {small} MiB")


@test
def freed_pages_go_back_to_the_host():
    with guest("-m", "512M", "--balloon", "free-page-reporting", "--name", "fpr") as vm:
        vm.wait_for(b"guest:~# ")
        run(vm, "mkdir /mnt; mount -t tmpfs -o size=300m none /mnt; dd if=/dev/zero of=/mnt/fill bs=1M count=256 2>/dev/null")
        full = resident(vm)
        run(vm, "rm /mnt/fill")
        wait_until(lambda: resident(vm) < full - 200)
        small = resident(vm)
        assert balloon("fpr")["reported_bytes"] > 200 * MIB
        run(vm, "dd if=/dev/urandom of=/mnt/fill bs=1M count=4 2>/dev/null; sha256sum /mnt/fill >/tmp/s; sleep 3; sha256sum -c /tmp/s")
        drivers_are_content(vm)
        print(f"     resident {full} -> {small} MiB")


@test
def a_guest_short_of_memory_takes_it_back_from_the_balloon():
    with guest("-m", "256M", "--balloon", "160M,deflate-on-oom,stats=1", "--name", "oom") as vm:
        vm.wait_for(b"guest:~# ")
        wait_until(lambda: balloon("oom")["actual_bytes"] == 160 * MIB)
        out = run(vm, "mkdir /mnt; mount -t tmpfs -o size=200m none /mnt; dd if=/dev/zero of=/mnt/fill bs=1M count=120 && echo filled")
        assert "filled" in out, out
        assert balloon("oom")["actual_bytes"] < 160 * MIB
        assert "Killed" not in run(vm, "dmesg | grep -i killed || true")


def take(s, count):
    data = b""
    while len(data) < count:
        more = s.recv(65536)
        assert more, f"closed after {len(data)} bytes"
        data += more
    return data


@test
def named_ports_carry_both_ways():
    one, two = f"{RUNTIME.name}/one", f"{RUNTIME.name}/two"
    with guest("--port", f"org.example.one=unix:{one}", "--port", f"two=unix:{two}", "--cpus", "2") as vm:
        early = dial(one)
        early.sendall(b"sent before the guest had a driver\n")
        vm.wait_for(b"guest:~# ")
        assert run(vm, "cat /sys/class/virtio-ports/vport*/name").split() == ["org.example.one", "two"]
        run(vm, "A=$(echo /dev/vport*p1) B=$(echo /dev/vport*p2)")
        assert run(vm, "head -n1 $A").strip() == "sent before the guest had a driver"
        assert run(vm, "echo to the host >$A; echo $?").strip() == "0"
        assert take(early, 12) == b"to the host\n"
        # A client that sends and goes: its bytes arrive, and then the end.
        s = dial(two)
        s.sendall(b"x" * 100000)
        s.close()
        assert run(vm, "cat $B | wc -c").strip() == "100000"
        # The next one reads what the guest sends, all of it.
        s = dial(two)
        vm.say(b"dd if=/dev/zero of=$B bs=64k count=48 2>/dev/null; echo sent''-all\n")
        assert take(s, 3 << 20) == bytes(3 << 20)
        vm.wait_for(b"sent-all\r\n")
        # One that never reads stops the port and nothing else; when it goes, the guest goes on.
        vm.say(b"(dd if=/dev/zero of=$B bs=64k count=160; echo unstuck''-port) >/tmp/dd 2>&1 &\n")
        time.sleep(1)
        out = run(vm, "cat /tmp/dd; echo alive").strip()
        assert out == "alive", out
        early.sendall(b"ping\n")
        assert run(vm, "head -n1 $A").strip() == "ping"
        s.close()
        s = dial(two)
        take(s, 1)
        s.close()
        # A flood at a port that nobody reads waits in the client's own socket.
        early.settimeout(1)
        try:
            for _ in range(1000):
                early.sendall(b"y" * 65536)
            assert False, "a flood had an end"
        except socket.timeout:
            pass
        assert run(vm, "echo still''-here").strip() == "still-here"
        assert re.search(r"PCI-MSI.*virtio\d+-", drivers_are_content(vm))
        vm.say(b"poweroff -f\n")
        assert vm.wait() == 0
    assert not os.path.exists(one) and not os.path.exists(two)


@test
def the_terminal_can_be_a_virtio_console():
    with Vm("--initrd", f"{GUEST}/modules-cloud.cpio", *SOFT, "--console", "virtio", shell=True, append=" console=hvc0") as vm:
        vm.wait_for(b"guest:~# ")
        assert run(vm, "cat /sys/class/tty/console/active").split()[-1] == "hvc0"
        assert "hvc0" in run(vm, "tty")
        assert len(run(vm, "seq 1 20000").split()) == 20000
        vm.say(b"poweroff -f\n")
        assert vm.wait() == 0


@test
def a_vm_without_them_says_so():
    with guest("--balloon", "none", "--rng", "none", "--name", "bare", "--paused"):
        wait_until(lambda: polyvisor("ctl", "bare", "status").returncode == 0)
        p = polyvisor("ctl", "bare", "balloon")
        assert p.returncode == 1 and "without a balloon" in p.stderr, p
        listed = polyvisor("ctl", "bare", "devices").stdout
        assert "virtio-balloon" not in listed and "virtio-rng" not in listed
        assert json.loads(polyvisor("ctl", "-j", "bare", "statistics").stdout)["balloon"] is None


@test
def wrong_use_is_one_sentence():
    for args, words in ((["--balloon", "1G"], "more than the guest's"), (["--balloon", "x"], "--balloon"), (["--balloon", "64M,x"], "'x'"),
                        (["--rng", "rate=0"], "--rng"), (["--rng", "fast"], "--rng"), (["--port", "x"], "NAME=unix:PATH"),
                        (["--port", "a=unix:/tmp/a", "--port", "a=unix:/tmp/b"], "two named 'a'"), (["--console", "tty"], "serial or virtio")):
        p = polyvisor("run", "--kernel", KERNEL, *args)
        assert p.returncode == 2 and words in p.stderr and not p.stdout, (args, p)
    with guest("--name", "use", "--paused"):
        wait_until(lambda: polyvisor("ctl", "use", "status").returncode == 0)
        for args, words in ((["1T"], "cannot lend"), (["much"], "a size such as"), (["bytes=-1"], "bytes"), (["stats_interval=x"], "stats_interval")):
            p = polyvisor("ctl", "use", "balloon", *args)
            assert p.returncode == 2 and words in p.stderr and not p.stdout, (args, p)


if __name__ == "__main__":
    sys.exit(main())
