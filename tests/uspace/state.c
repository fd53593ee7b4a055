/* state.c: probes of what belongs to a thread: segment bases, selectors, flags, vector and x87
 * registers. */
#define _GNU_SOURCE
#include "uspace.h"
#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t there[64] __attribute__((aligned(64)));

static void wrgs(void *p)
{
	__asm__ volatile("wrgsbase %0" ::"r"(p));
}

static void bases(void)
{
	uint64_t got = 1, *mine = map_rw(2 * PAGE);
	int fsgsbase = !!(getauxval(AT_HWCAP2) & 2);

	mine[3] = 333;
	CHECK(!syscall(SYS_arch_prctl, ARCH_SET_GS, mine));
	__asm__ volatile("mov %%gs:24, %0" : "=r"(got));
	CHECK(got == 333);
	CHECK(!syscall(SYS_arch_prctl, ARCH_GET_GS, &got) && got == (uint64_t)mine);
	CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, UINT64_C(1) << 60) == -1);
	say("strange base: %s", strerror(errno));
	if (fsgsbase) {
		for (uint64_t i = 0; i < 2000; i++) {
			__asm__ volatile("wrgsbase %0" ::"r"(mine + i % 64));
			mine[i % 64] = i * 5;
			if (i % 3 == 0)
				sched_yield();
			__asm__ volatile("mov %%gs:0, %0" : "=r"(got));
			CHECK(got == i * 5);
			__asm__ volatile("rdgsbase %0" : "=r"(got));
			CHECK(got == (uint64_t)(mine + i % 64));
		}
		CHECK(!syscall(SYS_arch_prctl, ARCH_GET_GS, &got) &&
		      got == (uint64_t)(mine + 1999 % 64));
		struct caught c = caught_in(wrgs, (void *)(UINT64_C(1) << 60));
		say("wrgsbase of a strange one: SIG%s", signal_short(c.sig));
		/* In the kernel's half one may point, but not read. */
		__asm__ volatile("wrgsbase %0" ::"r"(UINT64_C(0xffffffff81000000)));
		getpid();
		__asm__ volatile("rdgsbase %0" : "=r"(got));
		CHECK(got == UINT64_C(0xffffffff81000000));
	}
	syscall(SYS_arch_prctl, ARCH_SET_GS, mine);
	pid_t pid = fork();
	int status;
	if (!pid) {
		__asm__ volatile("mov %%gs:24, %0" : "=r"(got));
		_exit(got == mine[3] ? 0 : 1);
	}
	CHECK(waitpid(pid, &status, 0) == pid && !status);
	uint64_t fs;
	CHECK(!syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) && fs == *(uint64_t *)fs);
	__asm__ volatile("mov %%fs:0, %0" : "=r"(got));
	CHECK(got == fs);
}

static void load_es(void *p)
{
	__asm__ volatile("mov %0, %%es" ::"r"((int)(intptr_t)p));
}
static void load_ss(void *p)
{
	__asm__ volatile("mov %0, %%ss" ::"r"((int)(intptr_t)p));
}

