/* probe.c: is /dev/kvm worth choosing? A tiny guest is timed, and tries vector instructions. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "x86/regs.h"

/*
 * Some hosts have a /dev/kvm that runs guest code by interpreting it. So a counted loop runs in a
 * guest and is compared with the same loop run here. The first run is short, so that an interpreter
 * gets through it; only when it was quick is a longer one worth timing. A timer sends the kick
 * signal when the guest does not come back. All of it is in this thread's own CPU time, in which
 * KVM counts the guest's: on a busy machine the clock on the wall would judge the machine's load.
 */
#define PROBE_MEM      8192
#define PROBE_SHORT    3000
#define PROBE_LONG     400000
#define PROBE_LIMIT_NS 40000000
#define PROBE_SLOWDOWN 6 /* more than this is no hardware virtualization; less may be noise */
#define PROBE_CODE_SSE 0x100
#define PROBE_DATA     0x800

/* 32-bit code: 1: dec ecx; jnz 1b; hlt. The count is in ECX. */
static const uint8_t code_loop[] = {0x49, 0x75, 0xfd, 0xf4};
/* movups xmm0,[PROBE_DATA]; paddd xmm0,xmm0; addps xmm1,xmm1; movups [PROBE_DATA+16],xmm0; hlt */
static const uint8_t code_sse[] = {0x0f, 0x10, 0x05, 0x00, 0x08, 0x00, 0x00, 0x66,
				   0x0f, 0xfe, 0xc0, 0x0f, 0x58, 0xc9, 0x0f, 0x11,
				   0x05, 0x10, 0x08, 0x00, 0x00, 0xf4};

struct tiny {
	int sys, vm, cpu;
	uint8_t *mem;
	struct kvm_run *run;
	size_t run_bytes;
	timer_t timer;
	_Bool timer_set;
	uint64_t deadline_ns;
	char failure[64]; /* why a run did not get to its end */
};

static uint64_t cpu_time_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void tiny_fini(struct tiny *t)
{
	if (t->timer_set)
		timer_delete(t->timer);
	if (t->run)
		munmap(t->run, t->run_bytes);
	if (t->cpu >= 0)
		close(t->cpu);
	if (t->vm >= 0)
		close(t->vm);
	if (t->mem)
		munmap(t->mem, PROBE_MEM);
	if (t->sys >= 0)
		close(t->sys);
}

static int tiny_memory(struct tiny *t)
{
	struct kvm_userspace_memory_region region = {.memory_size = PROBE_MEM};

	t->mem = mmap(NULL, PROBE_MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (t->mem == MAP_FAILED) {
		t->mem = NULL;
		return -ENOMEM;
	}
	memcpy(t->mem, code_loop, sizeof(code_loop));
	memcpy(t->mem + PROBE_CODE_SSE, code_sse, sizeof(code_sse));
	memset(t->mem + PROBE_DATA, 0x11, 16);
	region.userspace_addr = (uintptr_t)t->mem;
	return kvm_ioctl(t->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static int tiny_timer(struct tiny *t)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};

	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &t->timer))
		return -errno;
	t->timer_set = 1;
	return 0;
}

/* From here on there are PROBE_LIMIT_NS for all runs. Repeats, in case a signal comes between two.
 */
static int tiny_timer_start(struct tiny *t)
{
	struct itimerspec when = {.it_value.tv_nsec = PROBE_LIMIT_NS,
				  .it_interval.tv_nsec = PROBE_LIMIT_NS / 8};

	t->deadline_ns = cpu_time_ns() + PROBE_LIMIT_NS;
	return timer_settime(t->timer, 0, &when, NULL) ? -errno : 0;
}

/* Flat 32-bit protected mode, no paging, SSE on. */
static int tiny_state(struct tiny *t, uint32_t ip, uint32_t count)
{
	const struct kvm_segment code = {
	    .limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_segment data = code;
	struct kvm_regs regs = {.rip = ip, .rcx = count, .rflags = X86_FIXED};
	struct kvm_sregs sr;
	int rc = kvm_ioctl(t->cpu, KVM_GET_SREGS, &sr);

	if (rc < 0)
		return rc;
	data.selector = 16;
	data.type = 3;
	sr.cs = code;
	sr.ds = sr.es = sr.fs = sr.gs = sr.ss = data;
	sr.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE;
	sr.cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
	rc = kvm_ioctl(t->cpu, KVM_SET_SREGS, &sr);
	return rc < 0 ? rc : kvm_ioctl(t->cpu, KVM_SET_REGS, &regs);
}

static int tiny_init(struct tiny *t, struct error *err)
{
	struct kvm_cpuid2 *c;
	int rc, bytes;

	*t = (struct tiny){.sys = -1, .vm = -1, .cpu = -1};
	t->sys = kvm_open(err);
	if (t->sys < 0)
		return t->sys;
	t->vm = kvm_ioctl_value(t->sys, KVM_CREATE_VM, 0);
	if (t->vm < 0)
		return error_set(err, t->vm, "KVM cannot create a VM: %s", strerror(-t->vm));
	(void)kvm_ioctl_value(t->vm, KVM_SET_TSS_ADDR, 0xfeffd000ul);
	rc = tiny_memory(t);
	t->cpu = rc < 0 ? rc : kvm_ioctl_value(t->vm, KVM_CREATE_VCPU, 0);
	if (t->cpu < 0)
		return error_set(err, t->cpu, "KVM cannot create a CPU: %s", strerror(-t->cpu));
	c = kvm_cpuid_supported(t->sys);
	if (c)
		(void)kvm_ioctl(t->cpu, KVM_SET_CPUID2, c);
	free(c);
	bytes = kvm_ioctl_value(t->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	t->run_bytes = (size_t)MAX(bytes, 0);
	t->run = mmap(NULL, t->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, t->cpu, 0);
	if (t->run == MAP_FAILED) {
		t->run = NULL;
		return error_set(err, -ENOMEM, "KVM's CPU cannot be mapped");
	}
	rc = kvm_signal_init();
	if (!rc)
		rc = kvm_signal_prepare(t->cpu);
	if (rc >= 0)
		rc = tiny_timer(t);
	return rc < 0 ? error_set(err, rc, "KVM's CPU cannot be timed: %s", strerror(-rc)) : 0;
}

static uint64_t tiny_failed(struct tiny *t, const char *fmt, ...) PRINTF(2, 3);
static uint64_t tiny_failed(struct tiny *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->failure, sizeof(t->failure), fmt, ap);
	va_end(ap);
	return 0;
}

/* Runs until HLT. The time in ns, 0 when it did not get there. */
static uint64_t tiny_run(struct tiny *t, uint32_t ip, uint32_t count)
{
	int rc = tiny_state(t, ip, count);
	uint64_t start = cpu_time_ns();

	if (rc < 0)
		return tiny_failed(t, "its CPU's state: %s", strerror(-rc));
	while (ioctl(t->cpu, KVM_RUN, 0) < 0) {
		if (errno != EINTR && errno != EAGAIN)
			return tiny_failed(t, "%s", strerror(errno));
		if (cpu_time_ns() >= t->deadline_ns)
			return tiny_failed(t, "no end of it in %u ms of CPU time",
					   PROBE_LIMIT_NS / 1000000);
		kvm_signal_drain();
	}
	if (t->run->exit_reason != KVM_EXIT_HLT)
		return tiny_failed(t, "KVM gave up with reason %u", t->run->exit_reason);
	return MAX(cpu_time_ns() - start, UINT64_C(1));
}

static uint64_t native_run(uint32_t count)
{
	uint64_t start = cpu_time_ns();

	__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(count) : : "cc");
	return MAX(cpu_time_ns() - start, UINT64_C(1));
}

