/* cpuid_policy.c: builds a VM's CPUID from the host's: what is not known to work is not offered. */
#include "x86/cpuid.h"

#include <errno.h>
#include <string.h>
#include "x86/regs.h"

/* What is at hand while a policy is built. */
struct build {
	struct cpuid_policy *p;
	const struct cpuid_caps *caps;
	cpuid_source *source;
	void *opaque;
	uint32_t host_max_basic, host_max_extended;
	unsigned id_bits; /* of the APIC id below the package */
};

static struct cpuid_regs host(const struct build *b, uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_regs r = {0};

	if (leaf <= (leaf & 0x80000000 ? b->host_max_extended : b->host_max_basic))
		b->source(b->opaque, leaf, subleaf, &r);
	return r;
}

static void leaf_put(struct build *b, uint32_t leaf, int subleaf, struct cpuid_regs r)
{
	struct cpuid_policy *p = b->p;

	if (p->count == CPUID_MAX_LEAVES)
		return; /* all leaves below together are far fewer */
	p->leaf[p->count++] = (struct cpuid_leaf){
	    .leaf = leaf,
	    .subleaf = subleaf < 0 ? 0 : (uint32_t)subleaf,
	    .indexed = subleaf >= 0,
	    .eax = r.eax,
	    .ebx = r.ebx,
	    .ecx = r.ecx,
	    .edx = r.edx,
	};
}

static uint32_t bit_if(_Bool on, unsigned n)
{
	return on ? BIT32(n) : 0;
}

/* CPUID.1:ECX that needs nothing but the host's word: SSE3, PCLMULQDQ, SSSE3, CX16, SSE4.1, SSE4.2,
 * MOVBE, POPCNT, XSAVE. Left out: DS, VMX, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA. */
#define ECX1_PLAIN                                                                                 \
	(BIT32(0) | BIT32(1) | BIT32(9) | BIT32(13) | BIT32(19) | BIT32(20) | BIT32(22) |          \
	 BIT32(23) | BIT32(26))
/* CPUID.1:EDX that every engine gives: FPU, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, PGE, CMOV, PAT,
 * PSE36, CLFSH, MMX, FXSR, SSE, SSE2. */
#define EDX1_BASE                                                                                  \
	(BIT32(0) | BIT32(2) | BIT32(3) | BIT32(4) | BIT32(5) | BIT32(6) | BIT32(8) | BIT32(9) |   \
	 BIT32(11) | BIT32(13) | BIT32(15) | BIT32(16) | BIT32(17) | BIT32(19) | BIT32(23) |       \
	 BIT32(24) | BIT32(25) | BIT32(26))
/* ... and the part of it that AMD repeats in 0x80000001:EDX. */
#define EDX1_REPEATED (0x0183f3ffu & ~BIT32(11))

static uint32_t leaf1_edx(const struct build *b)
{
	const struct cpuid_caps *c = b->caps;

	return EDX1_BASE | bit_if(c->vme, 1) | bit_if(c->mce, 7) | bit_if(c->mce, 14) |
	       bit_if(c->mtrr, 12);
}

static void put_leaf1(struct build *b)
{
	const struct cpuid_caps *c = b->caps;
	struct cpuid_regs h = host(b, 1, 0), r;
	uint32_t user = bit_if(c->aes, 25) | bit_if(c->rdrand, 30);

	if (c->avx)
		user |= BIT32(28) | BIT32(29) | bit_if(c->fma, 12);
	r.eax = h.eax;
	r.ebx = (h.ebx & 0xff00) | (uint32_t)MIN(1u << b->id_bits, 255u) << 16;
	r.ecx = (h.ecx & (ECX1_PLAIN | user)) | bit_if(c->monitor, 3) | bit_if(c->pcid, 17) |
		bit_if(c->x2apic, 21) | bit_if(c->tsc_deadline, 24) |
		bit_if(b->p->signature[0], 31);
	r.edx = leaf1_edx(b) | bit_if(b->p->cpus > 1, 28);
	leaf_put(b, 1, -1, r);
}

/* Intel's deterministic cache parameters; AMD's 0x8000001D has the same form. One thread a core, so
 * only the last level is shared, by the whole package. */
