/* lockstep_report.c: what is shown when host code and the interpreter differ. */
#include <inttypes.h>
#include <stdio.h>
#include "engine/soft/lockstep_impl.h"
#include "engine/soft/trans.h"

struct field {
	const char *name;
	size_t offset;
};
#define F(n)                                                                                       \
	{                                                                                          \
#n, offsetof(struct soft_cpu, s.n)                                                 \
	}
static const struct field fields[] = {
    {"rax", offsetof(struct soft_cpu, s.gpr[0])},
    {"rcx", offsetof(struct soft_cpu, s.gpr[1])},
    {"rdx", offsetof(struct soft_cpu, s.gpr[2])},
    {"rbx", offsetof(struct soft_cpu, s.gpr[3])},
    {"rsp", offsetof(struct soft_cpu, s.gpr[4])},
    {"rbp", offsetof(struct soft_cpu, s.gpr[5])},
    {"rsi", offsetof(struct soft_cpu, s.gpr[6])},
    {"rdi", offsetof(struct soft_cpu, s.gpr[7])},
    {"r8", offsetof(struct soft_cpu, s.gpr[8])},
    {"r9", offsetof(struct soft_cpu, s.gpr[9])},
    {"r10", offsetof(struct soft_cpu, s.gpr[10])},
    {"r11", offsetof(struct soft_cpu, s.gpr[11])},
    {"r12", offsetof(struct soft_cpu, s.gpr[12])},
    {"r13", offsetof(struct soft_cpu, s.gpr[13])},
    {"r14", offsetof(struct soft_cpu, s.gpr[14])},
    {"r15", offsetof(struct soft_cpu, s.gpr[15])},
    F(rip),
    F(rflags),
    F(cr0),
    F(cr2),
    F(cr3),
    F(cr4),
    F(efer),
    {"fs.base", offsetof(struct soft_cpu, s.seg[X86_FS].base)},
    {"gs.base", offsetof(struct soft_cpu, s.seg[X86_GS].base)},
    F(kernel_gs_base),
    F(dr6),
    F(dr7),
};
#undef F

static uint64_t field_get(const struct ls_state *s, const struct field *f)
{
	uint64_t v;

	memcpy(&v, s->bytes + f->offset, sizeof(v));
	return v;
}

static void show_registers(FILE *f, const struct ls_state *before, const struct ls_state *host,
			   const struct ls_state *interp)
{
	const size_t from = offsetof(struct soft_cpu, s);
	_Bool named = 0;

	fprintf(f, "\n%-16s %-18s %-18s %s\n", "", "before", "host code", "interpreter");
	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
		uint64_t h = field_get(host, &fields[i]), n = field_get(interp, &fields[i]);
		named |= h != n;
		fprintf(f, "%-16s %016" PRIx64 "   %016" PRIx64 "   %016" PRIx64 "%s\n",
			fields[i].name, field_get(before, &fields[i]), h, n,
			h == n ? "" : "   <-- differs");
	}
	if (!named && memcmp(host->bytes + from, interp->bytes + from, LS_STATE_BYTES - from))
		fprintf(f, "system state differs that is not shown here\n");
}

static void show_vector(FILE *f, const struct x86_fpu *host, const struct x86_fpu *interp)
{
	for (unsigned i = 0; i < 32; i++) {
		if (!memcmp(host->vec[i], interp->vec[i], 64))
			continue;
		fprintf(f, "zmm%-13u ", i);
		for (unsigned k = 64; k-- > 0;)
			fprintf(f, "%02x", host->vec[i][k]);
		fprintf(f, " host code\n%-16s ", "");
		for (unsigned k = 64; k-- > 0;)
			fprintf(f, "%02x", interp->vec[i][k]);
		fprintf(f, " interpreter   <-- differs\n");
	}
	for (unsigned i = 0; i < 8; i++)
		if (host->k[i] != interp->k[i])
			fprintf(f, "k%-15u %016" PRIx64 "   %016" PRIx64 "   <-- differs\n", i,
				host->k[i], interp->k[i]);
	for (unsigned k = 0; k < 160; k += 8)
		if (k != X86_FX_MXCSR && memcmp(host->fx + k, interp->fx + k, 8)) {
			uint64_t h, n;
			memcpy(&h, host->fx + k, 8);
			memcpy(&n, interp->fx + k, 8);
			fprintf(f,
				"x87 image +%-5u %-18s %016" PRIx64 "   %016" PRIx64
				"   <-- differs\n",
				k, "", h, n);
		}
}

static void show_end(FILE *f, const char *who, const struct ls_end *end,
		     const struct soft_event *exc)
{
	static const char *const why[] = {"its end", "an exception", "a new look at it", "shutdown",
					  "a failure"};

	fprintf(f, "%s left the block by %s", who, why[end->why]);
	if (end->why == JMP_RAISE)
		fprintf(f, ": vector %u, error %x", exc->vector, exc->error);
	fprintf(f, "\n");
}

static void show_stores(FILE *f, struct soft_cpu *cpu, const char *who, const struct ls_log *log)
{
	for (unsigned i = 0; i < log->count && i < 64; i++) {
		const struct ls_range *r = &log->range[i];
		uint64_t phys = 0;
		lockstep_ram(cpu, r->at, &phys);
		fprintf(f, "%s stored %u bytes at physical %" PRIx64 ":", who, r->len, phys);
		for (uint32_t k = 0; k < r->len && k < 32; k++)
			fprintf(f, " %02x", log->bytes[r->data + k]);
		fprintf(f, "\n");
	}
	if (log->full)
		fprintf(f, "%s: more stores than lock-step can undo\n", who);
}

static void show_world(FILE *f, const struct soft_lockstep *ls)
{
	static const char *const kinds[] = {
	    "port read", "port write", "device read", "device write", "MSR read", "MSR write",
	    "CR8 read",	 "CR8 write",  "TSC read",    "TSC write",    "random",	  "hypercall"};

	for (unsigned i = 0; i < ls->ios && i < 16; i++)
		fprintf(f, "asked of the world: %s %" PRIx64 ", value %" PRIx64 "\n",
			kinds[ls->io[i].kind], ls->io[i].address, ls->io[i].value);
	if (!ls->interp_asked)
		fprintf(f, "what they asked of the world differs\n");
}

void lockstep_report(struct soft_cpu *cpu)
{
	struct soft_lockstep *ls = cpu->lockstep;
	struct engine_trace *trace = &cpu->engine->base.cfg.trace, kept = *trace;
	FILE *f = trace->blocks ? trace->blocks : stderr;

	fprintf(f, "\nlock-step: a difference after %" PRIu64 " blocks\n", ls->blocks);
	/* Translated once more, to be shown; memory and registers are those before the block. */
	trace->blocks = f;
	trace->from = 0;
	trace->to = UINT64_MAX;
	(void)trans_block(cpu, soft_cache_lookup(cpu));
	*trace = kept;
	show_registers(f, &ls->before, &ls->host, &ls->interp);
	show_vector(f, &ls->fpu_host, &ls->fpu_interp);
	show_end(f, "host code", &ls->host_end, &ls->host.exc);
	show_end(f, "the interpreter", &ls->interp_end, &ls->interp.exc);
	show_stores(f, cpu, "host code", &ls->log[0]);
	ls->log[1].count = ls->interp_stores;
	show_stores(f, cpu, "the interpreter", &ls->log[1]);
	show_world(f, ls);
	fflush(f);
}