/*
 * The first run. What a hypervisor below takes from this CPU may count as this thread's time, and
 * "not at all" is the one verdict that even --engine kvm does not override: so it takes three
 * failures, the later ones after a pause.
 */
static uint64_t tiny_run_first(struct tiny *t)
{
	const struct timespec pause = {.tv_nsec = 20000000};
	uint64_t ns = 0;

	for (unsigned i = 0; !ns && i < 3; i++) {
		if (i)
			nanosleep(&pause, NULL);
		ns = tiny_timer_start(t) ? 0 : tiny_run(t, 0, PROBE_SHORT);
	}
	return ns;
}

/* How many times slower a guest's loop is than the same one here; 0: it does not run at all. The
 * best of some tries, as anything may come between. */
static uint64_t probe_slowdown(struct tiny *t)
{
	uint64_t native = UINT64_MAX, guest = tiny_run_first(t), warm;

	/* The first run had to bring memory in. */
	warm = guest ? tiny_run(t, 0, PROBE_SHORT) : 0;
	guest = warm ? MIN(guest, warm) : guest;
	for (unsigned i = 0; i < 4; i++)
		native = MIN(native, native_run(PROBE_LONG));
	if (!guest)
		return 0;
	/* A thousand times slower than any CPU of today: no need to look closer. */
	if (guest > (uint64_t)PROBE_SHORT * 100)
		return guest * (PROBE_LONG / PROBE_SHORT) / native;
	guest = UINT64_MAX;
	for (unsigned i = 0; i < 3; i++) {
		uint64_t ns = tiny_run(t, 0, PROBE_LONG);

		if (ns)
			guest = MIN(guest, ns);
	}
	if (guest == UINT64_MAX)
		return 0;
	return MAX(guest / native, UINT64_C(1));
}

static _Bool probe_sse(struct tiny *t)
{
	for (unsigned i = 0; i < 16; i++)
		t->mem[PROBE_DATA + 16 + i] = 0;
	if (!tiny_run(t, PROBE_CODE_SSE, 0))
		return 0;
	for (unsigned i = 0; i < 16; i++)
		if (t->mem[PROBE_DATA + 16 + i] != 0x22)
			return 0;
	return 1;
}

static void probe_judge(struct tiny *t, struct engine_probe *out)
{
	uint64_t slowdown = probe_slowdown(t);
	_Bool sse = slowdown && probe_sse(t);

	out->usable = slowdown != 0;
	out->advisable = slowdown && slowdown <= PROBE_SLOWDOWN && sse;
	if (!slowdown)
		snprintf(out->why, sizeof(out->why),
			 "/dev/kvm is there but does not run even a loop of guest code (%s)",
			 t->failure);
	else if (slowdown > PROBE_SLOWDOWN)
		snprintf(
		    out->why, sizeof(out->why),
		    "/dev/kvm is there but runs guest code %llu times slower than this CPU (an "
		    "instruction emulator)%s",
		    (unsigned long long)slowdown, sse ? "" : ", without SSE");
	else if (!sse)
		snprintf(out->why, sizeof(out->why),
			 "/dev/kvm is there but does not run SSE instructions");
	else
		snprintf(out->why, sizeof(out->why),
			 "/dev/kvm runs guest code at this CPU's own speed");
}

void kvm_probe(struct engine_probe *out)
{
	struct error err = {0};
	sigset_t set, old;
	struct tiny t;

	*out = (struct engine_probe){0};
	sigemptyset(&set);
	sigaddset(&set, KVM_KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	if (tiny_init(&t, &err) == 0)
		probe_judge(&t, out);
	else
		snprintf(out->why, sizeof(out->why), "%.255s", err.text);
	tiny_fini(&t);
	kvm_signal_drain();
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}
