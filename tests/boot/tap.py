#!/usr/bin/env python3
"""tap.py: real guests on tap interfaces, in a network namespace of the test's own.

usage: tap.py POLYVISOR GUEST_DIR [CASE...]      exit status 77: skipped, with the reason

Without names: all but those with several queues, which BOOT_ALL=1 adds.
"""
import fcntl
import hashlib
import os
import re
import struct
import subprocess
import sys
import tempfile

import boot
from boot import Failure, expect, interact, with_modules

INSIDE = "POLYVISOR_TAP_TEST"
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 2, 0x1000, 0x4000


def sh(*commands):
    for command in commands:
        subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL)


def enter_namespace():
    """Starts this program again as root of a fresh network namespace, or says why not."""
    how = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    probe = "ip tuntap add dev pvprobe mode tap && ip link del pvprobe"
    try:
        p = subprocess.run([*how, "sh", "-c", probe], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        why = p.stderr.decode().strip().splitlines()
    except FileNotFoundError as e:
        p, why = None, [str(e)]
    if p is None or p.returncode:
        print("SKIP: this host gives no network namespace with a tap interface in it: " + (why[0] if why else "refused"))
        sys.exit(77)
    os.environ[INSIDE] = "1"
    os.execvp("unshare", [*how, sys.executable, *sys.argv])


class Tap:
    """A tap interface that is up, with an address unless it is on a bridge; and what crossed it."""

    def __init__(self, name, address=None, bridge=None):
        self.name = name
        sh(f"ip tuntap add dev {name} mode tap")
        if address:
            sh(f"ip addr add {address}/24 dev {name}")
        if bridge:
            sh(f"ip link set {name} master {bridge}")
        sh(f"ip link set {name} up")

    def mean(self, direction):
        """Mean bytes of a frame: "rx" is what the guest sent."""
        def count(what):
            with open("/proc/net/dev") as f:
                line = next(l for l in f if l.strip().startswith(self.name + ":"))
            fields = [int(n) for n in line.split(":")[1].split()]
            return fields[{"rx": 0, "tx": 8}[direction] + {"bytes": 0, "packets": 1}[what]]
        return count("bytes") / max(1, count("packets"))

    def close(self):
        sh(f"ip link del {self.name}")


def both_ways(polyvisor, guest, card, kernel="cloud", cpus=2, tap=None):
    """Ping, a file from the host, the same file back over a connection from the host; then looks at checksums and segments."""
    blob = os.urandom(6 << 20)
    tap = tap or Tap("pv0", "10.9.0.1")
    service = boot.HostService(blob, "10.9.0.1")
    service.look_for_guest(80, "10.9.0.2", blob)
    work = ("ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0; ping -c 3 -q 10.9.0.1; "
            f"mkdir /www; wget -q -O /www/index.html http://10.9.0.1:{service.port}/blob; sha256sum /www/index.html; "
            "httpd -p 80 -h /www; "
            f"until wget -q -O /dev/null http://10.9.0.1:{service.port}/done; do sleep 1; done; "
            "cat /proc/interrupts; cat /proc/net/snmp; ip link show eth0; dmesg | grep -i virtio\npoweroff -f\n")
    try:
        status, text, err, seconds = interact(polyvisor, guest, kernel,
                                              [*with_modules(guest, kernel), "--cpus", str(cpus), "--net", card],
                                              "quiet", [(b"guest:~# ", work.encode())])
        sent, received = tap.mean("rx"), tap.mean("tx")
    finally:
        service.close()
        tap.close()
    expect(status == 0, f"exit status {status}, not 0", text, err)
    expect("3 packets received" in text, "ping was not answered", text, err)
    expect(hashlib.sha256(blob).hexdigest() in text, "the guest did not get the host's file", text, err)
    expect(service.done, "the host did not get the guest's file", text, err)
    # What is larger than an Ethernet frame was handed over as one segment, to be cut by nobody.
    expect(sent > 2000, f"the guest's segments were cut before they reached the host ({sent:.0f} bytes each)", text, err)
    expect(received > 2000, f"the host's segments were cut before they reached the guest ({received:.0f} bytes each)", text, err)
    tcp = [line.split() for line in text.splitlines() if line.startswith("Tcp:")]
    expect(dict(zip(*tcp))["InCsumErrors"] == "0", "the guest found bad checksums", text, err)
    expect(re.search(r"PCI-MSI.*virtio\d+-input\.0", text), "no MSI-X interrupt for received frames", text, err)
    for bad in ("virtio_net: probe", "TX timeout", "bad csum", "Call Trace"):
        expect(bad not in text, f"the kernel printed '{bad}'", text, err)
    return seconds


def two_vms_on_a_bridge(polyvisor, guest):
    """Each on a tap of its own; one serves, the other fetches."""
    sh("ip link add pvbr type bridge", "ip link set pvbr up")
    taps = [Tap(f"pv{i}", bridge="pvbr") for i in range(2)]
    options = [polyvisor, "run", "--kernel", f"{guest}/vmlinuz-cloud", "--initrd", f"{guest}/initrd.cpio",
               *with_modules(guest, "cloud"), "--engine", os.environ.get("BOOT_ENGINE", "soft")]
    up = "ip link set eth0 up && ip addr add 192.168.7.{}/24 dev eth0 && "
    serve = up.format(1) + "mkdir /www && dd if=/dev/zero of=/www/big bs=64k count=32 2>/dev/null && httpd -p 80 -h /www && sleep 1000"
    fetch = up.format(2) + "until wget -q -O /tmp/b http://192.168.7.1/big; do sleep 1; done; sha256sum /tmp/b"
    server = subprocess.Popen([*options, "--net", "tap=pv0", "--append", f'console=ttyS0 quiet polyvisor.run="{serve}"'],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        p = subprocess.run([*options, "--net", "tap=pv1", "--append", f'console=ttyS0 quiet polyvisor.run="{fetch}"'],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=boot.TIMEOUT)
    except subprocess.TimeoutExpired as e:
        raise Failure("the other VM was not reached:\n" + (e.stdout or b"")[-2000:].decode(errors="replace")) from None
    finally:
        server.kill()
        server.wait()
        for tap in taps:
            tap.close()
        sh("ip link del pvbr")
    text = p.stdout.decode(errors="replace")
    expect(hashlib.sha256(bytes(2 << 20)).hexdigest() in text, "the other VM's file did not arrive", text, p.stderr.decode())
    return 0.0


def served_by_another_process(polyvisor, guest, queues, kernel="cloud"):
    """The same, with a vhost-user back end between card and tap."""
    with tempfile.TemporaryDirectory() as tmp:
        tap = Tap("pv0", "10.9.0.1")
        peer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vhost_net_peer.py")
        p = subprocess.Popen([sys.executable, peer, f"{tmp}/net.sock", "pv0"], stdin=subprocess.DEVNULL)
        try:
            if not boot.listens(f"{tmp}/net.sock", p):
                raise Failure("the back end does not listen")
            return both_ways(polyvisor, guest, f"vhost-user={tmp}/net.sock,queues={queues}", kernel, 2, tap)
        finally:
            p.kill()
            p.wait()


def vhost_where_there_is_none(polyvisor, guest):
    """/dev/vhost-net: auto does without, on says so."""
    if os.path.exists("/dev/vhost-net"):
        return both_ways(polyvisor, guest, "tap=pv0,vhost=on")
    tap = Tap("pv0")
    p = subprocess.run([polyvisor, "run", "--kernel", f"{guest}/vmlinuz-cloud", "--net", "tap=pv0,vhost"],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    err = p.stderr.decode()
    expect(p.returncode == 1 and "this host has no /dev/vhost-net" in err and err.count("\n") == 1, "no clear sentence", "", err)
    status, text, err, seconds = boot.run(polyvisor, guest, "cloud",
                                          [*with_modules(guest, "cloud"), "--net", "tap=pv0,vhost=auto"], "polyvisor.selfcheck")
    tap.close()
    expect(status == 0 and "without vhost: this host has no /dev/vhost-net" in err, "no sentence, or no boot", text, err)
    return seconds


def refusals(polyvisor, guest):
    """One clear sentence each for what a tap may lack."""
    def refused(card, sentence, prefix=()):
        p = subprocess.run([*prefix, polyvisor, "run", "--kernel", f"{guest}/vmlinuz-cloud", "--net", card],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        err = p.stderr.decode()
        expect(p.returncode == 1 and sentence in err and err.count("\n") == 1, f"{card}: not '{sentence}'", "", err)

    refused("tap=pvnone", "there is no tap interface 'pvnone'")
    refused("tap=lo", "'lo' is not a tap interface")
    sh("ip tuntap add dev pvtun mode tun")
    refused("tap=pvtun", "'pvtun' is not a tap interface")
    sh("ip link del pvtun", "ip tuntap add dev pvmq mode tap multi_queue")
    refused("tap=pvmq", "(or one with several queues)")
    sh("ip link del pvmq")
    tap = Tap("pv0")
    with open("/dev/net/tun", "r+b", buffering=0) as other:
        fcntl.ioctl(other, TUNSETIFF, struct.pack("16sH22x", b"pv0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        refused("tap=pv0", "tap interface 'pv0' is busy: another program has it open")
    tap.close()
    if len(open("/proc/self/uid_map").readlines()[0].split()) == 3 and \
       int(open("/proc/self/uid_map").readline().split()[2]) > 65534:
        sh("ip tuntap add dev pv0 mode tap user 12345")
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        with tempfile.TemporaryDirectory() as tmp:  # where another user can read them
            os.chmod(tmp, 0o755)
            for file in (polyvisor, f"{guest}/vmlinuz-cloud"):
                sh(f"cp {file} {tmp}/")
            polyvisor, guest = f"{tmp}/{os.path.basename(polyvisor)}", tmp
            everybody = os.stat("/dev/net/tun").st_mode & 0o006 == 0o006
            refused("tap=pv0", "no permission for tap interface 'pv0'" if everybody else
                    "cannot open /dev/net/tun for tap interface 'pv0': Permission denied", nobody)
        sh("ip link del pv0")
    return 0.0


CASES = {
    "errors": refusals,
    "tap": lambda p, g: both_ways(p, g, "tap=pv0"),
    "tap-mq": lambda p, g: both_ways(p, g, "tap=pv0,queues=2", "generic", 2),
    "bridge": two_vms_on_a_bridge,
    "vhost-user": lambda p, g: served_by_another_process(p, g, 1),
    "vhost-user-mq": lambda p, g: served_by_another_process(p, g, 2, "generic"),
    "vhost": vhost_where_there_is_none,
}


def main():
    if INSIDE not in os.environ:
        enter_namespace()
    sh("ip link set lo up")
    usual = [case for case in CASES if not case.endswith("-mq") or os.environ.get("BOOT_ALL")]
    polyvisor, guest, cases = sys.argv[1], sys.argv[2], sys.argv[3:] or usual
    return boot.run_cases(CASES, polyvisor, guest, cases)


if __name__ == "__main__":
    sys.exit(main())
