/* direct.c: runs user code in a helper, and says what is to be done about the way it stopped.
 *
 * Whatever is not a page to be mapped is left to the layers below: they execute the instruction at
 * which the helper stopped, once more and exactly. Only two things have happened already when the
 * helper stops, and are taken back: the instruction pointer is behind a SYSCALL, INT n or INT3.
 */
#include "engine/soft/direct.h"
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>
#include "base/log.h"
#include "engine/soft/probe.h"
#include "engine/soft/sys.h"

#define KILLED_MAX 64u
#define VSYSCALL   UINT64_C(0xffffffffff600000) /* Linux's page, if it has one */

int direct_init(struct soft_cpu *cpu)
{
	struct soft_direct *d = calloc(1, sizeof(*d));
	unsigned eax, ebx, ecx, edx;

	if (!d)
		return -1;
	d->code = -1;
	d->umip = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && ecx & BIT32(2);
	d->sysenter = !sys_policy(cpu)->amd;
	d->lowest = direct_map_lowest();
	d->core.slept = 1; /* there is no window yet */
	d->always = cpu->engine->base.cfg.soft == SOFT_DIRECT_ALWAYS;
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		d->space[i].helper = (struct direct_helper){.pidfd = -1, .event = -1};
	if (direct_choose_init(d)) {
		free(d);
		return -1;
	}
	cpu->direct = d;
	return 0;
}

void direct_fini(struct soft_cpu *cpu)
{
	struct soft_direct *d = cpu->direct;

	if (!d)
		return;
	for (unsigned i = 0; i < DIRECT_SPACES; i++) {
		direct_helper_kill(&d->space[i].helper);
		direct_space_fini(&d->space[i]);
	}
	if (d->code >= 0)
		close(d->code);
	direct_choose_fini(d);
	direct_large_fini(d);
	direct_seen_fini(d);
	free(d);
	cpu->direct = NULL;
}

/* Is the state one that a Linux process of the host can be in, too? */
static _Bool state_fits(const struct soft_cpu *cpu)
{
	const struct x86_state *s = &cpu->s;
	const uint64_t cr4 =
	    X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_FSGSBASE;

	return soft_is64(cpu) && s->seg[X86_CS].selector == 0x33 &&
	       s->seg[X86_SS].selector == 0x2b && !s->seg[X86_DS].selector &&
	       !s->seg[X86_ES].selector && !s->seg[X86_FS].selector && !s->seg[X86_GS].selector &&
	       !(s->rflags & (X86_AC | X86_TF | X86_NT | X86_IOPL)) && (s->rflags & X86_IF) &&
	       (s->cr0 & (X86_CR0_PG | X86_CR0_EM | X86_CR0_TS)) == X86_CR0_PG &&
	       (s->cr4 & cr4) == cr4 && !(s->cr4 & X86_CR4_LA57) && (s->xcr0 & 7) == 7 &&
	       !(s->dr7 & 0xff) && !cpu->data_bp;
}

/* Which pages may be executed depends on it. */
static void umip_follow(struct soft_cpu *cpu)
{
	struct soft_direct *d = cpu->direct;
	_Bool tables = !d->umip || !(cpu->s.cr4 & X86_CR4_UMIP);

	if (LIKELY(tables == d->tables))
		return;
	d->tables = tables;
	direct_forget_all(cpu);
}

/* The guest may have mapped something where the stub is: then user code would see the wrong bytes.
 */
static _Bool region_free(struct soft_cpu *cpu, uint64_t base)
{
	struct soft_view v;
	uint64_t phys = (cpu->s.cr3 & UINT64_C(0xffffffffff000)) + (base >> 39) * 8;
	const struct soft_slot *slot = soft_ram_slot(&cpu->engine->ram, phys);

	if (slot && !(__atomic_load_n((uint64_t *)(void *)(slot->host + (phys - slot->base)),
				      __ATOMIC_RELAXED) &
		      X86_PTE_P))
		return 1;
	for (uint64_t at = base; at < base + DIRECT_REGION; at += 4096)
		if (soft_mmu_peek(cpu, at, &v))
			return 0;
	return 1;
}

/* What stays as it is while the VM runs. Else there was no room for a process, say, or somebody has
 * ended it. */
static _Bool lasting(int error)
{
	return error == -ENOTSUP || error == -EPERM || error == -EACCES || error == -EINVAL ||
	       error == -ENOSYS;
}

/* Translated code is right as well: only who asked for helpers is told. What does not last is tried
 * again, after twice as long each time in a row. */
