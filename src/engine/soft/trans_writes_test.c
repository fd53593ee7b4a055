/* trans_writes_test.c: what the translator believes of instructions (the registers, flags and
 * memory that they may change, the flags that they leave or do not ask for) is so on the host's
 * CPU.
 *
 * Most of it is what Zydis says, and Zydis errs. Instructions of all opcodes, but those that could
 * not be executed here or be left again, are executed with the same registers and opposite flags.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "engine/soft/testboard.h"
#include "engine/soft/trans_impl.h"

#define TRIALS 40000u /* WRITES_TRIALS= and WRITES_SEED= for others */
#define MEMORY 8192u  /* RSI and RDI point to its middle */

/* What the code of a trial, a page before, loads and stores. */
struct trial {
	uint64_t in[16], out[16], vec[16][2];
	uint64_t flags_in, flags_out;
	uint8_t memory[MEMORY];
};

struct fixture {
	struct board *b;
	uint8_t *code, *end;
	struct trial *t;
	uint64_t random;
};

/* For the signal handler, which has no other way to know: where a fault goes. */
static _Thread_local sigjmp_buf faulted;

static void fault(int sig)
{
	siglongjmp(faulted, sig);
}

static uint64_t next(struct fixture *f)
{
	return board_random(&f->random);
}
static unsigned below(struct fixture *f, unsigned n)
{
	return (unsigned)(next(f) % n);
}

static unsigned number(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned)strtoul(text, NULL, 0) : otherwise;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->random =
	    UINT64_C(0x9e3779b97f4a7c15) +
	    (getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : 0u); /* the same trials every time */
	f->b = board_new(1);
	f->code = mmap(NULL, 4096 + sizeof(struct trial), PROT_READ | PROT_WRITE | PROT_EXEC,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->code, MAP_FAILED);
	f->t = (struct trial *)(f->code + 4096);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	munmap(f->code, 4096 + sizeof(struct trial));
	board_free(f->b);
	free(f);
	return 0;
}

/* The test's own while trials run; cmocka has some, too. */
#define SIGNALS 4
static void signals_take(struct sigaction old[SIGNALS], _Bool give_back)
{
	static const int signals[SIGNALS] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE};
	const struct sigaction act = {.sa_handler = fault, .sa_flags = SA_NODEFER};

	for (unsigned k = 0; k < SIGNALS; k++)
		sigaction(signals[k], give_back ? &old[k] : &act, give_back ? NULL : &old[k]);
}

/* Code of a trial */

static void put(struct fixture *f, const char *bytes, size_t n)
{
	memcpy(f->end, bytes, n);
	f->end += n;
}
#define PUT(f, text) put(f, text, sizeof(text) - 1)

/* The displacement of a RIP-relative operand. */
static void put_at(struct fixture *f, const uint64_t *where)
{
	int32_t disp = (int32_t)((const uint8_t *)where - (f->end + 4));

	memcpy(f->end, &disp, 4);
	f->end += 4;
}

static void gprs_move(struct fixture *f, uint8_t opcode, const uint64_t *where)
{
	for (unsigned r = 0; r < 16; r++) {
		if (r == X86_RSP)
			continue;
		*f->end++ = (uint8_t)(0x48 | (r >> 3) << 2);
		*f->end++ = opcode;
		*f->end++ = (uint8_t)(5 | (r & 7) << 3);
		put_at(f, where + r);
	}
}

static void vectors_load(struct fixture *f)
{
	for (unsigned r = 0; r < 16; r++) {
		*f->end++ = (uint8_t)(0x40 | (r >> 3) << 2);
		PUT(f, "\x0f\x10"); /* movups */
		*f->end++ = (uint8_t)(5 | (r & 7) << 3);
		put_at(f, f->t->vec[r]);
	}
}

