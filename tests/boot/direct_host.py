#!/usr/bin/env python3
"""direct_host.py: direct execution and the host: no helper process outlives its VM, and a container's rules are enough or are told of.

usage: direct_host.py POLYVISOR GUEST_DIR [CASE...]      DIRECT_ROUNDS: how often a VM is killed (4)

The guest starts programs all the time, so that helpers are made and emptied at any moment.
"""
import ctypes
import errno
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time

import boot
from boot import expect

LOAD = "i=0; while true; do /bin/busybox true; (/bin/busybox seq 300 | /bin/busybox md5sum >/dev/null) & i=$((i+1)); [ $((i%10)) = 0 ] && echo alive $i; wait; done"


def session(sid, states=None):
    """The processes of a session: the VM's and its helpers; those in one of the states."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == sid and (fields[0] in states if states else fields[0] not in "ZX"):
            found.append(int(pid))
    return found


def start(polyvisor, guest, work=LOAD, soft="direct=on", before=None):
    cmd = [polyvisor, "run", "--kernel", f"{guest}/vmlinuz-cloud", "--initrd", f"{guest}/initrd.cpio", "--engine", "soft", "--soft", soft,
           "--cpus", "2", "-m", "256M", "--no-reboot", "--append", f'console=ttyS0 panic=-1 quiet polyvisor.run="{work}"']
    return subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                            preexec_fn=before)


def helpers_there(p, seconds=100):
    end = time.monotonic() + seconds
    while time.monotonic() < end and p.poll() is None:
        if len(session(p.pid)) > 2:
            return
        time.sleep(0.02)
    expect(False, "there are no helpers", *(b.decode(errors="replace") for b in finish(p)))


def finish(p):
    if p.poll() is None:
        p.kill()
    return p.communicate(timeout=60)


def nothing_left(pid, what):
    end = time.monotonic() + 60
    while left := session(pid):
        if time.monotonic() > end:
            for one in left:
                os.kill(one, signal.SIGKILL)
            expect(False, f"{what}: {len(left)} processes were left", "")
        time.sleep(0.01)


def the_vm_is_killed(polyvisor, guest):
    """At random moments, in several ways; at last without its helpers having been seen at all."""
    begin = time.monotonic()
    seed = int(os.environ.get("DIRECT_SEED", "1"))
    r = random.Random(seed)
    ways = ["kill", "group", "int", "all", "early", "stopped"]
    for i in range(int(os.environ.get("DIRECT_ROUNDS", "4"))):
        way = ways[(i + seed - 1) % len(ways)]
        p = start(polyvisor, guest)
        if way == "early":
            time.sleep(r.random() * 0.5)
        else:
            helpers_there(p)
            time.sleep(r.random() * 1.5)
        if way in ("kill", "early"):
            p.send_signal(signal.SIGKILL)
        elif way == "group":  # Ctrl-C on a terminal
            os.killpg(p.pid, signal.SIGINT)
        elif way == "int":
            p.send_signal(signal.SIGTERM)
        else:
            members = session(p.pid)
            r.shuffle(members)
            for pid in members:
                try:
                    os.kill(pid, signal.SIGKILL if way == "all" or pid == p.pid else signal.SIGSTOP)
                except ProcessLookupError:
                    pass
        p.communicate(timeout=60)
        nothing_left(p.pid, f"seed {seed}, round {i}, {way}")
    return time.monotonic() - begin


def helpers_are_killed(polyvisor, guest):
    """From outside, one after the other, any and those that run: programs of the guest end, at worst its init; the VM does not hang."""
    begin = time.monotonic()
    r = random.Random(2)
    p = start(polyvisor, guest)
    said = b""
    try:
        helpers_there(p)
        os.set_blocking(p.stderr.fileno(), False)
        killed, end = 0, time.monotonic() + boot.TIMEOUT
        # Who waits takes nothing along: until one that had a program's registers was met.
        while (killed < 40 or b"has ended" not in said) and time.monotonic() < end and p.poll() is None:
            said += p.stderr.read() or b""
            others = [pid for pid in session(p.pid, "R" if killed % 2 else None) if pid != p.pid]
            if others:
                try:
                    os.kill(r.choice(others), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
        expect(killed >= 40 or p.poll() is not None, f"only {killed} helpers could be killed", "")
        if p.poll() is None:  # it goes on: what it says now, it says after the last one
            os.set_blocking(p.stdout.fileno(), False)
            p.stdout.read()
            seen, end = b"", time.monotonic() + 60
            while b"alive" not in seen and b"panic" not in seen and time.monotonic() < end and p.poll() is None:
                seen += p.stdout.read() or b""
                time.sleep(0.05)
            expect(b"alive" in seen or b"panic" in seen or p.poll() is not None, "the VM hangs", seen.decode(errors="replace"))
    finally:
        os.set_blocking(p.stdout.fileno(), True)
        os.set_blocking(p.stderr.fileno(), True)
        out, err = finish(p)
    said += err
    expect(b"a helper process has ended" in said, "nothing was said of it", out.decode(errors="replace"), said.decode())
    nothing_left(p.pid, "killed helpers")
    return time.monotonic() - begin


# System calls that the default profiles of common container engines allow to a process without capabilities on x86-64 (what is not
# here, they answer with EPERM): of the kernel's calls, those that are only refused.
REFUSED = {
    "acct": 163, "add_key": 248, "bpf": 321, "clock_adjtime": 305, "clock_settime": 227, "create_module": 174, "delete_module": 176,
    "fanotify_init": 300, "finit_module": 313, "get_kernel_syms": 177, "get_mempolicy": 239, "init_module": 175, "ioperm": 173, "iopl": 172,
    "kcmp": 312, "kexec_file_load": 320, "kexec_load": 246, "keyctl": 250, "lookup_dcookie": 212, "mbind": 237, "mount": 165,
    "move_pages": 279, "nfsservctl": 180, "open_by_handle_at": 304, "perf_event_open": 298, "pivot_root": 155,
    "process_vm_readv": 310, "process_vm_writev": 311, "ptrace": 101, "query_module": 178, "quotactl": 179, "reboot": 169,
    "request_key": 249, "set_mempolicy": 238, "setns": 308, "settimeofday": 164, "swapon": 167, "swapoff": 168, "sysfs": 139,
    "umount2": 166, "unshare": 272, "uselib": 134, "userfaultfd": 323, "ustat": 136, "io_uring_setup": 425, "io_uring_enter": 426,
    "io_uring_register": 427, "move_mount": 429, "open_tree": 428, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "quotactl_fd": 443, "vhangup": 153, "syslog": 103, "sethostname": 170, "setdomainname": 171, "chroot": 161,
    "lsm_list_modules": 461,
}


def container_filter(more=()):
    """Installs the profile: a filter of the classic kind, which answers EPERM. Needs no privilege with no_new_privs."""
    refused = [*REFUSED.values(), *more]
    code = [(0x20, 0, 0, 0)]  # the number
    for n in refused:
        code += [(0x15, 0, 1, n), (0x06, 0, 0, 0x00050000 | errno.EPERM)]
    # Namespaces cannot be made by clone either.
    code += [(0x15, 0, 3, 56), (0x20, 0, 0, 16), (0x45, 0, 1, 0x7E020000), (0x06, 0, 0, 0x00050000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)]
    blob = b"".join(struct.pack("HBBI", *c) for c in code)
    buffer = ctypes.create_string_buffer(blob)
    libc = ctypes.CDLL(None, use_errno=True)

    def install():
        for what, soft in ((resource.RLIMIT_NOFILE, 1024), (resource.RLIMIT_MEMLOCK, 65536), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, 512)):
            hard = resource.getrlimit(what)[1]
            soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
            resource.setrlimit(what, (soft, soft))
        program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):  # NO_NEW_PRIVS, SET_SECCOMP
            os._exit(126)
    return install


def contained(polyvisor, guest, more, work, soft="direct=on"):
    """In a user, mount, PID and network namespace, without capabilities, below a read-only root with a small /dev."""
    run = [polyvisor, "run", "--kernel", f"{guest}/vmlinuz-cloud", "--initrd", f"{guest}/initrd.cpio", "--engine", "soft", "--soft", soft,
           "--cpus", "2", "-m", "256M", "--no-reboot", "--append", f'console=ttyS0 panic=-1 quiet polyvisor.run="{work}"']
    numbers = ",".join(str(n) for n in more)
    inner = [sys.executable, os.path.abspath(__file__), "--inside", numbers, *run]
    script = ("mount --rbind / / && mount -t tmpfs -o size=1m tmpfs /dev && "
              "for d in null zero random urandom; do mknod /dev/$d c 1 3 2>/dev/null || touch /dev/$d; done; mkdir -p /dev/shm; "
              "mount -o remount,bind,ro / ; "
              'exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"')
    begin = time.monotonic()
    p = subprocess.run(["unshare", "-Urmpfn", "--kill-child", "sh", "-c", script, "sh", *inner], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=boot.TIMEOUT)
    return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace"), time.monotonic() - begin


WORK = "for i in 1 2 3 4 5; do /bin/busybox seq 2000 | /bin/busybox md5sum; done"
SUM = "ea4d0a24dabcaa11f9aa979b872d162b"


def a_container_is_enough(polyvisor, guest):
    status, text, err, seconds = contained(polyvisor, guest, (), WORK)
    expect(status == 0 and text.count(SUM) == 5, f"exit status {status}", text, err)
    expect("translated instead" not in err, "not with helpers", text, err)
    return seconds


def what_a_container_refuses_is_said_in_one_line(polyvisor, guest):
    """No filters of one's own; no programs in memory: the VM runs all the same."""
    total = 0
    for name, number in (("seccomp", 317), ("execveat", 322)):
        status, text, err, seconds = contained(polyvisor, guest, (number,), WORK)
        expect(status == 0 and text.count(SUM) == 5, f"without {name}: exit status {status}", text, err)
        said = [line for line in err.splitlines() if "user code is translated instead" in line]
        expect(1 <= len(said) <= 2, f"without {name}: not one line for each CPU", text, err)
        total += seconds
    return total


CASES = {
    "killed": the_vm_is_killed,
    "helpers-killed": helpers_are_killed,
    "container": a_container_is_enough,
    "container-refuses": what_a_container_refuses_is_said_in_one_line,
}


def main():
    if sys.argv[1] == "--inside":
        container_filter([int(n) for n in sys.argv[2].split(",") if n])()
        os.execv(sys.argv[3], sys.argv[3:])
    cases = sys.argv[3:] or list(CASES)
    if subprocess.run(["unshare", "-Urmpfn", "true"], stderr=subprocess.DEVNULL).returncode:
        print("SKIP: this host gives no user namespaces: no case with a container")
        cases = [case for case in cases if not case.startswith("container")]
    return boot.run_cases(CASES, sys.argv[1], sys.argv[2], cases)


if __name__ == "__main__":
    sys.exit(main())
