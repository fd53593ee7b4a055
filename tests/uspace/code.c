/* code.c: probes of code: made while it runs, of 32 bits, in the vsyscall page; string instructions
 * cut by faults. */
#define _GNU_SOURCE
#include "uspace.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int call(const void *p)
{
	return ((int (*)(void))(uintptr_t)p)();
}
static void put_return(uint8_t *p, unsigned v)
{
	p[0] = 0xb8;
	memcpy(p + 1, &v, 4);
	p[5] = 0xc3;
}

static void written(void)
{
	uint8_t *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned n = quick ? 500 : 5000;

	CHECK(p != MAP_FAILED);
	for (unsigned i = 0; i < n; i++) { /* beside what runs, across a page's end among it */
		uint8_t *at = p + i * 7 % (3 * PAGE);
		put_return(at, i + 1);
		CHECK(call(at) == (int)i + 1);
	}
	put_return(p + PAGE - 3, 1);
	for (unsigned i = 0; i < n; i++) { /* the immediate lies in two pages */
		p[PAGE - 2 + i % 4] = (uint8_t)(i * 3);
		unsigned want;
		memcpy(&want, p + PAGE - 2, 4);
		CHECK(call(p + PAGE - 3) == (int)want);
	}
	for (unsigned i = 0; i < n / 4; i++) { /* writable or executable, never both */
		CHECK(!mprotect(p, PAGE, PROT_READ | PROT_WRITE));
		put_return(p, i * 2);
		CHECK(!mprotect(p, PAGE, PROT_READ | PROT_EXEC) && call(p) == (int)i * 2);
	}
	int fd = memory_file(PAGE); /* writable here, executable there */
	uint8_t *w = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint8_t *x = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	for (unsigned i = 0; i < n; i++) {
		put_return(w + i % 4000, i + 9);
		CHECK(call(x + i % 4000) == (int)i + 9);
	}
	for (unsigned i = 0; i < n / 10; i++) { /* the file written by the kernel */
		uint8_t code[6];
		put_return(code, i + 77);
		CHECK(pwrite(fd, code, 6, 128) == 6 && call(x + 128) == (int)i + 77);
	}
	for (unsigned i = 0; i < n / 10; i++) { /* another page at the same place */
		uint8_t *q = mmap(p + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		CHECK(q == p + 2 * PAGE);
		put_return(q, i);
		CHECK(call(q) == (int)i);
	}
	/* A loop that changes its own body. */
	static const uint8_t self[] = {
	    0x48, 0x8d, 0x3d, 0x06, 0,	  0, 0, /* lea 6(%rip), %rdi: the immediate below, less one
						 */
	    0x31, 0xc0, 0xb9, 0x64, 0,	  0, 0, /* xor %eax, %eax; mov $100, %ecx */
	    0x05, 0x01, 0,    0,    0,		/* add $1, %eax */
	    0xff, 0x47, 0x01, 0x83, 0xe9, 1, 0x75, 0xf3,
	    0xc3}; /* incl 1(%rdi); sub $1, %ecx; jnz; ret */
	memcpy(p, self, 0);
	uint8_t *s = p + 3 * PAGE;
	memcpy(s, self, sizeof(self));
	s[3] = 7;
	CHECK(call(s) == 5050);
}

static atomic_uint turn;
static uint8_t *shared_code;
static void *coder(void *arg)
{
	for (unsigned i = 1; i < (quick ? 300u : 3000u); i++) {
		while (atomic_load(&turn) != i * 2 - 1)
			sched_yield();
		put_return(shared_code + (i & 7) * 16, i);
		atomic_store(&turn, i * 2);
	}
	return arg;
}
/* One thread writes what the other runs, in turns. */
static void written_by_another(void)
{
	pthread_t t;

	shared_code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(!pthread_create(&t, NULL, coder, NULL));
	for (unsigned i = 1; i < (quick ? 300u : 3000u); i++) {
		atomic_store(&turn, i * 2 - 1);
		while (atomic_load(&turn) != i * 2)
			sched_yield();
		__asm__ volatile("xor %%eax, %%eax\n\tcpuid" ::
				     : "rax", "rbx", "rcx", "rdx"); /* as the manuals want it */
		CHECK(call(shared_code + (i & 7) * 16) == (int)i);
	}
	pthread_join(t, NULL);
}

static uint8_t *cut_page;
static volatile unsigned cuts;
static void on_cut(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)sig;
	if (cuts++ < 3)
		say("cut at %+ld with rcx %ld rsi %+ld rdi %+ld",
		    (long)((uint8_t *)info->si_addr - cut_page),
		    (long)uc->uc_mcontext.gregs[REG_RCX],
		    (long)(uc->uc_mcontext.gregs[REG_RSI] - (greg_t)(uintptr_t)cut_page),
		    (long)(uc->uc_mcontext.gregs[REG_RDI] - (greg_t)(uintptr_t)cut_page));
	uint64_t at = (uint64_t)info->si_addr & ~(PAGE - 1);
	mprotect((void *)at, PAGE, PROT_READ | PROT_WRITE);
}
static void strings_cut(void)
{
	struct sigaction act = {.sa_sigaction = on_cut, .sa_flags = SA_SIGINFO};
	uint8_t *p = map_rw(16 * PAGE);

	sigaction(SIGSEGV, &act, NULL);
	cut_page = p;
	for (unsigned i = 0; i < 16 * PAGE; i++)
		p[i] = (uint8_t)(i * 7 + i / 251);
#define STRING(text, name, protected, count, from, to, extra)                                      \
	do {                                                                                       \
		uint64_t c = (count), s = (uint64_t)(from), d = (uint64_t)(to), a = (extra), f;    \
		cuts = 0;                                                                          \
		mprotect(p + (protected) * PAGE, 2 * PAGE, PROT_NONE);                             \
		__asm__ volatile(text "\n\tpushf\n\tpop %4\n\tcld"                                 \
				 : "+c"(c), "+S"(s), "+D"(d), "+a"(a), "=r"(f)::"memory", "cc");   \
		say(name ": %u cuts, rcx %lu rsi %+ld rdi %+ld rax %lx flags %lx", cuts, c,        \
		    (long)(s - (uint64_t)p), (long)(d - (uint64_t)p), a, f & 0x8d5);               \
	} while (0)
	STRING("rep movsb", "movsb source", 2, 3 * PAGE, p + PAGE + 5, p + 8 * PAGE + 3, 0);
	CHECK(!memcmp(p + PAGE + 5, p + 8 * PAGE + 3, 3 * PAGE));
	STRING("rep movsb", "movsb target", 9, 3 * PAGE, p + 1 * PAGE + 9, p + 8 * PAGE + 1, 0);
	CHECK(!memcmp(p + PAGE + 9, p + 8 * PAGE + 1, 3 * PAGE));
	STRING("rep movsq", "movsq across", 9, 1000, p + 100, p + 8 * PAGE + 3, 0);
	CHECK(!memcmp(p + 100, p + 8 * PAGE + 3, 8000));
	STRING("std\n\trep movsl", "movsl down", 9, 2000, p + 4 * PAGE - 4, p + 11 * PAGE - 6, 0);
	CHECK(!memcmp(p + 4 * PAGE - 8000, p + 11 * PAGE - 8002, 8000));
	STRING("rep stosw", "stosw", 5, 5000, p, p + 4 * PAGE + 1, 0xabcd);
	CHECK(p[5 * PAGE + 1] == 0xcd && p[5 * PAGE + 2] == 0xab);
	STRING("rep lodsb", "lodsb", 3, 9000, p + 2 * PAGE + 11, p, 0);
	memset(p, 7, 16 * PAGE);
	p[5 * PAGE + 17] = 8;
	STRING("repe scasb", "scasb", 3, 10 * PAGE, p, p + 2 * PAGE, 7);
	STRING("repe cmpsb", "cmpsb", 4, 10 * PAGE, p + 10 * PAGE, p + 3 * PAGE, 0);
	/* Other instructions over the end of a page. */
	mprotect(p + 2 * PAGE, PAGE, PROT_NONE);
	cuts = 100; /* of whose other registers nothing is known */
	uint64_t v = 1;
	__asm__ volatile("lock xaddq %0, (%1)" : "+r"(v) : "r"(p + 2 * PAGE - 3) : "memory");
	say("xadd: %u cuts, %lx", cuts - 100, v);
	mprotect(p + 2 * PAGE, PAGE, PROT_NONE);
	__asm__ volatile(
	    "vmovups (%0), %%ymm1\n\tvmovups %%ymm1, 4096(%0)\n\tvzeroupper" ::"r"(p + 2 * PAGE - 9)
	    : "memory", "xmm1");
	CHECK(!memcmp(p + 2 * PAGE - 9, p + 3 * PAGE - 9, 32));
	mprotect(p + 2 * PAGE, PAGE, PROT_NONE);
	__asm__ volatile("fxsave64 (%0)\n\tfxrstor64 (%0)" ::"r"(p + 2 * PAGE - 256) : "memory");
	mprotect(p + 2 * PAGE, PAGE, PROT_NONE);
	uint64_t sp = (uint64_t)(p + 2 * PAGE + 8);
	__asm__ volatile(
	    "xchg %0, %%rsp\n\tpush $5\n\tpush $6\n\tpop %%rax\n\tpop %%rax\n\txchg %0, %%rsp"
	    : "+r"(sp)::"rax", "memory");
	CHECK(sp == (uint64_t)(p + 2 * PAGE + 8) && p[2 * PAGE] == 5);
}

