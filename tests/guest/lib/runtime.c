/* runtime.c: printing, selecting and running the tests, leaving through the debug exit port. */
#include "runtime.h"

#include <stdarg.h>

extern const struct test __start_tests[], __stop_tests[];

static struct jump test_jump;
static const char *skip_reason;

static void put_char(char c)
{
	while (!(inb(0x3f8 + 5) & 0x20))
		;
	outb(0x3f8, (uint8_t)c);
}

/* Decimal numbers have 32 bits: no division of 64 bits in 32-bit code. */
static void put_number(uint64_t v, unsigned base)
{
	char digits[24];
	int n = 0;

	do {
		unsigned digit = base == 16 ? (unsigned)v & 15 : (uint32_t)v % 10;

		digits[n++] = "0123456789abcdef"[digit];
		v = base == 16 ? v >> 4 : (uint32_t)v / 10;
	} while (v);
	while (n)
		put_char(digits[--n]);
}

static void put_string(const char *s)
{
	for (; *s; s++)
		put_char(*s);
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	for (; *fmt; fmt++) {
		int longs = 0;

		if (*fmt != '%') {
			put_char(*fmt);
			continue;
		}
		while (*++fmt == 'l')
			longs++;
		switch (*fmt) {
		case 's': put_string(va_arg(ap, const char *)); break;
		case 'c': put_char((char)va_arg(ap, int)); break;
		case 'd':
		case 'u':
			put_number(longs ? va_arg(ap, unsigned long) : va_arg(ap, unsigned), 10);
			break;
		case 'x':
			put_number(longs == 2	? va_arg(ap, unsigned long long)
				   : longs == 1 ? va_arg(ap, unsigned long)
						: va_arg(ap, unsigned),
				   16);
			break;
		default: put_char(*fmt); break;
		}
	}
	va_end(ap);
}

int strings_equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

void *memset(void *p, int c, unsigned long n)
{
	for (unsigned char *b = p; n--;)
		*b++ = (unsigned char)c;
	return p;
}

void *memcpy(void *to, const void *from, unsigned long n)
{
	unsigned char *d = to;

	for (const unsigned char *s = from; n--;)
		*d++ = *s++;
	return to;
}

int memcmp(const void *a, const void *b, unsigned long n)
{
	const unsigned char *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

void test_fail(const char *file, int line, const char *what, uint64_t got, uint64_t want)
{
	print("\n  %s:%d: %s (got 0x%llx, want 0x%llx)\n", file, line, what,
	      (unsigned long long)got, (unsigned long long)want);
	jump_to(&test_jump, 1);
}

void test_skip(const char *why)
{
	skip_reason = why;
	jump_to(&test_jump, 2);
}

/* Is `word` among the command line's? */
int cmdline_has(const char *word)
{
	const char *p = guest_cmdline;

	while (*p) {
		const char *w = word;
		while (*p == ' ')
			p++;
		while (*p && *p != ' ' && *p == *w)
			p++, w++;
		if (!*w && (!*p || *p == ' '))
			return 1;
		while (*p && *p != ' ')
			p++;
	}
	return 0;
}

/* Words that are not switches select; without any, everything runs. */
static int selects_anything(void)
{
	for (const struct test *t = __start_tests; t < __stop_tests; t++)
		if (cmdline_has(t->group) || cmdline_has(t->name))
			return 1;
	return 0;
}

void guest_exit(unsigned value)
{
	outl(0xf4, value);
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* What a test needs and this run has not, or NULL. */
static const char *missing(unsigned flags)
{
	if ((flags & NEEDS_SSE) && cmdline_has("nosse"))
		return "no floating point or vector instructions here";
	if ((flags & NEEDS_REAL) && cmdline_has("slow"))
		return "the emulator behind /dev/kvm cannot do this";
	if ((flags & NEEDS_OWN_APIC) && cmdline_has("kvm"))
		return "the host kernel's local APIC keeps no errors";
	if ((flags & NEEDS_SMP) && cpu_count() < 2)
		return "one CPU";
	return 0;
}

void run_tests(void)
{
	volatile unsigned passed = 0, failed = 0, skipped = 0; /* survive the jump back */
	int select = selects_anything();

	for (const struct test *t = __start_tests; t < __stop_tests; t++) {
		int how;

		if (select && !cmdline_has(t->group) && !cmdline_has(t->name))
			continue;
		if (missing(t->flags)) {
			print("skip %s/%s: %s\n", t->group, t->name, missing(t->flags));
			skipped = skipped + 1;
			continue;
		}
		print("%s/%s ", t->group, t->name);
		how = jump_save(&test_jump);
		if (!how)
			t->fn();
		test_cleanup();
		if (how == 2)
			print("skipped: %s\n", skip_reason);
		else
			print(how ? "FAIL\n" : "ok\n");
		passed = passed + (how == 0);
		failed = failed + (how == 1);
		skipped = skipped + (how == 2);
	}
	print("guest tests: %u passed, %u failed, %u skipped\n", passed, failed, skipped);
	guest_exit(failed || !passed ? 0x11 : 0x10);
}