static void put_caches(struct build *b, uint32_t leaf)
{
	for (int i = 0; i < 8; i++) {
		struct cpuid_regs r = host(b, leaf, (uint32_t)i);
		unsigned level = r.eax >> 5 & 7;

		if (!(r.eax & 31)) {
			leaf_put(b, leaf, i, (struct cpuid_regs){0});
			break;
		}
		r.eax &= 0x3fff;
		if (level >= 3)
			r.eax |= (b->p->cpus - 1) << 14;
		if (leaf == 4)
			r.eax |= ((1u << b->id_bits) - 1) << 26;
		leaf_put(b, leaf, i, r);
	}
}

static void put_topology(struct build *b, uint32_t leaf)
{
	leaf_put(b, leaf, 0, (struct cpuid_regs){.eax = 0, .ebx = 1, .ecx = 1 << 8});
	leaf_put(b, leaf, 1,
		 (struct cpuid_regs){.eax = b->id_bits, .ebx = b->p->cpus, .ecx = 2 << 8 | 1});
}

/* AVX-512: F, DQ, IFMA, CD, BW, VL. All CPUs of today that have any have F, DQ, BW and VL. */
#define EBX7_512      (EBX7_512_NEED | BIT32(21) | BIT32(28))
#define EBX7_512_NEED (BIT32(16) | BIT32(17) | BIT32(30) | BIT32(31))
/* VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; these are nothing without it. */
#define ECX7_512  (BIT32(1) | BIT32(6) | BIT32(11) | BIT32(12) | BIT32(14))
#define EAX71_512 BIT32(5) /* BF16 */

/* All but SSB_NO: what is speculated past stores is the host CPU's. */
#define ARCH_CAPABILITIES                                                                          \
	(X86_ARCH_RDCL_NO | X86_ARCH_IBRS_ALL | X86_ARCH_L1D_NO | X86_ARCH_MDS_NO |                \
	 X86_ARCH_MCE_NO | X86_ARCH_TAA_NO | X86_ARCH_SBDR_NO | X86_ARCH_FBSDP_NO |                \
	 X86_ARCH_PSDP_NO | X86_ARCH_BHI_NO | X86_ARCH_PBRSB_NO | X86_ARCH_GDS_NO |                \
	 X86_ARCH_RFDS_NO | X86_ARCH_ITS_NO)

static void put_leaf7(struct build *b)
{
	const struct cpuid_caps *c = b->caps;
	struct cpuid_regs h = host(b, 7, 0), r = {0}, r1 = {0}, r2 = {0};
	/* FDP_EXCPTN_ONLY, ERMS, FCS_FDS, CLFLUSHOPT, CLWB */
	uint32_t ebx = BIT32(6) | BIT32(9) | BIT32(13) | BIT32(23) | BIT32(24);
	uint32_t ecx = BIT32(22); /* RDPID */
	uint32_t edx = BIT32(4);  /* FSRM */

	if (c->bmi)
		ebx |= BIT32(3) | BIT32(8);
	ebx |= bit_if(c->avx && c->avx2, 5) | bit_if(c->rdseed, 18) | bit_if(c->adx, 19) |
	       bit_if(c->sha, 29);
	if (c->avx && c->avx2 && c->avx512 && (h.ebx & EBX7_512_NEED) == EBX7_512_NEED) {
		ebx |= EBX7_512;
		/* with GFNI, VAES, VPCLMULQDQ */
		ecx |= ECX7_512 | BIT32(8) | bit_if(c->aes, 9) | BIT32(10);
		edx |= bit_if(c->vp2intersect, 8);
		if (h.eax >= 1)
			r1.eax = host(b, 7, 1).eax & EAX71_512;
	}
	if (!b->p->amd) /* MD_CLEAR, IBRS+IBPB, STIBP, SSBD; AMD has its own in 0x80000008 */
		edx |= BIT32(10) | BIT32(26) | BIT32(27) | BIT32(31);
	if (!b->p->amd && c->own_kernel) {
		/* IBRS, which enhanced IBRS is switched on with, and BHI_CTRL: Linux 6.1 goes by
		 * that and not by BHI_NO. */
		h.edx |= BIT32(26) | BIT32(29);
		r2.edx = BIT32(4);
		b->p->arch_capabilities = ARCH_CAPABILITIES;
	} else if (!b->p->amd && c->arch_capabilities && h.eax >= 2) {
		/* PSFD, IPRED_CTRL, RRSBA_CTRL, BHI_CTRL, MCDT_NO */
		r2.edx = host(b, 7, 2).edx & (BIT32(0) | BIT32(1) | BIT32(2) | BIT32(4) | BIT32(5));
	}
	if (!b->p->amd) /* IA32_ARCH_CAPABILITIES */
		edx |= bit_if(c->own_kernel || c->arch_capabilities, 29);
	r.ebx = (h.ebx & ebx) | bit_if(c->fsgsbase, 0) | BIT32(1) /* TSC_ADJUST */ |
		bit_if(c->smep, 7) | bit_if(c->invpcid, 10) | bit_if(c->smap, 20);
	r.ecx = (h.ecx & (ecx | bit_if(c->pku, 3))) | bit_if(c->umip, 2) | bit_if(c->la57, 16);
	r.edx = h.edx & edx;
	r.eax = r2.edx ? 2 : r1.eax ? 1 : 0;
	leaf_put(b, 7, 0, r);
	if (r.eax >= 1)
		leaf_put(b, 7, 1, r1);
	if (r.eax >= 2)
		leaf_put(b, 7, 2, r2);
}

