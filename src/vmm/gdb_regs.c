/* gdb_regs.c: the CPU's registers as gdb numbers and describes them. */
#include "vmm/gdb_regs.h"

#include <stdio.h>
#include <string.h>

#include "base/le.h"
#include "x86/regs.h"

/*
 * The order of gdb's own features: general registers, flags, segments, x87 (org.gnu.gdb.i386.core),
 * SSE (...sse), segment bases (...segments); then system registers in a feature of this program's,
 * which gdb shows by "info registers system" and by name; then the upper halves of the YMM
 * registers (...avx), of which gdb itself makes $ymm0 and so on; last, where the guest was given
 * them, AVX-512's (...avx512): registers 16 to 31 likewise, opmasks, and the upper halves of all
 * ZMM registers.
 */
enum kind { GPR, SYSTEM, FLAGS, SEGMENT, ST, FPU, XMM, YMMH, ZMMH, OPMASK, MXCSR, BASE };

struct reg_desc {
	const char *name;
	enum kind kind;
	uint16_t at; /* index or offset, by kind */
	uint8_t bytes;
	const char *type, *feature, *group;
};

#define CORE   "org.gnu.gdb.i386.core"
#define SSE    "org.gnu.gdb.i386.sse"
#define AVX    "org.gnu.gdb.i386.avx"
#define AVX512 "org.gnu.gdb.i386.avx512"
#define SEGS   "org.gnu.gdb.i386.segments"
#define SYS    "org.polyvisor.system"

#define R(name, index)                                                                             \
	{                                                                                          \
		name, GPR, index, 8, "int64", CORE                                                 \
	}
#define SEG(name, index)                                                                           \
	{                                                                                          \
		name, SEGMENT, index, 4, "int32", CORE                                             \
	}
#define STREG(n)                                                                                   \
	{                                                                                          \
		"st" #n, ST, n, 10, "i387_ext", CORE                                               \
	}
#define FP(name, index)                                                                            \
	{                                                                                          \
		name, FPU, index, 4, "int", CORE, "float"                                          \
	}
#define X(n)                                                                                       \
	{                                                                                          \
		"xmm" #n, XMM, n, 16, "vec128", SSE                                                \
	}
#define YH(n)                                                                                      \
	{                                                                                          \
		"ymm" #n "h", YMMH, n, 16, "uint128", AVX                                          \
	}
#define X_HIGH(n)                                                                                  \
	{                                                                                          \
		"xmm" #n, XMM, n, 16, "vec128", AVX512                                             \
	}
#define YH_HIGH(n)                                                                                 \
	{                                                                                          \
		"ymm" #n "h", YMMH, n, 16, "uint128", AVX512                                       \
	}
#define ZH(n)                                                                                      \
	{                                                                                          \
		"zmm" #n "h", ZMMH, n, 32, "v2ui128", AVX512                                       \
	}
#define K(n)                                                                                       \
	{                                                                                          \
		"k" #n, OPMASK, n, 8, "uint64", AVX512                                             \
	}
#define S(name, field)                                                                             \
	{                                                                                          \
		name, SYSTEM, offsetof(struct x86_state, field), 8, "int64", SYS, "system"         \
	}
#define SB(name, segment)                                                                          \
	{                                                                                          \
		name, BASE, segment, 8, "int64", SEGS                                              \
	}

#define EACH_LOW(M)                                                                                \
	M(0), M(1), M(2), M(3), M(4), M(5), M(6), M(7), M(8), M(9), M(10), M(11), M(12), M(13),    \
	    M(14), M(15)
#define EACH_HIGH(M)                                                                               \
	M(16), M(17), M(18), M(19), M(20), M(21), M(22), M(23), M(24), M(25), M(26), M(27), M(28), \
	    M(29), M(30), M(31)

