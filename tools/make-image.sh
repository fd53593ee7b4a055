#!/bin/bash
# make-image.sh: builds a bootable Debian 12 disk from packages: GPT, GRUB for BIOS, ext4, systemd, ssh.
#
#   tools/make-image.sh [--size MIB] [--output FILE] [--packages LIST] [--force]
#
# Leaves in .cache/image (or $POLYVISOR_CACHE/image):
#   debian.img                the disk: raw and sparse, 2048 MiB unless --size says otherwise
#   debian.vmlinuz, .initrd   the kernel and initial RAM disk that are on it, for booting without firmware
#   debian.cmdline            the kernel command line that GRUB uses
#
# An image that is there and newer than this script and tools/image/ is kept unless --force is given. Neither root
# nor mounting is needed: the packages are unpacked in a user namespace (as root: directly), the file system is made
# from the directory, and GRUB is written to its partition here. POLYVISOR_MIRROR names another Debian mirror.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
cache=${POLYVISOR_CACHE:-$top/.cache}
parts=$top/tools/image
out=$cache/image/debian.img
size=2048
force=0
extra=
mirror=${POLYVISOR_MIRROR:-http://deb.debian.org/debian}
security=http://deb.debian.org/debian-security

die() {
	echo "make-image.sh: $*" >&2
	exit 1
}

while [ $# -gt 0 ]; do
	case $1 in
	--size) size=${2:?--size needs a number of MiB} && shift 2 ;;
	--output) out=${2:?--output needs a file} && shift 2 ;;
	--packages) extra=${2:?--packages needs a list} && shift 2 ;;
	--force) force=1 && shift ;;
	-h | --help)
		sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
		exit 0
		;;
	*) die "'$1' is not one of --size, --output, --packages, --force" ;;
	esac
done
case $size in *[!0-9]* | "") die "--size '$size' is not a number of MiB" ;; esac
[ "$size" -ge 1024 ] || die "--size $size: the system needs at least 1024 MiB"

PATH=$PATH:/usr/sbin:/sbin
for tool in mmdebstrap mke2fs sfdisk grub-mkimage dd tar; do
	command -v $tool >/dev/null || die "'$tool' is missing; tools/install-deps.sh image installs what is needed"
done
[ -r /usr/lib/grub/i386-pc/boot.img ] || die "GRUB for BIOS is missing; tools/install-deps.sh image installs what is needed"

mkdir -p "$cache" "$(dirname "$out")"
exec 9>"$cache/image.lock"
flock 9
if [ "$force" = 0 ] && [ -s "$out" ] && [ -z "$(find "$0" "$parts" -newer "$out" -print -quit)" ]; then
	echo "$out is up to date"
	exit 0
fi

work=$(mktemp -d "$(dirname "$out")/make.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
start=$(date +%s)

# What the first boot needs and what a person expects on a server; nothing that slows the boot down.
packages=systemd-sysv,dbus,udev,kmod,linux-image-cloud-amd64,initramfs-tools,lz4,grub-pc
packages=$packages,openssh-server,sudo,passwd,login,iproute2,iputils-ping,netbase,ca-certificates,systemd-resolved
packages=$packages,e2fsprogs,procps,pciutils,less,nano,curl${extra:+,$extra}

# The names and numbers on the disk are the same every time.
root_uuid=5dc5ad9e-8e5d-4f3a-9d0c-2b5c3a1f7e10
disk_uuid=9a1d2a0c-6f3e-4a52-8d3b-7c1e0b9d4f21
cmdline="root=UUID=$root_uuid ro console=tty0 console=ttyS0,115200"

unpack() {
	# The host's way to its mirror (proxies and the like), for this run only.
	apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https|ftp|Retries|Languages)' >"$work/apt.conf" || true
	echo 'APT::Install-Recommends "0";' >>"$work/apt.conf"
	echo "Unpacking Debian 12 (this downloads about 120 MB the first time)" >&2
	mmdebstrap --quiet --variant=minbase --architectures=amd64 --aptopt="$work/apt.conf" --include="$packages" \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' \
		--essential-hook='mkdir -p "$1/usr/share/man/man1"' \
		--essential-hook="copy-in $parts/initramfs-tools.conf /tmp" \
		--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d" && mv "$1/tmp/initramfs-tools.conf" "$1/etc/initramfs-tools/conf.d/polyvisor"' \
		--essential-hook="echo 'grub-pc grub-pc/install_devices_empty boolean true' | chroot \"\$1\" debconf-set-selections" \
		--essential-hook="echo 'grub-pc grub-pc/install_devices multiselect' | chroot \"\$1\" debconf-set-selections" \
		--customize-hook="copy-in $parts /tmp" \
		--customize-hook="chroot \"\$1\" sh /tmp/image/customize.sh $root_uuid '$cmdline'" \
		--customize-hook='rm -rf "$1/tmp/image" "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"' \
		bookworm "$work/root.tar" \
		"deb $mirror bookworm main" "deb $mirror bookworm-updates main" "deb $security bookworm-security main"
}

