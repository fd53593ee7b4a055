// Same.java: see same.py.
import java.util.Arrays;
import java.util.HashMap;

public class Same {
	static long step(long x) { return x * 16807 % 2147483647L; }

	static long primes(int n) {
		boolean[] not = new boolean[n];
		long count = 0;
		for (int i = 2; i < n; i++)
			if (!not[i]) {
				count++;
				for (long j = (long) i * i; j < n; j += i)
					not[(int) j] = true;
			}
		return count;
	}

	static long ordered(int n) {
		long x = 42, total = 0;
		long[] values = new long[n];
		for (int i = 0; i < n; i++) {
			x = step(x);
			values[i] = x % 1000003;
		}
		Arrays.sort(values);
		for (long v : values)
			total = (total * 31 + v) % 1000000007;
		return total;
	}

	static long text(int n) {
		long x = 7, h = 0;
		HashMap<String, Integer> words = new HashMap<>();
		for (int i = 0; i < n; i++) {
			x = step(x);
			String word = "w" + x % 5003;
			words.merge(word, 1, Integer::sum);
			for (int c = 0; c < word.length(); c++)
				h = (h * 31 + word.charAt(c)) % 1000000007;
		}
		return h * 10000 + words.size();
	}

	static long orbit(int n) {
		double px = 1.0, py = 0.0, vx = 0.0, vy = 1.1, dt = 1.0 / 4096.0;
		for (int i = 0; i < n; i++) {
			double r = px * px + py * py;
			double d = dt / (r * Math.sqrt(r));
			vx -= px * d;
			vy -= py * d;
			px += vx * dt;
			py += vy * dt;
		}
		return (long) Math.floor(px * 1e9) * 7 + (long) Math.floor(py * 1e9);
	}

	abstract static class Shape {
		long a;
		Shape(long a) { this.a = a; }
		abstract long area();
	}

	static class Square extends Shape {
		Square(long a) { super(a); }
		long area() { return a * a % 65537; }
	}

	static class Strip extends Shape {
		Strip(long a) { super(a); }
		long area() { return a * 3 + 1; }
	}

	static long calls(int n) {
		Shape[] shapes = {new Square(3), new Strip(5), new Square(7), new Strip(9)};
		long x = 11, total = 0;
		for (int i = 0; i < n; i++) {
			x = step(x);
			Shape s = shapes[(int) (x % 4)];
			total = (total + s.area()) % 1000000007;
			s.a = (s.a + x) % 1009;
		}
		return total;
	}

	static long fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

	public static void main(String[] args) {
		System.out.println("primes " + primes(1000000));
		System.out.println("ordered " + ordered(200000));
		System.out.println("text " + text(200000));
		System.out.println("orbit " + orbit(1000000));
		System.out.println("calls " + calls(1000000));
		System.out.println("fib " + fib(27));
	}
}