static const struct reg_desc regs[] = {
    R("rax", X86_RAX),
    R("rbx", X86_RBX),
    R("rcx", X86_RCX),
    R("rdx", X86_RDX),
    R("rsi", X86_RSI),
    R("rdi", X86_RDI),
    {"rbp", GPR, X86_RBP, 8, "data_ptr", CORE},
    {"rsp", GPR, X86_RSP, 8, "data_ptr", CORE},
    R("r8", X86_R8),
    R("r9", X86_R9),
    R("r10", X86_R10),
    R("r11", X86_R11),
    R("r12", X86_R12),
    R("r13", X86_R13),
    R("r14", X86_R14),
    R("r15", X86_R15),
    {"rip", SYSTEM, offsetof(struct x86_state, rip), 8, "code_ptr", CORE},
    {"eflags", FLAGS, 0, 4, "eflags", CORE},
    SEG("cs", X86_CS),
    SEG("ss", X86_SS),
    SEG("ds", X86_DS),
    SEG("es", X86_ES),
    SEG("fs", X86_FS),
    SEG("gs", X86_GS),
    STREG(0),
    STREG(1),
    STREG(2),
    STREG(3),
    STREG(4),
    STREG(5),
    STREG(6),
    STREG(7),
    FP("fctrl", 0),
    FP("fstat", 1),
    FP("ftag", 2),
    FP("fiseg", 3),
    FP("fioff", 4),
    FP("foseg", 5),
    FP("fooff", 6),
    FP("fop", 7),
    EACH_LOW(X),
    {"mxcsr", MXCSR, 0, 4, "i386_mxcsr", SSE, "vector"},
    SB("fs_base", X86_FS),
    SB("gs_base", X86_GS),
    S("k_gs_base", kernel_gs_base),
    S("cr0", cr0),
    S("cr2", cr2),
    S("cr3", cr3),
    S("cr4", cr4),
    S("efer", efer),
    EACH_LOW(YH),
    EACH_HIGH(X_HIGH),
    EACH_HIGH(YH_HIGH),
    K(0),
    K(1),
    K(2),
    K(3),
    K(4),
    K(5),
    K(6),
    K(7),
    EACH_LOW(ZH),
    EACH_HIGH(ZH),
};

#define AVX512_REGS (16 + 16 + 8 + 32) /* at the end */

unsigned gdb_reg_count(_Bool avx512)
{
	return ARRAY_SIZE(regs) - (avx512 ? 0 : AVX512_REGS);
}

unsigned gdb_reg_size(unsigned n)
{
	return n < ARRAY_SIZE(regs) ? regs[n].bytes : 0;
}

/* FXSAVE's abridged tag word, one bit a physical register, as the full one with two (SDM1 8.1.7,
 * 10.5.1). */
static uint16_t full_tag(const struct x86_state *s)
{
	unsigned top = load_le16(s->fpu.fx + X86_FX_FSW) >> 11 & 7;
	uint16_t full = 0;

	for (unsigned i = 0; i < 8; i++) {
		const uint8_t *st = s->fpu.fx + X86_FX_ST + 16 * ((i - top) & 7);
		uint64_t mantissa = load_le64(st);
		unsigned exponent = load_le16(st + 8) & 0x7fff, tag = 2;

		if (!(s->fpu.fx[X86_FX_FTW] >> i & 1))
			tag = 3;
		else if (!exponent && !mantissa)
			tag = 1;
		else if (exponent && exponent != 0x7fff && mantissa >> 63)
			tag = 0;
		full |= (uint16_t)(tag << 2 * i);
	}
	return full;
}

static uint32_t fpu_get(const struct x86_state *s, unsigned which)
{
	const uint8_t *fx = s->fpu.fx;

	switch (which) {
	case 0: return load_le16(fx + X86_FX_FCW);
	case 1: return load_le16(fx + X86_FX_FSW);
	case 2: return full_tag(s);
	case 3: return load_le32(fx + X86_FX_FIP + 4) & 0xffff;
	case 4: return load_le32(fx + X86_FX_FIP);
	case 5: return load_le32(fx + X86_FX_FDP + 4) & 0xffff;
	case 6: return load_le32(fx + X86_FX_FDP);
	default: return load_le16(fx + X86_FX_FOP);
	}
}

