#!/usr/bin/env bash
# lint.sh: what needs no run of the program: who may include what, format, every header alone, static analysis.
set -uo pipefail
cd "$(dirname "$0")/.."
dir=build-lint
jobs=$(nproc)
failed=0

problem() { printf 'lint: %s\n' "$*"; failed=1; }
sources() { git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do [ -f "$f" ] && printf '%s\n' "$f"; done; }

python3 tools/check_layers.py || problem 'includes against LAYERS'

sources 'src/*.[ch]' 'fuzz/*.[ch]' 'tests/*.[ch]' 'bench/*.[ch]' |
	xargs -P "$jobs" -n 16 clang-format --dry-run -Werror --style=file ||
	problem 'not as .clang-format has it (clang-format -i FILE mends it)'

# The compilation database, and the headers that the build makes.
if [ ! -f "$dir/build.ninja" ]; then
	meson setup "$dir" >/dev/null || { cat "$dir/meson-logs/meson-log.txt"; exit 1; }
fi
mapfile -t made < <(ninja -C "$dir" -t targets all | sed -n 's/^\(.*\.h\): CUSTOM_COMMAND.*/\1/p')
[ ${#made[@]} -eq 0 ] || ninja -C "$dir" --quiet "${made[@]}" >/dev/null || problem 'generated headers'

header_alone() {
	printf '#include "%s"\n' "${1#src/}" |
		gcc -std=gnu17 -D_GNU_SOURCE -Wall -Wextra -Wno-unused-parameter -Werror -fsyntax-only -Isrc -I"$dir"/src -x c - ||
		{ echo "$1 does not compile alone"; return 1; }
}
export -f header_alone
export dir
sources 'src/*.h' | xargs -P "$jobs" -I{} bash -c 'header_alone {}' || problem 'headers'

sources 'src/*.c' | xargs -P "$jobs" -n 8 clang-tidy --quiet -p "$dir" 2>/dev/null || problem 'clang-tidy'

# What a file is, and how long it is.
while read -r f; do
	head -n 2 "$f" | grep -q "^\(/\*\| \*\) $(basename "$f"): " || problem "$f: does not begin with \"/* $(basename "$f"): one sentence. */\""
	[ "$(wc -l <"$f")" -le 900 ] || problem "$f: longer than 900 lines"
done < <(sources 'src/*.[ch]')

[ $failed -eq 0 ] && echo 'lint: nothing found'
exit $failed
