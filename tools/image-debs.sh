#!/bin/bash
# image-debs.sh: fetches packages that an image of make-image.sh has not, with all they need, as a repository to install from without network.
#
#   tools/image-debs.sh IMAGE PACKAGE...
#
# Leaves IMAGE (without .img).debs: the .deb files and their index (Packages), for `deb [trusted=yes] file:/where/it/is ./`. The image
# itself is only read: its sources, keys and the list of what is installed. Neither root nor a running guest is needed.
set -euo pipefail

die() {
	echo "image-debs.sh: $*" >&2
	exit 1
}

[ $# -ge 2 ] || die "an image and at least one package, please"
image=$(realpath -m "$1") # absolute, as apt takes relative directories from its own root
shift
out=${image%.img}.debs
PATH=$PATH:/usr/sbin:/sbin
for tool in apt-get debugfs dpkg-deb sha256sum; do
	command -v $tool >/dev/null || die "'$tool' is missing"
done
[ -s "$image" ] || die "no $image"
if [ -s "$out/Packages" ] && [ "$out" -nt "$image" ] && [ "$(cat "$out/wanted")" = "$*" ]; then
	echo "$out is up to date"
	exit 0
fi

work=$(mktemp -d "$(dirname "$image")/debs.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
from_image() { debugfs -R "$1" "$image?offset=$((4096 * 512))" 2>/dev/null; }
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/served"
from_image "cat /etc/apt/sources.list" >"$work/sources.list"
from_image "cat /var/lib/dpkg/status" >"$work/status"
from_image "rdump /etc/apt/trusted.gpg.d $work"
{ [ -s "$work/status" ] && [ -s "$work/sources.list" ]; } || die "$image has no list of its packages"

apt() {
	apt-get -q -q -o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
		-o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::TrustedParts="$work/trusted.gpg.d" -o Dir::Etc::Trusted=/dev/null -o APT::Architecture=amd64 \
		-o APT::Sandbox::User= -o Debug::NoLocking=1 -o APT::Install-Recommends=0 "$@"
}
apt update
apt install --yes --download-only "$@" >/dev/null
mv "$work"/cache/archives/*.deb "$work/served/"
for deb in "$work"/served/*.deb; do
	dpkg-deb -f "$deb"
	printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$(basename "$deb")" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d' ' -f1)"
done >"$work/served/Packages"
echo "$*" >"$work/served/wanted"
rm -rf "$out"
mv "$work/served" "$out"
echo "$out: $(find "$out" -name '*.deb' | wc -l) packages, $(du -m "$out" | cut -f1) MiB"
