/* thunk.c: the cache of thunks, and the signals that come out of them. */
#include "engine/soft/thunk.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include "engine/soft/cpu.h"
#include "engine/soft/thunk_plan.h"
#include "x86/regs.h"

#define THUNK_BUCKETS	 4096u
#define THUNK_ALIGN	 16u
#define THUNK_HOST_MXCSR 0x1f80u
/* The shortest thunk is longer than this, so the table of entries never fills before the code. */
#define THUNK_MIN_CODE 16u

struct thunk_entry {
	struct thunk_plan plan;
	uint32_t start, insn, fault;
	_Bool refused; /* by the host's CPU */
	uint32_t next; /* index + 1 in the bucket's chain */
};

struct thunk_cache {
	uint8_t *rw, *rx; /* one memfd, mapped twice; the host's MXCSR is its first word */
	size_t size, used;
	uint32_t count, max;
	uint32_t bucket[THUNK_BUCKETS];
	struct thunk_entry *entry; /* in order of `start` */
	/* AVX-512: pages to touch, which are open, and a state to try instructions on. */
	_Bool avx512;
	uint8_t *guard;
	_Bool guard_open[THUNK_GUARD_PAGES];
	unsigned guard_hit;
	struct soft_cpu *scratch;
};

/* The cache whose thunks this thread runs. A signal handler has no other way to know. */
static _Thread_local struct thunk_cache *thunk_current;
/* What was installed before, for signals that are not ours: process-wide as handlers are. */
static struct sigaction thunk_old_fpe, thunk_old_ill, thunk_old_segv;
static pthread_mutex_t thunk_signal_lock = PTHREAD_MUTEX_INITIALIZER;

static const struct thunk_entry *thunk_find_code(const struct thunk_cache *c, uint64_t rip)
{
	uint64_t off = rip - (uint64_t)(uintptr_t)c->rx;
	uint32_t lo = 0, hi = c->count;

	if (off >= c->used)
		return NULL;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (c->entry[mid].start <= off)
			lo = mid;
		else
			hi = mid;
	}
	if (!c->count || c->entry[lo].start + c->entry[lo].insn != off)
		return NULL;
	return &c->entry[lo];
}

static void thunk_signal_other(int sig, siginfo_t *info, void *ctx)
{
	const struct sigaction *old = sig == SIGFPE   ? &thunk_old_fpe
				      : sig == SIGILL ? &thunk_old_ill
						      : &thunk_old_segv;

	if (old->sa_flags & SA_SIGINFO)
		old->sa_sigaction(sig, info, ctx);
	else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
		old->sa_handler(sig);
	else
		signal(sig, SIG_DFL); /* the instruction is executed again and ends the process */
}

/* A page fault in the pages to touch. */
static _Bool thunk_guard_fault(struct thunk_cache *c, uint64_t address)
{
	uint64_t off = address - (uint64_t)(uintptr_t)c->guard;

	if (!c->guard || off >= THUNK_GUARD_PAGES * 4096)
		return 0;
	c->guard_hit = (unsigned)off;
	return 1;
}

static void thunk_signal(int sig, siginfo_t *info, void *ctx)
{
	greg_t *regs = ((ucontext_t *)ctx)->uc_mcontext.gregs;
	const struct thunk_entry *e = NULL;

	if (thunk_current && (sig != SIGSEGV || regs[REG_TRAPNO] == X86_VEC_GP ||
			      thunk_guard_fault(thunk_current, (uint64_t)regs[REG_CR2])))
		e = thunk_find_code(thunk_current, (uint64_t)regs[REG_RIP]);
	if (!e) {
		thunk_signal_other(sig, info, ctx);
		return;
	}
	if (sig == SIGILL)
		regs[REG_RAX] = THUNK_UD;
	else if (sig == SIGSEGV)
		regs[REG_RAX] = regs[REG_TRAPNO] == X86_VEC_GP ? THUNK_GP : THUNK_PF;
	else
		regs[REG_RAX] = regs[REG_TRAPNO] == X86_VEC_MF ? THUNK_MF : THUNK_XM;
	regs[REG_RIP] += e->fault - e->insn;
}

static void thunk_signal_install(int sig, struct sigaction *old)
{
	struct sigaction now,
	    sa = {.sa_sigaction = thunk_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	sigaction(sig, NULL, &now);
	if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == thunk_signal)
		return;
	*old = now;
	sigemptyset(&sa.sa_mask);
	sigaction(sig, &sa, NULL);
}

void thunk_cache_empty(struct thunk_cache *c)
{
	const uint32_t mxcsr = THUNK_HOST_MXCSR;

	memcpy(c->rw, &mxcsr, sizeof(mxcsr));
	c->used = THUNK_ALIGN;
	c->count = 0;
	memset(c->bucket, 0, sizeof(c->bucket));
}