static void selectors(void)
{
	uint16_t cs, ss, ds, es, fs, gs;

	__asm__ volatile("mov %%cs, %0\n\tmov %%ss, %1\n\tmov %%ds, %2\n\tmov %%es, %3\n\tmov "
			 "%%fs, %4\n\tmov %%gs, %5"
			 : "=r"(cs), "=r"(ss), "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs));
	say("cs %x ss %x ds %x es %x fs %x gs %x", cs, ss, ds, es, fs, gs);
	for (int sel = 0; sel < 0x98; sel++) {
		if (sel >= 0x40 && sel < 0x60)
			continue; /* what a kernel without segments of 16 bits has there differs */
		struct caught e = caught_in(load_es, (void *)(intptr_t)sel),
			      s = caught_in(load_ss, (void *)(intptr_t)sel);
		__asm__ volatile("mov %0, %%es\n\tmov %1, %%ss" ::"r"(0), "r"(0x2b));
		if (!e.sig || !s.sig || e.code != SI_KERNEL)
			say("es %x: SIG%s %ld, ss: SIG%s %ld", (unsigned)sel, signal_short(e.sig),
			    e.sig ? (long)e.reg[REG_ERR] : 0, signal_short(s.sig),
			    s.sig ? (long)s.reg[REG_ERR] : 0);
	}
	/* Data segments are kept over everything. */
	for (unsigned i = 0; i < 300; i++) {
		__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" ::"r"(i & 1 ? 0x2b : 0));
		if (i % 5 == 0)
			getpid();
		if (i % 7 == 0)
			sched_yield();
		__asm__ volatile("mov %%ds, %0\n\tmov %%es, %1" : "=r"(ds), "=r"(es));
		CHECK(ds == (i & 1 ? 0x2b : 0) && es == ds);
	}
	__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" ::"r"(0));
	for (unsigned sel = 0x20; sel < 0x38; sel++) {
		uint32_t lar = 0, lsl = 0;
		uint8_t zl, zs, zr, zw;
		__asm__ volatile("lar %6, %0\n\tsetz %1\n\tlsl %6, %2\n\tsetz %3\n\tverr "
				 "%w6\n\tsetz %4\n\tverw %w6\n\tsetz %5"
				 : "+r"(lar), "=q"(zl), "+r"(lsl), "=q"(zs), "=q"(zr), "=q"(zw)
				 : "r"(sel));
		say("%x: lar %x %x lsl %x %x verr %d verw %d", sel, zl, lar, zs, lsl, zr, zw);
	}
}

static void ac_load(void *p)
{
	__asm__ volatile("pushf\n\torl $0x40000, (%%rsp)\n\tpopf\n\tmov 1(%0), "
			 "%%eax\n\tpushf\n\tandl $~0x40000, (%%rsp)\n\tpopf" ::"r"(p)
			 : "eax");
}
static void ac_good(void *p)
{
	__asm__ volatile(
	    "pushf\n\torl $0x40000, (%%rsp)\n\tpopf\n\tmov 4(%0), %%eax\n\tmov 3(%0), "
	    "%%al\n\tmovups 1(%0), %%xmm0\n\tpushf\n\tandl $~0x40000, (%%rsp)\n\tpopf" ::"r"(p)
	    : "eax", "xmm0");
}

static void flags(void)
{
	struct caught c = caught_in(ac_load, there);
	uint64_t f;

	say("unaligned with AC: SIG%s code %d trap %ld at +%ld", signal_short(c.sig), c.code,
	    (long)c.reg[REG_TRAPNO], (long)(c.reg[REG_RIP] - (greg_t)(uintptr_t)ac_load));
	c = caught_in(ac_good, there);
	say("aligned with AC, but for a vector: SIG%s at +%ld", signal_short(c.sig),
	    (long)(c.reg[REG_RIP] - (greg_t)(uintptr_t)ac_good));
	/* What POPF may not change, and what it may. */
	static const uint64_t tries[] = {0x3000,
					 0x4000,
					 0x10000,
					 0x20000,
					 0x80000,
					 0x100000,
					 0x200000,
					 0x400,
					 0x8d5,
					 0x200,
					 0xffffffff003ffed5 & ~UINT64_C(0x40100)};
	for (unsigned i = 0; i < ARRAY_SIZE(tries); i++) {
		__asm__ volatile("pushf\n\tpush %1\n\tpopf\n\tpushf\n\tpop %0\n\tpopf\n\tcld"
				 : "=r"(f)
				 : "r"(tries[i])
				 : "memory", "cc");
		say("popf %lx gives %lx", tries[i], f);
	}
	/* They are kept over system calls and interruptions; AC and ID too. */
	for (unsigned i = 0; i < 100; i++) {
		uint64_t set = 0x202 | (i & 1 ? 0x200000 : 0) | (i & 2 ? 0x40000 : 0) |
			       (i & 4 ? 0x8d5 : 0) | (i & 8 ? 0x400 : 0);
		__asm__ volatile("push %1\n\tpopf\n\tmov $39, %%eax\n\tsyscall\n\tmov $24, "
				 "%%eax\n\tsyscall\n\tpushf\n\tpop %0\n\tpush $0x202\n\tpopf"
				 : "=r"(f)
				 : "r"(set)
				 : "rax", "rcx", "r11", "memory", "cc");
		CHECK(f == set);
	}
}

#define ROUNDS (quick ? 100u : 1500u)

/* Fills all vector and x87 registers with what is a function of `seed`, goes away, and looks. */
static void vectors_hold(unsigned seed)
{
	uint8_t in[16][32] __attribute__((aligned(32))), out[16][32] __attribute__((aligned(32)));
	uint32_t csr = 0x1f80 | (seed % 4) << 13, csr_out;
	uint16_t cw = (uint16_t)(0x37f & ~0x300) | (uint16_t)((seed % 4) << 10) |
		      (seed & 8 ? 0x300 : 0x200),
		 cw_out;
	double st[4], st_out[4];

	for (unsigned r = 0; r < ROUNDS; r++) {
		for (unsigned i = 0; i < sizeof(in); i++)
			((uint8_t *)in)[i] = (uint8_t)(i * 37 + seed * 11 + r);
		for (unsigned i = 0; i < 4; i++)
			st[i] = seed * 1000 + i + r;
#define LD(n) "vmovdqa " #n "*32(%[in]), %%ymm" #n "\n\t"
#define ST(n) "vmovdqa %%ymm" #n ", " #n "*32(%[out])\n\t"
		__asm__ volatile(
		    "ldmxcsr %[csr]\n\tfninit\n\tfldcw %[cw]\n\tfldl (%[st])\n\tfldl "
		    "8(%[st])\n\tfldl 16(%[st])\n\tfldl 24(%[st])\n\t" LD(0) LD(1) LD(2) LD(3) LD(4)
			LD(5) LD(6) LD(7) LD(8) LD(9) LD(10) LD(11) LD(12) LD(13) LD(14)
			    LD(15) "mov $24, %%eax\n\ttest $3, %[r]\n\tjnz 2f\n\tsyscall\n\t2:"
				   "mov $300, %%ecx\n\t3: dec %%ecx\n\tjnz 3b\n\t" ST(0) ST(1) ST(2)
				       ST(3) ST(4) ST(5) ST(6) ST(7) ST(8) ST(9) ST(10) ST(11)
					   ST(12) ST(13) ST(14)
					       ST(15) "stmxcsr %[csro]\n\tfnstcw %[cwo]\n\tfstpl "
						      "24(%[sto])\n\tfstpl 16(%[sto])\n\tfstpl "
						      "8(%[sto])\n\tfstpl (%[sto])\n\t"
						      "vzeroupper"
		    : [csro] "=m"(csr_out), [cwo] "=m"(cw_out)
		    : [in] "r"(in), [out] "r"(out), [st] "r"(st), [sto] "r"(st_out), [csr] "m"(csr),
		      [cw] "m"(cw), [r] "r"(r)
		    : "rax", "rcx", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
		      "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
		      "xmm14", "xmm15");
		CHECK(!memcmp(in, out, sizeof(in)) && csr_out == csr && cw_out == cw &&
		      !memcmp(st, st_out, sizeof(st)));
	}
	__asm__ volatile("fninit");
}
static void *vector_thread(void *arg)
{
	vectors_hold((unsigned)(uintptr_t)arg);
	return NULL;
}
static void vectors(void)
{
	pthread_t t[3];
	pid_t pid[2];
	int status;
	unsigned a, b, c = 0, d;

	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 32))
		return;
	for (unsigned i = 0; i < 2; i++) {
		pid[i] = fork();
		if (!pid[i]) {
			vectors_hold(20 + i);
			_exit(0);
		}
	}
	for (unsigned i = 0; i < 3; i++)
		CHECK(!pthread_create(&t[i], NULL, vector_thread, (void *)(uintptr_t)(i + 1)));
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	for (unsigned i = 0; i < 2; i++)
		CHECK(waitpid(pid[i], &status, 0) == pid[i] && !status);
	/* A fresh program's state. */
	uint32_t csr;
	uint16_t cw;
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(csr), "=m"(cw));
	say("mxcsr %x cw %x", csr, cw);
	/* The image that FXSAVE makes of a known state: last instruction's address and opcode
	 * aside. */
	static uint8_t image[512] __attribute__((aligned(64)));
	__asm__ volatile("fninit\n\tfldpi\n\tfld1\n\tfchs\n\tfxsave64 %0\n\tfninit"
			 : "+m"(image)::"memory");
	say("fxsave: cw %x sw %x tw %x mask %s", *(uint16_t *)image, *(uint16_t *)(image + 2),
	    image[4], *(uint32_t *)(image + 28) ? "set" : "0");
}

