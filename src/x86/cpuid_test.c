/* cpuid_test.c: what guests are told on an AMD-like and an Intel-like host. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "x86/cpuid.h"
#include "x86/regs.h"

/* A host with every feature bit set: what is not masked shows. */
static void everything(void *opaque, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
	const char *vendor = opaque;

	*out = (struct cpuid_regs){~0u, ~0u, ~0u, ~0u};
	if (leaf == 0 || leaf == 0x80000000) {
		out->eax = leaf ? 0x80000022 : 0x20;
		memcpy(&out->ebx, vendor, 4);
		memcpy(&out->edx, vendor + 4, 4);
		memcpy(&out->ecx, vendor + 8, 4);
	} else if (leaf == 4 || leaf == 0x8000001d) {
		const uint32_t kind[] = {0x121, 0x122, 0x143, 0x163, 0};

		out->eax = kind[subleaf < 4 ? subleaf : 4];
	} else if (leaf == 0xd && subleaf == 0) {
		*out = (struct cpuid_regs){0x2e7, 0x240, 0xa88, 0};
	} else if (leaf == 0xd && subleaf > 1) {
		const uint32_t at[][2] = {[2] = {256, 576},
					  [5] = {64, 832},
					  [6] = {512, 896},
					  [7] = {1024, 1408},
					  [9] = {8, 2432}};

		*out = (struct cpuid_regs){0};
		if (subleaf < ARRAY_SIZE(at))
			*out = (struct cpuid_regs){at[subleaf][0], at[subleaf][1], 0, 0};
	} else if (leaf == 0x80000008) {
		out->eax = 0x3030;
	}
}

static const struct cpuid_caps all = {
    .avx = 1,
    .avx2 = 1,
    .fma = 1,
    .avx512 = 1,
    .pcid = 1,
    .invpcid = 1,
    .smep = 1,
    .smap = 1,
    .umip = 1,
    .fsgsbase = 1,
    .pku = 1,
    .tsc_deadline = 1,
    .x2apic = 1,
    .rdrand = 1,
    .rdseed = 1,
    .sha = 1,
    .aes = 1,
    .bmi = 1,
    .adx = 1,
    .mtrr = 1,
    .mce = 1,
    .vme = 1,
    .invariant_tsc = 1,
};

static struct cpuid_policy make(const char *vendor, const struct cpuid_caps *caps, unsigned cpus,
				enum cpuid_hypervisor hv)
{
	struct cpuid_policy p;

	assert_int_equal(cpuid_policy_init_from(&p, everything, (void *)(uintptr_t)vendor, caps,
						cpus, 2500000, hv, NULL),
			 0);
	return p;
}

static void hides_what_no_engine_has(void **state)
{
	struct cpuid_policy p = make("AuthenticAMD", &all, 2, CPUID_HV_NONE);

	assert_false(cpuid_has(&p, 1, 0, CPUID_ECX, 5));	  /* VMX */
	assert_false(cpuid_has(&p, 0x80000001, 0, CPUID_ECX, 2)); /* SVM */
	assert_false(cpuid_has(&p, 7, 0, CPUID_EBX, 2));	  /* SGX */
	assert_false(cpuid_has(&p, 7, 0, CPUID_EBX, 11));	  /* RTM */
	assert_false(cpuid_has(&p, 7, 0, CPUID_EBX, 14));	  /* MPX */
	assert_false(cpuid_has(&p, 7, 0, CPUID_ECX, 7));	  /* CET */
	assert_false(cpuid_has(&p, 7, 0, CPUID_EDX, 24));	  /* AMX */
	assert_false(cpuid_has(&p, 1, 0, CPUID_ECX, 3));	  /* MONITOR */
	assert_false(cpuid_has(&p, 1, 0, CPUID_ECX, 31));	  /* no hypervisor */
	assert_false(cpuid_has(&p, 0xd, 1, CPUID_EAX, 3));	  /* XSAVES */
	assert_false(cpuid_has(&p, 0xa, 0, CPUID_EAX, 0));	  /* counters */
	(void)state;
}

