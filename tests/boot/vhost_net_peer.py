#!/usr/bin/env python3
"""vhost_net_peer.py: a vhost-user back end for a network card, for tests: moves its frames to and from a tap interface.

usage: vhost_net_peer.py SOCKET TAP      serves one connection after another
"""
import array
import fcntl
import mmap
import os
import select
import socket
import struct
import sys

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ, TUNSETVNETLE = 0x400454CA, 0x400454D0, 0x400454D8, 0x400454DC
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000
HDR = 12
CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG, MQ = 0, 1, 7, 8, 11, 12, 15, 22
INDIRECT, PROTOCOL, VERSION_1 = 28, 30, 32
FEATURES = sum(1 << b for b in (CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG, MQ, INDIRECT, PROTOCOL, VERSION_1))
PROTOCOL_FEATURES = 1 << 0 | 1 << 3  # several queues, acknowledgements
PAIRS = 2
NEXT, WRITE, TABLE = 1, 2, 4


class Memory:
    def __init__(self, payload, fds):
        count, = struct.unpack_from("<I", payload)
        self.regions = []
        for i in range(count):
            guest, size, user, offset = struct.unpack_from("<QQQQ", payload, 8 + 32 * i)
            view = memoryview(mmap.mmap(fds[i], size, offset=offset))
            self.regions.append((guest, user, size, view))
            os.close(fds[i])

    def at(self, addr, size, user=False):
        for guest, base, length, view in self.regions:
            start = base if user else guest
            if start <= addr and addr + size <= start + length:
                return view[addr - start:addr - start + size]
        raise ValueError(f"{addr:#x} is not in memory")


class Ring:
    def __init__(self):
        self.kick = self.call = None
        self.size = self.seen = self.used_at = 0
        self.on = False

    def place(self, memory, desc, used, avail):
        self.memory = memory
        self.desc = memory.at(desc, 16 * self.size, True)
        self.avail = memory.at(avail, 6 + 2 * self.size, True)
        self.used = memory.at(used, 6 + 8 * self.size, True)

    def started(self):
        return self.kick is not None and self.on

    def pop(self):
        """Head, and pieces as (view, writable); or None."""
        if struct.unpack_from("<H", self.avail, 2)[0] == self.seen:
            return None
        head, = struct.unpack_from("<H", self.avail, 4 + 2 * (self.seen % self.size))
        self.seen = (self.seen + 1) & 0xFFFF
        pieces, table, i = [], self.desc, head
        while True:
            addr, size, flags, following = struct.unpack_from("<QIHH", table, 16 * i)
            if flags & TABLE:
                table, i = self.memory.at(addr, size), 0
                continue
            pieces.append((self.memory.at(addr, size), flags & WRITE))
            if not flags & NEXT:
                return head, pieces
            i = following

    def unpop(self):
        self.seen = (self.seen - 1) & 0xFFFF

    def push(self, done):
        """All of [(head, bytes)] become visible together."""
        for head, size in done:
            struct.pack_into("<II", self.used, 4 + 8 * (self.used_at % self.size), head, size)
            self.used_at = (self.used_at + 1) & 0xFFFF
        struct.pack_into("<H", self.used, 2, self.used_at)
        if not struct.unpack_from("<H", self.avail, 0)[0] & 1 and self.call is not None:
            os.write(self.call, struct.pack("<Q", 1))