static void put_xsave(struct build *b)
{
	struct cpuid_regs h = host(b, 0xd, 0), r = {0};
	uint64_t offered = X86_XCR0_X87 | X86_XCR0_SSE;
	uint32_t end = 512 + 64;

	if (!cpuid_has(b->p, 1, 0, CPUID_ECX, 26)) {
		b->p->xcr0_allowed = X86_XCR0_X87;
		return;
	}
	if (cpuid_has(b->p, 1, 0, CPUID_ECX, 28))
		offered |= X86_XCR0_AVX;
	if (cpuid_has(b->p, 7, 0, CPUID_EBX, 16))
		offered |= X86_XCR0_AVX512;
	if (cpuid_has(b->p, 7, 0, CPUID_ECX, 3))
		offered |= BIT64(9);
	offered &= h.eax;
	for (unsigned i = 2; i < 10; i++) {
		struct cpuid_regs s = host(b, 0xd, i);

		if (!(offered >> i & 1))
			continue;
		leaf_put(b, 0xd, (int)i, (struct cpuid_regs){s.eax, s.ebx, s.ecx & 2, 0});
		end = MAX(end, s.eax + s.ebx);
	}
	r.eax = (uint32_t)offered;
	r.ecx = end;
	leaf_put(b, 0xd, 0, r);
	/* XSAVEOPT, XSAVEC, XGETBV with ECX 1 */
	r = host(b, 0xd, 1);
	leaf_put(b, 0xd, 1, (struct cpuid_regs){.eax = r.eax & 7});
	b->p->xcr0_allowed = offered;
}

/* AVX hangs on XSAVE: a host whose kernel or hypervisor hides one hides the other from the guest.
 */
static void drop_orphans(struct build *b)
{
	uint32_t ecx1 = 0, ebx7 = 0;
	struct cpuid_leaf *l;

	if (!(b->p->xcr0_allowed & X86_XCR0_AVX)) {
		ecx1 |= BIT32(12) | BIT32(28) | BIT32(29);
		ebx7 |= BIT32(5);
	}
	_Bool avx512 = (b->p->xcr0_allowed & X86_XCR0_AVX512) == X86_XCR0_AVX512;
	if (!avx512)
		ebx7 |= EBX7_512;
	for (l = b->p->leaf; l < b->p->leaf + b->p->count; l++) {
		if (l->leaf == 1)
			l->ecx &= ~ecx1;
		if (l->leaf == 7 && l->subleaf == 0) {
			l->ebx &= ~ebx7;
			if (!avx512)
				l->ecx &= ~ECX7_512;
		}
		if (l->leaf == 7 && l->subleaf == 1 && !avx512)
			l->eax &= ~EAX71_512;
	}
}