static int thunk_cache_map(struct thunk_cache *c, struct error *err)
{
	int fd = memfd_create("polyvisor-thunks", MFD_CLOEXEC);
	int e;

	if (fd < 0)
		return error_set(err, -errno, "cannot create memory for code: %s", strerror(errno));
	if (ftruncate(fd, (off_t)c->size) == 0) {
		c->rw = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		c->rx = mmap(NULL, c->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	}
	e = errno;
	close(fd);
	if (c->rw == MAP_FAILED || c->rx == MAP_FAILED)
		return error_set(err, -e, "cannot map %zu bytes for code: %s", c->size,
				 strerror(e));
	return 0;
}

int thunk_cache_new(struct thunk_cache **out, size_t bytes, struct error *err)
{
	struct thunk_cache *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return error_set(err, -ENOMEM, "no memory for the software engine's thunks");
	c->size = bytes;
	c->rw = c->rx = MAP_FAILED;
	c->max = (uint32_t)(bytes / THUNK_MIN_CODE);
	c->entry = calloc(c->max, sizeof(*c->entry));
	ret = c->entry ? thunk_cache_map(c, err)
		       : error_set(err, -ENOMEM, "no memory for the software engine's thunks");
	if (ret < 0) {
		thunk_cache_free(c);
		return ret;
	}
	thunk_cache_empty(c);
	*out = c;
	return 0;
}

void thunk_cache_free(struct thunk_cache *c)
{
	if (!c)
		return;
	if (c->rw != MAP_FAILED)
		munmap(c->rw, c->size);
	if (c->rx != MAP_FAILED)
		munmap(c->rx, c->size);
	if (c->guard)
		munmap(c->guard, THUNK_GUARD_PAGES * 4096);
	free(c->scratch);
	free(c->entry);
	free(c);
}

int thunk_cache_avx512(struct thunk_cache *c)
{
	size_t size = ALIGN_UP(sizeof(*c->scratch), 64);
	void *guard =
	    mmap(NULL, THUNK_GUARD_PAGES * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (guard == MAP_FAILED)
		return -ENOMEM;
	c->guard = guard;
	c->scratch = aligned_alloc(64, size);
	if (!c->scratch)
		return -ENOMEM;
	memset(c->scratch, 0, size);
	c->avx512 = 1;
	return 0;
}

uint8_t *thunk_guard(struct thunk_cache *c)
{
	return c->guard;
}

void thunk_guard_open(struct thunk_cache *c, unsigned page, _Bool open)
{
	if (c->guard_open[page] == open)
		return;
	if (mprotect(c->guard + page * 4096, 4096, open ? PROT_READ | PROT_WRITE : PROT_NONE) < 0)
		abort(); /* the limit on mappings: two pages of our own do not change it */
	c->guard_open[page] = open;
}

unsigned thunk_guard_hit(const struct thunk_cache *c)
{
	return c->guard_hit;
}

void thunk_cache_attach(struct thunk_cache *c)
{
	thunk_current = c;
	if (!c)
		return;
	pthread_mutex_lock(&thunk_signal_lock);
	thunk_signal_install(SIGFPE, &thunk_old_fpe);
	thunk_signal_install(SIGILL, &thunk_old_ill);
	thunk_signal_install(SIGSEGV, &thunk_old_segv);
	pthread_mutex_unlock(&thunk_signal_lock);
}

static uint32_t thunk_hash(const struct thunk_plan *plan)
{
	const uint8_t *p = (const uint8_t *)plan;
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < sizeof(*plan); i++)
		h = (h ^ p[i]) * 16777619u;
	return h % THUNK_BUCKETS;
}

static struct thunk_entry *thunk_add(struct thunk_cache *c, const struct thunk_plan *plan,
				     uint32_t hash)
{
	struct thunk_entry *e;
	struct thunk_code code;

	if (c->size - c->used < THUNK_MAX_CODE || c->count == c->max)
		return NULL;
	e = &c->entry[c->count];
	thunk_emit(plan, c->rw + c->used, (uint64_t)(uintptr_t)c->rx + c->used,
		   (uint64_t)(uintptr_t)c->rx, &code);
	e->plan = *plan;
	e->start = (uint32_t)c->used;
	e->insn = code.insn;
	e->fault = code.fault;
	e->refused = 0;
	e->next = c->bucket[hash];
	c->bucket[hash] = ++c->count;
	c->used += ALIGN_UP(code.size, THUNK_ALIGN);
	return e;
}

/*
 * The translator emits instructions as themselves, where a refusal would be the end. So those of
 * AVX-512, whose rules differ between CPUs more than others', are executed once beforehand.
 */
static void thunk_try(struct thunk_cache *c, struct thunk_entry *e)
{
	struct x86_fpu *fpu = &c->scratch->s.fpu;
	const uint32_t mxcsr = THUNK_HOST_MXCSR;
	thunk_fn *fn = (thunk_fn *)(uintptr_t)(c->rx + e->start);

	thunk_cache_attach(c);
	memcpy(fpu->fx + X86_FX_MXCSR, &mxcsr, sizeof(mxcsr));
	e->refused = fn(c->scratch, fpu->vec) == THUNK_UD;
}

int thunk_get(struct thunk_cache *c, const ZydisDecodedInstruction *insn,
	      const ZydisDecodedOperand *ops, const uint8_t *bytes, struct thunk *out)
{
	struct thunk_entry *e = NULL;
	struct thunk_plan plan;
	uint32_t hash;

	if (!thunk_plan_make(&plan, insn, ops, bytes, c->avx512) ||
	    ((plan.evex || plan.k_used) && !c->avx512))
		return -EINVAL;
	hash = thunk_hash(&plan);
	for (uint32_t i = c->bucket[hash]; i; i = c->entry[i - 1].next) {
		if (memcmp(&c->entry[i - 1].plan, &plan, sizeof(plan)) == 0) {
			e = &c->entry[i - 1];
			break;
		}
	}
	if (!e) {
		e = thunk_add(c, &plan, hash);
		if (e && (plan.evex || plan.k_used))
			thunk_try(c, e);
	}
	if (!e)
		return -ENOSPC;
	if (e->refused)
		return -EINVAL;
	out->fn = (thunk_fn *)(uintptr_t)(c->rx + e->start);
	out->at = c->rx + e->start + e->insn;
	return 0;
}