static void fpu_put(struct x86_state *s, unsigned which, uint32_t v)
{
	uint8_t *fx = s->fpu.fx;

	switch (which) {
	case 0: store_le16(fx + X86_FX_FCW, (uint16_t)v); break;
	case 1: store_le16(fx + X86_FX_FSW, (uint16_t)v); break;
	case 2:
		fx[X86_FX_FTW] = 0;
		for (unsigned i = 0; i < 8; i++)
			fx[X86_FX_FTW] |= (uint8_t)(((v >> 2 * i & 3) != 3) << i);
		break;
	case 3: store_le16(fx + X86_FX_FIP + 4, (uint16_t)v); break;
	case 4: store_le32(fx + X86_FX_FIP, v); break;
	case 5: store_le16(fx + X86_FX_FDP + 4, (uint16_t)v); break;
	case 6: store_le32(fx + X86_FX_FDP, v); break;
	default: store_le16(fx + X86_FX_FOP, (uint16_t)(v & 0x7ff)); break;
	}
}

void gdb_reg_get(const struct x86_state *s, unsigned n, uint8_t *out)
{
	const struct reg_desc *r = &regs[n];
	uint64_t v;

	switch (r->kind) {
	case GPR: store_le64(out, s->gpr[r->at]); break;
	case SYSTEM:
		memcpy(&v, (const uint8_t *)s + r->at, 8);
		store_le64(out, v);
		break;
	case FLAGS: store_le32(out, (uint32_t)s->rflags); break;
	case SEGMENT: store_le32(out, s->seg[r->at].selector); break;
	case BASE: store_le64(out, s->seg[r->at].base); break;
	case ST: memcpy(out, s->fpu.fx + X86_FX_ST + 16 * r->at, 10); break;
	case FPU: store_le32(out, fpu_get(s, r->at)); break;
	case XMM: memcpy(out, s->fpu.vec[r->at], 16); break;
	case YMMH: memcpy(out, s->fpu.vec[r->at] + 16, 16); break;
	case ZMMH: memcpy(out, s->fpu.vec[r->at] + 32, 32); break;
	case OPMASK: store_le64(out, s->fpu.k[r->at]); break;
	case MXCSR: memcpy(out, s->fpu.fx + X86_FX_MXCSR, 4); break;
	}
}

static _Bool is_canonical(uint64_t v)
{
	return (uint64_t)((int64_t)(v << 16) >> 16) == v;
}

/* Has the guest switched on what the register belongs to? */
static _Bool is_enabled(const struct x86_state *s, const struct reg_desc *r)
{
	uint64_t need = !strcmp(r->feature, AVX)      ? X86_XCR0_AVX
			: !strcmp(r->feature, AVX512) ? X86_XCR0_AVX512
						      : 0;

	return (s->xcr0 & need) == need;
}

/* A segment register is more than its selector: only writing what is there already is possible. */
_Bool gdb_reg_put(struct x86_state *s, unsigned n, const uint8_t *in)
{
	const uint32_t flags =
	    X86_ARITH | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_RF | X86_AC | X86_ID;
	const struct reg_desc *r = &regs[n];
	uint8_t old[GDB_REG_MAX_BYTES];

	gdb_reg_get(s, n, old);
	if (!memcmp(old, in, r->bytes))
		return 1;
	if (!is_enabled(s, r))
		return 0;
	switch (r->kind) {
	case GPR: s->gpr[r->at] = load_le64(in); return 1;
	case SYSTEM:
		if (strcmp(r->name, "rip") && strcmp(r->name, "cr2") &&
		    strcmp(r->name, "k_gs_base"))
			return 0; /* a mode change by hand */
		if (strcmp(r->name, "cr2") && !is_canonical(load_le64(in)))
			return 0;
		*(uint64_t *)(void *)((uint8_t *)s + r->at) = load_le64(in);
		return 1;
	case FLAGS: s->rflags = (s->rflags & ~(uint64_t)flags) | (load_le32(in) & flags); return 1;
	case SEGMENT: return 0;
	case BASE:
		if (!is_canonical(load_le64(in)))
			return 0;
		s->seg[r->at].base = load_le64(in);
		return 1;
	case ST: memcpy(s->fpu.fx + X86_FX_ST + 16 * r->at, in, 10); return 1;
	case FPU: fpu_put(s, r->at, load_le32(in)); return 1;
	case XMM: memcpy(s->fpu.vec[r->at], in, 16); return 1;
	case YMMH: memcpy(s->fpu.vec[r->at] + 16, in, 16); return 1;
	case ZMMH: memcpy(s->fpu.vec[r->at] + 32, in, 32); return 1;
	case OPMASK: s->fpu.k[r->at] = load_le64(in); return 1;
	case MXCSR:
		if (load_le32(in) & 0xffff0000)
			return 0;
		memcpy(s->fpu.fx + X86_FX_MXCSR, in, 4);
		return 1;
	}
	return 0;
}

