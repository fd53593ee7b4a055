#!/bin/sh
# work.sh: the work of bench/real.py, in the guest or natively in the same file system: CPUS ITEM...
# Every item ends with lines of what came out of it; they are to be the same wherever it runs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cpus=$1
shift
export LC_ALL=C.UTF-8 HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
work=/var/tmp/real
rm -rf $work
mkdir -p $work
cd $work

say() { echo "real $*"; }
digest() { sha256sum | cut -d' ' -f1; }

# apt-get: a repository in files, its index, ten packages with their maintainers' scripts; Python's compile what they bring.
run_apt() {
	rm -f /etc/apt/sources.list.d/*
	echo "deb [trusted=yes] file:$here/debs ./" >/etc/apt/sources.list
	# shellcheck disable=SC2046 # several packages
	apt-get -q -q -o APT::Sandbox::User= update && apt-get -q -q -y -o APT::Sandbox::User= -o Dpkg::Use-Pty=0 \
		install $(cat "$here/debs/wanted") >apt.log
}
result_apt() {
	dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n' | digest
	sed -n 's/^Package: //p' "$here/debs/Packages" | xargs dpkg -L | grep . | sort -u >files
	while read -r f; do
		[ ! -f "$f" ] || echo "$f"
	done <files | xargs -d '\n' sha256sum | digest
	find /usr/lib/python3/dist-packages -name '*.pyc' | wc -l
}

# A small C project, its compilation and its self-test.
run_make() {
	cp -r "$here/project" . && make -s -C project "-j$cpus" && project/project >project.out
}
result_make() {
	cat project/*.o project/project | digest
	cat project.out
}

run_python() { python3 "$here/compute.py" "$(cat "$here/python-rounds")" >python.out; }
result_python() { cat python.out; }

# Programs that compute: what counts is their user time, which they tell.
run_user() { python3 "$here/user.py" "$here" "$(cat "$here/scale")" >user.out; }
result_user() { cat user.out; }

run_sqlite() { sqlite3 data.db <"$here/work.sql" >sqlite.out; }
result_sqlite() { digest <sqlite.out; }

for item; do
	sync
	say "$item" begin
	"run_$item"
	say "$item" end
	"result_$item" | while read -r line; do say "$item" result "$line"; done
done
say all "done"