class Card:
    def __init__(self, connection, tap):
        self.connection, self.tap = connection, tap
        self.rings = [Ring() for _ in range(2 * PAIRS)]
        self.memory, self.features, self.pair = None, 0, 0
        self.waiting = None  # a frame that there was no room for

    # -- the protocol

    def message(self):
        """False: the front end has gone."""
        head, fds, _, _ = socket.recv_fds(self.connection, 12, 8)
        if len(head) < 12:
            return False
        request, flags, size = struct.unpack("<III", head)
        payload = b""
        while len(payload) < size:
            more, extra, _, _ = socket.recv_fds(self.connection, size - len(payload), 8)
            if not more:
                return False
            payload += more
            fds = fds + extra
        reply = self.handle(request, payload, fds)
        if reply is None and flags & 8:
            reply = struct.pack("<Q", 0)
        if reply is not None:
            self.connection.sendall(struct.pack("<III", request, 5, len(reply)) + reply)
        return True

    def handle(self, request, payload, fds):
        first = struct.unpack_from("<II", payload) if len(payload) >= 8 else (0, 0)
        number = first[0] | first[1] << 32
        ring = self.rings[first[0] & 0xFF] if request in (8, 9, 10, 11, 12, 13, 18) else None
        if request == 1:
            return struct.pack("<Q", FEATURES)
        if request == 2:
            self.features = number
            on = [bool(number >> b & 1) for b in (GUEST_CSUM, GUEST_TSO4, GUEST_TSO6)]
            fcntl.ioctl(self.tap, TUNSETOFFLOAD, sum(1 << i for i in range(3) if on[i] and on[0]))
        elif request == 5:
            self.memory = Memory(payload, fds)
        elif request == 8:
            ring.size = first[1]
        elif request == 9:
            desc, used, avail = struct.unpack_from("<QQQ", payload, 8)
            ring.place(self.memory, desc, used, avail)
        elif request == 10:
            ring.seen = ring.used_at = first[1]
        elif request == 11:
            ring.kick, ring.call = self.drop(ring.kick), self.drop(ring.call)
            return struct.pack("<II", first[0], ring.seen)
        elif request == 12:
            ring.kick = fds[0]
        elif request == 13:
            ring.call = self.drop(ring.call) or fds[0]
        elif request == 15:
            return struct.pack("<Q", PROTOCOL_FEATURES)
        elif request == 17:
            return struct.pack("<Q", PAIRS)
        elif request == 18:
            ring.on = bool(first[1])
        elif request not in (3, 16):
            raise ValueError(f"request {request} was not offered")
        return None

    @staticmethod
    def drop(fd):
        if fd is not None:
            os.close(fd)

    # -- frames

    def transmit(self, pair):
        ring, done = self.rings[2 * pair + 1], []
        while ring.started() and len(done) < 64:
            chain = ring.pop()
            if not chain:
                break
            head, pieces = chain
            try:
                os.write(self.tap, b"".join(view for view, writable in pieces if not writable))
            except BlockingIOError:
                ring.unpop()
                break
            self.pair = pair
            done.append((head, 0))
        if done:
            ring.push(done)
        return len(done) == 64

    def receive(self, frame):
        """False: no room."""
        pair = self.pair if self.rings[2 * self.pair].started() else 0
        ring, done, at, count = self.rings[2 * pair], [], 0, None
        if not ring.started():
            return True
        while at < len(frame):
            chain = ring.pop()
            if not chain:
                for _ in done:
                    ring.unpop()
                return False
            head, pieces = chain
            here = at
            for view, _ in pieces:
                part = frame[at:at + len(view)]
                view[:len(part)] = part
                count = view if at == 0 else count
                at += len(part)
            done.append((head, at - here))
            if not self.features >> MRG & 1:
                break
        struct.pack_into("<H", count, 10, len(done))
        ring.push(done)
        return True

    def run(self):
        while True:
            kicks = [r.kick for r in self.rings if r.kick is not None]
            ready = select.select([self.connection, *kicks] + ([] if self.waiting else [self.tap]), [], [])[0]
            if self.connection in ready and not self.message():
                return
            for fd in kicks:
                if fd in ready and any(r.kick == fd for r in self.rings):
                    os.read(fd, 8)
            more = True
            while more:
                more = any([self.transmit(pair) for pair in range(PAIRS)])
            for _ in range(64):
                try:
                    self.waiting = self.waiting or os.read(self.tap, 70000)
                except BlockingIOError:
                    break
                if not self.receive(self.waiting):
                    break
                self.waiting = None


def main():
    path, name = sys.argv[1:]
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(tap, TUNSETVNETHDRSZ, array.array("i", [HDR]))
    fcntl.ioctl(tap, TUNSETVNETLE, array.array("i", [1]))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    while True:
        Card(listener.accept()[0], tap).run()


if __name__ == "__main__":
    main()
