"""harness.py: what the tests of this directory share: a VM in a pipe, and a runner of tests."""
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import traceback

POLYVISOR, GUEST = sys.argv[1], sys.argv[2]
KERNEL, INITRD = f"{GUEST}/vmlinuz-cloud", f"{GUEST}/initrd.cpio"
RUNTIME = tempfile.TemporaryDirectory()
ENV = dict(os.environ, XDG_RUNTIME_DIR=RUNTIME.name)
PATIENCE = 240  # seconds, for what hangs
TESTS = []


def test(fn):
    TESTS.append(fn)
    return fn


def polyvisor(*args, timeout=PATIENCE):
    return subprocess.run([POLYVISOR, *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, text=True, env=ENV)


class Vm:
    """A VM in a pipe, with or without user space."""

    def __init__(self, *args, shell=False, kernel=KERNEL, append="", engine="soft"):
        more = ["--initrd", INITRD] if shell else []
        self.p = subprocess.Popen([POLYVISOR, "run", "--engine", engine, "--kernel", kernel, *more, "--append", "console=ttyS0" + (" quiet" if shell else " earlyprintk=ttyS0") + append,
                                   *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
        self.seen = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.p.poll() is None:
            self.p.kill()
        self.p.communicate()

    def wait_for(self, what, timeout=PATIENCE):
        end = time.monotonic() + timeout
        while what not in self.seen:
            assert time.monotonic() < end, f"no {what!r} in {self.seen[-1000:]!r}"
            if not select.select([self.p.stdout], [], [], 1)[0]:
                continue
            data = os.read(self.p.stdout.fileno(), 65536)
            assert data, f"ended without {what!r}: {self.seen[-1000:]!r}"
            self.seen += data

    def say(self, text):
        self.p.stdin.write(text)
        self.p.stdin.flush()

    def wait(self, timeout=PATIENCE):
        self.p.communicate(timeout=timeout)
        return self.p.returncode


def wait_until(condition, timeout=PATIENCE):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def dial(path):
    """Connects. The socket is there a moment before the VM listens at it."""
    def connected():
        try:
            s.connect(path)
            return True
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):  # the last: its queue is full
            return False

    s = socket.socket(socket.AF_UNIX)
    s.settimeout(PATIENCE)
    wait_until(connected)
    return s


def main():
    wanted = sys.argv[3:]
    failed = 0
    tests = [t for t in TESTS if not wanted or t.__name__ in wanted]
    for t in tests:
        try:
            t()
            print(f"ok   {t.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {t.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0
