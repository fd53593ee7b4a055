# same.py: the same small program as same.js, same.lua and Same.java: all print the same lines.
import math

M = 2147483647


def step(x):
    return x * 16807 % M


def primes(n):
    sieve, count = bytearray([1]) * n, 0
    for i in range(2, n):
        if sieve[i]:
            count += 1
            for j in range(i * i, n, i):
                sieve[j] = 0
    return count


def ordered(n):
    x, values, total = 42, [], 0
    for _ in range(n):
        x = step(x)
        values.append(x % 1000003)
    values.sort()
    for i in range(n):
        total = (total * 31 + values[i]) % 1000000007
    return total


def text(n):
    x, h, words = 7, 0, {}
    for _ in range(n):
        x = step(x)
        word = "w" + str(x % 5003)
        words[word] = words.get(word, 0) + 1
        for c in word:
            h = (h * 31 + ord(c)) % 1000000007
    return h * 10000 + len(words)


def orbit(n):
    px, py, vx, vy, dt = 1.0, 0.0, 0.0, 1.1, 1.0 / 4096.0
    for _ in range(n):
        r = px * px + py * py
        d = dt / (r * math.sqrt(r))
        vx -= px * d
        vy -= py * d
        px += vx * dt
        py += vy * dt
    return math.floor(px * 1e9) * 7 + math.floor(py * 1e9)


class Shape:
    def __init__(self, a):
        self.a = a


class Square(Shape):
    def area(self):
        return self.a * self.a % 65537


class Strip(Shape):
    def area(self):
        return self.a * 3 + 1


def calls(n):
    x, total, shapes = 11, 0, [Square(3), Strip(5), Square(7), Strip(9)]
    for _ in range(n):
        x = step(x)
        s = shapes[x % 4]
        total = (total + s.area()) % 1000000007
        s.a = (s.a + x) % 1009
    return total


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


print("primes", primes(1000000))
print("ordered", ordered(200000))
print("text", text(200000))
print("orbit", orbit(1000000))
print("calls", calls(1000000))
print("fib", fib(27))
