#!/usr/bin/env python3
"""gdb.py: stock gdb against a small guest and a Debian kernel, through --gdb.

usage: gdb.py POLYVISOR GUEST_DIR [TEST...]
"""
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading

from harness import ENV, GUEST, KERNEL, PATIENCE, RUNTIME, Vm, dial, main, polyvisor, test, wait_until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "boot"))
from boot import free_port  # noqa: E402

SOCKET = f"{RUNTIME.name}/gdb"


def gdb(*commands, timeout=PATIENCE):
    """Runs gdb with these commands; its output, stderr with it."""
    args = ["gdb", "-nx", "-batch", "-ex", "set pagination off", "-ex", "set confirm off", "-ex", "set width 0"]
    for c in (f"target remote {SOCKET}", *commands):
        args += ["-ex", c]
    p = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    return p.stdout


def listening():
    """Is there a socket that somebody listens at? Looking does not count as a debugger."""
    return any(line.split()[-1] == SOCKET for line in open("/proc/net/unix"))


def packet(s):
    """The next whole packet, and what came before it."""
    data = b""
    while not re.search(rb"\$[^#]*#..", data, re.S):
        more = s.recv(1)
        assert more, f"closed after {data!r}"
        data += more
    return data


def expect(text, *patterns):
    """The patterns occur in this order."""
    at = 0
    for p in patterns:
        m = re.compile(p, re.M).search(text, at)
        assert m, f"no '{p}' from {text[at:at + 300]!r} on in\n{text}"
        at = m.end()


def counting_guest():
    """A Multiboot kernel of 32-bit code: counts in EAX and at 0x200000 for ever."""
    code = b"\x31\xc0"                    # 100020 xor eax,eax
    code += b"\xbb\x00\x00\x20\x00"       # 100022 mov ebx,0x200000
    code += b"\x40"                       # 100027 inc eax
    code += b"\x89\x03"                   # 100028 mov [ebx],eax
    code += b"\x90"                       # 10002a nop
    code += b"\x8b\x0b"                   # 10002b mov ecx,[ebx]
    code += b"\x83\x0b\x00"               # 10002d or dword [ebx],0
    code += b"\xeb\xf5"                   # 100030 jmp 100027
    base, flags, end = 0x100000, 0x10000, 0x100020 + len(code)
    path = f"{RUNTIME.name}/counting"
    with open(path, "wb") as f:
        f.write(struct.pack("<8I", 0x1badb002, flags, -(0x1badb002 + flags) & 0xffffffff, base, base, end, end, base + 32) + code)
    return path


