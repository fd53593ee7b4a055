/* direct_break.c: a helper's breakpoints, so that it may have pages that hold sensitive
 * instructions.
 *
 * A program mostly asks CPUID once, when it starts; but the page in which it does also holds other
 * code, stubs for calls of libraries, say, and that code was left to the layers below for ever,
 * with a stop of the helper for each call. So when a helper has stopped often enough for such a
 * page, the CPU's own breakpoints are put at the instructions (direct_cover.c), and the page is
 * executable.
 *
 * They are set from here by ptrace, which is detached again at once: what hits one later is a
 * signal in the helper like all others. The debug registers are the host's kernel's, which sets
 * them when it switches to the helper: user code can neither read nor write them.
 *
 * What escapes them: an instruction behind a MOV or POP of SS (SDM3 6.8.3), and one that IRET goes
 * to with RF set (SDM3 18.3.1.1). A program that hides its CPUID so sees the host's.
 */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <x86intrin.h>
#include "base/log.h"
#include "engine/soft/direct.h"
#include "engine/soft/direct_stub.h"

/* So many stops at one page, each a crossing and more: about what it costs to set breakpoints. */
#define WISHES	   16u
#define WISHES_MAX 4096u

_Bool direct_break_have(const struct direct_helper *h, uint64_t lin, uint64_t name)
{
	for (unsigned i = 0; i < h->breaks.pages; i++)
		if (h->breaks.page[i].lin == lin && h->breaks.page[i].name == name)
			return name != 0;
	return 0;
}

_Bool direct_break_open(const struct direct_helper *h, uint64_t rip)
{
	unsigned off = rip & 0xfff;

	for (unsigned i = 0; i < h->breaks.pages; i++) {
		const struct direct_cover *c = &h->breaks.page[i].cover;
		if (h->breaks.page[i].lin != rip - off)
			continue;
		for (unsigned n = 0; n < c->breaks; n++)
			if (c->at[n] == off)
				return 0;
		for (unsigned n = 0; n < c->shuts; n++)
			if (off >= c->shut[n].first && off < c->shut[n].end)
				return 0;
		return 1;
	}
	return 0;
}

static _Bool debugreg_set(const struct direct_helper *h, unsigned n, uint64_t value)
{
	size_t at = offsetof(struct user, u_debugreg) + n * sizeof(value);

	return !ptrace(PTRACE_POKEUSER, h->pid, (void *)at, (void *)(uintptr_t)value);
}

/* Tells the host's kernel what the debug registers are to be: execution breakpoints at the first
 * `count` addresses (SDM3 18.2.4). The helper is stopped, and attached to this thread. */
static _Bool registers_set(const struct direct_helper *h, const uint64_t *at, unsigned count)
{
	uint64_t control = 0;

	if (!debugreg_set(h, 7, 0))
		return 0;
	for (unsigned i = 0; i < count; i++) {
		if (!debugreg_set(h, i, at[i]))
			return 0;
		control |= BIT64(2 * i);
	}
	return !control || debugreg_set(h, 7, control);
}

/* Returns 0 or a negative errno; -ESRCH: the helper is no more. */
static int breaks_set(const struct direct_helper *h, const uint64_t *at, unsigned count)
{
	siginfo_t info;
	int rc = 0;

	/* Of one that has ended the number may be another process's, which cannot be before this
	 * thread has got hold of it. */
	if (ptrace(PTRACE_SEIZE, h->pid, NULL, NULL))
		return direct_helper_ended(h) ? -ESRCH : -errno;
	if (direct_helper_ended(h))
		rc = -ESRCH;
	else if (ptrace(PTRACE_INTERRUPT, h->pid, NULL, NULL))
		rc = -errno;
	/* It stops or ends, whatever it does: only this thread is told. */
	while (!rc &&
	       waitid(P_PIDFD, (id_t)h->pidfd, &info, WSTOPPED | WEXITED | WNOWAIT | __WALL) < 0)
		if (errno != EINTR)
			rc = -errno;
	if (!rc && !registers_set(h, at, count))
		rc = -errno;
	(void)ptrace(PTRACE_DETACH, h->pid, NULL, NULL);
	return rc && direct_helper_ended(h) ? -ESRCH : rc;
}

