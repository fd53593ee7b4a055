/* vec_feature.c: which CPUID bit and which enabling control an instruction belongs to. */
#include "engine/soft/vec.h"

/* `leaf` 0: no feature of its own. */
struct vec_feature_row {
	ZydisISASet set;
	uint32_t leaf;
	uint8_t subleaf, reg, bit;
};

static const struct vec_feature_row vec_features[] = {
    {ZYDIS_ISA_SET_X87, 1, 0, CPUID_EDX, 0},
    {ZYDIS_ISA_SET_FCMOV, 1, 0, CPUID_EDX, 15},
    {ZYDIS_ISA_SET_PPRO, 1, 0, CPUID_EDX, 15}, /* FCOMI */
    {ZYDIS_ISA_SET_PENTIUMMMX, 1, 0, CPUID_EDX, 23},
    {ZYDIS_ISA_SET_FXSAVE, 1, 0, CPUID_EDX, 24},
    {ZYDIS_ISA_SET_FXSAVE64, 1, 0, CPUID_EDX, 24},
    {ZYDIS_ISA_SET_SSE, 1, 0, CPUID_EDX, 25},
    {ZYDIS_ISA_SET_SSEMXCSR, 1, 0, CPUID_EDX, 25},
    {ZYDIS_ISA_SET_SSE_PREFETCH, 1, 0, CPUID_EDX, 25},
    {ZYDIS_ISA_SET_SSE2, 1, 0, CPUID_EDX, 26},
    {ZYDIS_ISA_SET_SSE2MMX, 1, 0, CPUID_EDX, 26},
    {ZYDIS_ISA_SET_SSE3, 1, 0, CPUID_ECX, 0},
    {ZYDIS_ISA_SET_SSE3X87, 1, 0, CPUID_ECX, 0},
    {ZYDIS_ISA_SET_PCLMULQDQ, 1, 0, CPUID_ECX, 1},
    {ZYDIS_ISA_SET_SSSE3, 1, 0, CPUID_ECX, 9},
    {ZYDIS_ISA_SET_SSSE3MMX, 1, 0, CPUID_ECX, 9},
    {ZYDIS_ISA_SET_FMA, 1, 0, CPUID_ECX, 12},
    {ZYDIS_ISA_SET_SSE4, 1, 0, CPUID_ECX, 19},
    {ZYDIS_ISA_SET_SSE42, 1, 0, CPUID_ECX, 20},
    {ZYDIS_ISA_SET_MOVBE, 1, 0, CPUID_ECX, 22},
    {ZYDIS_ISA_SET_POPCNT, 1, 0, CPUID_ECX, 23},
    {ZYDIS_ISA_SET_AES, 1, 0, CPUID_ECX, 25},
    {ZYDIS_ISA_SET_AVXAES, 1, 0, CPUID_ECX, 25},
    {ZYDIS_ISA_SET_XSAVE, 1, 0, CPUID_ECX, 26},
    {ZYDIS_ISA_SET_AVX, 1, 0, CPUID_ECX, 28},
    {ZYDIS_ISA_SET_F16C, 1, 0, CPUID_ECX, 29},
    {ZYDIS_ISA_SET_BMI1, 7, 0, CPUID_EBX, 3},
    {ZYDIS_ISA_SET_AVX2, 7, 0, CPUID_EBX, 5},
    {ZYDIS_ISA_SET_AVX2GATHER, 7, 0, CPUID_EBX, 5},
    {ZYDIS_ISA_SET_BMI2, 7, 0, CPUID_EBX, 8},
    {ZYDIS_ISA_SET_ADOX_ADCX, 7, 0, CPUID_EBX, 19},
    {ZYDIS_ISA_SET_SHA, 7, 0, CPUID_EBX, 29},
    {ZYDIS_ISA_SET_GFNI, 7, 0, CPUID_ECX, 8},
    {ZYDIS_ISA_SET_AVX_GFNI, 7, 0, CPUID_ECX, 8},
    {ZYDIS_ISA_SET_VAES, 7, 0, CPUID_ECX, 9},
    {ZYDIS_ISA_SET_VPCLMULQDQ, 7, 0, CPUID_ECX, 10},
    {ZYDIS_ISA_SET_XSAVEOPT, 0xd, 1, CPUID_EAX, 0},
    {ZYDIS_ISA_SET_XSAVEC, 0xd, 1, CPUID_EAX, 1},
    {ZYDIS_ISA_SET_LZCNT, 0, 0, 0, 0}, /* without it, BSR: the host decides */
    {ZYDIS_ISA_SET_SSE4A, 0x80000001, 0, CPUID_ECX, 6},
    {ZYDIS_ISA_SET_AVX512F_128, 7, 0, CPUID_EBX, 16},
    {ZYDIS_ISA_SET_AVX512F_128N, 7, 0, CPUID_EBX, 16},
    {ZYDIS_ISA_SET_AVX512F_256, 7, 0, CPUID_EBX, 16},
    {ZYDIS_ISA_SET_AVX512F_512, 7, 0, CPUID_EBX, 16},
    {ZYDIS_ISA_SET_AVX512F_KOP, 7, 0, CPUID_EBX, 16},
    {ZYDIS_ISA_SET_AVX512F_SCALAR, 7, 0, CPUID_EBX, 16},
    {ZYDIS_ISA_SET_AVX512DQ_128, 7, 0, CPUID_EBX, 17},
    {ZYDIS_ISA_SET_AVX512DQ_128N, 7, 0, CPUID_EBX, 17},
    {ZYDIS_ISA_SET_AVX512DQ_256, 7, 0, CPUID_EBX, 17},
    {ZYDIS_ISA_SET_AVX512DQ_512, 7, 0, CPUID_EBX, 17},
    {ZYDIS_ISA_SET_AVX512DQ_KOP, 7, 0, CPUID_EBX, 17},
    {ZYDIS_ISA_SET_AVX512DQ_SCALAR, 7, 0, CPUID_EBX, 17},
    {ZYDIS_ISA_SET_AVX512BW_128, 7, 0, CPUID_EBX, 30},
    {ZYDIS_ISA_SET_AVX512BW_128N, 7, 0, CPUID_EBX, 30},
    {ZYDIS_ISA_SET_AVX512BW_256, 7, 0, CPUID_EBX, 30},
    {ZYDIS_ISA_SET_AVX512BW_512, 7, 0, CPUID_EBX, 30},
    {ZYDIS_ISA_SET_AVX512BW_KOP, 7, 0, CPUID_EBX, 30},
    {ZYDIS_ISA_SET_AVX512CD_128, 7, 0, CPUID_EBX, 28},
    {ZYDIS_ISA_SET_AVX512CD_256, 7, 0, CPUID_EBX, 28},
    {ZYDIS_ISA_SET_AVX512CD_512, 7, 0, CPUID_EBX, 28},
    {ZYDIS_ISA_SET_AVX512_IFMA_128, 7, 0, CPUID_EBX, 21},
    {ZYDIS_ISA_SET_AVX512_IFMA_256, 7, 0, CPUID_EBX, 21},
    {ZYDIS_ISA_SET_AVX512_IFMA_512, 7, 0, CPUID_EBX, 21},
    {ZYDIS_ISA_SET_AVX512_VBMI_128, 7, 0, CPUID_ECX, 1},
    {ZYDIS_ISA_SET_AVX512_VBMI_256, 7, 0, CPUID_ECX, 1},
    {ZYDIS_ISA_SET_AVX512_VBMI_512, 7, 0, CPUID_ECX, 1},
    {ZYDIS_ISA_SET_AVX512_VBMI2_128, 7, 0, CPUID_ECX, 6},
    {ZYDIS_ISA_SET_AVX512_VBMI2_256, 7, 0, CPUID_ECX, 6},
    {ZYDIS_ISA_SET_AVX512_VBMI2_512, 7, 0, CPUID_ECX, 6},
    {ZYDIS_ISA_SET_AVX512_GFNI_128, 7, 0, CPUID_ECX, 8},
    {ZYDIS_ISA_SET_AVX512_GFNI_256, 7, 0, CPUID_ECX, 8},
    {ZYDIS_ISA_SET_AVX512_GFNI_512, 7, 0, CPUID_ECX, 8},
    {ZYDIS_ISA_SET_AVX512_VAES_128, 7, 0, CPUID_ECX, 9},
    {ZYDIS_ISA_SET_AVX512_VAES_256, 7, 0, CPUID_ECX, 9},
    {ZYDIS_ISA_SET_AVX512_VAES_512, 7, 0, CPUID_ECX, 9},
    {ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128, 7, 0, CPUID_ECX, 10},
    {ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_256, 7, 0, CPUID_ECX, 10},
    {ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_512, 7, 0, CPUID_ECX, 10},
    {ZYDIS_ISA_SET_AVX512_VNNI_128, 7, 0, CPUID_ECX, 11},
    {ZYDIS_ISA_SET_AVX512_VNNI_256, 7, 0, CPUID_ECX, 11},
    {ZYDIS_ISA_SET_AVX512_VNNI_512, 7, 0, CPUID_ECX, 11},
    {ZYDIS_ISA_SET_AVX512_BITALG_128, 7, 0, CPUID_ECX, 12},
    {ZYDIS_ISA_SET_AVX512_BITALG_256, 7, 0, CPUID_ECX, 12},
    {ZYDIS_ISA_SET_AVX512_BITALG_512, 7, 0, CPUID_ECX, 12},
    {ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_128, 7, 0, CPUID_ECX, 14},
    {ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_256, 7, 0, CPUID_ECX, 14},
    {ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512, 7, 0, CPUID_ECX, 14},
    {ZYDIS_ISA_SET_AVX512_BF16_128, 7, 1, CPUID_EAX, 5},
    {ZYDIS_ISA_SET_AVX512_BF16_256, 7, 1, CPUID_EAX, 5},
    {ZYDIS_ISA_SET_AVX512_BF16_512, 7, 1, CPUID_EAX, 5},
};