static void code_make(struct fixture *f, const uint8_t *insn, unsigned len)
{
	f->end = f->code;
	PUT(f, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57\xff\x35"); /* pushes; the flags */
	put_at(f, &f->t->flags_in);
	PUT(f, "\x9d"); /* popfq */
	vectors_load(f);
	gprs_move(f, 0x8b, f->t->in);
	put(f, (const char *)insn, len);
	gprs_move(f, 0x89, f->t->out);
	PUT(f, "\x9c\x8f\x05"); /* pushfq; pop */
	put_at(f, &f->t->flags_out);
	PUT(f, "\xfc\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3"); /* cld; pops; ret */
}

static _Bool code_run(struct fixture *f, uint64_t flags)
{
	memset(f->t->memory, 0x35, MEMORY);
	f->t->flags_in = flags | X86_FIXED;
	if (sigsetjmp(faulted, 1))
		return 0;
	((void (*)(void))(uintptr_t)f->code)();
	return 1;
}

/* Instructions */

/* A random one. Operands in memory are at RDI or RSI. */
static void insn_make(struct fixture *f, uint8_t insn[16])
{
	static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0xf0};
	unsigned at = 0, map = below(f, 4);

	for (unsigned k = 0; k < 16; k++)
		insn[k] = (uint8_t)next(f);
	if (below(f, 5) == 0) {
		insn[at++] = 0xc4; /* vvvv 1111 and L 0 more often than not */
		insn[at++] = (uint8_t)((next(f) & 0xe0) | (1 + map % 3));
		insn[at] |= below(f, 2) ? 0x78 : 0;
		insn[at++] &= below(f, 2) ? 0xfb : 0xff;
	} else {
		for (unsigned k = below(f, 3); k; k--)
			insn[at++] = prefixes[below(f, 4)];
		if (below(f, 2))
			insn[at++] = (uint8_t)(0x40 | below(f, 16));
		if (map)
			insn[at++] = 0x0f;
		if (map > 1)
			insn[at++] = map == 2 ? 0x38 : 0x3a;
	}
	at++;
	insn[at] = (uint8_t)(below(f, 2) ? insn[at] | 0xc0 : (insn[at] & 0x38) | 6 | below(f, 2));
}

static _Bool operand_possible(const ZydisDecodedOperand *op)
{
	if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
		return (op->mem.base == ZYDIS_REGISTER_RDI || op->mem.base == ZYDIS_REGISTER_RSI) &&
		       op->mem.index == ZYDIS_REGISTER_NONE &&
		       op->mem.disp.value == (int8_t)op->mem.disp.value &&
		       op->mem.segment != ZYDIS_REGISTER_FS && op->mem.segment != ZYDIS_REGISTER_GS;
	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
	case ZYDIS_REGCLASS_FLAGS: return 1;
	default: return 0;
	}
}

/* What has other effects than on these operands, jumps or waits, is not for here. */
static _Bool insn_possible(const struct tb_insn *i)
{
	if (i->zi.meta.branch_type || (i->zi.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) ||
	    (i->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	     i->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX))
		return 0;
	switch (i->zi.meta.category) {
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_PUSH:
	case ZYDIS_CATEGORY_POP:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT:
	case ZYDIS_CATEGORY_RDWRFSGS:
	case ZYDIS_CATEGORY_SGX:
	case ZYDIS_CATEGORY_PKU:
	case ZYDIS_CATEGORY_WAITPKG:
	case ZYDIS_CATEGORY_AMX_TILE: return 0;
	default: break;
	}
	switch (i->zi.mnemonic) {
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
	case ZYDIS_MNEMONIC_MONITORX:
	case ZYDIS_MNEMONIC_MWAITX: return 0;
	default: break;
	}
	for (unsigned k = 0; k < i->zi.operand_count; k++)
		if (!operand_possible(&i->ops[k]))
			return 0;
	return !(tb_gprs_written(i) & 1u << X86_RSP);
}

/* Each time something else, or with the state of the machine. */
static _Bool insn_varies(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_RDTSC || m == ZYDIS_MNEMONIC_RDTSCP ||
	       m == ZYDIS_MNEMONIC_RDRAND || m == ZYDIS_MNEMONIC_RDSEED ||
	       m == ZYDIS_MNEMONIC_RDPID || m == ZYDIS_MNEMONIC_CPUID ||
	       m == ZYDIS_MNEMONIC_RDPRU || m == ZYDIS_MNEMONIC_XGETBV;
}

