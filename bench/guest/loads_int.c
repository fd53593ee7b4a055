/* loads_int.c: integer, branchy and pointer code. */
#include <stdlib.h>
#include <string.h>
#include "cpubench.h"

/* List, matrix and state machine in turn, as embedded benchmarks have them. */
struct node {
	struct node *next;
	uint32_t key, value;
};

static uint32_t list_work(struct node *nodes, unsigned n, uint32_t seed)
{
	struct node *head = NULL;
	uint32_t sum = 0;

	for (unsigned i = 0; i < n; i++) {
		struct node *p = &nodes[i], **at = &head;
		p->key = random_next(&seed) & 1023;
		p->value = p->key * 3 + i;
		while (*at && (*at)->key < p->key)
			at = &(*at)->next;
		p->next = *at;
		*at = p;
	}
	for (struct node *p = head; p; p = p->next)
		sum = sum * 31 + p->value;
	return sum;
}

static uint32_t matrix_work(int16_t *a, int16_t *b, int32_t *c, unsigned n)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		for (unsigned j = 0; j < n; j++) {
			int32_t s = 0;
			for (unsigned k = 0; k < n; k++) {
				s += a[i * n + k] * b[k * n + j];
				__asm__("" : "+r"(s)); /* scalar: vectors have loads of their own */
			}
			c[i * n + j] = s;
			sum += (uint32_t)s >> (j & 7);
		}
	return sum;
}

static uint32_t state_work(const char *text)
{
	enum { START, DIGITS, SIGN, POINT, EXPONENT, BAD } state = START;
	uint32_t counts[6] = {0};

	for (; *text; text++) {
		char c = *text;
		switch (state) {
		case START:
			state = c == '-' || c == '+' ? SIGN : c >= '0' && c <= '9' ? DIGITS : BAD;
			break;
		case SIGN: state = c >= '0' && c <= '9' ? DIGITS : BAD; break;
		case DIGITS:
			state = c == '.'	       ? POINT
				: c == 'e'	       ? EXPONENT
				: c >= '0' && c <= '9' ? DIGITS
						       : BAD;
			break;
		case POINT: state = c == 'e' ? EXPONENT : c >= '0' && c <= '9' ? POINT : BAD; break;
		case EXPONENT:
			state = c == ',' ? START : c >= '0' && c <= '9' ? EXPONENT : BAD;
			break;
		case BAD: state = c == ',' ? START : BAD; break;
		}
		if (c == ',')
			state = START;
		counts[state]++;
	}
	return counts[0] + counts[1] * 3 + counts[3] * 7 + counts[5] * 11;
}

static uint64_t mix_run(uint64_t n)
{
	static struct node nodes[96];
	static int16_t a[24 * 24], b[24 * 24];
	static int32_t c[24 * 24];
	uint32_t seed = 12345, sum = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(a); i++) {
		a[i] = (int16_t)random_next(&seed);
		b[i] = (int16_t)random_next(&seed);
	}
	for (; n; n--) {
		sum += list_work(nodes, ARRAY_SIZE(nodes), seed + (uint32_t)n);
		sum += matrix_work(a, b, c, 24);
		for (int i = 0; i < 8; i++)
			sum += state_work("12,-3.5e10,+77,abc,9.99,1e5,-0.001,x,123456,+e,5.5e");
	}
	return sum;
}

static uint64_t sieve_run(uint64_t n)
{
	static uint8_t composite[1 << 16];
	uint64_t primes = 0;

	for (; n; n--) {
		memset(composite, 0, sizeof(composite));
		for (unsigned i = 2; i < sizeof(composite); i++) {
			if (composite[i])
				continue;
			primes++;
			for (unsigned k = i * 2; k < sizeof(composite); k += i)
				composite[k] = 1;
		}
	}
	return primes;
}

