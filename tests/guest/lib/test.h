/* test.h: what a bare-metal test can use: checks, faults, ports, CPUs. */
#ifndef GUEST_TEST_H
#define GUEST_TEST_H

#include <stdint.h>

typedef _Bool bool;

enum test_flags { NEEDS_SSE = 1, NEEDS_SMP = 2, NEEDS_REAL = 4, NEEDS_OWN_APIC = 8 };

struct test {
	const char *group, *name;
	void (*fn)(void);
	unsigned flags;
	unsigned pad;
};

#define TEST_(group_, name_, flags_)                                                               \
	static void test_##name_(void);                                                            \
	static const struct test entry_##name_                                                     \
	    __attribute__((used, section("tests"), aligned(sizeof(void *)))) = {                   \
		#group_, #name_, test_##name_, flags_, 0};                                         \
	static void test_##name_(void)
#define TEST(group, name)     TEST_(group, name, 0)
#define TEST_SSE(group, name) TEST_(group, name, NEEDS_SSE)
#define TEST_SMP(group, name) TEST_(group, name, NEEDS_SMP)

/* Needs a real CPU or our own engine: no emulator behind /dev/kvm can do it (word "slow"). */
#define TEST_REAL(group, name) TEST_(group, name, NEEDS_REAL)
/* Looks at what the local APIC in the host's kernel (word "kvm") leaves out. */
#define TEST_OWN_APIC(group, name) TEST_(group, name, NEEDS_OWN_APIC)

/* A check that fails ends the test with the place and both values. */
void test_fail(const char *file, int line, const char *what, uint64_t got, uint64_t want)
    __attribute__((noreturn));
#define check(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			test_fail(__FILE__, __LINE__, #cond, 0, 1);                                \
	} while (0)
#define check_eq(got, want)                                                                        \
	do {                                                                                       \
		uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);                         \
		if (got_ != want_)                                                                 \
			test_fail(__FILE__, __LINE__, #got " == " #want, got_, want_);             \
	} while (0)
/* Ends the test as skipped. */
void test_skip(const char *why) __attribute__((noreturn));

void print(const char *fmt, ...)
    __attribute__((format(printf, 1, 2))); /* %s %d %u %x %lx %llx %c only */

#endif