static void text(struct wbuf *out, const char *s)
{
	wbuf_put(out, s, strlen(s));
}

static void describe_vec128(struct wbuf *out)
{
	text(out, "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
		  "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
		  "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
		  "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
		  "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
		  "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
		  "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
		  "<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" "
		  "type=\"v16i8\"/>"
		  "<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" "
		  "type=\"v4i32\"/>"
		  "<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" "
		  "type=\"uint128\"/>"
		  "</union>");
}

/* The types that gdb's own descriptions of these features use; each knows its own alone. */
static void describe_types(struct wbuf *out, const char *feature)
{
	if (!strcmp(feature, CORE)) {
		text(out, "<flags id=\"eflags\" size=\"4\">"
			  "<field name=\"CF\" start=\"0\" end=\"0\"/>"
			  "<field name=\"\" start=\"1\" end=\"1\"/>"
			  "<field name=\"PF\" start=\"2\" end=\"2\"/>"
			  "<field name=\"AF\" start=\"4\" end=\"4\"/>"
			  "<field name=\"ZF\" start=\"6\" end=\"6\"/>"
			  "<field name=\"SF\" start=\"7\" end=\"7\"/>"
			  "<field name=\"TF\" start=\"8\" end=\"8\"/>"
			  "<field name=\"IF\" start=\"9\" end=\"9\"/>"
			  "<field name=\"DF\" start=\"10\" end=\"10\"/>"
			  "<field name=\"OF\" start=\"11\" end=\"11\"/>"
			  "<field name=\"NT\" start=\"14\" end=\"14\"/>"
			  "<field name=\"RF\" start=\"16\" end=\"16\"/>"
			  "<field name=\"VM\" start=\"17\" end=\"17\"/>"
			  "<field name=\"AC\" start=\"18\" end=\"18\"/>"
			  "<field name=\"ID\" start=\"21\" end=\"21\"/></flags>");
	} else if (!strcmp(feature, SSE)) {
		describe_vec128(out);
		text(out, "<flags id=\"i386_mxcsr\" size=\"4\">"
			  "<field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" "
			  "start=\"1\" end=\"1\"/>"
			  "<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" "
			  "start=\"3\" end=\"3\"/>"
			  "<field name=\"UE\" start=\"4\" end=\"4\"/><field name=\"PE\" "
			  "start=\"5\" end=\"5\"/>"
			  "<field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"IM\" "
			  "start=\"7\" end=\"7\"/>"
			  "<field name=\"DM\" start=\"8\" end=\"8\"/><field name=\"ZM\" "
			  "start=\"9\" end=\"9\"/>"
			  "<field name=\"OM\" start=\"10\" end=\"10\"/><field name=\"UM\" "
			  "start=\"11\" end=\"11\"/>"
			  "<field name=\"PM\" start=\"12\" end=\"12\"/><field name=\"FZ\" "
			  "start=\"15\" end=\"15\"/>"
			  "</flags>");
	} else if (!strcmp(feature, AVX512)) {
		describe_vec128(out);
		text(out, "<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>");
	}
}

void gdb_regs_describe(struct wbuf *out, _Bool avx512)
{
	const char *feature = NULL;
	char line[160];

	text(out, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>"
		  "<architecture>i386:x86-64</architecture>");
	for (unsigned i = 0; i < gdb_reg_count(avx512); i++) {
		const struct reg_desc *r = &regs[i];
		int n;

		if (!feature || strcmp(feature, r->feature)) {
			n = snprintf(line, sizeof(line), "%s<feature name=\"%s\">",
				     feature ? "</feature>" : "", r->feature);
			wbuf_put(out, line, (size_t)n);
			feature = r->feature;
			describe_types(out, feature);
		}
		n = snprintf(line, sizeof(line),
			     "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"%s%s%s/>",
			     r->name, r->bytes * 8u, r->type, i, r->group ? " group=\"" : "",
			     r->group ? r->group : "", r->group ? "\"" : "");
		wbuf_put(out, line, (size_t)n);
	}
	text(out, "</feature></target>");
}
