#!/usr/bin/env python3
# bytes_to_c.py: a file's bytes as a constant C array: NAME INPUT OUTPUT.
import sys

name, source, target = sys.argv[1:]
data = open(source, "rb").read()
with open(target, "w") as out:
    out.write(f"/* The bytes of {source.rsplit('/', 1)[-1]}, made by tools/bytes_to_c.py. */\n")
    out.write(f"static const uint8_t {name}[{len(data)}] = {{\n")
    for at in range(0, len(data), 16):
        out.write("\t" + " ".join(f"{b}," for b in data[at:at + 16]) + "\n")
    out.write("};\n")