static void follows_the_caps(void **state)
{
	struct cpuid_caps none = {0};
	struct cpuid_policy p = make("GenuineIntel", &none, 1, CPUID_HV_NONE);

	assert_false(cpuid_has(&p, 1, 0, CPUID_ECX, 28));
	assert_false(cpuid_has(&p, 1, 0, CPUID_ECX, 17));
	assert_false(cpuid_has(&p, 7, 0, CPUID_EBX, 5));
	assert_false(cpuid_has(&p, 7, 0, CPUID_EBX, 16));
	assert_false(cpuid_has(&p, 1, 0, CPUID_EDX, 12));
	assert_int_equal(p.xcr0_allowed, X86_XCR0_X87 | X86_XCR0_SSE);
	p = make("GenuineIntel", &all, 1, CPUID_HV_NONE);
	assert_true(cpuid_has(&p, 1, 0, CPUID_ECX, 28));
	assert_true(cpuid_has(&p, 7, 0, CPUID_EBX, 16));
	assert_int_equal(p.xcr0_allowed, 0x2e7);
	(void)state;
}

static void nothing(void *opaque, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
	everything(opaque, leaf, subleaf, out);
	if (leaf == 0x80000021 || leaf == 7)
		*out = (struct cpuid_regs){0};
}

static void needs_no_mitigations_of_a_kernel_that_is_not_executed(void **state)
{
	struct cpuid_caps caps = all;
	struct cpuid_policy p;

	for (int own = 0; own < 2; own++) {
		caps.own_kernel = own;
		assert_int_equal(cpuid_policy_init_from(&p, nothing, (void *)"AuthenticAMD", &caps,
							1, 2500000, CPUID_HV_NONE, NULL),
				 0);
		assert_int_equal(cpuid_has(&p, 0x80000021, 0, CPUID_EAX, 29), own);
		assert_int_equal(cpuid_has(&p, 0x80000021, 0, CPUID_EAX, 8), own);
		assert_false(cpuid_has(&p, 7, 0, CPUID_EDX, 29));
		assert_int_equal(cpuid_policy_init_from(&p, nothing, (void *)"GenuineIntel", &caps,
							1, 2500000, CPUID_HV_NONE, NULL),
				 0);
		assert_int_equal(cpuid_has(&p, 7, 0, CPUID_EDX, 29), own);
		assert_int_equal(cpuid_has(&p, 7, 0, CPUID_EDX, 26), own);
		assert_int_equal(cpuid_has(&p, 7, 2, CPUID_EDX, 4), own);
		assert_int_equal(!!(p.arch_capabilities & X86_ARCH_RDCL_NO), own);
		assert_int_equal(!!(p.arch_capabilities & X86_ARCH_IBRS_ALL), own);
		assert_false(p.arch_capabilities & BIT64(4)); /* SSB_NO: nobody knows */
	}
	(void)state;
}

/* Where the guest is executed as itself the host's word is passed on, and no more of leaf 7 than
 * is known. */
static void passes_on_what_an_intel_host_says_of_itself(void **state)
{
	struct cpuid_caps caps = all;
	struct cpuid_policy p;
	struct x86_state s = {0};
	struct cpuid_regs r;

	for (int has = 0; has < 2; has++) {
		caps.arch_capabilities = has;
		p = make("GenuineIntel", &caps, 1, CPUID_HV_NONE);
		assert_int_equal(cpuid_has(&p, 7, 0, CPUID_EDX, 29), has);
		assert_int_equal(p.arch_capabilities, 0);
		cpuid_query(&p, &s, 0, 1, 7, 2, &r);
		assert_int_equal(r.edx, has ? 0x37 : 0);
		p = make("AuthenticAMD", &caps, 1, CPUID_HV_NONE);
		assert_false(cpuid_has(&p, 7, 0, CPUID_EDX, 29));
	}
	(void)state;
}

/* A host whose AVX-512 is that of the first CPUs that had any: no BW, DQ and VL. */
static void no_short_vectors(void *opaque, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
	everything(opaque, leaf, subleaf, out);
	if (leaf == 7)
		out->ebx &= ~(BIT32(17) | BIT32(30) | BIT32(31));
}
/* One whose kernel does not save its registers. */
static void no_zmm_state(void *opaque, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
	everything(opaque, leaf, subleaf, out);
	if (leaf == 0xd && subleaf == 0)
		out->eax &= ~0xe0u;
}

