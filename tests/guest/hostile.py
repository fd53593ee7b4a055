#!/usr/bin/env python3
"""hostile.py: guests that attack the hypervisor: each must end as expected, say one sentence, and cost little.

usage: hostile.py POLYVISOR ENGINE IMAGE [CASE...]
"""
import os
import re
import signal
import subprocess
import sys
import time

SKIP = 77
PASSED, CRASHED, RESET, HOST = 33, 5, 4, 1
RAM_MIB, RESIDENT_MIB = 64, 64 + 40
SANITIZER_MIB = 400  # shadow memory and quarantine
POLYVISOR, ENGINE, IMAGE = sys.argv[1:4]
# "interp" and "translate" are the soft engine's ways.
ENGINE_WORDS = [ENGINE] if ENGINE == "kvm" else ["soft", "--soft", ENGINE]
EMULATOR = False
SANITIZED = False

# What a guest that just looks around ends with.
ALIVE = [
    "writes_to_every_port", "reads_of_every_port", "string_io_over_every_port", "every_address", "addresses_above_everything",
    "copies_over_devices", "bars_over_everything", "every_register_of_every_pci_device", "dma_of_the_firmware_device_to_anywhere",
    "stack_in_nothing", "gdt_in_nothing", "page_table_entries_that_lead_astray", "random_page_tables",
    "interrupts_to_itself_of_every_kind", "timers_at_full_speed", "init_and_startup_storm", "one_cpu_writes_what_the_other_executes",
    "code_that_rewrites_itself_on_every_round", "every_msr", "every_msr_in_x2apic_mode", "control_registers_at_random",
    "jump_to_nothing", "run_off_the_end_of_memory", "tss_in_nothing",
]
# A triple fault, three times within a second.
FATAL = ["triple_fault", "gdt_in_nothing_and_used", "idt_in_nothing", "idt_in_the_apic", "page_tables_in_nothing", "page_tables_in_the_apic"]
# Goes on until somebody ends it: (name, burns a CPU)
ENDLESS = [("cpu_off", False), ("timers_off_and_halt", False), ("spin", True), ("repeat_without_end", True),
           ("repeat_over_nothing_without_end", True)]
# KVM's instruction emulator may refuse these; that ends the machine with status 1 and its sentence.
EMULATED = {"jump_to_nothing", "run_off_the_end_of_memory", "stack_in_nothing", "tss_in_nothing", "gdt_in_nothing", "init_and_startup_storm",
            "copies_over_devices", "idt_in_the_apic", "idt_in_nothing"}
# An emulator behind /dev/kvm loops in these inside of the kernel.
NOT_ON_EMULATOR = {"gdt_in_nothing_and_used", "repeat_without_end", "repeat_over_nothing_without_end"}


def start(case, *options, stdout=subprocess.PIPE, words="", debug_exit=True):
    words = f"{words} slow kvm nosse" if EMULATOR else words
    cmd = [POLYVISOR, "run", "--quiet", "--engine", *ENGINE_WORDS, "--cpus", "2", "-m", f"{RAM_MIB}M", "--kernel", IMAGE, *options,
           "--append", f"{case} {words}"]
    if debug_exit:
        cmd.append("--debug-exit")
    return subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE)


def judge(case, process, statuses, out, err, began, limit, max_out=200_000):
    """The status is one of these, and what was said is short and sane."""
    took = time.monotonic() - began
    text = err.decode(errors="replace")
    said = [line for line in text.splitlines() if line]
    assert "Sanitizer" not in text and "runtime error" not in text, text[:4000]
    assert process.returncode in statuses, f"status {process.returncode}, not {statuses}: {out[-300:]!r} {text[-600:]}"
    assert took < limit * (10 if SANITIZED else 1), f"took {took:.1f} s"
    assert len(out) <= max_out, f"{len(out)} bytes of output"
    assert len(err) <= 20_000, f"{len(err)} bytes of messages"
    if process.returncode in (CRASHED, RESET, HOST) and len(statuses) < 5:
        assert said and said[-1].startswith("polyvisor: "), f"no sentence: {text!r}"
        assert sum("polyvisor: guest:" not in line for line in said) == 1, f"more than one sentence: {text!r}"


def run(case, statuses, *options, limit=30, max_out=200_000, debug_exit=True):
    began = time.monotonic()
    p = start(case, *options, debug_exit=debug_exit)
    try:
        out, err = p.communicate(timeout=limit * (10 if SANITIZED else 1))
    except subprocess.TimeoutExpired:
        p.kill()
        p.communicate()
        raise AssertionError(f"still running after {limit} s") from None
    judge(case, p, statuses, out, err, began, limit, max_out)
    return out


def resident_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1)) >> 10


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check_resident(pid):
    mib, most = resident_mib(pid), RESIDENT_MIB + (SANITIZER_MIB if SANITIZED else 0)
    assert mib <= most, f"{mib} MiB resident"


def share_of_cpu(pid, seconds):
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began)


