#!/usr/bin/env python3
"""memory.py: resident memory of a VM's process at its shell that is not the guest's RAM (from /proc/PID/smaps), beside its bar.

usage: memory.py POLYVISOR GUEST_DIR [OPTION OF run...]
"""
import os
import re
import subprocess
import sys
import time

BAR_MIB = 24


def resident_by_mapping(pid):
    """Name of a mapping -> KiB resident; pages of a memory file that the process has mapped twice count once."""
    sizes, name = {}, ""
    for line in open(f"/proc/{pid}/smaps"):
        if m := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)", line):
            name = m.group(1) or "[anonymous]"
        elif m := re.match(("Pss" if name.startswith("/memfd:") else "Rss") + r": +(\d+) kB", line):
            sizes[name] = sizes.get(name, 0) + int(m.group(1))
    return sizes


def main():
    polyvisor, guest = sys.argv[1], sys.argv[2]
    p = subprocess.Popen([polyvisor, "run", "--quiet", "--engine", "soft", "--kernel", f"{guest}/vmlinuz-cloud", "--initrd",
                          f"{guest}/initrd.cpio", "--append", "console=ttyS0 quiet", *sys.argv[3:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        seen = b""
        while b"guest:~# " not in seen:
            seen += os.read(p.stdout.fileno(), 65536)
        time.sleep(1)
        sizes = resident_by_mapping(p.pid)
        ram = sum(v for k, v in sizes.items() if "guest-ram" in k or "polyvisor-ram" in k)
        rest = sum(sizes.values()) - ram
        for name, size in sorted(sizes.items(), key=lambda x: -x[1])[:12]:
            print(f"  {size:8} KiB  {name}")
        print(f"guest RAM resident: {ram / 1024:.1f} MiB")
        print(f"everything else:    {rest / 1024:.1f} MiB (bar {BAR_MIB} MiB: {'met' if rest <= BAR_MIB * 1024 else 'missed'})")
    finally:
        p.kill()
        p.wait()
    return 0 if ram else 1


if __name__ == "__main__":
    sys.exit(main())
