#!/usr/bin/env python3
"""check_layers.py: holds the tree to LAYERS: every #include "..." in src/ is allowed, and a .c file includes its own header first."""
import pathlib
import re
import sys

top = pathlib.Path(__file__).resolve().parent.parent


def read_table():
    table = {}
    for line in (top / "LAYERS").read_text().splitlines():
        line = line.split("#")[0].strip()
        if line:
            directory, _, allowed = line.partition(":")
            table[directory.strip()] = set(allowed.split())
    return table


def check(path, table):
    rel = path.relative_to(top)
    directory = str(rel.parent)
    if directory not in table:
        yield f"{rel}: directory is not in LAYERS"
        return
    own = directory.removeprefix("src/")
    allowed = table[directory] | {own}
    includes = [(n, m.group(1)) for n, line in enumerate(path.read_text().splitlines(), 1)
                if (m := re.match(r'\s*#\s*include\s+"([^"]+)"', line))]
    for n, inc in includes:
        if "/" not in inc or ".." in inc:
            yield f'{rel}:{n}: "{inc}": say it from src/ on'
        elif str(pathlib.PurePath(inc).parent) not in allowed:
            yield f'{rel}:{n}: {own} may not include "{inc}"'
    header = path.with_suffix(".h")
    if path.suffix == ".c" and header.exists() and not (includes and includes[0][1] == f"{own}/{header.name}"):
        yield f"{rel}: its own header comes first"


def main():
    table = read_table()
    problems = [p for path in sorted((top / "src").rglob("*.[ch]")) for p in check(path, table)]
    for p in problems:
        print(p)
    print(f"layers: {len(problems)} problem(s)")
    return 1 if problems else 0


sys.exit(main())