static void put_basic(struct build *b)
{
	struct cpuid_regs h = host(b, 0, 0);

	h.eax = b->p->max_basic;
	leaf_put(b, 0, -1, h);
	put_leaf1(b);
	if (!b->p->amd) {
		leaf_put(b, 2, -1, host(b, 2, 0));
		put_caches(b, 4);
	}
	if (b->caps->monitor)
		leaf_put(b, 5, -1, (struct cpuid_regs){.eax = 64, .ebx = 64, .ecx = 3});
	leaf_put(b, 6, -1, (struct cpuid_regs){.eax = BIT32(2)}); /* ARAT */
	put_leaf7(b);
	put_topology(b, 0xb);
	if (b->p->max_basic >= 0x1f)
		put_topology(b, 0x1f);
	put_xsave(b);
	drop_orphans(b);
}

static void put_ext1(struct build *b)
{
	struct cpuid_regs h = host(b, 0x80000001, 0), r;
	/* LAHF in 64-bit mode, LZCNT, PREFETCHW */
	uint32_t ecx = BIT32(0) | BIT32(5) | BIT32(8);
	/* NX, 1 GiB pages, RDTSCP */
	uint32_t edx = BIT32(20) | BIT32(26) | BIT32(27);

	if (b->p->amd) {
		ecx |= BIT32(22); /* TOPOEXT */
		edx |= BIT32(22); /* MMXEXT */
	}
	r.eax = h.eax;
	r.ebx = b->p->amd ? h.ebx & 0xf0000000 : 0;
	r.ecx = (h.ecx & ecx) | bit_if(b->p->amd && b->p->cpus > 1, 1);
	r.edx = (h.edx & edx) | BIT32(11) | BIT32(29); /* SYSCALL, LM */
	if (b->p->amd)
		r.edx |= leaf1_edx(b) & EDX1_REPEATED;
	leaf_put(b, 0x80000001, -1, r);
}

static void put_ext8(struct build *b)
{
	struct cpuid_regs h = host(b, 0x80000008, 0), r = {0};
	/* XSaveErPtr, WBNOINVD, IBPB, IBRS, STIBP, SSBD, SSB_NO */
	uint32_t ebx =
	    BIT32(2) | BIT32(9) | BIT32(12) | BIT32(14) | BIT32(15) | BIT32(24) | BIT32(26);

	r.eax = b->p->phys_bits | (uint32_t)b->p->virt_bits << 8;
	if (b->p->amd) {
		r.ebx = h.ebx & ebx;
		r.ecx = (b->p->cpus - 1) | b->id_bits << 12;
	} else {
		r.ebx = h.ebx & BIT32(9);
	}
	leaf_put(b, 0x80000008, -1, r);
}

static void put_amd_topology(struct build *b)
{
	if (!cpuid_has(b->p, 0x80000001, 0, CPUID_ECX, 22))
		return;
	put_caches(b, 0x8000001d);
	leaf_put(b, 0x8000001e, -1, (struct cpuid_regs){0});
}

static void put_extended(struct build *b)
{
	struct cpuid_regs h = host(b, 0x80000000, 0);

	h.eax = b->p->max_extended;
	leaf_put(b, 0x80000000, -1, h);
	put_ext1(b);
	for (uint32_t l = 0x80000002; l <= 0x80000006; l++)
		leaf_put(b, l, -1, host(b, l, 0));
	leaf_put(b, 0x80000007, -1, (struct cpuid_regs){.edx = bit_if(b->caps->invariant_tsc, 8)});
	put_ext8(b);
	if (!b->p->amd)
		return;
	put_amd_topology(b);
	/* LFENCE serializes, VERW clears buffers, null selectors clear the base (true of family 19h
	 * on), no SMM_CTL MSR, SRSO_NO; TSA_SQ_NO, TSA_L1_NO */
	h = host(b, 0x80000021, 0);
	h.eax &= BIT32(2) | BIT32(5) | BIT32(6) | BIT32(9) | BIT32(29);
	h.ecx &= BIT32(1) | BIT32(2);
	if ((host(b, 1, 0).eax >> 20 & 0xff) >= 0xa)
		h.eax |= BIT32(6);
	/* SRSO_NO and Automatic IBRS: guests leave retpolines and guarded returns out. */
	if (b->caps->own_kernel)
		h.eax |= BIT32(8) | BIT32(29);
	leaf_put(b, 0x80000021, -1, (struct cpuid_regs){.eax = h.eax, .ecx = h.ecx});
}