# The root file system from the archive. Owners are kept by fakeroot where this is not root.
make_root() {
	local first=$1 sectors=$2 as=
	if [ "$(id -u)" != 0 ]; then
		as=fakeroot
		command -v fakeroot >/dev/null || die "'fakeroot' is missing; tools/install-deps.sh image installs it"
	fi
	$as sh -e -c '
		mkdir "$1/root"
		tar -x --numeric-owner --exclude="./dev/*" -C "$1/root" -f "$1/root.tar"
		cp "$1"/root/boot/vmlinuz-* "$1/vmlinuz"
		cp "$1"/root/boot/initrd.img-* "$1/initrd"
		chmod 644 "$1/vmlinuz" "$1/initrd"
		mke2fs -q -t ext4 -L polyvisor-root -U "$2" -E "hash_seed=$2,offset=$(($3 * 512)),lazy_itable_init=1,nodiscard" \
			-d "$1/root" "$1/disk" "$(($4 / 2))k"
		rm -rf "$1/root"
	' sh "$work" "$root_uuid" "$first" "$sectors"
}

# GRUB: its first sector in the MBR, the rest in the BIOS boot partition. Both hold disk addresses that are filled in
# here: of the rest, and of its second sector on.
little_endian() {
	local n=$1 bytes=$2 text=
	while [ "$bytes" -gt 0 ]; do
		text=$text$(printf '\\x%02x' $((n & 255)))
		n=$((n >> 8)) bytes=$((bytes - 1))
	done
	printf '%b' "$text"
}
make_grub() {
	local at=$1 room=$2
	printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\n' "$root_uuid" >"$work/early.cfg"
	grub-mkimage -O i386-pc -p /boot/grub -c "$work/early.cfg" -o "$work/core.img" \
		biosdisk part_gpt ext2 search search_fs_uuid search_label normal configfile linux gzio echo test ls cat \
		serial terminal minicmd loadenv reboot halt sleep true all_video
	[ "$(stat -c %s "$work/core.img")" -le $((room * 512)) ] || die "GRUB does not fit into its partition"
	little_endian $((at + 1)) 8 | dd of="$work/core.img" bs=1 seek=$((0x1f4)) conv=notrunc status=none
	dd if="$work/core.img" of="$work/disk" bs=512 seek="$at" conv=notrunc status=none
	dd if=/usr/lib/grub/i386-pc/boot.img of="$work/disk" bs=1 count=440 conv=notrunc status=none
	little_endian "$at" 8 | dd of="$work/disk" bs=1 seek=$((0x5c)) conv=notrunc status=none
	# No floppy: GRUB does not have to doubt the drive number that the BIOS gives it.
	printf '\x90\x90' | dd of="$work/disk" bs=1 seek=$((0x66)) conv=notrunc status=none
}

unpack
echo "Making the disk" >&2
truncate -s "${size}M" "$work/disk"
boot_at=2048 root_at=4096
root_sectors=$((size * 2048 - root_at - 2048))
make_root $root_at $root_sectors
sfdisk -q "$work/disk" <<-END
	label: gpt
	label-id: $disk_uuid
	unit: sectors
	start=$boot_at, size=2048, name=bios-boot, type=21686148-6449-6E6F-744E-656564454649, uuid=9a1d2a0c-6f3e-4a52-8d3b-7c1e0b9d4f22
	start=$root_at, size=$root_sectors, name=root, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=9a1d2a0c-6f3e-4a52-8d3b-7c1e0b9d4f23
END
make_grub $boot_at 2048

mv "$work/vmlinuz" "${out%.img}.vmlinuz"
mv "$work/initrd" "${out%.img}.initrd"
echo "$cmdline" >"${out%.img}.cmdline"
mv "$work/disk" "$out"
echo "$out: $size MiB, $(du -m "$out" | cut -f1) MiB on disk, made in $(($(date +%s) - start)) s"
echo "On its console, log in as 'debian' (no password); by ssh with a key that a seed volume brings."