static __attribute__((noinline)) uint64_t fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t recursion_run(uint64_t n)
{
	uint64_t sum = 0;

	for (; n; n--)
		sum += fib(16 + (n & 1));
	return sum;
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t qsort_run(uint64_t n)
{
	static uint32_t v[1000];
	uint32_t seed = 99;

	for (; n; n--) {
		for (unsigned i = 0; i < ARRAY_SIZE(v); i++)
			v[i] = random_next(&seed);
		qsort(v, ARRAY_SIZE(v), sizeof(v[0]), compare_u32);
	}
	return v[17];
}

typedef uint32_t step_fn(uint32_t);
static __attribute__((noinline)) uint32_t step_add(uint32_t x)
{
	return x + 7;
}
static __attribute__((noinline)) uint32_t step_xor(uint32_t x)
{
	return x ^ 0x55;
}
static __attribute__((noinline)) uint32_t step_mul(uint32_t x)
{
	return x * 3;
}
static __attribute__((noinline)) uint32_t step_rot(uint32_t x)
{
	return x << 5 | x >> 27;
}

static uint64_t indirect_run(uint64_t n)
{
	static step_fn *volatile const steps[4] = {step_add, step_xor, step_mul, step_rot};
	uint32_t x = 1;

	for (n *= 1000; n; n--)
		x = steps[(x >> 3 ^ n) & 3](x);
	return x;
}

/* A byte code interpreter: one indirect jump for each instruction. */
static uint64_t bytecode_run(uint64_t n)
{
	enum { PUSH, ADD, DUP, MUL, DROP, LOOP, HALT };
	static const uint8_t code[] = {PUSH, 3, PUSH, 5, ADD, DUP, MUL, DROP, LOOP, HALT};
	static void *const ops[] = {&&push, &&add, &&dup, &&mul, &&drop, &&loop, &&halt};
	static const uint8_t *volatile const program = code; /* not known to the compiler */
	uint64_t sum = 0, stack[8], *sp;

	for (; n; n--) {
		const uint8_t *start = program, *pc = start;
		unsigned left = 100;
		sp = stack;
#define NEXT goto *ops[*pc++]
		NEXT;
	push:
		*sp++ = *pc++;
		NEXT;
	add:
		sp--;
		sp[-1] += sp[0];
		NEXT;
	dup:
		*sp = sp[-1];
		sp++;
		NEXT;
	mul:
		sp--;
		sp[-1] *= sp[0];
		NEXT;
	drop:
		sum += *--sp;
		NEXT;
	loop:
		pc = --left ? start : pc;
		NEXT;
	halt:
		continue;
	}
	return sum;
}

static uint64_t crc_run(uint64_t n)
{
	static uint32_t table[256];
	static uint8_t data[4096];
	uint32_t crc = ~0u;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
		table[i] = c;
		data[i] = (uint8_t)c;
	}
	for (; n; n--)
		for (unsigned i = 0; i < sizeof(data); i++)
			crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
	return crc;
}

static uint32_t rotr(uint32_t x, unsigned n)
{
	return x >> n | x << (32 - n);
}

static void sha256_block(uint32_t h[8], const uint8_t *p)
{
	static uint32_t k[64];
	uint32_t w[64], s[8];

	/* Constants of the right kind; the digest is compared with nothing. */
	if (!k[0])
		for (uint32_t i = 0, x = 0x9e3779b9; i < 64; i++)
			k[i] = random_next(&x);
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[i * 4] << 24 | (uint32_t)p[i * 4 + 1] << 16 |
		       (uint32_t)p[i * 4 + 2] << 8 | p[i * 4 + 3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] +
		       (rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = s[7] + (rotr(s[4], 6) ^ rotr(s[4], 11) ^ rotr(s[4], 25)) +
			      ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t t2 = (rotr(s[0], 2) ^ rotr(s[0], 13) ^ rotr(s[0], 22)) +
			      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
		memmove(s + 1, s, 7 * sizeof(s[0]));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

static uint64_t sha256_run(uint64_t n)
{
	static uint8_t data[4096];
	uint32_t h[8] = {1, 2, 3, 4, 5, 6, 7, 8};

	for (; n; n--)
		for (unsigned at = 0; at < sizeof(data); at += 64)
			sha256_block(h, data + at);
	return h[0];
}

const struct load loads_int[] = {
    {"mix", "integer", mix_run, NULL},
    {"sieve", "integer", sieve_run, NULL},
    {"recursion", "integer", recursion_run, NULL},
    {"qsort", "integer", qsort_run, NULL},
    {"indirect", "integer", indirect_run, NULL},
    {"bytecode", "integer", bytecode_run, NULL},
    {"crc32", "integer", crc_run, NULL},
    {"sha256", "integer", sha256_run, NULL},
    {NULL, NULL, NULL, NULL},
};