static void offers_avx512_whole_or_not_at_all(void **state)
{
	cpuid_source *const sources[] = {everything, everything, no_short_vectors, no_zmm_state};
	struct cpuid_caps caps = all;
	struct cpuid_policy p;

	for (unsigned i = 0; i < ARRAY_SIZE(sources); i++) {
		caps.avx512 = i != 1;
		assert_int_equal(cpuid_policy_init_from(&p, sources[i], (void *)"AuthenticAMD",
							&caps, 1, 2500000, CPUID_HV_NONE, NULL),
				 0);
		for (unsigned bit = 16; bit < 32; bit++)
			if (0xd0230000u >> bit & 1)
				assert_int_equal(cpuid_has(&p, 7, 0, CPUID_EBX, bit), i == 0);
		for (unsigned bit = 1; bit < 15; bit++)
			if (0x5842u >> bit & 1)
				assert_int_equal(cpuid_has(&p, 7, 0, CPUID_ECX, bit), i == 0);
		assert_int_equal(cpuid_has(&p, 7, 1, CPUID_EAX, 5), i == 0);
		assert_int_equal(p.xcr0_allowed & X86_XCR0_AVX512, i == 0 ? X86_XCR0_AVX512 : 0);
		assert_true(cpuid_has(&p, 7, 0, CPUID_EBX, 5));
	}
	(void)state;
}

static void xsave_sizes_follow_xcr0(void **state)
{
	struct cpuid_policy p = make("AuthenticAMD", &all, 1, CPUID_HV_NONE);
	struct cpuid_regs r;
	struct x86_state s;

	x86_state_reset(&s, 1);
	cpuid_query(&p, &s, 0, 1, 0xd, 0, &r);
	assert_int_equal(r.ebx, 576);
	assert_int_equal(r.ecx, 2440);
	assert_int_equal(r.eax, 0x2e7);
	s.xcr0 = 7;
	cpuid_query(&p, &s, 0, 1, 0xd, 0, &r);
	assert_int_equal(r.ebx, 832);
	s.xcr0 = 0xe7;
	cpuid_query(&p, &s, 0, 1, 0xd, 0, &r);
	assert_int_equal(r.ebx, 2432);
	cpuid_query(&p, &s, 0, 1, 0xd, 1, &r);
	assert_int_equal(r.ebx, 576 + 256 + 64 + 512 + 1024);
	(void)state;
}

static void state_bits_are_filled_in(void **state)
{
	struct cpuid_policy p = make("GenuineIntel", &all, 4, CPUID_HV_NONE);
	struct cpuid_regs r;
	struct x86_state s;

	x86_state_reset(&s, 1);
	cpuid_query(&p, &s, 3, 0, 1, 0, &r);
	assert_int_equal(r.ebx >> 24, 3);
	assert_false(r.edx & BIT32(9));
	assert_false(r.ecx & BIT32(27));
	s.cr4 = X86_CR4_OSXSAVE | X86_CR4_PKE;
	cpuid_query(&p, &s, 3, 1, 1, 0, &r);
	assert_true(r.edx & BIT32(9));
	assert_true(r.ecx & BIT32(27));
	cpuid_query(&p, &s, 3, 1, 7, 0, &r);
	assert_true(r.ecx & BIT32(4));
	cpuid_query(&p, &s, 3, 1, 0x80000001, 0, &r);
	assert_false(r.edx & BIT32(11));
	s.efer = X86_EFER_LMA;
	s.seg[X86_CS].attr |= X86_SEG_L;
	cpuid_query(&p, &s, 3, 1, 0x80000001, 0, &r);
	assert_true(r.edx & BIT32(11));
	(void)state;
}