/* A function in 32-bit code, called through a far call, if the kernel has the segment for it. */
static void bits32(void)
{
	uint8_t *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	static const uint8_t code[] = {
	    0x40,			  /* inc %eax */
	    0x6a, 0x05, 0x5b,		  /* push $5; pop %ebx */
	    0x01, 0xd8,			  /* add %ebx, %eax */
	    0xb9, 0x10, 0x27, 0,    0,	  /* mov $10000, %ecx */
	    0x01, 0xc8, 0x49, 0x75, 0xfb, /* 1: add %ecx, %eax; dec %ecx; jnz 1b */
	    0x8c, 0xca,			  /* mov %cs, %edx */
	    0xcb,			  /* lret */
	};

	CHECK(p != MAP_FAILED);
	memcpy(p, code, sizeof(code));
	static struct {
		uint32_t ip;
		uint16_t cs;
	} __attribute__((packed)) target;
	target.ip = (uint32_t)(uintptr_t)p;
	target.cs = 0x23;
	for (unsigned i = 0; i < 20; i++) {
		uint64_t a = i, d = 0;
		__asm__ volatile("mov %%rsp, %%r12\n\tmov %[stack], %%rsp\n\tmov $0x2b, "
				 "%%ecx\n\tmov %%ecx, %%ds\n\tmov %%ecx, %%es\n\t"
				 "lcall *%[target]\n\txor %%ecx, %%ecx\n\tmov %%ecx, %%ds\n\tmov "
				 "%%ecx, %%es\n\tmov %%r12, %%rsp"
				 : "+a"(a), "+d"(d)
				 : [target] "m"(target), [stack] "r"((uint64_t)p + 2 * PAGE - 64)
				 : "rbx", "rcx", "r12", "memory", "cc");
		CHECK((uint32_t)a == i + 1 + 5 + 50005000 && d == 0x23);
	}
	/* The other way to make system calls, in 64-bit code. */
	for (unsigned i = 0; i < 20; i++) {
		long r = 20; /* getpid */
		__asm__ volatile("int $0x80" : "+a"(r)::"memory", "r8", "r9", "r10", "r11");
		CHECK(r == getpid() || r == -38);
	}
}

