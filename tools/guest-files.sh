#!/bin/bash
# guest-files.sh: fetches unmodified Debian kernels and busybox, and makes the initramfs that `make run` and the tests boot.
#
#   tools/guest-files.sh [cloud] [generic]        (default: both)
#
# Leaves in .cache/guest (or $POLYVISOR_CACHE/guest):
#   vmlinuz-cloud, vmlinuz-generic   kernels as packaged, with config-* and their version in version-*
#   busybox                          static
#   initrd.cpio                      tests/initramfs/init and busybox, uncompressed, reproducible
#   modules-cloud.cpio, ...-generic  that kernel's modules for virtio devices: give it as a second --initrd
#
# Nothing is installed, and root is not needed: packages are downloaded with apt-get and unpacked here. When
# the system's package lists are missing or stale, private ones are fetched into the cache.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
cache=${POLYVISOR_CACHE:-$top/.cache}
out=$cache/guest
apt_private=(-o "Dir::State=$cache/apt/state" -o "Dir::State::lists=$cache/apt/state/lists"
	-o "Dir::State::status=/var/lib/dpkg/status"
	-o "Dir::Cache=$cache/apt/cache" -o "APT::Sandbox::User=$(id -un)")
apt=()

die() {
	echo "guest-files.sh: $*" >&2
	exit 1
}

for tool in apt-get apt-cache dpkg-deb tar flock; do
	command -v $tool >/dev/null || die "'$tool' is needed to fetch Debian's packages, and it is not on this system"
done