static void gprs_make(struct fixture *f)
{
	for (unsigned r = 0; r < 16; r++)
		f->t->in[r] = next(f) % 2048 << (below(f, 4) ? 0 : below(f, 54));
	f->t->in[X86_RCX] = below(f, 64); /* repetitions, shifts */
	f->t->in[X86_RSI] = (uint64_t)(uintptr_t)f->t->memory + MEMORY / 2;
	f->t->in[X86_RDI] = f->t->in[X86_RSI] + 512;
	for (unsigned r = 0; r < 32; r++)
		f->t->vec[r / 2][r % 2] = next(f) << below(f, 54);
}

/* Beliefs */

static const char *believed(const struct fixture *f, const struct tb_insn *i)
{
	const ZydisAccessedFlags *z = i->zi.cpu_flags;
	uint64_t changed = (f->t->flags_in ^ f->t->flags_out) & X86_ARITH;
	unsigned gprs = tb_gprs_written(i);
	int use = tb_flag_use(&i->zi);
	_Bool writes = 0;

	for (unsigned r = 0; r < 16; r++)
		if (r != X86_RSP && f->t->in[r] != f->t->out[r] && !(gprs & 1u << r))
			return "a register";
	if ((use == USE_NONE || use == USE_IN) && changed)
		return "flags that the translator leaves";
	/* When it changes any, all are taken from the host. */
	if (changed && !(z && (z->modified | z->set_0 | z->set_1 | z->undefined) & X86_ARITH))
		return "flags";
	for (unsigned k = 0; k < i->zi.operand_count; k++)
		writes |= i->ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			  (i->ops[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	for (unsigned k = 0; k < MEMORY && !writes; k++)
		if (f->t->memory[k] != 0x35)
			return "memory";
	return NULL;
}

/* After a second time with other flags. */
static const char *believed_again(const struct fixture *f, const struct tb_insn *i,
				  const struct trial *first)
{
	const ZydisAccessedFlags *z = i->zi.cpu_flags;
	uint32_t known = z ? (z->modified | z->set_0 | z->set_1) & X86_ARITH : 0;
	int use = tb_flag_use(&i->zi);

	if (insn_varies(i->zi.mnemonic))
		return NULL;
	/* What trans_vec.c and thunk_plan.c go by. */
	if (use < 0 && i->zi.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT && known == X86_ARITH &&
	    !(z->tested & X86_ARITH))
		use = USE_OUT;
	if (use == USE_OUT && ((f->t->flags_out ^ first->flags_out) & X86_ARITH))
		return "flags by flags";
	if ((use == USE_OUT || use == USE_NONE) &&
	    memcmp(f->t->out, first->out, sizeof(f->t->out)) != 0)
		return "a register by flags";
	return NULL;
}

static void show(const char *what, const struct tb_insn *i, const uint8_t *insn)
{
	fprintf(stderr, "%s changes %s:", ZydisMnemonicGetString(i->zi.mnemonic), what);
	for (unsigned k = 0; k < i->zi.length; k++)
		fprintf(stderr, " %02x", insn[k]);
	fprintf(stderr, "\n");
}

static void the_cpu_changes_no_more_than_the_translator_believes(void **state)
{
	struct fixture *f = *state;
	const ZydisDecoder *decoder = &f->b->cpu->cache->decoder[2];
	struct trial first;
	struct sigaction old[SIGNALS];
	unsigned run = 0, wrong = 0, trials = number("WRITES_TRIALS", TRIALS);

	signals_take(old, 0);
	for (unsigned n = 0; n < trials; n++) {
		uint8_t insn[16];
		struct tb_room room = {.i.ops = room.ops};
		const struct tb_insn *i = &room.i;

		insn_make(f, insn);
		if (!ZYAN_SUCCESS(
			ZydisDecoderDecodeFull(decoder, insn, 15, &room.i.zi, room.ops)) ||
		    !insn_possible(i))
			continue;
		uint64_t flags = next(f) & X86_ARITH;
		gprs_make(f);
		code_make(f, insn, i->zi.length);
		if (!code_run(f, flags))
			continue;
		run++;
		const char *what = believed(f, i);
		first = *f->t;
		if (!what && code_run(f, flags ^ X86_ARITH))
			what = believed_again(f, i, &first);
		if (what)
			show(what, i, insn);
		wrong += what != NULL;
	}
	signals_take(old, 1);
	assert_int_equal(wrong, 0);
	assert_in_range(run, trials / 20, trials);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(the_cpu_changes_no_more_than_the_translator_believes,
					    setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