/* A host without AVX512VL is not offered AVX-512 at all, so lengths below 512 go with the rest. */
_Bool vec_is_avx512(const ZydisDecodedInstruction *zi)
{
	return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
	       zi->meta.isa_set == ZYDIS_ISA_SET_AVX512F_KOP ||
	       zi->meta.isa_set == ZYDIS_ISA_SET_AVX512BW_KOP ||
	       zi->meta.isa_set == ZYDIS_ISA_SET_AVX512DQ_KOP;
}

_Bool vec_feature(const struct cpuid_policy *policy, const ZydisDecodedInstruction *zi)
{
	_Bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;

	if (vec_is_avx512(zi) && !cpuid_has(policy, 7, 0, CPUID_EBX, 16))
		return 0;
	/* Likewise BSF without BMI1. With VEX it was another CPU's. */
	if (zi->mnemonic == ZYDIS_MNEMONIC_TZCNT)
		return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
	for (size_t i = 0; i < ARRAY_SIZE(vec_features); i++) {
		const struct vec_feature_row *f = &vec_features[i];

		if (f->set != zi->meta.isa_set)
			continue;
		if (f->leaf && !cpuid_has(policy, f->leaf, f->subleaf, f->reg, f->bit))
			return 0;
		/* VEX forms of features that are older than AVX, or go with it. */
		return !vex || f->set == ZYDIS_ISA_SET_BMI1 || f->set == ZYDIS_ISA_SET_BMI2 ||
		       cpuid_has(policy, 1, 0, CPUID_ECX, 28);
	}
	return 0;
}

