/* sys_decode.c: which handler an instruction of the system part gets. */
#include "engine/soft/sys.h"

#define END    (INSN_END | INSN_STATE)
#define BRANCH (INSN_BRANCH | INSN_STATE)

/* Instructions that need nothing but their name. `aux` is handed to the handler. */
struct row {
	ZydisMnemonic name;
	insn_fn *fn;
	uint16_t flags;
	uint16_t aux;
};

static const struct row rows[] = {
    {ZYDIS_MNEMONIC_INT, sys_insn_int, BRANCH, 0},
    {ZYDIS_MNEMONIC_INT3, sys_insn_int3, BRANCH, 0},
    {ZYDIS_MNEMONIC_INTO, sys_insn_into, BRANCH, 0},
    {ZYDIS_MNEMONIC_INT1, sys_insn_int1, BRANCH, 0},
    {ZYDIS_MNEMONIC_IRET, sys_insn_iret, BRANCH, 2},
    {ZYDIS_MNEMONIC_IRETD, sys_insn_iret, BRANCH, 4},
    {ZYDIS_MNEMONIC_IRETQ, sys_insn_iret, BRANCH, 8},
    {ZYDIS_MNEMONIC_SYSCALL, sys_insn_syscall, BRANCH, 0},
    {ZYDIS_MNEMONIC_SYSRET, sys_insn_sysret, BRANCH, 0},
    {ZYDIS_MNEMONIC_SYSENTER, sys_insn_sysenter, BRANCH, 0},
    {ZYDIS_MNEMONIC_SYSEXIT, sys_insn_sysexit, BRANCH, 0},
    {ZYDIS_MNEMONIC_LDS, sys_insn_load_far, END, X86_DS},
    {ZYDIS_MNEMONIC_LES, sys_insn_load_far, END, X86_ES},
    {ZYDIS_MNEMONIC_LFS, sys_insn_load_far, END, X86_FS},
    {ZYDIS_MNEMONIC_LGS, sys_insn_load_far, END, X86_GS},
    {ZYDIS_MNEMONIC_LSS, sys_insn_load_far, END, X86_SS},
    {ZYDIS_MNEMONIC_LAR, sys_insn_lar, 0, 0},
    {ZYDIS_MNEMONIC_LSL, sys_insn_lsl, 0, 0},
    {ZYDIS_MNEMONIC_VERR, sys_insn_verr, 0, 0},
    {ZYDIS_MNEMONIC_VERW, sys_insn_verr, 0, 1},
    {ZYDIS_MNEMONIC_ARPL, sys_insn_arpl, 0, 0},
    {ZYDIS_MNEMONIC_BOUND, sys_insn_bound, 0, 0},
    {ZYDIS_MNEMONIC_LGDT, sys_insn_lgdt, 0, 0},
    {ZYDIS_MNEMONIC_LIDT, sys_insn_lidt, 0, 0},
    {ZYDIS_MNEMONIC_SGDT, sys_insn_sgdt, 0, 0},
    {ZYDIS_MNEMONIC_SIDT, sys_insn_sidt, 0, 0},
    {ZYDIS_MNEMONIC_LLDT, sys_insn_lldt, 0, 0},
    {ZYDIS_MNEMONIC_LTR, sys_insn_ltr, 0, 0},
    {ZYDIS_MNEMONIC_SLDT, sys_insn_sldt, 0, 0},
    {ZYDIS_MNEMONIC_STR, sys_insn_str, 0, 0},
    {ZYDIS_MNEMONIC_SMSW, sys_insn_smsw, 0, 0},
    {ZYDIS_MNEMONIC_LMSW, sys_insn_lmsw, END, 0},
    {ZYDIS_MNEMONIC_CLTS, sys_insn_clts, END, 0},
    {ZYDIS_MNEMONIC_XGETBV, sys_insn_xgetbv, 0, 0},
    {ZYDIS_MNEMONIC_XSETBV, sys_insn_xsetbv, END, 0},
    {ZYDIS_MNEMONIC_RDMSR, sys_insn_rdmsr, 0, 0},
    {ZYDIS_MNEMONIC_WRMSR, sys_insn_wrmsr, END, 0},
    {ZYDIS_MNEMONIC_CLI, sys_insn_cli, 0, 0},
    {ZYDIS_MNEMONIC_STI, sys_insn_sti, END, 0},
    {ZYDIS_MNEMONIC_PUSHF, sys_insn_pushf, 0, 0},
    {ZYDIS_MNEMONIC_PUSHFD, sys_insn_pushf, 0, 0},
    {ZYDIS_MNEMONIC_PUSHFQ, sys_insn_pushf, 0, 0},
    {ZYDIS_MNEMONIC_POPF, sys_insn_popf, END, 0},
    {ZYDIS_MNEMONIC_POPFD, sys_insn_popf, END, 0},
    {ZYDIS_MNEMONIC_POPFQ, sys_insn_popf, END, 0},
    {ZYDIS_MNEMONIC_STAC, sys_insn_stac, END, 0},
    {ZYDIS_MNEMONIC_CLAC, sys_insn_clac, END, 0},
    {ZYDIS_MNEMONIC_CPUID, sys_insn_cpuid, 0, 0},
    {ZYDIS_MNEMONIC_HLT, sys_insn_hlt, END, 0},
    {ZYDIS_MNEMONIC_INVLPG, sys_insn_invlpg, END, 0},
    {ZYDIS_MNEMONIC_INVPCID, sys_insn_invpcid, END, 0},
    {ZYDIS_MNEMONIC_INVD, sys_insn_wbinvd, 0, 0},
    {ZYDIS_MNEMONIC_WBINVD, sys_insn_wbinvd, 0, 0},
    {ZYDIS_MNEMONIC_SWAPGS, sys_insn_swapgs, 0, 0},
    {ZYDIS_MNEMONIC_RDFSBASE, sys_insn_rdbase, 0, X86_FS},
    {ZYDIS_MNEMONIC_RDGSBASE, sys_insn_rdbase, 0, X86_GS},
    {ZYDIS_MNEMONIC_WRFSBASE, sys_insn_wrbase, 0, X86_FS},
    {ZYDIS_MNEMONIC_WRGSBASE, sys_insn_wrbase, 0, X86_GS},
    {ZYDIS_MNEMONIC_VMCALL, sys_insn_hypercall, END, 0},
    {ZYDIS_MNEMONIC_VMMCALL, sys_insn_hypercall, END, 0},
    {ZYDIS_MNEMONIC_RDPMC, sys_insn_rdpmc, 0, 0},
    {ZYDIS_MNEMONIC_MONITOR, sys_insn_monitor, 0, 0},
    {ZYDIS_MNEMONIC_MWAIT, sys_insn_mwait, END, 0},
};

