/* compare.c: what differs between the two results, and showing a case to a person. */
#include "randinsn.h"

#include <stdio.h>
#include <stdarg.h>
#include <string.h>
#include "x86/regs.h"
#include "x86/state.h"

struct list {
	char *text;
	size_t size, used;
};

static void add(struct list *l, const char *fmt, ...) PRINTF(2, 3);
static void add(struct list *l, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (l->used + 1 >= l->size)
		return;
	if (l->used)
		l->text[l->used++] = ' ';
	va_start(ap, fmt);
	n = vsnprintf(l->text + l->used, l->size - l->used, fmt, ap);
	va_end(ap);
	if (n > 0)
		l->used = MIN(l->size - 1, l->used + (size_t)n);
}

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, 2);
	return v;
}

static const char *const gpr_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					 "r8",	"r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static void compare_x87(struct list *l, const uint8_t *a, const uint8_t *b)
{
	if (get16(a) != get16(b))
		add(l, "fcw");
	if (get16(a + X86_FX_FSW) != get16(b + X86_FX_FSW))
		add(l, "fsw");
	if (a[X86_FX_FTW] != b[X86_FX_FTW])
		add(l, "ftw");
	if (memcmp(a + X86_FX_MXCSR, b + X86_FX_MXCSR, 4) != 0)
		add(l, "mxcsr");
	for (unsigned i = 0; i < 8; i++) {
		if (memcmp(a + X86_FX_ST + i * 16, b + X86_FX_ST + i * 16, 10) != 0)
			add(l, "st%u", i);
	}
	/* AMD's CPUs give the pointers only while an exception is pending, and a signal frame is
	 * all there is to see of the host's. */
	if ((get16(a + X86_FX_FSW) & 0x80) || __builtin_cpu_is("intel")) {
		if (memcmp(a + X86_FX_FIP, b + X86_FX_FIP, 8) != 0)
			add(l, "fip");
		if (memcmp(a + X86_FX_FDP, b + X86_FX_FDP, 8) != 0)
			add(l, "fdp");
		if (get16(a + X86_FX_FOP) != get16(b + X86_FX_FOP))
			add(l, "fop");
	}
}

static void compare_fault(struct list *l, const struct ri_result *a, const struct ri_result *b)
{
	uint32_t error = a->error ^ b->error;

	if (a->vector != b->vector) {
		add(l, "vector");
		return;
	}
	if (a->vector == X86_VEC_PF) {
		/* Linux shows every fault outside of TASK_SIZE as one of protection. */
		if (a->cr2 >= UINT64_C(0x7ffffffff000))
			error &= ~X86_PFERR_P;
		if (a->cr2 != b->cr2)
			add(l, "cr2");
	}
	if (error)
		add(l, "error");
}

/*
 * Where a CPU may do more than one thing, and the interpreter does another: a gather interrupted by
 * a single-step trap between its elements; a masked move with an empty mask whose operand is both
 * misaligned and not mapped, of which AMD's CPUs report the former. And INT1, which a program may
 * make by stores into its code or reach in the middle of another instruction: its trap's RIP is
 * that of the next instruction (APM volume 2, 8.2.2), but hypervisors under the host report one
 * byte less, whatever prefixes INT1 has. What counts is the code as it was executed, not as it
 * began.
 */
static _Bool excused(const struct ri_case *c, const struct ri_result *a, const struct ri_result *b)
{
	uint64_t at = a->state.rip - RI_CODE;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	ZydisDecoder decoder;

	if ((a->vector != X86_VEC_DB && a->vector != X86_VEC_AC) || at > RI_CODE_BYTES - 15)
		return 0;
	ri_decoder(&decoder, c->mode32);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, a->code + at, 15, &zi, ops)))
		return 0;
	if (a->vector == X86_VEC_DB)
		return a->vector != b->vector
			   ? zi.meta.isa_set == ZYDIS_ISA_SET_AVX2GATHER ||
				 zi.meta.category == ZYDIS_CATEGORY_GATHER ||
				 zi.meta.category == ZYDIS_CATEGORY_SCATTER
			   : zi.mnemonic == ZYDIS_MNEMONIC_INT1 && b->state.rip == a->state.rip + 1;
	return b->vector == X86_VEC_PF && (zi.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ||
					   zi.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
					   zi.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU);
}

void ri_compare(const struct ri_case *c, const struct ri_result *a, const struct ri_result *b,
		char *what, size_t size)
{
	struct list l = {.text = what, .size = size};

	what[0] = 0;
	if ((a->vector != b->vector || a->state.rip != b->state.rip) && excused(c, a, b))
		return;
	if (a->lost || b->lost) {
		if (a->lost != b->lost)
			add(&l, a->lost ? "lost natively" : "lost in the guest");
		return;
	}
	compare_fault(&l, a, b);
	if (a->state.rip != b->state.rip)
		add(&l, "rip");
	if (a->state.rflags != b->state.rflags)
		add(&l, "rflags");
	for (unsigned i = 0; i < 16; i++) {
		if (a->state.gpr[i] != b->state.gpr[i])
			add(&l, "%s", gpr_name[i]);
	}
	compare_x87(&l, a->state.fx, b->state.fx);
	for (unsigned i = 0; i < 32; i++) {
		if (memcmp(a->state.vec[i], b->state.vec[i], 64) != 0)
			add(&l, "%cmm%u", c->avx512 ? 'z' : 'y', i);
	}
	for (unsigned i = 0; i < 8; i++) {
		if (a->state.k[i] != b->state.k[i])
			add(&l, "k%u", i);
	}
	if (memcmp(a->data, b->data, RI_PAGE) != 0)
		add(&l, "memory");
	if (memcmp(a->code, b->code, RI_CODE_BYTES) != 0)
		add(&l, "code");
}

