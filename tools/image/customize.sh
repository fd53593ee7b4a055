#!/bin/sh
# customize.sh: runs inside the new system: who may log in, how it boots, how it finds the network.
set -eu
root_uuid=$1
cmdline=$2
here=/tmp/image

echo debian >/etc/hostname
echo LANG=C.UTF-8 >/etc/default/locale
printf '127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n::1\tlocalhost ip6-localhost ip6-loopback\n' >/etc/hosts
printf 'UUID=%s / ext4 errors=remount-ro,discard,x-systemd.growfs 0 1\n' "$root_uuid" >/etc/fstab
cat >/etc/apt/sources.list <<END
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
END

# Whoever holds the console owns the machine: no password there. From the network: keys only. Root: through sudo.
useradd --create-home --shell /bin/bash --comment 'Debian user' --groups sudo,adm debian
passwd -q -d debian
passwd -q -l root
install -m 440 "$here/sudoers" /etc/sudoers.d/polyvisor
install -m 644 "$here/sshd.conf" /etc/ssh/sshd_config.d/polyvisor.conf
install -m 644 "$here/issue" /etc/issue
# Every copy of this disk makes its own.
rm -f /etc/ssh/ssh_host_*_key* /var/lib/dbus/machine-id
: >/etc/machine-id

install -m 644 "$here/ethernet.network" /etc/systemd/network/80-ethernet.network
install -m 755 "$here/seed" /usr/local/sbin/polyvisor-seed
install -m 644 "$here/polyvisor-seed.service" "$here/polyvisor-hostkeys.service" /etc/systemd/system/
mkdir -p /etc/repart.d
install -m 644 "$here/root.repart" /etc/repart.d/50-root.conf
systemctl -q enable systemd-networkd systemd-resolved ssh polyvisor-seed polyvisor-hostkeys serial-getty@ttyS0 2>/dev/null
# No display: its login prompt would only wait.
systemctl -q mask getty@tty1.service
systemctl -q set-default multi-user.target
# Timers that would start heavy work minutes after every boot of a throw-away machine.
systemctl -q disable apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer e2scrub_reap.service 2>/dev/null || true
# systemd-repart asks for them, and needs them only for images in files.
systemctl -q mask modprobe@loop.service modprobe@dm_mod.service
# Nothing to wait for: services that need the network order themselves after it.
systemctl -q disable systemd-networkd-wait-online.service 2>/dev/null || true
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf

cat "$here/modules" >>/etc/initramfs-tools/modules
update-initramfs -u -k all >/dev/null

cat >/etc/default/grub <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=2
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_DISABLE_OS_PROBER=true
END
# The first menu; update-grub in the running system writes it anew with every kernel.
mkdir -p /boot/grub/i386-pc
cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst /boot/grub/i386-pc/
kernel=$(cd /boot && echo vmlinuz-*)
version=${kernel#vmlinuz-}
sed -e "s|@ROOT@|$root_uuid|g" -e "s|@VERSION@|$version|g" -e "s|@CMDLINE@|$cmdline|g" "$here/grub.cfg" >/boot/grub/grub.cfg

apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log /var/log/apt /var/cache/debconf/*-old