private_lists() {
	[ ${#apt[@]} = 0 ] || return 1
	apt=("${apt_private[@]}")
	# Fetched a moment ago, for another package?
	[ -z "$(find "$cache/apt/fresh" -mmin -60 2>/dev/null)" ] || return 0
	echo "Fetching package lists into $cache/apt" >&2
	mkdir -p "$cache/apt/state/lists/partial" "$cache/apt/cache/archives/partial"
	apt-get "${apt[@]}" -qq update >&2 || die "cannot fetch Debian's package lists (is there a network?)"
	touch "$cache/apt/fresh"
}

known() {
	apt-cache "${apt[@]}" show "$1" >/dev/null 2>&1
}

# The versioned package behind a metapackage, or the package itself.
versioned() {
	local dep
	dep=$(apt-cache "${apt[@]}" depends --important "$1" 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
	echo "${dep:-$1}"
}

# Downloads a package's .deb into the cache and prints its path.
fetch() {
	local package debs
	known "$1" || private_lists || true
	known "$1" || die "no package named $1: these scripts take their guest files from Debian 12's archive"
	package=$(versioned "$1")
	debs=$cache/debs/$package
	if ! compgen -G "$debs/*.deb" >/dev/null; then
		rm -rf "$debs.part" && mkdir -p "$debs.part"
		echo "Downloading $package" >&2
		if ! (cd "$debs.part" && apt-get "${apt[@]}" -qq -o "APT::Sandbox::User=$(id -un)" download "$package" >&2); then
			private_lists || die "cannot download $package"
			fetch "$1"
			return
		fi
		rm -rf "$debs" && mv "$debs.part" "$debs"
	fi
	compgen -G "$debs/*.deb" | head -n 1
}

fetch_kernel() {
	local flavour=$1 deb tmp
	[ -s "$out/vmlinuz-$flavour" ] && [ -s "$out/version-$flavour" ] && return
	deb=$(fetch "linux-image-${2}amd64")
	tmp=$(mktemp -d "$out/kernel.XXXXXX")
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tmp" ./boot
	mv "$tmp"/boot/config-* "$out/config-$flavour"
	(cd "$tmp/boot" && echo vmlinuz-*) | sed 's/^vmlinuz-//' >"$out/version-$flavour"
	mv "$tmp"/boot/vmlinuz-* "$out/vmlinuz-$flavour"
	rm -rf "$tmp"
	echo "Linux $(cat "$out/version-$flavour"): $out/vmlinuz-$flavour"
}

fetch_busybox() {
	local deb
	[ -x "$out/busybox" ] && return
	deb=$(fetch busybox-static)
	dpkg-deb --fsys-tarfile "$deb" | tar -x -O ./bin/busybox >"$out/busybox.part"
	chmod 755 "$out/busybox.part"
	mv "$out/busybox.part" "$out/busybox"
}

# A tree as a cpio archive. The same files give the same bytes: sorted names, no times, no owners, inode numbers
# renewed.
pack() {
	find "$1" -exec touch -h -d @0 {} +
	if command -v cpio >/dev/null; then
		(cd "$1" && find . -mindepth 1 | LC_ALL=C sort |
			cpio --quiet -o -H newc --reproducible -R 0:0) >"$2.part"
	else
		(cd "$1" && find . -mindepth 1 | LC_ALL=C sort |
			"$out/busybox" cpio -o -H newc -R 0:0 2>/dev/null) >"$2.part"
	fi
	mv "$2.part" "$2"
}

make_initrd() {
	local tree applet
	if [ "$out/initrd.cpio" -nt "$top/tests/initramfs/init" ] && [ "$out/initrd.cpio" -nt "$out/busybox" ] &&
		[ "$out/initrd.cpio" -nt "$0" ]; then
		return
	fi
	tree=$(mktemp -d "$out/initrd.XXXXXX")
	mkdir -p "$tree"/{bin,dev,etc,proc,root,run,sys,tmp}
	install -m 755 "$out/busybox" "$tree/bin/busybox"
	install -m 755 "$top/tests/initramfs/init" "$tree/init"
	echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
	echo 'root:x:0:' >"$tree/etc/group"
	for applet in $("$out/busybox" --list); do
		[ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
	done
	pack "$tree" "$out/initrd.cpio"
	rm -rf "$tree"
	echo "Initramfs: $out/initrd.cpio"
}

# Drivers of what polyvisor offers; what they depend on comes along.
virtio_modules="virtio_pci virtio_mmio virtio_blk virtio_net virtio_console virtio_rng virtio_balloon
	virtio_scsi sr_mod vmw_vsock_virtio_transport 9pnet_virtio 9p virtiofs af_packet"

# One module and its dependencies: names in modinfo have underscores where files may have dashes.
take_module() {
	local file dep name=${1//[-_]/[-_]}
	file=$(find "$2" -name "$name.ko" | head -n 1)
	[ -n "$file" ] || return 0 # built in
	[ ! -e "$3/${file##*/}" ] || return 0
	cp "$file" "$3/"
	for dep in $(tr '\0' '\n' <"$file" | LC_ALL=C sed -n 's/^depends=//p' | tr ',' ' '); do
		take_module "$dep" "$2" "$3"
	done
}

make_modules() {
	local flavour=$1 deb tmp version module dir
	if [ "$out/modules-$flavour.cpio" -nt "$out/vmlinuz-$flavour" ] && [ "$out/modules-$flavour.cpio" -nt "$0" ]; then
		return
	fi
	version=$(cat "$out/version-$flavour")
	deb=$(fetch "linux-image-$version")
	tmp=$(mktemp -d "$out/modules.XXXXXX")
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tmp" ./lib/modules
	dir=tree/lib/modules/$version
	mkdir -p "$tmp/$dir/kernel"
	for module in $virtio_modules; do
		take_module "$module" "$tmp/lib" "$tmp/$dir/kernel"
	done
	"$out/busybox" depmod -b "$tmp/tree" "$version"
	pack "$tmp/tree" "$out/modules-$flavour.cpio"
	rm -rf "$tmp"
	echo "Modules: $out/modules-$flavour.cpio"
}

mkdir -p "$out"
exec 9>"$cache/lock"
flock 9

[ $# -gt 0 ] || set -- cloud generic
for what; do
	case $what in
	cloud) fetch_kernel cloud cloud- ;;
	generic) fetch_kernel generic "" ;;
	*) die "'$what' is not one of: cloud, generic" ;;
	esac
done
fetch_busybox
make_initrd
for what; do
	make_modules "$what"
done
