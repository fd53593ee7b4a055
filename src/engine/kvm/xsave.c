/* xsave.c: between KVM's XSAVE image and the neutral form of vector and x87 state. */
#include "engine/kvm/kvm.h"

#include <cpuid.h>
#include <string.h>
#include "base/le.h"
#include "x86/regs.h"

/* The image is in the standard format: the legacy area, a header whose first field tells which
 * components differ from their initial state, then components where the host's CPUID.0xD has them
 * (SDM1 13.4). */
#define XSAVE_XMM    160
#define XSAVE_BV     512
#define XSAVE_HEADER 64

enum { COMP_X87, COMP_SSE, COMP_AVX, COMP_K = 5, COMP_ZMM_HI, COMP_ZMM_16, COMP_PKRU = 9 };

/* Where a component sits in the image; NULL when the host has none such or it would not fit. */
static uint8_t *component(const struct kvm_vcpu *v, unsigned n, uint32_t need)
{
	uint32_t size, offset, ecx, edx;

	if (!__get_cpuid_count(0xd, n, &size, &offset, &ecx, &edx) || size < need ||
	    offset < XSAVE_BV + XSAVE_HEADER || !range_fits(offset, size, v->xsave_bytes))
		return NULL;
	return v->xsave + offset;
}

/* Moves `count` pieces of `size` bytes between every vec[first + i] + at and the component. */
static void vec_load(struct x86_fpu *fpu, unsigned first, unsigned count, unsigned at,
		     unsigned size, const uint8_t *from)
{
	for (unsigned i = 0; i < count; i++) {
		if (from)
			memcpy(fpu->vec[first + i] + at, from + i * size, size);
		else
			memset(fpu->vec[first + i] + at, 0, size);
	}
}

static void vec_store(const struct x86_fpu *fpu, unsigned first, unsigned count, unsigned at,
		      unsigned size, uint8_t *to)
{
	for (unsigned i = 0; to && i < count; i++)
		memcpy(to + i * size, fpu->vec[first + i] + at, size);
}

/* As FNINIT leaves it (SDM1 13.6); MXCSR lies in between and is not x87's. */
static void x87_init(struct x86_fpu *fpu)
{
	memset(fpu->fx, 0, X86_FX_MXCSR);
	memset(fpu->fx + X86_FX_ST, 0, XSAVE_XMM - X86_FX_ST);
	store_le16(fpu->fx + X86_FX_FCW, 0x37f);
}

/* Of a component that is in its initial state the image has what was there before, the legacy
 * area's no less than others' (SDM1 13.9). MXCSR is the exception. */
void kvm_xsave_load(const struct kvm_vcpu *v, struct x86_state *out)
{
	uint64_t bv = load_le64(v->xsave + XSAVE_BV);
	struct x86_fpu *fpu = &out->fpu;
	const uint8_t *k, *pkru;

#define IN(n, need) (bv >> (n)&1 ? component(v, n, need) : NULL)
	memset(fpu->fx, 0, sizeof(fpu->fx));
	memcpy(fpu->fx, v->xsave, XSAVE_XMM);
	if (!(bv >> COMP_X87 & 1))
		x87_init(fpu);
	vec_load(fpu, 0, 16, 0, 16, bv >> COMP_SSE & 1 ? v->xsave + XSAVE_XMM : NULL);
	vec_load(fpu, 0, 16, 16, 16, IN(COMP_AVX, 256));
	vec_load(fpu, 0, 16, 32, 32, IN(COMP_ZMM_HI, 512));
	vec_load(fpu, 16, 16, 0, 64, IN(COMP_ZMM_16, 1024));
	k = IN(COMP_K, 64);
	for (unsigned i = 0; i < 8; i++)
		fpu->k[i] = k ? load_le64(k + 8 * i) : 0;
	pkru = IN(COMP_PKRU, 4);
	out->pkru = pkru ? load_le32(pkru) : 0;
#undef IN
}

void kvm_xsave_store(struct kvm_vcpu *v, uint64_t xfeatures, const struct x86_state *in)
{
	const struct x86_fpu *fpu = &in->fpu;
	uint8_t *k, *pkru;

#define AT(n, need) (xfeatures >> (n)&1 ? component(v, n, need) : NULL)
	memset(v->xsave, 0, v->xsave_bytes);
	memcpy(v->xsave, fpu->fx, XSAVE_XMM);
	vec_store(fpu, 0, 16, 0, 16, v->xsave + XSAVE_XMM);
	vec_store(fpu, 0, 16, 16, 16, AT(COMP_AVX, 256));
	vec_store(fpu, 0, 16, 32, 32, AT(COMP_ZMM_HI, 512));
	vec_store(fpu, 16, 16, 0, 64, AT(COMP_ZMM_16, 1024));
	k = AT(COMP_K, 64);
	for (unsigned i = 0; k && i < 8; i++)
		store_le64(k + 8 * i, fpu->k[i]);
	pkru = AT(COMP_PKRU, 4);
	if (pkru)
		store_le32(pkru, in->pkru);
	/* All components that are kept count as changed; others stay in their initial state. */
	store_le64(v->xsave + XSAVE_BV,
		   xfeatures & (BIT64(COMP_X87) | BIT64(COMP_SSE) | BIT64(COMP_AVX) |
				X86_XCR0_AVX512 | BIT64(COMP_PKRU)));
#undef AT
}
