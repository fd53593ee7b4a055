#!/usr/bin/env python3
"""asl_to_c.py: compiles ACPI source into a constant C array: asl_to_c.py IASL INPUT OUTPUT NAME. Quiet unless it fails."""
import pathlib
import subprocess
import sys
import tempfile

iasl, source, target, name = sys.argv[1:]
with tempfile.TemporaryDirectory() as tmp:
    prefix = pathlib.Path(tmp) / "table"
    run = subprocess.run([iasl, "-vs", "-we", "-p", prefix, source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        sys.exit(run.stdout)
    data = prefix.with_suffix(".aml").read_bytes()
lines = [", ".join(f"0x{b:02x}" for b in data[i:i + 16]) for i in range(0, len(data), 16)]
pathlib.Path(target).write_text(
    f"/* Made by tools/asl_to_c.py. */\nstatic const unsigned char {name}[{len(data)}] = {{\n\t"
    + ",\n\t".join(lines) + "\n};\n")
