/* doctor.c: looks at the host: engines, CPU, memory, limits. */
#include "vmm/doctor.h"
#include "engine/soft/probe.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vmm/engines.h"

#define AT_HWCAP2_FSGSBASE BIT32(1)

struct examination {
	void (*fn)(void *opaque, const struct doctor_finding *finding);
	void *opaque;
	unsigned bad;
};

static void report(struct examination *x, const char *topic, enum doctor_verdict verdict,
		   const char *follows, const char *fmt, ...) PRINTF(5, 6);
static void report(struct examination *x, const char *topic, enum doctor_verdict verdict,
		   const char *follows, const char *fmt, ...)
{
	struct doctor_finding f = {.topic = topic, .verdict = verdict};
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f.found, sizeof(f.found), fmt, ap);
	va_end(ap);
	snprintf(f.follows, sizeof(f.follows), "%s", follows);
	x->bad += verdict == DOCTOR_BAD;
	x->fn(x->opaque, &f);
}

/* The first line of a small file, without its newline; false when it cannot be read. */
static _Bool read_line(const char *path, char *buf, size_t len)
{
	FILE *f = fopen(path, "re");
	char *ok;

	if (!f)
		return 0;
	ok = fgets(buf, (int)len, f);
	fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = 0;
	return ok != NULL;
}

static void examine_engines(struct examination *x)
{
	const char *chosen = NULL;

	for (unsigned i = 0; i < vmm_engines.count; i++) {
		const struct engine_ops *ops = vmm_engines.ops[i];
		struct engine_probe probe = {0};
		char topic[24];

		ops->probe(&probe);
		snprintf(topic, sizeof(topic), "engine %s", ops->name);
		report(x, topic, probe.advisable ? DOCTOR_GOOD : DOCTOR_NOTE,
		       probe.advisable ? (chosen ? "" : "'--engine auto' chooses it.")
		       : probe.usable
			   ? "It works when asked for by name, but 'auto' passes it over."
			   : "It cannot be used here; that is no obstacle while another engine is "
			     "good.",
		       "%s", probe.why);
		if (probe.advisable && !chosen)
			chosen = ops->name;
	}
	if (!chosen)
		report(x, "engines", DOCTOR_BAD, "No virtual machine can run here.",
		       "no engine is usable");
}

static void examine_cpu(struct examination *x)
{
	char brand[49] = "unknown", vendor[13] = "";
	unsigned a, b, c, d;

	__cpuid(0, a, b, c, d);
	memcpy(vendor, &b, 4);
	memcpy(vendor + 4, &d, 4);
	memcpy(vendor + 8, &c, 4);
	__cpuid(0x80000000, a, b, c, d);
	if (a >= 0x80000004) {
		for (unsigned i = 0; i < 3; i++) {
			__cpuid(0x80000002 + i, a, b, c, d);
			memcpy(brand + 16 * i, (unsigned[]){a, b, c, d}, 16);
		}
		brand[48] = 0;
	}
	report(
	    x, "cpu", DOCTOR_GOOD,
	    "Guests see this CPU's own vendor and features, as far as the engine can execute them.",
	    "%s (%s), %ld online", brand + strspn(brand, " "), vendor,
	    sysconf(_SC_NPROCESSORS_ONLN));
	__cpuid(1, a, b, c, d);
	if (c & BIT32(31))
		report(x, "nesting", DOCTOR_NOTE,
		       "Hardware virtualization may be missing or emulated; the probe of the kvm "
		       "engine tells.",
		       "this host is itself a virtual machine");
}

static void examine_vectors(struct examination *x)
{
	_Bool avx2 = __builtin_cpu_supports("avx2");

	report(x, "vectors", avx2 ? DOCTOR_GOOD : DOCTOR_NOTE,
	       avx2 ? ""
		    : "Guests are offered SSE only: programs built for x86-64-v3 will not start in "
		      "them.",
	       "%s%s%s%s", __builtin_cpu_supports("sse4.2") ? "SSE4.2" : "no SSE4.2",
	       avx2 ? ", AVX2" : "", __builtin_cpu_supports("fma") ? ", FMA" : "",
	       __builtin_cpu_supports("avx512f")
		   ? ", AVX-512 (for guests with --cpu-features +avx512)"
		   : "");
	if (getauxval(AT_HWCAP2) & AT_HWCAP2_FSGSBASE)
		report(x, "fsgsbase", DOCTOR_GOOD, "", "user programs may set the FS and GS bases");
}

static void examine_direct(struct examination *x)
{
	const char *breaks, *why = soft_direct_probe(&breaks);

	if (why)
		report(x, "direct", DOCTOR_NOTE, "User code of guests is translated here.",
		       "no direct execution: %s", why);
	else
		report(x, "direct", DOCTOR_GOOD,
		       "It does where that is faster (with --soft translate it never does).",
		       "user code of 64-bit guests may run in processes of this user");
	if (!why && breaks)
		report(x, "breaks", DOCTOR_NOTE,
		       "User code in one page with CPUID and its like is translated here.",
		       "no breakpoints in such processes (ptrace): %s", breaks);
}

static void examine_memory(struct examination *x)
{
	unsigned long long total =
	    (unsigned long long)sysconf(_SC_PHYS_PAGES) * (unsigned long long)sysconf(_SC_PAGESIZE);
	char line[128];
	struct rlimit limit;

	report(x, "memory", DOCTOR_GOOD,
	       "A guest's RAM is ordinary memory, taken page by page as the guest touches it.",
	       "%llu MiB in all, %llu MiB free", total >> 20,
	       ((unsigned long long)sysconf(_SC_AVPHYS_PAGES) *
		(unsigned long long)sysconf(_SC_PAGESIZE)) >>
		   20);
	if (!getrlimit(RLIMIT_AS, &limit) && limit.rlim_cur != RLIM_INFINITY)
		report(x, "limit", DOCTOR_NOTE,
		       "Guests larger than that cannot be started from this shell (ulimit -v).",
		       "address space is limited to %llu MiB",
		       (unsigned long long)limit.rlim_cur >> 20);
	if (read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", line, sizeof(line)))
		report(x, "huge pages",
		       strstr(line, "[never]") || strstr(line, "[deny]") ? DOCTOR_NOTE
									 : DOCTOR_GOOD,
		       strstr(line, "[never]") || strstr(line, "[deny]")
			   ? "--huge-pages has no effect here."
			   : "",
		       "transparent huge pages for shared memory: %s", line);
}

static void examine_kernel(struct examination *x)
{
	struct utsname name;
	char line[128];
	long commands;

	uname(&name);
	report(x, "kernel", DOCTOR_GOOD, "", "Linux %s", name.release);
	commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
	if (commands < 0 || !(commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED))
		report(x, "membarrier", DOCTOR_NOTE,
		       "The soft engine runs machines with several CPUs with a slower way of "
		       "watching code that changes.",
		       "the membarrier system call is refused");
	if (read_line("/proc/sys/vm/max_map_count", line, sizeof(line)))
		report(x, "mappings", DOCTOR_GOOD, "", "a process may have %s memory mappings",
		       line);
	report(x, "user", DOCTOR_GOOD, "", "%s",
	       geteuid() ? "an ordinary user: nothing here needs root"
			 : "root; an ordinary user would do as well");
}

unsigned doctor_examine(void (*fn)(void *opaque, const struct doctor_finding *finding),
			void *opaque)
{
	struct examination x = {.fn = fn, .opaque = opaque};

	examine_engines(&x);
	examine_cpu(&x);
	examine_vectors(&x);
	examine_direct(&x);
	examine_memory(&x);
	examine_kernel(&x);
	return x.bad;
}