/* KVM's leaves (Linux Documentation/virt/kvm/x86/cpuid.rst): both sets of kvmclock MSRs, no I/O
 * delay needed, a clock that agrees between CPUs. */
static void put_kvm(struct build *b)
{
	struct cpuid_regs r = {.eax = 0x40000010};

	memcpy(&r.ebx, "KVMK", 4);
	memcpy(&r.ecx, "VMKV", 4);
	memcpy(&r.edx, "M\0\0\0", 4);
	leaf_put(b, 0x40000000, -1, r);
	r = (struct cpuid_regs){.eax = BIT32(0) | BIT32(1) | BIT32(3) | BIT32(24)};
	leaf_put(b, 0x40000001, -1, r);
	leaf_put(b, 0x40000010, -1, (struct cpuid_regs){.eax = b->p->tsc_khz});
}

static _Bool vendor_is(const struct cpuid_regs *r, const char *name)
{
	return !memcmp(&r->ebx, name, 4) && !memcmp(&r->edx, name + 4, 4) &&
	       !memcmp(&r->ecx, name + 8, 4);
}

static void build_limits(struct build *b)
{
	struct cpuid_regs h;

	b->source(b->opaque, 0, 0, &h);
	b->host_max_basic = h.eax;
	b->p->amd = vendor_is(&h, "AuthenticAMD") || vendor_is(&h, "HygonGenuine");
	b->source(b->opaque, 0x80000000, 0, &h);
	b->host_max_extended = h.eax;
	b->p->max_basic = MAX(MIN(b->host_max_basic, b->p->amd ? 0xdu : 0x1fu), 0xdu);
	b->p->max_extended = b->p->amd ? 0x80000021 : 0x80000008;
	h = host(b, 0x80000008, 0);
	b->p->phys_bits = (uint8_t)MIN(MAX(h.eax & 0xff, 36u), 52u);
	b->p->virt_bits = b->caps->la57 ? 57 : 48;
	while (1u << b->id_bits < b->p->cpus)
		b->id_bits++;
}

static int host_check(const struct build *b, struct error *err)
{
	struct cpuid_regs one = host(b, 1, 0), ext = host(b, 0x80000001, 0);
	const uint32_t need = BIT32(0) | BIT32(15) | BIT32(23) | BIT32(24) | BIT32(25) | BIT32(26);

	if ((one.edx & need) != need || !(ext.edx & BIT32(29)))
		return error_set(err, -ENOTSUP,
				 "The host's CPU hides x87, CMOV, MMX, FXSR, SSE2 or long mode, "
				 "which every 64-bit x86 system needs.");
	return 0;
}

int cpuid_policy_init_from(struct cpuid_policy *p, cpuid_source *source, void *opaque,
			   const struct cpuid_caps *caps, unsigned cpus, uint32_t tsc_khz,
			   enum cpuid_hypervisor hv, struct error *err)
{
	struct build b = {.p = p, .caps = caps, .source = source, .opaque = opaque};
	int r;

	if (cpus < 1 || cpus > 255)
		return error_set(err, -EINVAL, "A VM cannot have %u CPUs: give 1 to 255.", cpus);
	memset(p, 0, sizeof(*p));
	p->cpus = cpus;
	p->tsc_khz = tsc_khz;
	if (hv == CPUID_HV_KVM)
		memcpy(p->signature, "KVMKVMKVM\0\0\0", 12);
	build_limits(&b);
	r = host_check(&b, err);
	if (r)
		return r;
	put_basic(&b);
	put_extended(&b);
	if (hv == CPUID_HV_KVM)
		put_kvm(&b);
	return 0;
}

static void host_source(void *opaque, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
	(void)opaque;
	__asm__ volatile("cpuid"
			 : "=a"(out->eax), "=b"(out->ebx), "=c"(out->ecx), "=d"(out->edx)
			 : "0"(leaf), "2"(subleaf));
}

int cpuid_policy_init(struct cpuid_policy *p, const struct cpuid_caps *caps, unsigned cpus,
		      uint32_t tsc_khz, enum cpuid_hypervisor hv, struct error *err)
{
	return cpuid_policy_init_from(p, host_source, NULL, caps, cpus, tsc_khz, hv, err);
}