def endless(case, burns):
    """Ends at once on SIGTERM; a CPU that sleeps costs nothing, once it has come so far (a busy host may be slow)."""
    p = start(case)
    time.sleep(3.0 if SANITIZED else 0.4)
    share = share_of_cpu(p.pid, 0.1 if burns else 0.8)
    patience = time.monotonic() + 20
    while not burns and share >= 0.05 and time.monotonic() < patience and p.poll() is None:
        share = share_of_cpu(p.pid, 0.8)
    running = p.poll() is None
    if running:
        check_resident(p.pid)
    began = time.monotonic()
    p.send_signal(signal.SIGTERM)
    try:
        out, err = p.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        p.kill()
        p.communicate()
        raise AssertionError("did not end on SIGTERM") from None
    judge(case, p, (128 + signal.SIGTERM,), out, err, began, 5)
    if not burns:
        assert share < 0.05, f"a sleeping guest took {share:.0%} of a CPU"


def legitimate_ends(case):
    # The debug exit with the value written; without it a power-off, a reset with --no-reboot or a panic, whatever port comes first.
    run(case, tuple(range(1, 256, 2)), "--no-reboot")
    run(case, (0, 3, RESET), "--no-reboot", debug_exit=False)


def no_reboot(_case):
    out = run("triple_fault", (CRASHED,), "--no-reboot")
    assert out.count(b"hostile/triple_fault") == 1, out


def flood_into_a_slow_reader(case):
    """The reader takes a little at a time: the process waits or drops, and does not grow."""
    began = time.monotonic()
    p = start(case)
    total = 0
    while time.monotonic() - began < 3 and p.poll() is None:
        total += len(os.read(p.stdout.fileno(), 4096))
        time.sleep(0.01)
        if p.poll() is None:
            try:
                check_resident(p.pid)
            except (AttributeError, FileNotFoundError):
                break  # it ended meanwhile
    out, err = p.communicate(timeout=300)
    judge(case, p, (PASSED,), out, err, began, 300, max_out=200_000_000)


def flood_into_nobody(case):
    """The reader went away: the guest goes on, or ends as a filter does."""
    began = time.monotonic()
    p = start(case)
    p.stdout.close()
    p.stdout = None
    _, err = p.communicate(timeout=120)
    judge(case, p, (PASSED, HOST, 128 + signal.SIGPIPE, -signal.SIGPIPE), b"", err, began, 60)


def flood_into_a_file(case):
    began = time.monotonic()
    with open(os.devnull, "wb") as null:
        # Named alone: the whole 100 MB.
        p = start(case, stdout=null, words="long" if len(sys.argv) > 4 else "")
        _, err = p.communicate(timeout=300)
    judge(case, p, (PASSED,), b"", err, began, 120)


def cases():
    for name in ALIVE:
        statuses = (PASSED, HOST, CRASHED) if ENGINE == "kvm" and name in EMULATED else (PASSED,)
        yield name, lambda c, s=statuses: run(c, s, limit=60)
    for name in FATAL:
        statuses = (CRASHED, HOST) if ENGINE == "kvm" and name in EMULATED else (CRASHED,)
        yield name, lambda c, s=statuses: run(c, s)
    for name, burns in ENDLESS:
        yield name, lambda c, b=burns: endless(c, b)
    yield "writes_to_every_port_that_ends_the_machine_too", legitimate_ends
    yield "triple_fault_with_no_reboot", no_reboot
    if not EMULATOR:
        yield "serial_flood_into_a_file", lambda c: flood_into_a_file("serial_flood")
        yield "serial_flood_into_a_slow_reader", lambda c: flood_into_a_slow_reader("serial_flood")
        yield "serial_flood_into_nobody", lambda c: flood_into_nobody("serial_flood")
        yield "polite_serial_flood_into_nobody", lambda c: flood_into_nobody("polite_serial_flood")
        yield "polite_serial_flood", lambda c: run(c, (PASSED,), limit=60, max_out=300_000)


def main():
    global EMULATOR, SANITIZED
    failed = 0
    if ENGINE == "kvm":
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR))
        except OSError as e:
            print(f"skipped: the kvm engine needs /dev/kvm: {e.strerror}")
            return SKIP
        doctor = subprocess.run([POLYVISOR, "doctor"], capture_output=True, text=True, timeout=30).stdout
        EMULATOR = "emulator" in doctor or "without SSE" in doctor
    with open(POLYVISOR, "rb") as f:
        SANITIZED = b"__asan_init" in f.read()
    for name, check in cases():
        if len(sys.argv) > 4 and name not in sys.argv[4:]:
            continue
        if EMULATOR and name in NOT_ON_EMULATOR:
            print(f"skip {name}: the emulator behind /dev/kvm cannot do this")
            continue
        began = time.monotonic()
        try:
            check(name)
        except AssertionError as e:
            failed += 1
            print(f"FAIL {name}: {e}", flush=True)
        else:
            print(f"ok   {name} ({time.monotonic() - began:.1f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