static _Bool reg_within(const ZydisDecodedOperand *op, ZydisRegister first, unsigned count,
			uint32_t *number)
{
	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || op->reg.value < first ||
	    op->reg.value >= first + count)
		return 0;
	*number = (uint32_t)(op->reg.value - first);
	return 1;
}

static _Bool seg_reg(const ZydisDecodedOperand *op, uint32_t *number)
{
	static const ZydisRegister regs[] = {ZYDIS_REGISTER_ES, ZYDIS_REGISTER_CS,
					     ZYDIS_REGISTER_SS, ZYDIS_REGISTER_DS,
					     ZYDIS_REGISTER_FS, ZYDIS_REGISTER_GS};

	for (uint32_t i = 0; i < ARRAY_SIZE(regs); i++)
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value == regs[i]) {
			*number = i;
			return 1;
		}
	return 0;
}

/* Pushes and pops have eight bytes in 64-bit code, or two. */
static void stack_size(const struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
		       struct insn *out)
{
	if (soft_is64(cpu))
		out->osize =
		    (zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) && !zi->raw.rex.W ? 2 : 8;
}

static _Bool decode_mov(const ZydisDecodedOperand *ops, struct insn *out)
{
	uint32_t n;

	if (seg_reg(&ops[0], &n)) {
		out->fn = n == X86_CS ? NULL : sys_insn_mov_to_seg;
		out->flags |= END;
	} else if (seg_reg(&ops[1], &n)) {
		out->fn = sys_insn_mov_from_seg;
	} else if (reg_within(&ops[0], ZYDIS_REGISTER_CR0, 16, &n)) {
		out->fn = sys_insn_mov_to_cr;
		out->flags |= END;
	} else if (reg_within(&ops[1], ZYDIS_REGISTER_CR0, 16, &n)) {
		out->fn = sys_insn_mov_from_cr;
	} else if (reg_within(&ops[0], ZYDIS_REGISTER_DR0, 16, &n)) {
		out->fn = sys_insn_mov_to_dr;
		out->flags |= END;
	} else if (reg_within(&ops[1], ZYDIS_REGISTER_DR0, 16, &n)) {
		out->fn = sys_insn_mov_from_dr;
	} else {
		return 0;
	}
	out->aux = n;
	return out->fn != NULL;
}

static _Bool decode_push_pop(const struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
			     const ZydisDecodedOperand *ops, struct insn *out)
{
	_Bool pop = zi->mnemonic == ZYDIS_MNEMONIC_POP;

	if (!seg_reg(&ops[0], &out->aux) || (pop && out->aux == X86_CS))
		return 0;
	out->fn = pop ? sys_insn_pop_seg : sys_insn_push_seg;
	if (pop)
		out->flags |= END;
	stack_size(cpu, zi, out);
	return 1;
}

static _Bool decode_far(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
			struct insn *out)
{
	if (zi->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
		return 0;
	out->flags |= BRANCH;
	if (zi->mnemonic == ZYDIS_MNEMONIC_RET) {
		out->fn = sys_insn_retf;
		out->imm =
		    ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? ops[0].imm.value.u & 0xffff : 0;
		return 1;
	}
	out->fn = zi->mnemonic == ZYDIS_MNEMONIC_CALL ? sys_insn_call_far : sys_insn_jmp_far;
	if (ops[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
		out->flags &= (uint16_t)~INSN_MEM; /* that is the stack */
		out->imm = ops[0].ptr.offset;
		out->aux = ops[0].ptr.segment;
	}
	return 1;
}

/* What the table alone does not say. */
static void adjust(const struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
		   const ZydisDecodedOperand *ops, struct insn *out)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ: out->osize = out->aux & 15; break;
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ: stack_size(cpu, zi, out); break;
	case ZYDIS_MNEMONIC_INT: out->imm = ops[0].imm.value.u & 0xff; break;
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_SYSEXIT:
		out->osize = zi->attributes & ZYDIS_ATTRIB_HAS_REX && zi->raw.rex.W ? 8 : 4;
		break;
	default: break;
	}
}

_Bool sys_decode(struct soft_cpu *cpu, const ZydisDecodedInstruction *zi,
		 const ZydisDecodedOperand *ops, struct insn *out)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOV: return decode_mov(ops, out);
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP: return decode_push_pop(cpu, zi, ops, out);
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_RET: return decode_far(zi, ops, out);
	default: break;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].name != zi->mnemonic)
			continue;
		out->fn = rows[i].fn;
		out->flags |= rows[i].flags;
		out->aux = rows[i].aux;
		adjust(cpu, zi, ops, out);
		return 1;
	}
	return 0;
}
