#!/bin/sh
# install-deps.sh: installs the Debian packages that building and testing Polyvisor needs, when any is missing.
#
#   tools/install-deps.sh [--check] [build|test|lint|fuzz|image|all]...
#
# --check only says what is missing (exit status 1 when something is). The default set is "all": build, test, lint and fuzz.
# Nothing is run as root when nothing is missing.
set -eu

build="gcc make meson ninja-build pkg-config libc6-dev linux-libc-dev python3 acpica-tools
	libzydis-dev libslirp-dev liburing-dev zlib1g-dev liblzma-dev libbz2-dev liblz4-dev libzstd-dev uthash-dev libjansson-dev"
test="libcmocka-dev cpio binutils seabios gdb"
image="mmdebstrap fakeroot fdisk e2fsprogs grub-common grub-pc-bin uidmap"
lint="clang clang-format clang-tidy cppcheck"
fuzz="clang libclang-rt-14-dev"

check=0
sets=
for arg; do
	case $arg in
	--check) check=1 ;;
	build | test | lint | fuzz | image) sets="$sets $arg" ;;
	all) sets="build test lint fuzz" ;;
	-h | --help)
		sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
		exit 0
		;;
	*)
		echo "install-deps.sh: '$arg' is not one of --check, build, test, lint, fuzz, image, all" >&2
		exit 2
		;;
	esac
done
[ -n "$sets" ] || sets="build test lint fuzz"

command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 || {
	echo "install-deps.sh: this is not a Debian-like system (no dpkg or apt-get)." >&2
	echo "Install the equivalents of these packages by hand:" $build $test $lint $fuzz >&2
	exit 1
}

missing=
for set in $sets; do
	eval "packages=\$$set"
	for package in $packages; do
		case " $missing " in *" $package "*) continue ;; esac
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
		case $status in *installed*) ;; *) missing="$missing $package" ;; esac
	done
done
missing=${missing# }
[ -n "$missing" ] || exit 0

if [ "$check" = 1 ]; then
	echo "missing packages: $missing"
	exit 1
fi

if [ "$(id -u)" = 0 ]; then
	asroot=
elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
	asroot=sudo
else
	echo "install-deps.sh: these packages are missing, and installing them needs root:" >&2
	echo "    apt-get install $missing" >&2
	exit 1
fi

echo "Installing: $missing"
install() {
	# shellcheck disable=SC2086
	$asroot env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -q $missing
}
# Lists may be missing (fresh container) or stale; then fetch them once.
# shellcheck disable=SC2086
if ! apt-cache show $missing >/dev/null 2>&1 || ! install; then
	$asroot apt-get update -q
	install
fi