static void vsyscall_read(void *p)
{
	(void)*(volatile uint8_t *)p;
}
static void vsyscall_time(void *p)
{
	time_t t = ((time_t(*)(time_t *))0xffffffffff600400)(NULL), now = time(NULL);
	*(int *)p = now - t < 2 && now >= t;
}
static void vsyscall_bad(void *p)
{
	(void)p;
	call((void *)0xffffffffff600123);
}
static void vsyscalls(void)
{
	char line[200];
	int here = 0, good = 1;
	FILE *f = fopen("/proc/self/maps", "r");

	while (f && fgets(line, sizeof(line), f))
		here |= !!strstr(line, "--xp") && strstr(line, "[vsyscall]");
	if (!here)
		return; /* a kernel without, or with a readable one */
	for (unsigned i = 0; i < 20; i++) {
		struct timeval tv = {0};
		struct caught c = caught_in(vsyscall_time, &good);
		CHECK(!c.sig && good);
		long r = ((long (*)(struct timeval *, void *))0xffffffffff600000)(&tv, NULL);
		CHECK(!r && tv.tv_sec + 2 > time(NULL));
		unsigned cpu = 99;
		CHECK(!((long (*)(unsigned *, unsigned *, void *))0xffffffffff600800)(&cpu, NULL,
										      NULL) &&
		      cpu < 99);
	}
	struct caught c = caught_in(vsyscall_read, (void *)0xffffffffff600000);
	struct caught b = caught_in(vsyscall_bad, NULL);
	CHECK(c.sig == SIGSEGV && b.sig == SIGSEGV);
}

const struct probe probes_code[] = {
    {"written", written, 0},	     {"written-by-another", written_by_another, 0},
    {"strings-cut", strings_cut, 0}, {"bits32", bits32, 0},
    {"vsyscalls", vsyscalls, 0},     {0},
};