/* What stands in the way may pass: a debugger, or who has the registers for himself. */
static void breaks_refuse(struct soft_cpu *cpu, const char *why)
{
	struct soft_direct *d = cpu->direct;
	const uint64_t second = (uint64_t)soft_tsc_khz() * 1000;

	if (!d->breakless_for)
		log_msg(
		    LOG_INFO,
		    "CPU %u: no breakpoints in helpers (%s): user code beside CPUID is translated",
		    cpu->base.index, why);
	d->breakless_for = MIN(MAX(d->breakless_for * 2, second), 256 * second);
	d->breakless_at = __rdtsc();
}

static _Bool breaks_refused(const struct soft_direct *d)
{
	return d->breakless_for && __rdtsc() - d->breakless_at < d->breakless_for;
}

/* Puts the breakpoints of all pages there are into the helper. */
static _Bool breaks_put(struct soft_cpu *cpu, struct direct_helper *h)
{
	struct direct_breaks *b = &h->breaks;
	uint64_t at[DIRECT_BREAKS];
	unsigned count = 0;

	for (unsigned i = 0; i < b->pages; i++)
		for (unsigned n = 0; n < b->page[i].cover.breaks; n++) {
			assert(count < ARRAY_SIZE(at));
			at[count++] = b->page[i].lin + b->page[i].cover.at[n];
		}
	int rc = breaks_set(h, at, count);
	if (!rc)
		return 1;
	b->pages = 0;
	if (rc != -ESRCH) /* else it is found when it is to run */
		breaks_refuse(cpu, strerrordesc_np(-rc));
	return 0;
}

/* Does one stop a helper at all? Not on hosts that keep the debug registers for themselves and do
 * not say so. It is put behind the stub's last system call, where an undefined instruction is, and
 * the helper is sent there with the registers of user code. */
static _Bool breaks_work(struct soft_cpu *cpu, struct direct_helper *h)
{
	struct soft_direct *d = cpu->direct;
	struct direct_layout layout;
	struct direct_exit x = {.signal = SIGUSR1};
	uint64_t rip = cpu->s.rip;

	if (d->breaks_seen)
		return 1;
	memcpy(&layout, direct_stub + DIRECT_FILE_OFFSET, sizeof(layout));
	uint64_t at = h->base + layout.leave;
	int rc = breaks_set(h, &at, 1);
	/* A kick may come first. */
	for (unsigned tries = 0; !rc && x.signal == SIGUSR1 && tries < 8; tries++) {
		cpu->s.rip = at;
		direct_regs_out(cpu, h);
		if (!direct_helper_run(cpu, h, NULL, 0) || !h->pid || direct_regs_in(cpu, h, &x))
			rc = -ESRCH;
	}
	cpu->s.rip = rip;
	if (rc == -ESRCH) {
		direct_helper_kill(h);
		return 0;
	}
	d->breaks_seen = !rc && x.signal == SIGTRAP && x.code == TRAP_HWBKPT;
	if (!d->breaks_seen && (rc || x.signal != SIGUSR1))
		breaks_refuse(cpu, rc ? strerrordesc_np(-rc) : "they do not stop it");
	return d->breaks_seen;
}

static unsigned breaks_used(const struct direct_breaks *b)
{
	unsigned used = 0;

	for (unsigned i = 0; i < b->pages; i++)
		used += b->page[i].cover.breaks;
	return used;
}

static void page_drop(struct direct_breaks *b, unsigned i)
{
	b->pages--;
	memmove(&b->page[i], &b->page[i + 1], (b->pages - i) * sizeof(b->page[0]));
}

/* The page that gives its breakpoints up: the one that gains least by them, as it is stopped at
 * most; else the oldest. */
