// same.js: see same.py.
const M = 2147483647;
const step = x => x * 16807 % M;

function primes(n) {
	const sieve = new Uint8Array(n).fill(1);
	let count = 0;
	for (let i = 2; i < n; i++)
		if (sieve[i]) {
			count++;
			for (let j = i * i; j < n; j += i)
				sieve[j] = 0;
		}
	return count;
}

function ordered(n) {
	const values = [];
	let x = 42, total = 0;
	for (let i = 0; i < n; i++) {
		x = step(x);
		values.push(x % 1000003);
	}
	values.sort((a, b) => a - b);
	for (let i = 0; i < n; i++)
		total = (total * 31 + values[i]) % 1000000007;
	return total;
}

function text(n) {
	const words = {};
	let x = 7, h = 0;
	for (let i = 0; i < n; i++) {
		x = step(x);
		const word = "w" + x % 5003;
		words[word] = (words[word] || 0) + 1;
		for (let c = 0; c < word.length; c++)
			h = (h * 31 + word.charCodeAt(c)) % 1000000007;
	}
	return h * 10000 + Object.keys(words).length;
}

function orbit(n) {
	const dt = 1.0 / 4096.0;
	let px = 1.0, py = 0.0, vx = 0.0, vy = 1.1;
	for (let i = 0; i < n; i++) {
		const r = px * px + py * py;
		const d = dt / (r * Math.sqrt(r));
		vx -= px * d;
		vy -= py * d;
		px += vx * dt;
		py += vy * dt;
	}
	return Math.floor(px * 1e9) * 7 + Math.floor(py * 1e9);
}

class Shape { constructor(a) { this.a = a; } }
class Square extends Shape { area() { return this.a * this.a % 65537; } }
class Strip extends Shape { area() { return this.a * 3 + 1; } }

function calls(n) {
	const shapes = [new Square(3), new Strip(5), new Square(7), new Strip(9)];
	let x = 11, total = 0;
	for (let i = 0; i < n; i++) {
		x = step(x);
		const s = shapes[x % 4];
		total = (total + s.area()) % 1000000007;
		s.a = (s.a + x) % 1009;
	}
	return total;
}

const fib = n => n < 2 ? n : fib(n - 1) + fib(n - 2);

console.log("primes", primes(1000000));
console.log("ordered", ordered(200000));
console.log("text", text(200000));
console.log("orbit", orbit(1000000));
console.log("calls", calls(1000000));
console.log("fib", fib(27));