@test
def a_small_guest_is_stepped_stopped_watched_and_changed():
    with Vm("--gdb", f"unix:{SOCKET}", "--gdb-wait", kernel=counting_guest()) as vm:
        wait_until(listening)
        out = gdb("p/x $rip", "stepi", "stepi", "p/x $rip", "p/x $rbx", "break *0x10002a", "continue", "p $eax", "continue", "p $eax",
                  "delete", "hbreak *0x100028", "continue", "p *(int *)0x200000", "p $eax", "delete",
                  "watch *(int *)0x200000", "continue", "p/x $rip", "p *(int *)0x200000", "delete",
                  "rwatch *(int *)0x200000", "continue", "p/x $rip", "continue", "p/x $rip", "watch *(int *)0x200000", "continue",
                  "p/x $rip", "continue", "p/x $rip", "delete",
                  "set $rax = 1000", "set var *(int *)0x200000 = 77", "p *(int *)0x200000", "break *0x10002a", "continue", "p $eax",
                  "p *(int *)0x200000", "x/1xb 0x10002a", "set $eflags |= 0x40", "p $eflags", "p *(char *)0xd0000000",
                  "p/x $cr0 & 1", "set $cr0 = 0", "monitor translate 0x200000", "monitor frob", "detach")
        expect(out, r"^\$1 = 0x100020", r"^\$2 = 0x100027", r"^\$3 = 0x200000", r"Breakpoint 1, 0x0*10002a", r"^\$4 = 1$",
               r"Breakpoint 1, 0x0*10002a", r"^\$5 = 2$", r"Breakpoint 2, 0x0*100028", r"^\$6 = 2$", r"^\$7 = 3$",
               r"Hardware watchpoint 3", r"Old value = 2\nNew value = 3", r"^\$8 = 0x10002a", r"^\$9 = 3$",
               # A read, then one that writes too; with a second one, both are told apart.
               r"Hardware read watchpoint 4", r"^\$10 = 0x10002d", r"Hardware read watchpoint 4", r"^\$11 = 0x100030",
               r"Hardware watchpoint 5", r"^\$12 = 0x10002a", r"Hardware read watchpoint 4", r"^\$13 = 0x10002d",
               r"^\$14 = 77", r"Breakpoint 6, 0x0*10002a", r"^\$15 = 1001", r"^\$16 = 1001", r"0x10002a:\t0x90", r"^\$17 = .*ZF",
               r"Cannot access memory", r"^\$18 = 0x1", r"Could not write register", r"is at physical 0x200000",
               r"'frob' is no command here", r"detached")
        # Nothing of it is left: it counts on.
        wait_until(lambda: re.search(r"^\$1 = 1$", gdb("p (unsigned)$eax > 1100", "detach"), re.M))
        expect(gdb("p/x *(unsigned char *)0x10002a", "kill"), r"^\$1 = 0x90")
        assert vm.wait() == 0
    assert not os.path.exists(SOCKET)