enum vec_class vec_class_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	_Bool mmx = 0, xmm = 0;

	if (zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
		return zi->mnemonic == ZYDIS_MNEMONIC_FWAIT ? VEC_WAIT : VEC_X87;
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64: return VEC_FXSAVE;
	case ZYDIS_ISA_SET_XSAVE:
	case ZYDIS_ISA_SET_XSAVEOPT:
	case ZYDIS_ISA_SET_XSAVEC: return VEC_XSAVE;
	case ZYDIS_ISA_SET_BMI1:
	case ZYDIS_ISA_SET_BMI2:
	case ZYDIS_ISA_SET_ADOX_ADCX:
	case ZYDIS_ISA_SET_POPCNT:
	case ZYDIS_ISA_SET_LZCNT:
	case ZYDIS_ISA_SET_MOVBE:
	case ZYDIS_ISA_SET_SSE_PREFETCH: return VEC_INT;
	default: break;
	}
	if (vec_is_avx512(zi))
		return VEC_AVX512;
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return VEC_AVX;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_EMMS: return VEC_MMX;
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE: return VEC_INT;
	default: break;
	}
	for (unsigned i = 0; i < zi->operand_count; i++) {
		ZydisRegisterClass class = ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER
					       ? ZydisRegisterGetClass(ops[i].reg.value)
					       : ZYDIS_REGCLASS_INVALID;

		mmx |= class == ZYDIS_REGCLASS_MMX;
		xmm |= class == ZYDIS_REGCLASS_XMM;
	}
	if (!mmx)
		return VEC_SSE;
	/* Conversions between packed floats and MMX are SSE's even with a memory operand. */
	return xmm || zi->meta.category == ZYDIS_CATEGORY_CONVERT ? VEC_SSEMMX : VEC_MMX;
}

void vec_refuse(struct soft_cpu *cpu, enum vec_class class)
{
	const struct x86_state *s = &cpu->s;
	_Bool ud = 0;

	switch (class) {
	case VEC_MMX: ud = s->cr0 & X86_CR0_EM; break;
	case VEC_SSE:
	case VEC_SSEMMX: ud = (s->cr0 & X86_CR0_EM) || !(s->cr4 & X86_CR4_OSFXSR); break;
	case VEC_AVX:
		ud = !(s->cr4 & X86_CR4_OSXSAVE) || (~s->xcr0 & (X86_XCR0_SSE | X86_XCR0_AVX));
		break;
	case VEC_AVX512: ud = !(s->cr4 & X86_CR4_OSXSAVE) || (~s->xcr0 & VEC_XCR0_512); break;
	case VEC_XSAVE: ud = !(s->cr4 & X86_CR4_OSXSAVE); break;
	default: break;
	}
	soft_raise(cpu, ud ? X86_VEC_UD : X86_VEC_NM);
}