/* Instructions whose answers a helper of the engine's must not give. */
static void sgdt(void *p)
{
	__asm__ volatile("sgdt (%0)" ::"r"(p) : "memory");
}
static void sidt(void *p)
{
	__asm__ volatile("sidt (%0)" ::"r"(p) : "memory");
}
static void sldt(void *p)
{
	__asm__ volatile("sldt (%0)" ::"r"(p) : "memory");
}
static void str(void *p)
{
	__asm__ volatile("str (%0)" ::"r"(p) : "memory");
}
static void smsw(void *p)
{
	__asm__ volatile("smsw (%0)" ::"r"(p) : "memory");
}
static void rdpmc(void *p)
{
	(void)p;
	__asm__ volatile("xor %%ecx, %%ecx\n\trdpmc" ::: "rax", "rcx", "rdx");
}
static void xsetbv(void *p)
{
	(void)p;
	__asm__ volatile("xor %%ecx, %%ecx\n\txgetbv\n\txsetbv" ::: "rax", "rcx", "rdx");
}

static void identity(void)
{
	static const struct {
		const char *name;
		void (*fn)(void *);
	} rows[] = {{"sgdt", sgdt}, {"sidt", sidt},   {"sldt", sldt},	 {"str", str},
		    {"smsw", smsw}, {"rdpmc", rdpmc}, {"xsetbv", xsetbv}};
	unsigned a, b, c, d;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		uint8_t buffer[16] = {0};
		struct caught r = caught_in(rows[i].fn, buffer);
		uint64_t v;
		memcpy(&v, buffer, 8);
		say("cpu: %s: SIG%s %016lx %x", rows[i].name, signal_short(r.sig), v,
		    buffer[8] | buffer[9] << 8);
	}
	/* Intel's CPUs answer for a leaf that there is not by the highest that there is, which may
	 * name the CPU, too. */
	sched_setaffinity(0, sizeof(cpu_set_t), &(cpu_set_t){.__bits = {1}});
	for (unsigned round = 0; round < 2; round++)
		for (unsigned leaf = 0; leaf < 0x20; leaf++) {
			if (leaf == 0xb || leaf == 0x1f || leaf == 1 || leaf == 0x1e)
				continue; /* name the CPU that it runs on */
			for (unsigned high = 0; high < 2; high++) {
				if (high && leaf == 0x1e)
					continue;
				__cpuid_count(leaf | high << 31, 0, a, b, c, d);
				say("cpu: cpuid %x: %x %x %x %x", leaf | high << 31, a, b, c, d);
			}
		}
	__cpuid(1, a, b, c, d);
	say("cpu: cpuid 1: %x %x %x %x", a, b & 0xffffff, c, d);
	if (c & 1u << 27) {
		__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
		say("cpu: xcr0 %x", a);
	}
	uint64_t last = 0;
	for (unsigned i = 0; i < 3000; i++) {
		unsigned lo, hi, aux, cpu, node;
		sched_setaffinity(0, sizeof(cpu_set_t), &(cpu_set_t){.__bits = {1}});
		__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
		CHECK(((uint64_t)hi << 32 | lo) >= last);
		last = (uint64_t)hi << 32 | lo;
		CHECK(!getcpu(&cpu, &node) && !cpu && (aux & 0xfff) == 0);
		if (i >= 50)
			__asm__ volatile("lfence\n\trdtsc" : "=a"(lo), "=d"(hi));
		if (i >= 50) {
			CHECK(((uint64_t)hi << 32 | lo) >= last);
			last = (uint64_t)hi << 32 | lo;
			i += 9;
		}
	}
}

const struct probe probes_state[] = {
    {"bases", bases, 0},     {"selectors", selectors, 0}, {"flags", flags, 0},
    {"vectors", vectors, 0}, {"identity", identity, 0},	  {0},
};