static unsigned page_worst(const struct direct_breaks *b)
{
	unsigned worst = 0;

	for (unsigned i = 1; i < b->pages; i++)
		if (b->page[i].hits > b->page[worst].hits)
			worst = i;
	return worst;
}

static struct direct_wish *wish_of(struct direct_breaks *b, uint64_t lin)
{
	struct direct_wish *least = &b->wish[0];

	for (unsigned i = 0; i < ARRAY_SIZE(b->wish); i++) {
		if (b->wish[i].wait && b->wish[i].lin == lin)
			return &b->wish[i];
		if (b->wish[i].stops < least->stops)
			least = &b->wish[i];
	}
	*least = (struct direct_wish){.lin = lin, .wait = WISHES};
	return least;
}

/* Makes room for so many breakpoints. Who has to go comes back later each time. */
static void room_make(struct direct_space *s, unsigned count)
{
	struct direct_breaks *b = &s->helper.breaks;

	while (b->pages == ARRAY_SIZE(b->page) || breaks_used(b) + count > DIRECT_BREAKS) {
		unsigned worst = page_worst(b);
		struct direct_wish *w = wish_of(b, b->page[worst].lin);
		w->wait = MIN(2 * w->wait, WISHES_MAX);
		direct_space_drop(s, b->page[worst].lin);
		page_drop(b, worst);
	}
}

_Bool direct_break_wish(struct soft_cpu *cpu, struct direct_space *s, uint64_t lin, uint64_t name,
			const uint8_t *page, const uint8_t *next)
{
	struct direct_breaks *b = &s->helper.breaks;
	const ZydisDecoder *decoder = &cpu->cache->decoder[2];
	struct direct_found found;
	struct direct_cover cover;
	unsigned seek = direct_seek(cpu->direct, &s->helper);
	uint8_t copy[4096 + 2];

	if (!name || !s->helper.pid || breaks_refused(cpu->direct))
		return 0;
	struct direct_wish *w = wish_of(b, lin);
	if (++w->stops < w->wait)
		return 0;
	w->stops = 0;
	/* Other CPUs may write to the page meanwhile: what is looked at must be what has the name.
	 */
	memcpy(copy, page, 4096);
	memcpy(copy + 4096, next, 2);
	if (direct_seen_name(cpu, seek, copy, copy + 4096) != name ||
	    !direct_scan(decoder, copy, copy + 4096, seek, &found) ||
	    !direct_cover(decoder, copy, &found, &cover)) {
		w->wait = MIN(2 * w->wait, WISHES_MAX);
		return 0;
	}
	if (!breaks_work(cpu, &s->helper))
		return 0;
	/* What was there before is another page now. */
	for (unsigned i = b->pages; i-- > 0;)
		if (b->page[i].lin == lin)
			page_drop(b, i);
	room_make(s, cover.breaks);
	b->page[b->pages++] = (struct direct_broken){.lin = lin, .name = name, .cover = cover};
	if (!breaks_put(cpu, &s->helper)) {
		direct_space_drop(s, UINT64_MAX);
		return 0;
	}
	cpu->stats.direct_broken++;
	return 1;
}

void direct_break_hit(struct soft_cpu *cpu, struct direct_space *s, uint64_t rip, _Bool broken)
{
	struct direct_breaks *b = &s->helper.breaks;

	cpu->stats.direct_broken_hits++;
	for (unsigned i = 0; i < b->pages; i++) {
		if (b->page[i].lin != (rip & ~UINT64_C(0xfff)))
			continue;
		b->page[i].hits++;
		if (broken)
			return;
		/* Left from a program that had something else there; it may come back. */
		struct direct_wish *w = wish_of(b, b->page[i].lin);
		w->wait = MIN(2 * w->wait, WISHES_MAX);
		page_drop(b, i);
		if (!breaks_put(cpu, &s->helper))
			direct_space_drop(s, UINT64_MAX);
		return;
	}
}

const char *direct_break_probe(struct direct_helper *h)
{
	const uint64_t at = 0x1000;
	int rc = breaks_set(h, &at, 1);

	return !rc ? NULL : strerrordesc_np(-rc);
}