static void show_bytes(const char *name, const uint8_t *p, unsigned n)
{
	printf(" %s=", name);
	for (unsigned i = n; i-- > 0;)
		printf("%02x", p[i]);
}

static void show_pair(const char *name, const uint8_t *init, const uint8_t *a, const uint8_t *b,
		      unsigned n)
{
	printf("  %-6s", name);
	show_bytes("before", init, n);
	show_bytes("native", a, n);
	show_bytes("guest", b, n);
	printf("\n");
}

static void show_x87(const struct ri_case *c, const struct ri_result *a, const struct ri_result *b)
{
	static const struct {
		const char *name;
		unsigned at, size;
	} field[] = {{"fcw", X86_FX_FCW, 2},	{"fsw", X86_FX_FSW, 2}, {"ftw", X86_FX_FTW, 1},
		     {"fop", X86_FX_FOP, 2},	{"fip", X86_FX_FIP, 8}, {"fdp", X86_FX_FDP, 8},
		     {"mxcsr", X86_FX_MXCSR, 4}};
	char name[8];

	for (size_t i = 0; i < ARRAY_SIZE(field); i++) {
		unsigned at = field[i].at;

		if (memcmp(a->state.fx + at, b->state.fx + at, field[i].size) != 0)
			show_pair(field[i].name, c->state.fx + at, a->state.fx + at,
				  b->state.fx + at, field[i].size);
	}
	for (unsigned i = 0; i < 8; i++) {
		unsigned at = X86_FX_ST + i * 16;

		if (memcmp(a->state.fx + at, b->state.fx + at, 10) == 0)
			continue;
		snprintf(name, sizeof(name), "st%u", i);
		show_pair(name, c->state.fx + at, a->state.fx + at, b->state.fx + at, 10);
	}
}

static void show_code(const struct ri_case *c)
{
	ZydisFormatter formatter;
	ZydisDecoder decoder;
	uint8_t code[RI_CODE_BYTES];
	unsigned off = c->start;

	ri_decoder(&decoder, c->mode32);
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	for (unsigned end = c->start + ri_assemble(c, code); off < end;) {
		ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction zi = {.length = 15};
		char text[128] = "(not known to the decoder)";

		if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code + off, 15, &zi, ops)))
			ZydisFormatterFormatInstruction(&formatter, &zi, ops,
							zi.operand_count_visible, text,
							sizeof(text), RI_CODE + off, NULL);
		printf("  %llx: ", (unsigned long long)(RI_CODE + off));
		for (unsigned k = 0; k < zi.length; k++)
			printf("%02x", code[off + k]);
		printf("%*s %s\n", (int)(32 - 2 * zi.length), "", text);
		off += zi.length;
	}
}

void ri_show(const struct ri_case *c, const struct ri_result *a, const struct ri_result *b)
{
	char what[512], name[8];

	ri_compare(c, a, b, what, sizeof(what));
	printf("seed %llu, %s code: differs in %s\n", (unsigned long long)c->seed,
	       c->mode32 ? "32-bit" : "64-bit", what);
	show_code(c);
	for (unsigned i = 0; i < 16; i += 4) {
		for (unsigned k = i; k < i + 4; k++)
			printf("  %3s=%016llx", gpr_name[k], (unsigned long long)c->state.gpr[k]);
		printf("\n");
	}
	printf("  rflags=%llx\n", (unsigned long long)c->state.rflags);
	printf("  native: vector %u error %x cr2 %llx rip %llx rflags %llx%s\n", a->vector,
	       a->error, (unsigned long long)a->cr2, (unsigned long long)a->state.rip,
	       (unsigned long long)a->state.rflags, a->lost ? " LOST" : "");
	printf("  guest:  vector %u error %x cr2 %llx rip %llx rflags %llx%s\n", b->vector,
	       b->error, (unsigned long long)b->cr2, (unsigned long long)b->state.rip,
	       (unsigned long long)b->state.rflags, b->lost ? " LOST" : "");
	for (unsigned i = 0; i < 16; i++) {
		if (a->state.gpr[i] != b->state.gpr[i])
			printf("  %s: native %016llx guest %016llx\n", gpr_name[i],
			       (unsigned long long)a->state.gpr[i],
			       (unsigned long long)b->state.gpr[i]);
	}
	for (unsigned i = 0; i < 32; i++) {
		snprintf(name, sizeof(name), "%cmm%u", c->avx512 ? 'z' : 'y', i);
		if (memcmp(a->state.vec[i], b->state.vec[i], 64) != 0)
			show_pair(name, c->state.vec[i], a->state.vec[i], b->state.vec[i],
				  c->avx512 ? 64 : 32);
	}
	for (unsigned i = 0; c->avx512 && i < 8; i++)
		printf("  k%u=%016llx native %016llx guest %016llx%s\n", i,
		       (unsigned long long)c->state.k[i], (unsigned long long)a->state.k[i],
		       (unsigned long long)b->state.k[i],
		       a->state.k[i] != b->state.k[i] ? " <--" : "");
	show_x87(c, a, b);
	for (unsigned i = 0, shown = 0; i < RI_PAGE && shown < 4; i += 16) {
		if (memcmp(a->data + i, b->data + i, 16) == 0)
			continue;
		printf("  %llx:", (unsigned long long)(RI_DATA + i));
		show_pair("", c->data + i, a->data + i, b->data + i, 16);
		shown++;
	}
}