static void topology_agrees_with_the_number_of_cpus(void **state)
{
	struct cpuid_policy p = make("AuthenticAMD", &all, 3, CPUID_HV_NONE);
	struct cpuid_regs r;
	struct x86_state s;

	x86_state_reset(&s, 1);
	cpuid_query(&p, &s, 2, 1, 0xb, 0, &r);
	assert_int_equal(r.eax, 0);
	assert_int_equal(r.ebx, 1);
	assert_int_equal(r.ecx, 0x100);
	assert_int_equal(r.edx, 2);
	cpuid_query(&p, &s, 2, 1, 0xb, 1, &r);
	assert_int_equal(r.eax, 2);
	assert_int_equal(r.ebx, 3);
	assert_int_equal(r.ecx, 0x201);
	cpuid_query(&p, &s, 2, 1, 0xb, 5, &r);
	assert_int_equal(r.ebx, 0);
	assert_int_equal(r.ecx, 5);
	assert_int_equal(r.edx, 2);
	cpuid_query(&p, &s, 2, 1, 0x80000008, 0, &r);
	assert_int_equal(r.ecx, 2 << 12 | 2);
	cpuid_query(&p, &s, 2, 1, 0x8000001e, 0, &r);
	assert_int_equal(r.eax, 2);
	assert_int_equal(r.ebx, 2);
	cpuid_query(&p, &s, 2, 1, 0x8000001d, 3, &r);
	assert_int_equal(r.eax >> 14 & 0xfff, 2);
	cpuid_query(&p, &s, 2, 1, 0x8000001d, 2, &r);
	assert_int_equal(r.eax >> 14 & 0xfff, 0);
	(void)state;
}

static void out_of_range_leaves_answer_as_the_vendor_does(void **state)
{
	struct cpuid_policy amd = make("AuthenticAMD", &all, 1, CPUID_HV_NONE);
	struct cpuid_policy intel = make("GenuineIntel", &all, 1, CPUID_HV_NONE);
	struct cpuid_regs r;
	struct x86_state s;

	x86_state_reset(&s, 1);
	cpuid_query(&amd, &s, 0, 1, 0x40000000, 0, &r);
	assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
	cpuid_query(&intel, &s, 0, 1, 0x40000000, 1, &r);
	assert_int_equal(r.ecx, 0x201); /* as leaf 1Fh */
	cpuid_query(&amd, &s, 0, 1, 0x80000022, 0, &r);
	assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
	(void)state;
}

static void kvm_signature_and_features(void **state)
{
	struct cpuid_policy p = make("AuthenticAMD", &all, 1, CPUID_HV_KVM);
	struct cpuid_regs r;
	struct x86_state s;

	x86_state_reset(&s, 1);
	cpuid_query(&p, &s, 0, 1, 0x40000000, 0, &r);
	assert_memory_equal(&r.ebx, "KVMKVMKVM\0\0\0", 12);
	assert_true(cpuid_has(&p, 1, 0, CPUID_ECX, 31));
	cpuid_query(&p, &s, 0, 1, 0x40000001, 0, &r);
	assert_int_equal(r.eax, 0x100000b);
	cpuid_query(&p, &s, 0, 1, 0x40000010, 0, &r);
	assert_int_equal(r.eax, 2500000);
	(void)state;
}

static void the_host_itself_will_do(void **state)
{
	struct cpuid_policy p;
	struct error err;

	assert_int_equal(cpuid_policy_init(&p, &all, 64, 1000000, CPUID_HV_KVM, &err), 0);
	assert_int_equal(cpuid_policy_init(&p, &all, 0, 1000000, CPUID_HV_KVM, &err), -22);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(hides_what_no_engine_has),
	    cmocka_unit_test(follows_the_caps),
	    cmocka_unit_test(needs_no_mitigations_of_a_kernel_that_is_not_executed),
	    cmocka_unit_test(passes_on_what_an_intel_host_says_of_itself),
	    cmocka_unit_test(offers_avx512_whole_or_not_at_all),
	    cmocka_unit_test(xsave_sizes_follow_xcr0),
	    cmocka_unit_test(state_bits_are_filled_in),
	    cmocka_unit_test(topology_agrees_with_the_number_of_cpus),
	    cmocka_unit_test(out_of_range_leaves_answer_as_the_vendor_does),
	    cmocka_unit_test(kvm_signature_and_features),
	    cmocka_unit_test(the_host_itself_will_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