@test
def kvm_is_stepped():
    """No more than that: where an emulator is behind /dev/kvm, breakpoints are not honoured."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return
    with Vm("--gdb", f"unix:{SOCKET}", "--gdb-wait", kernel=counting_guest(), engine="kvm") as vm:
        wait_until(listening)
        out = gdb("stepi", "stepi", "p/x $rip", "p/x $rbx", "stepi", "stepi", "p *(int *)0x200000", "set $rax = 1000", "stepi", "stepi",
                  "stepi", "stepi", "stepi", "stepi", "p *(int *)0x200000", "kill")
        expect(out, r"^\$1 = 0x100027", r"^\$2 = 0x200000", r"^\$3 = 1$", r"^\$4 = 1001")
        assert vm.wait() == 0


@test
def a_debian_kernel_with_two_cpus_is_debugged():
    with Vm("--gdb", f"unix:{SOCKET}", "--cpus", "2", shell=True, append=" nokaslr") as vm:
        vm.wait_for(b"guest:~# ")
        vm.say(b"grep -E ' (do_sys_openat2|jiffies)$' /proc/kallsyms; echo symbols''-end\n")
        vm.wait_for(b"symbols-end")
        symbol = {m[1].decode(): "0x" + m[0].decode() for m in re.findall(rb"([0-9a-f]{16}) \w (\w+)", vm.seen)}
        openat, jiffies = symbol["do_sys_openat2"], symbol["jiffies"]
        vm.say(b"for i in 1 2; do (while :; do cat /proc/uptime >/dev/null; done) & done\n")
        out = gdb("info threads", f"break *{openat}", "continue", f"p $rip == {openat}", "stepi", f"p $rip > {openat}", "p $cr0 >> 31",
                  "set scheduler-locking on", "stepi", "stepi", "set scheduler-locking off", "delete",
                  f"watch *(unsigned long *){jiffies}", "continue", "continue", "delete", f"hbreak *{openat}", "continue",
                  "thread 1", "p/x $cs & 0xfff8", "thread 2", "p/x $efer & 0x500", "p sizeof($ymm0)", "p/x $ymm15.v4_int64", "monitor info", "detach")
        expect(out, r"Thread 1 \(CPU 0", r"Thread 2 \(CPU 1", r"hit Breakpoint 1", r"^\$1 = 1", r"^\$2 = 1", r"^\$3 = 1",
               r"hit Hardware watchpoint 2", r"Old value = (\d+)\nNew value", r"hit Hardware watchpoint 2", r"hit Breakpoint 3",
               r"Switching to thread 1", r"^\$4 = 0x", r"Switching to thread 2", r"^\$5 = 0x500", r"^\$6 = 32$", r"^\$7 = \{0x", r"engine soft, 0 breakpoints", r"CPU 1", r"detached")
        vm.say(b"echo still-$((40+2))\n")
        vm.wait_for(b"still-42")


@test
def avx512s_registers_are_shown_where_the_guest_has_them():
    with Vm("--gdb", f"unix:{SOCKET}", "--gdb-wait", kernel=counting_guest()):
        wait_until(listening)
        expect(gdb("p $k3", "p sizeof($ymm3)", "kill"), r"^\$1 = void", r"^\$2 = 32")
    flags = re.search(r"^flags\s*: (.*)", open("/proc/cpuinfo").read(), re.M)[1].split()
    if not {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags):
        return
    # This guest has not switched them on; Linux does.
    with Vm("--gdb", f"unix:{SOCKET}", "--gdb-wait", "--cpu-features", "+avx512", kernel=counting_guest()):
        wait_until(listening)
        expect(gdb("p sizeof($zmm31)", "set $k3 = 5", "p $k3", "set $xmm1.v2_int64[1] = 7", "p $zmm1.v8_int64", "kill"),
               r"^\$1 = 64", r"Could not write register \"k3\"", r"^\$2 = 0", r"^\$3 = \{0, 7, 0")
    with Vm("--gdb", f"unix:{SOCKET}", "--cpu-features", "+avx512", shell=True) as vm:
        vm.wait_for(b"guest:~# ")
        expect(gdb("set $k3 = 5", "p $k3", "set $zmm31.v8_int64[7] = 77", "set $xmm31.v2_int64[1] = 9", "p $zmm31.v8_int64[7]",
                   "p $ymm31.v4_int64[1]", "detach"), r"^\$1 = 5", r"^\$2 = 77", r"^\$3 = 9", r"detached")
        vm.say(b"echo still-$((40+2))\n")
        vm.wait_for(b"still-42")


@test
def a_debugger_that_vanishes_leaves_a_running_vm():
    with Vm("--gdb", f"unix:{SOCKET}", "--name", "left", kernel=counting_guest()) as vm:
        wait_until(lambda: polyvisor("ctl", "left", "status").returncode == 0)
        s = dial(SOCKET)
        s.sendall(b"$?#3f")
        assert b"T05thread:1;" in packet(s)
        assert "paused" in polyvisor("ctl", "left", "status").stdout
        second = socket.socket(socket.AF_UNIX)
        second.connect(SOCKET)
        assert second.recv(10) == b"", "a second debugger was let in"
        s.sendall(b"$Z0,10002a,1#67$junk#00\x03\xff$c#63")
        assert b"OK" in packet(s) and b"T05" in packet(s)  # and at the breakpoint again
        s.close()
        wait_until(lambda: "running" in polyvisor("ctl", "left", "status").stdout)
        assert polyvisor("ctl", "left", "quit").returncode == 0
        assert vm.wait() == 0


def send(s, text):
    s.sendall(b"$%s#%02x" % (text, sum(text) % 256))


def answer(s, text):
    """What the next packet after this one says."""
    send(s, text)
    return packet(s).split(b"$")[1][:-3]


def attach():
    """Whoever comes before the last debugger has gone is turned away."""
    def attached():
        nonlocal s
        s = dial(SOCKET)
        try:
            return answer(s, b"QStartNoAckMode") == b"OK"
        except (AssertionError, ConnectionResetError, BrokenPipeError):
            return False

    s = None
    wait_until(attached)
    s.sendall(b"+")
    return s


@test
def a_step_is_one_instruction_while_others_ask_for_statistics():
    addresses = [0x100027, 0x100028, 0x10002a, 0x10002b, 0x10002d, 0x100030]
    with Vm("--gdb", f"unix:{SOCKET}", "--gdb-wait", "--name", "stepped", kernel=counting_guest()):
        s, f = attach(), dial(f"{RUNTIME.name}/polyvisor/stepped.sock").makefile("rw")
        over = threading.Event()
        asked = [0]

        def nag():
            while not over.is_set():
                f.write('{"command":"statistics"}\n')
                f.flush()
                assert "result" in f.readline()
                asked[0] += 1

        thread = threading.Thread(target=nag)
        thread.start()
        try:
            steps, at = 0, 0x100020
            while steps < 500 or asked[0] < 50:
                assert thread.is_alive()
                assert answer(s, b"s").startswith(b"T05")
                rip = struct.unpack("<Q", bytes.fromhex(answer(s, b"p10").decode()))[0]
                want = 0x100022 if at == 0x100020 else addresses[(addresses.index(at) + 1) % 6] if at in addresses else addresses[0]
                assert rip == want, f"step {steps} went from {at:#x} to {rip:#x}"
                steps, at = steps + 1, rip
        finally:
            over.set()
            thread.join()


@test
def a_reset_in_the_moment_in_which_the_debugger_goes_finds_the_cpus_paused():
    """All comes in one turn of the loop: going on, into a breakpoint; the debugger's end; a reset."""
    with Vm("--gdb", f"unix:{SOCKET}", "--gdb-wait", "--name", "gone", kernel=counting_guest()) as vm:
        # What gives the CPU time to get to the breakpoint before the reset is seen.
        slow = [dial(f"{RUNTIME.name}/polyvisor/gone.sock").makefile("rw") for _ in range(10)]
        f = dial(f"{RUNTIME.name}/polyvisor/gone.sock").makefile("rw")
        for _ in range(10):
            s = attach()
            assert answer(s, b"?").startswith(b"T05")
            assert answer(s, b"Z0,10002a,1") == b"OK"
            os.kill(vm.p.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, vm.p.pid, os.WSTOPPED)
            send(s, b"c")
            s.close()
            for g in slow:
                g.write('{"command":"devices"}\n' * 10)
                g.flush()
            f.write('{"command":"reset"}\n')
            f.flush()
            os.kill(vm.p.pid, signal.SIGCONT)
            assert "result" in f.readline()
            for g in slow:
                for _ in range(10):
                    assert "result" in g.readline()
        wait_until(lambda: "running" in polyvisor("ctl", "gone", "status").stdout)
        assert polyvisor("ctl", "gone", "quit").returncode == 0
        assert vm.wait() == 0


@test
def a_port_is_the_loopbacks_and_errors_are_sentences():
    for where, status, words in (("5000", 2, "is not unix:PATH, tcp:PORT or :PORT"), (":0", 2, "not a port"), ("tcp:x", 2, "not a port"),
                                 ("unix:", 2, "is not unix:PATH"), ("unix:/nonexistent/x", 1, "/nonexistent/x")):
        p = polyvisor("run", "--kernel", KERNEL, "--gdb", where)
        assert p.returncode == status and words in p.stderr, (where, p)
    p = polyvisor("run", "--kernel", KERNEL, "--gdb-wait")
    assert p.returncode == 2 and "--gdb-wait" in p.stderr, p
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        p = polyvisor("run", "--kernel", KERNEL, "--gdb", f":{port}")
        assert p.returncode == 1 and f"port {port}" in p.stderr, p
    with Vm("--gdb", f"tcp:{port}", "--gdb-wait", kernel=counting_guest()):
        def dial():
            try:
                return socket.create_connection(("127.0.0.1", port))
            except ConnectionRefusedError:
                return None
        wait_until(lambda: dial())


if __name__ == "__main__":
    sys.exit(main())
