"""compute.py: what a Python program does all day: ROUNDS of small jobs, and a digest of what each computed."""
import decimal
import functools
import hashlib
import heapq
import json
import math
import re
import sys
import zlib


class Random:
    """Numbers that are the same everywhere."""

    def __init__(self, seed):
        self.state = seed

    def next(self, bound):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return (self.state >> 33) % bound


def words(r):
    text = " ".join("".join(chr(97 + r.next(26)) for _ in range(2 + r.next(6))) for _ in range(6000))
    counts = {}
    for w in re.findall(r"[a-z]*[aeiou][a-z]{1,4}\b", text):
        counts[w] = counts.get(w, 0) + 1
    return sorted(counts.items(), key=lambda x: (-x[1], x[0]))[:200], re.sub(r"([aeiou])([a-z])", r"\2\1", text)[:1000]


def bodies(r):
    state = [[r.next(1000) / 100 for _ in range(6)] + [1 + r.next(10)] for _ in range(6)]
    for _ in range(600):
        for i, a in enumerate(state):
            for b in state[i + 1:]:
                dx, dy, dz = a[0] - b[0], a[1] - b[1], a[2] - b[2]
                m = 0.001 / ((dx * dx + dy * dy + dz * dz + 0.01) * math.sqrt(dx * dx + dy * dy + dz * dz + 0.01))
                for k, d in enumerate((dx, dy, dz)):
                    a[3 + k] -= d * b[6] * m
                    b[3 + k] += d * a[6] * m
        for a in state:
            for k in range(3):
                a[k] += 0.001 * a[3 + k]
    return state


def documents(r):
    tree = [{"id": i, "name": f"item {r.next(1000)}", "tags": [f"t{r.next(20)}" for _ in range(5)], "price": r.next(100000) / 100,
             "nested": {"deep": [r.next(9), None, True]}} for i in range(1200)]
    again = json.loads(json.dumps(tree, sort_keys=True))
    return again == tree, json.dumps(sorted(again, key=lambda d: (d["price"], d["id"])), indent=1)


def sieve(r):
    n = 60000 + r.next(1000)
    flags = bytearray([1]) * n
    for i in range(2, int(n ** 0.5) + 1):
        if flags[i]:
            flags[i * i::i] = bytes(len(range(i * i, n, i)))
    return sum(i for i in range(2, n) if flags[i])


class Node:
    __slots__ = ("key", "left", "right")

    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        node = self
        while key != node.key:
            side = "left" if key < node.key else "right"
            child = getattr(node, side)
            if child is None:
                setattr(node, side, Node(key))
                return
            node = child

    def walk(self):
        if self.left:
            yield from self.left.walk()
        yield self.key
        if self.right:
            yield from self.right.walk()


def trees(r):
    root = Node(r.next(1 << 30))
    for _ in range(5000):
        root.insert(r.next(1 << 30))
    return list(root.walk())


def graph(r):
    edges = {i: [(r.next(1500), 1 + r.next(100)) for _ in range(5)] for i in range(1500)}
    best, queue = {}, [(0, 0)]
    while queue:
        distance, at = heapq.heappop(queue)
        if at not in best:
            best[at] = distance
            for to, cost in edges[at]:
                heapq.heappush(queue, (distance + cost, to))
    return sorted(best.items())


def numbers(r):
    @functools.lru_cache(maxsize=None)
    def partitions(n, k):
        return 1 if n == 0 else 0 if n < 0 or k == 0 else partitions(n - k, k) + partitions(n, k - 1)

    decimal.getcontext().prec = 60
    root = sum(decimal.Decimal(r.next(1000) + 1).sqrt() for _ in range(500))
    return partitions(90, 90), str(root), pow(3, 3000 + r.next(100)) % (10 ** 40), math.factorial(600) % 1000003


def packing(r):
    data = bytes(r.next(16) * r.next(16) for _ in range(30000))
    packed = zlib.compress(data, 6)
    return zlib.decompress(packed) == data, hashlib.sha256(data).hexdigest(), zlib.crc32(data)


JOBS = (words, bodies, documents, sieve, trees, graph, numbers, packing)


def main():
    rounds = int(sys.argv[1])
    for job in JOBS:
        digest = hashlib.sha256()
        r = Random(len(job.__name__))
        for _ in range(rounds):
            digest.update(repr(job(r)).encode())
        print(job.__name__, digest.hexdigest()[:16])


if __name__ == "__main__":
    main()