static void helpers_refuse(struct soft_cpu *cpu, const char *why, _Bool lasts)
{
	struct soft_direct *d = cpu->direct;
	const uint64_t second = (uint64_t)soft_tsc_khz() * 1000;
	uint64_t now = __rdtsc();

	if (now - d->refused_at > 8 * d->refused_for)
		d->refused_for = 0;
	d->refused_for = lasts ? 0 : MIN(MAX(d->refused_for * 2, second), 64 * second);
	d->refused_at = now;
	d->refused = 1;
	cpu->stats.direct_refused = 1;
	if (d->why != why)
		log_msg(cpu->engine->base.cfg.soft_named ? LOG_WARN : LOG_INFO,
			"CPU %u: %s: user code is translated instead%s", cpu->base.index, why,
			lasts ? "" : " for a while");
	d->why = why;
}

static _Bool helpers_refused(struct soft_cpu *cpu)
{
	struct soft_direct *d = cpu->direct;

	if (!d->refused)
		return 0;
	if (!d->refused_for || __rdtsc() - d->refused_at < d->refused_for)
		return 1;
	d->refused = 0;
	d->killed /= 2;
	cpu->stats.direct_refused = 0;
	return 0;
}

static _Bool helper_ready(struct soft_cpu *cpu, struct direct_space *s)
{
	struct soft_direct *d = cpu->direct;
	const char *why;

	if (d->killed > KILLED_MAX) {
		helpers_refuse(cpu, "too many helper processes have ended", 0);
		return 0;
	}
	if (s->helper.pid && !region_free(cpu, s->helper.base))
		direct_helper_kill(&s->helper);
	for (unsigned tries = 0; !s->helper.pid; tries++) {
		if (tries == 4) {
			helpers_refuse(cpu, "the guest leaves no place for a helper", 0);
			return 0;
		}
		int rc = direct_helper_start(cpu, &s->helper, cpu->engine->ram.fd, &d->code, &why);
		if (rc) {
			helpers_refuse(cpu, why, lasting(rc));
			return 0;
		}
		cpu->stats.direct_helpers++;
		/* Nothing is mapped in a new one. */
		direct_space_reset(s);
		if (!region_free(cpu, s->helper.base))
			direct_helper_kill(&s->helper);
	}
	return 1;
}

/* Takes back what the CPU had done of the instruction when the host's kernel took over. */
static void instruction_undo(struct soft_cpu *cpu, const struct direct_exit *x)
{
	uint8_t byte = 0;

	if (x->signal == SIGSYS && x->call >> 12 == VSYSCALL >> 12) {
		/* The host's kernel returns from there before it tells. Of RAX only the call's
		 * number is left; who calls there mostly has its address there. */
		if (cpu->s.rip >> 12 != VSYSCALL >> 12)
			cpu->s.gpr[X86_RSP] -= 8;
		cpu->s.rip = cpu->s.gpr[X86_RAX] = x->call & ~UINT64_C(0x3ff);
	} else if (x->signal == SIGSYS) { /* by seccomp or by user dispatch */
		cpu->s.rip -= 2;	  /* SYSCALL, INT 0x80, SYSENTER */
	} else if (x->signal == SIGTRAP && x->trap == X86_VEC_BP) {
		soft_load_bytes(cpu, X86_CS, cpu->s.rip - 1, &byte, 1);
		cpu->s.rip -= byte == 0xcc ? 1 : 2;
	} else if (x->signal == SIGSEGV && x->trap == X86_VEC_OF) {
		cpu->s.rip -= 2; /* INT 4: there is no INTO in 64-bit mode */
	}
	if (!soft_is64(cpu))
		cpu->s.rip = (uint32_t)cpu->s.rip;
}

/* #DB. Whether an instruction was stepped over is not seen by the flags, which it may have changed.
 */
static void debug_trap(struct soft_cpu *cpu, struct direct_space *s, const struct direct_exit *x)
{
	if (x->code == TRAP_HWBKPT)
		direct_break_hit(cpu, s, cpu->s.rip, direct_map_broken(s, cpu->s.rip));
	if (x->code == TRAP_TRACE)
		soft_raise_db(cpu, X86_DR6_BS, 0);
	if (x->code == TRAP_BRKPT)
		cpu->s.rip--; /* INT1 */
}

/* What is to follow on the way that user code has stopped: true: go on in the helper. May raise. */
static _Bool exit_answer(struct soft_cpu *cpu, struct direct_space *s, const struct direct_exit *x)
{
	if (cpu->s.rip - s->helper.base < DIRECT_REGION) {
		/* It has jumped into the stub. What it has seen there, it may not use. */
		direct_helper_kill(&s->helper);
		cpu->direct->killed++;
		return 0;
	}
	direct_selectors_in(cpu, &s->helper);
	if (x->code <= 0 || x->signal == SIGUSR1) { /* not from the host's kernel */
		cpu->direct->once = DIRECT_ONCE_NOT;
		return 0;
	}
	cpu->stats.direct_exits++;
	if (x->signal == SIGSEGV && x->trap == X86_VEC_PF) {
		struct soft_direct *d = cpu->direct;
		enum soft_access access = x->error & X86_PFERR_I   ? SOFT_EXEC
					  : x->error & X86_PFERR_W ? SOFT_WRITE
								   : SOFT_READ;
		cpu->stats.direct_faults++;
		d->expect = x->address;
		d->expect_access = access;
		d->expect_asid = cpu->asid_user;
		_Bool mapped = direct_map_fault(cpu, s, x->address, access);
		d->expect_asid = 0;		  /* it was no fault of the guest's */
		return mapped && state_fits(cpu); /* it may have loaded selectors, say */
	}
	if (x->signal == SIGSYS)
		cpu->stats.direct_calls++;
	if (x->signal == SIGTRAP && x->trap == X86_VEC_DB)
		debug_trap(cpu, s, x);
	if (direct_choose_far(cpu) && ((x->signal == SIGSEGV && x->trap == X86_VEC_GP) ||
				       (x->signal == SIGTRAP && x->code == TRAP_HWBKPT)))
		cpu->direct->once = DIRECT_ONCE_ALONE;
	instruction_undo(cpu, x);
	return 0;
}

enum direct_went direct_run(struct soft_cpu *cpu)
{
	struct soft_direct *d = cpu->direct;
	struct direct_exit x;

	direct_choose_user(cpu);
	if (d->once == DIRECT_ONCE_ALONE) {
		d->once = DIRECT_ONCE_NOT;
		return DIRECT_BELOW_ALONE;
	}
	if (d->once || helpers_refused(cpu) || !state_fits(cpu)) {
		direct_choose_below(cpu, !!d->once);
		d->once = DIRECT_ONCE_NOT;
		return DIRECT_BELOW;
	}
	/* What is still pending cannot be taken now, as a masked NMI: a helper would be stopped for
	 * it before its first instruction, for ever. */
	if (atomic_load(&cpu->base.link.events) || !direct_choose_wants(cpu))
		return DIRECT_BELOW;
	umip_follow(cpu);
	struct direct_space *s = direct_space_get(cpu);
	if (!helper_ready(cpu, s)) {
		direct_choose_below(cpu, 0);
		return DIRECT_BELOW;
	}
	if (d->expect_asid == cpu->asid_user)
		direct_map_expected(cpu, s, d->expect, d->expect_access);
	d->expect_asid = 0;
	direct_map_fill(cpu, s);
	if (direct_map_kept(cpu, s)) {
		direct_choose_below(cpu, 1);
		return DIRECT_BELOW;
	}
	cpu->stats.direct_entries++;
	for (_Bool more = 1; more;) {
		if (!s->helper.pid)
			return DIRECT_RAN;
		unsigned ops = s->ops;
		uint64_t begin = __rdtsc();
		direct_regs_out(cpu, &s->helper);
		if (!direct_space_run(cpu, s)) {
			d->killed += !s->helper.pid;
			d->once = DIRECT_ONCE;
			return DIRECT_BELOW;
		}
		uint64_t cycles = __rdtsc() - begin;
		s->ran += cycles;
		direct_choose_left(cpu, cycles, ops);
		if (!s->helper.pid || direct_regs_in(cpu, &s->helper, &x)) {
			/* It died with the registers of user code: that program is at an end. */
			direct_helper_kill(&s->helper);
			cpu->stats.direct_lost++;
			log_guest("CPU %u: a helper process has ended, and with it a program of "
				  "the guest",
				  cpu->base.index);
			d->killed++;
			soft_raise_err(cpu, X86_VEC_GP, 0);
		}
		d->once = DIRECT_ONCE; /* unless it is found below that the helper can go on */
		if (!exit_answer(cpu, s, &x))
			return DIRECT_RAN;
		d->once = DIRECT_ONCE_NOT;
		/* Another CPU may have mapped something there since. */
		more = !atomic_load(&cpu->base.link.events) && region_free(cpu, s->helper.base) &&
		       !direct_map_shut(s, cpu->s.rip);
	}
	return DIRECT_RAN;
}

const char *soft_direct_probe(const char **breaks)
{
	struct direct_helper h;
	const char *why = NULL;
	int code = -1, ram = memfd_create("polyvisor-probe", MFD_CLOEXEC);

	if (ram < 0)
		return "no memory file";
	*breaks = NULL;
	if (!direct_helper_start(NULL, &h, ram, &code, &why)) {
		*breaks = direct_break_probe(&h);
		direct_helper_kill(&h);
		why = NULL;
	}
	close(ram);
	if (code >= 0)
		close(code);
	return why;
}
