/* test_vector.c: x87, SSE and AVX as an operating system sees them: state images, exceptions,
 * control bits, accesses that fault (SDM1 8, 10 to 14). */
#include "g64.h"

#define CR0_MP	       2ull
#define CR0_EM	       4ull
#define CR0_TS	       8ull
#define CR4_OSFXSR     0x200ull
#define CR4_OSXMMEXCPT 0x400ull
#define CR4_OSXSAVE    0x40000ull
#define MXCSR_INIT     0x1f80u
#define XMM(image, n)  (*(volatile uint64_t *)((image) + 160 + 16 * (n)))
#define HEADER(image)  ((volatile uint64_t *)((image) + 512))
#define YMMH(image, n) (*(volatile uint64_t *)((image) + 576 + 16 * (n)))

static uint8_t image[2048] __attribute__((aligned(64)));

static void sse_on(void)
{
	static const uint32_t init = MXCSR_INIT;

	write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP);
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(init));
	memset(image, 0, sizeof(image));
}
static void xsetbv(uint32_t index, uint64_t v)
{
	__asm__ volatile("xsetbv" : : "c"(index), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}
static void avx_on(void)
{
	uint32_t r[4];

	sse_on();
	cpuid(1, 0, r);
	if (!(r[2] >> 26 & 1) || !(r[2] >> 28 & 1))
		test_skip("no XSAVE or no AVX");
	write_cr4(read_cr4() | CR4_OSXSAVE);
	xsetbv(0, 7);
}
static uint32_t mxcsr(void)
{
	uint32_t v;

	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}
static void set_mxcsr(uint32_t v)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(v));
}
static uint16_t fsw(void)
{
	uint16_t v;

	__asm__ volatile("fnstsw %0" : "=a"(v));
	return v;
}
static void set_fcw(uint16_t v)
{
	__asm__ volatile("fldcw %0" : : "m"(v));
}
/* A page at FREE_VA with nothing behind it. */
static uint8_t *last_page(void)
{
	uint8_t *page = alloc_page();

	map(FREE_VA, (uint64_t)page, PTE_P | PTE_W);
	return page;
}

TEST_SSE(vector, fxsave_and_fxrstor_carry_the_state)
{
	sse_on();
	__asm__ volatile("movq %0, %%xmm15; fldpi" : : "r"(0x1122334455667788));
	__asm__ volatile("fxsave %0; pxor %%xmm15, %%xmm15; fninit" : "=m"(image));
	check_eq(*(uint16_t *)image, 0x37f);
	check_eq(*(uint16_t *)(image + 2), 7 << 11);
	check_eq(image[4], 0x80);
	check_eq(*(uint32_t *)(image + 24), MXCSR_INIT);
	check_eq(*(uint64_t *)(image + 32), 0xc90fdaa22168c235);
	check_eq(*(uint16_t *)(image + 40), 0x4000);
	check_eq(XMM(image, 15), 0x1122334455667788);
	XMM(image, 3) = 99;
	*(uint32_t *)(image + 24) = 0x9fc0;
	__asm__ volatile("fxrstor %0" : : "m"(image));
	check_eq(fsw() >> 11 & 7, 7);
	check_eq(mxcsr(), 0x9fc0);
	memset(image, 0, 512);
	__asm__ volatile("fxsave %0" : "=m"(image));
	check_eq(XMM(image, 3), 99);
	check_eq(XMM(image, 15), 0x1122334455667788);
}

TEST_SSE(vector, state_images_must_be_aligned)
{
	avx_on();
	CATCH(__asm__ volatile("fxsave %0" : "=m"(image[8])));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("fxrstor %0" : : "m"(image[8])));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("xsave %0" : "=m"(image[16]) : "a"(7), "d"(0)));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("xrstor %0" : : "m"(image[16]), "a"(7), "d"(0)));
	check_fault(V_GP, 0);
}

TEST_SSE(vector, reserved_bits_of_mxcsr_fault)
{
	sse_on();
	CATCH(set_mxcsr(0x10000));
	check_fault(V_GP, 0);
	check_eq(mxcsr(), MXCSR_INIT);
	__asm__ volatile("fxsave %0" : "=m"(image));
	*(uint32_t *)(image + 24) = 0x80001f80;
	CATCH(__asm__ volatile("fxrstor %0" : : "m"(image)));
	check_fault(V_GP, 0);
}

TEST_SSE(vector, an_unmasked_exception_is_xm_or_undefined_by_cr4)
{
	sse_on();
	set_mxcsr(MXCSR_INIT & ~0x200u); /* ZM */
	CATCH(__asm__ volatile(
	    "pcmpeqd %xmm0, %xmm0; psrld $25, %xmm0; pslld $23, %xmm0; xorps %xmm1, "
	    "%xmm1; divss %xmm1, %xmm0"));
	check_fault(V_XM, 0);
	check_eq(mxcsr() & 0x3f, 4);
	set_mxcsr(MXCSR_INIT & ~0x200u);
	write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
	CATCH(__asm__ volatile("divss %xmm1, %xmm0"));
	check_fault(V_UD, 0);
}

static uint32_t mulss(uint32_t a, uint32_t b)
{
	uint32_t v;

	__asm__ volatile("movd %1, %%xmm0; movd %2, %%xmm1; mulss %%xmm1, %%xmm0; movd %%xmm0, %0"
			 : "=r"(v)
			 : "r"(a), "r"(b));
	return v;
}
TEST_SSE(vector, denormals_follow_daz_and_ftz)
{
	const uint32_t one = 0x3f800000, half = 0x3f000000, denormal = 5, smallest = 0x00800000;

	sse_on();
	check_eq(mulss(denormal, one), denormal);
	check_eq(mxcsr() & 0x3f, 2);  /* DE */
	set_mxcsr(MXCSR_INIT | 0x40); /* DAZ */
	check_eq(mulss(denormal, one), 0);
	check_eq(mxcsr() & 0x3f, 0);
	set_mxcsr(MXCSR_INIT);
	check_eq(mulss(smallest, half), 0x00400000);
	check_eq(mxcsr() & 0x3f, 0);	/* exact: no underflow while masked */
	set_mxcsr(MXCSR_INIT | 0x8000); /* FTZ */
	check_eq(mulss(smallest, half), 0);
	check_eq(mxcsr() & 0x3f, 0x30); /* UE and PE */
}

TEST_SSE(vector, conversions_out_of_range_give_the_indefinite_integer)
{
	uint64_t v;

	sse_on();
	__asm__ volatile("movq %1, %%xmm0; cvttsd2si %%xmm0, %0"
			 : "=r"(v)
			 : "r"(0x7ff0000000000000));
	check_eq(v, 0x8000000000000000);
	check_eq(mxcsr() & 0x3f, 1);
	set_mxcsr(MXCSR_INIT & ~0x80u); /* IM */
	CATCH(__asm__ volatile("movq %0, %%xmm0; cvttsd2si %%xmm0, %%rax"
			       :
			       : "r"(0x7ff0000000000000)
			       : "rax"));
	check_fault(V_XM, 0);
}

TEST_SSE(vector, an_unmasked_x87_exception_is_reported_by_the_next_waiting_instruction)
{
	sse_on();
	write_cr0(read_cr0() | 0x20); /* NE */
	set_fcw(0x37b);
	CATCH(__asm__ volatile("fld1; fldz; fdivrp; fnstsw %%ax; fnclex" : : : "ax"));
	check_no_fault();
	CATCH(__asm__ volatile("fld1; fldz; fdivrp; nop; fnstsw %%ax; fwait" : : : "ax"));
	check_fault(V_MF, 0);
	check_eq(*(const uint8_t *)fault.rip, 0x9b);
	check(fsw() & 0x8000);
	CATCH(__asm__ volatile("fld1"));
	check_fault(V_MF, 0);
	CATCH(__asm__ volatile("fninit; fld1; fwait"));
	check_no_fault();
}

TEST_SSE(vector, the_x87_stack_overflows_with_the_indefinite_value)
{
	uint8_t top[10];

	sse_on();
	for (int i = 0; i < 8; i++)
		__asm__ volatile("fld1");
	check_eq(fsw() & 0x41, 0);
	__asm__ volatile("fldz");
	check_eq(fsw() & 0x241, 0x241); /* IE, SF, C1: overflow */
	__asm__ volatile("fstpt %0" : "=m"(top));
	check_eq(*(uint64_t *)top, 0xc000000000000000);
	check_eq(*(uint16_t *)(top + 8), 0xffff);
	__asm__ volatile("fninit; fstp %st(0)");
	check_eq(fsw() & 0x241, 0x41); /* underflow: C1 clear */
}

TEST_SSE(vector, mmx_marks_the_x87_registers_used)
{
	sse_on();
	__asm__ volatile("movq %0, %%mm3; fxsave %1"
			 :
			 : "r"(0x1234567812345678), "m"(image)
			 : "memory");
	check_eq(image[4], 0xff);
	check_eq(*(uint64_t *)(image + 32 + 3 * 16), 0x1234567812345678);
	check_eq(*(uint16_t *)(image + 32 + 3 * 16 + 8), 0xffff);
	__asm__ volatile("emms; fxsave %0" : : "m"(image) : "memory");
	check_eq(image[4], 0);
}

TEST_SSE(vector, aligned_moves_fault_and_unaligned_ones_do_not)
{
	sse_on();
	CATCH(__asm__ volatile("movaps %0, %%xmm0" : : "m"(image[8])));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("movntps %%xmm0, %0" : "=m"(image[8])));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("addps %0, %%xmm0" : : "m"(image[4])));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("movups %0, %%xmm0; movdqu %%xmm0, %1"
			       :
			       : "m"(image[3]), "m"(image[33])
			       : "memory"));
	check_no_fault();
	CATCH(__asm__ volatile("movsd %0, %%xmm0; movq %%xmm0, %1"
			       :
			       : "m"(image[3]), "m"(image[33])
			       : "memory"));
	check_no_fault();
}

TEST_SSE(vector, a_store_across_a_missing_page_writes_nothing)
{
	uint8_t *page = last_page();

	sse_on();
	__asm__ volatile("pcmpeqd %xmm0, %xmm0");
	CATCH(__asm__ volatile("movups %%xmm0, (%0)" : : "r"(FREE_VA + 0xff8) : "memory"));
	check_fault(V_PF, 2);
	check_eq(fault.cr2, FREE_VA + 0x1000);
	check_eq(*(uint64_t *)(page + 0xff8), 0);
	CATCH(__asm__ volatile("movups (%0), %%xmm0" : : "r"(FREE_VA + 0xff1) : "memory"));
	check_fault(V_PF, 0);
	check_eq(fault.cr2, FREE_VA + 0x1000);
	__asm__ volatile("fxsave %0" : "=m"(image));
	check_eq(XMM(image, 0), ~0ull); /* and loads nothing */
	CATCH(__asm__ volatile("fxsave (%0)" : : "r"(FREE_VA + 0xf00) : "memory"));
	check_fault(V_PF, 2); /* which byte of the image comes first is not specified */
	check_eq(fault.cr2 & ~0xfffull, FREE_VA + 0x1000);
}

TEST_SSE(vector, ts_and_osfxsr_guard_the_registers)
{
	sse_on();
	write_cr0(read_cr0() | CR0_TS);
	CATCH(__asm__ volatile("movaps %xmm0, %xmm1"));
	check_fault(V_NM, 0);
	CATCH(__asm__ volatile("fxsave %0" : "=m"(image)));
	check_fault(V_NM, 0);
	CATCH(__asm__ volatile("clts; movaps %xmm0, %xmm1"));
	check_no_fault();
	write_cr4(read_cr4() & ~CR4_OSFXSR);
	CATCH(__asm__ volatile("movaps %xmm0, %xmm1"));
	check_fault(V_UD, 0);
}

TEST_SSE(vector, xcr0_takes_only_meaningful_combinations)
{
	avx_on();
	CATCH(xsetbv(0, 6)); /* x87 is not optional */
	check_fault(V_GP, 0);
	CATCH(xsetbv(0, 5)); /* AVX without SSE */
	check_fault(V_GP, 0);
	CATCH(xsetbv(0, 7 | 1ull << 62));
	check_fault(V_GP, 0);
	CATCH(xsetbv(1, 7));
	check_fault(V_GP, 0);
	CATCH(xsetbv(0, 3));
	check_no_fault();
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	CATCH(xsetbv(0, 7));
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile("xgetbv" : : "c"(0) : "eax", "edx"));
	check_fault(V_UD, 0);
}

BLOB(u_xsetbv, "xor %ecx, %ecx; xor %edx, %edx; mov $7, %eax; xsetbv; int $0x80");
BLOB(u_xgetbv, "xor %ecx, %ecx; xgetbv; int $0x80");
TEST_SSE(vector, ring_3_reads_xcr0_and_does_not_write_it)
{
	avx_on();
	RUN_USER(u_xgetbv);
	check_eq(fault.vector, 0x80);
	check_eq(user_rax, 7);
	RUN_USER(u_xsetbv);
	check_fault(V_GP, 0);
}

TEST_SSE(vector, vex_instructions_need_avx_in_xcr0_and_no_prefixes)
{
	avx_on();
	CATCH(__asm__ volatile("vxorps %ymm0, %ymm0, %ymm0"));
	check_no_fault();
	xsetbv(0, 3);
	CATCH(__asm__ volatile("vxorps %ymm0, %ymm0, %ymm0"));
	check_fault(V_UD, 0);
	xsetbv(0, 7);
	CATCH(__asm__ volatile(".byte 0x66; vxorps %xmm0, %xmm0, %xmm0"));
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile(".byte 0xf3; vxorps %xmm0, %xmm0, %xmm0"));
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile(".byte 0x48; vxorps %xmm0, %xmm0, %xmm0")); /* REX */
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile(".byte 0xf0; vxorps %xmm0, %xmm0, %xmm0"));
	check_fault(V_UD, 0);
	write_cr0(read_cr0() | CR0_TS);
	CATCH(__asm__ volatile("vxorps %ymm0, %ymm0, %ymm0"));
	check_fault(V_NM, 0);
}

TEST_SSE(vector, xsave_writes_what_is_in_use_and_xrstor_initialises_the_rest)
{
	avx_on();
	__asm__ volatile(
	    "vzeroall; fninit; vpcmpeqd %xmm0, %xmm0, %xmm0; vinsertf128 $1, %xmm0, %ymm0, "
	    "%ymm5");
	__asm__ volatile("xsave %0" : "=m"(image) : "a"(7), "d"(0));
	check_eq(HEADER(image)[0] & 6, 6);
	check_eq(HEADER(image)[1], 0);
	check_eq(YMMH(image, 5), ~0ull);
	/* Component bits clear: the initial state comes, whatever the area holds. */
	HEADER(image)[0] = 0;
	__asm__ volatile("xrstor %0" : : "m"(image), "a"(7), "d"(0));
	memset(image, 0, sizeof(image));
	__asm__ volatile("vextractf128 $1, %%ymm5, %%xmm1; vmovdqa %%xmm1, %0; vmovdqa %%xmm5, %1"
			 : "=m"(image[0]), "=m"(image[16])
			 :
			 : "memory");
	check_eq(*(uint64_t *)image, 0);
	check_eq(*(uint64_t *)(image + 16), 0);
}

TEST_SSE(vector, xsave_leaves_components_that_were_not_asked_for)
{
	avx_on();
	memset(image, 0x77, sizeof(image));
	memset(image + 512, 0, 64);
	__asm__ volatile("vpcmpeqd %ymm0, %ymm0, %ymm0");
	__asm__ volatile("xsave %0" : "=m"(image) : "a"(4), "d"(0));
	check_eq(HEADER(image)[0] & 3, 0);
	check_eq(HEADER(image)[0] & 4, 4);
	check_eq(XMM(image, 0), 0x7777777777777777);
	check_eq(YMMH(image, 0), ~0ull);
	__asm__ volatile("vzeroall");
	/* Only the upper halves come back. */
	__asm__ volatile("xrstor %0" : : "m"(image), "a"(4), "d"(0));
	__asm__ volatile("vmovdqu %%ymm0, %0" : "=m"(image[0]) : : "memory");
	check_eq(*(uint64_t *)image, 0);
	check_eq(*(uint64_t *)(image + 16), ~0ull);
}

TEST_SSE(vector, xrstor_refuses_a_bad_header)
{
	avx_on();
	__asm__ volatile("xsave %0" : "=m"(image) : "a"(7), "d"(0));
	HEADER(image)[0] = 1ull << 9; /* not in XCR0 */
	CATCH(__asm__ volatile("xrstor %0" : : "m"(image), "a"(7), "d"(0)));
	check_fault(V_GP, 0);
	HEADER(image)[0] = 3;
	HEADER(image)[2] = 1;
	CATCH(__asm__ volatile("xrstor %0" : : "m"(image), "a"(7), "d"(0)));
	check_fault(V_GP, 0);
	HEADER(image)[2] = 0;
	*(uint32_t *)(image + 24) = 0xffff0000;
	CATCH(__asm__ volatile("xrstor %0" : : "m"(image), "a"(7), "d"(0)));
	check_fault(V_GP, 0);
}

TEST_SSE(vector, legacy_instructions_keep_the_upper_half_and_vex_ones_clear_it)
{
	avx_on();
	__asm__ volatile(
	    "vpcmpeqd %ymm0, %ymm0, %ymm0; vmovdqa %ymm0, %ymm1; vmovdqa %ymm0, %ymm2");
	__asm__ volatile("pxor %xmm0, %xmm0; vpxor %xmm1, %xmm1, %xmm1");
	__asm__ volatile("vmovdqu %%ymm0, %0; vmovdqu %%ymm1, %1"
			 : "=m"(image[0]), "=m"(image[32])
			 :
			 : "memory");
	check_eq(*(uint64_t *)image, 0);
	check_eq(*(uint64_t *)(image + 16), ~0ull);
	check_eq(*(uint64_t *)(image + 32 + 16), 0);
	__asm__ volatile("vzeroupper; vmovdqu %%ymm2, %0" : "=m"(image[0]) : : "memory");
	check_eq(*(uint64_t *)image, ~0ull);
	check_eq(*(uint64_t *)(image + 16), 0);
}

TEST_SSE(vector, vex_operands_need_no_alignment_except_for_aligned_moves)
{
	avx_on();
	CATCH(__asm__ volatile("vaddps %0, %%ymm0, %%ymm0" : : "m"(image[3])));
	check_no_fault();
	CATCH(__asm__ volatile("vmovaps %0, %%ymm0" : : "m"(image[16])));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("vmovntdq %%ymm0, %0" : "=m"(image[16])));
	check_fault(V_GP, 0);
}

TEST_SSE(vector, masked_elements_do_not_fault)
{
	uint8_t *page = last_page();

	avx_on();
	*(uint32_t *)(page + 0xffc) = 0x12345678;
	/* A mask of the first element alone. */
	__asm__ volatile("vpcmpeqd %xmm0, %xmm0, %xmm0; vpsrldq $12, %xmm0, %xmm0");
	CATCH(__asm__ volatile("vmaskmovps (%0), %%xmm0, %%xmm1; vmovd %%xmm1, %%eax; mov %%eax, %1"
			       :
			       : "r"(FREE_VA + 0xffc), "m"(image)
			       : "eax", "memory"));
	check_no_fault();
	check_eq(*(uint32_t *)image, 0x12345678);
	CATCH(__asm__ volatile("vmaskmovps %%xmm1, %%xmm0, (%0)"
			       :
			       : "r"(FREE_VA + 0xffc)
			       : "memory"));
	check_no_fault();
	CATCH(__asm__ volatile("vpcmpeqd %%xmm0, %%xmm0, %%xmm0; vmaskmovps (%0), %%xmm0, %%xmm1"
			       :
			       : "r"(FREE_VA + 0xffc)
			       : "memory"));
	check_fault(V_PF, 0);
	check_eq(fault.cr2, FREE_VA + 0x1000);
}

static bool map_second(struct frame *f)
{
	map(FREE_VA + 0x1000, (uint64_t)image & ~0xfffull, PTE_P);
	return 1;
}
TEST_SSE(vector, a_gather_stops_at_a_fault_with_its_progress_and_goes_on)
{
	static const int32_t index[4] = {0, 4, 8, 12};
	uint8_t *page = last_page();
	uint32_t r[4], *out = (uint32_t *)image;

	avx_on();
	cpuid(7, 0, r);
	if (!(r[1] >> 5 & 1))
		test_skip("no AVX2");
	*(uint32_t *)(page + 0xff8) = 1;
	*(uint32_t *)(page + 0xffc) = 2;
	__asm__ volatile(
	    "vmovdqu %0, %%xmm1; vpcmpeqd %%xmm2, %%xmm2, %%xmm2; vpxor %%xmm0, %%xmm0, "
	    "%%xmm0"
	    :
	    : "m"(index));
	CATCH(__asm__ volatile("vpgatherdd %%xmm2, (%0, %%xmm1), %%xmm0" : : "r"(FREE_VA + 0xff8)));
	check_fault(V_PF, 0);
	check_eq(fault.cr2, FREE_VA + 0x1000);
	__asm__ volatile("vmovdqu %%xmm0, %0; vmovdqu %%xmm2, %1"
			 : "=m"(image[0]), "=m"(image[16])
			 :
			 : "memory");
	check_eq(out[0], 1);
	check_eq(out[1], 2);
	check_eq(out[4], 0); /* done: their masks are clear */
	check_eq(out[5], 0);
	check_eq(out[6], 0xffffffff);
	set_handler(V_PF, map_second);
	__asm__ volatile("vpgatherdd %%xmm2, (%1, %%xmm1), %%xmm0; vmovdqu %%xmm2, %0"
			 : "=m"(image[16])
			 : "r"(FREE_VA + 0xff8)
			 : "memory");
	check_eq(out[6], 0);
	check_eq(out[7], 0);
}

static uint8_t wide_image[4096] __attribute__((aligned(64)));

static void avx512_on(void)
{
	uint32_t r[4];

	avx_on();
	cpuid(7, 0, r);
	if (!(r[1] >> 16 & 1))
		test_skip("no AVX-512");
	xsetbv(0, 0xe7);
	memset(wide_image, 0, sizeof(wide_image));
}

/* Bytes, so that the test needs no assembler and no compiler that knows AVX-512. */
#define VPADDD_ZMM31_ZMM1_ZMM1 ".byte 0x62, 0x61, 0x75, 0x48, 0xfe, 0xf9\n"
#define KMOVW_K1_EAX	       ".byte 0xc5, 0xf8, 0x92, 0xc8\n"
#define KMOVW_EAX_K1	       ".byte 0xc5, 0xf8, 0x93, 0xc1\n"
#define VMOVDQU32_LOAD	       ".byte 0x62, 0xf1, 0x7e, 0xc9, 0x6f, 0x13\n" /* zmm2{k1}{z}, [rbx] */
#define VMOVDQU32_STORE	       ".byte 0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x13\n" /* [rbx]{k1}, zmm2 */
#define VMOVDQU32_UNCHOSEN     ".byte 0x62, 0xf1, 0x7e, 0x48, 0x7f, 0x13\n" /* [rbx], zmm2 */

TEST_SSE(vector, avx512_needs_all_of_its_state_in_xcr0)
{
	avx512_on();
	CATCH(__asm__ volatile(VPADDD_ZMM31_ZMM1_ZMM1));
	check_no_fault();
	CATCH(xsetbv(0, 0x67));
	check_fault(V_GP, 0);
	CATCH(xsetbv(0, 0xe3)); /* without AVX */
	check_fault(V_GP, 0);
	xsetbv(0, 7);
	CATCH(__asm__ volatile(VPADDD_ZMM31_ZMM1_ZMM1));
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile(KMOVW_K1_EAX));
	check_fault(V_UD, 0);
	xsetbv(0, 0xe7);
	write_cr0(read_cr0() | CR0_TS);
	CATCH(__asm__ volatile(KMOVW_K1_EAX));
	check_fault(V_NM, 0);
}

TEST_SSE(vector, avx512_masks_choose_which_elements_fault)
{
	uint8_t *page = last_page();
	uint32_t *end = (uint32_t *)(page + 0xff0);
	uint64_t at = FREE_VA + 0xff0;

	avx512_on();
	end[0] = 11;
	end[3] = 44;
	CATCH(__asm__ volatile(KMOVW_K1_EAX VMOVDQU32_LOAD : : "a"(9), "b"(at)));
	check_no_fault();
	__asm__ volatile(VMOVDQU32_UNCHOSEN : : "b"(wide_image) : "memory");
	check_eq(((uint32_t *)wide_image)[0], 11);
	check_eq(((uint32_t *)wide_image)[1], 0);
	check_eq(((uint32_t *)wide_image)[3], 44);
	CATCH(__asm__ volatile(KMOVW_K1_EAX VMOVDQU32_LOAD : : "a"(0x21), "b"(at)));
	check_fault(V_PF, 0);
	check_eq(fault.cr2 & ~0xfffull, FREE_VA + 0x1000);
	end[1] = 22;
	CATCH(__asm__ volatile(KMOVW_K1_EAX VMOVDQU32_STORE : : "a"(0x11), "b"(at) : "memory"));
	check_fault(V_PF, 2);
	check_eq(end[0], 11);
	CATCH(__asm__ volatile(KMOVW_K1_EAX VMOVDQU32_STORE : : "a"(8), "b"(at) : "memory"));
	check_no_fault();
	check_eq(end[1], 22);
	check_eq(end[3], 44);
}

TEST_SSE(vector, xsave_carries_avx512_where_cpuid_says)
{
	uint32_t r[4], mask, k, wide;

	avx512_on();
	cpuid(0xd, 0, r);
	check_eq(r[0] & 0xe7, 0xe7);
	check_eq(r[1] >= 2432, 1);
	cpuid(0xd, 5, r);
	k = r[1];
	check_eq(r[0], 64);
	cpuid(0xd, 7, r);
	wide = r[1];
	check_eq(r[0], 1024);
	__asm__ volatile("vpcmpeqd %%xmm1, %%xmm1, %%xmm1\n" VPADDD_ZMM31_ZMM1_ZMM1 KMOVW_K1_EAX
			 :
			 : "a"(0x1234));
	__asm__ volatile("xsave %0" : "=m"(wide_image) : "a"(0xe7), "d"(0) : "memory");
	check_eq(*(uint64_t *)(wide_image + 512) & 0xa0, 0xa0);
	check_eq(*(uint64_t *)(wide_image + k + 8), 0x1234);
	check_eq(*(uint32_t *)(wide_image + wide + 15 * 64), 0xfffffffe);
	check_eq(*(uint32_t *)(wide_image + wide + 15 * 64 + 16), 0);
	*(uint64_t *)(wide_image + k + 8) = 0x4321;
	__asm__ volatile("xrstor %1\n" KMOVW_EAX_K1
			 : "=a"(mask)
			 : "m"(wide_image), "0"(0xe7), "d"(0));
	check_eq(mask, 0x4321);
	*(uint64_t *)(wide_image + 512) = 0;
	__asm__ volatile("xrstor %1\n" KMOVW_EAX_K1
			 : "=a"(mask)
			 : "m"(wide_image), "0"(0xe7), "d"(0));
	check_eq(mask, 0);
}

TEST_SSE(vector, pcmpistri_and_crc32_work_on_unaligned_memory)
{
	uint32_t at, r[4];
	uint64_t crc = 0xffffffff;

	sse_on();
	cpuid(1, 0, r);
	if (!(r[2] >> 20 & 1))
		test_skip("no SSE4.2");
	memcpy(image + 3, "abcdefgh\0xyz....", 16);
	__asm__ volatile("movd %2, %%xmm0; pcmpistri $0, %1, %%xmm0"
			 : "=c"(at)
			 : "m"(image[3]), "r"('e')
			 : "cc");
	check_eq(at, 4);
	__asm__ volatile("crc32q %1, %0" : "+r"(crc) : "m"(image[3]));
	check_eq(~crc & 0xffffffff, 0x0a9421b7); /* CRC-32C of "abcdefgh" */
}

static void other_vector(void *arg)
{
	write_cr4(read_cr4() | CR4_OSFXSR);
	write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP);
	__asm__ volatile("movq %0, %%xmm7" : : "r"(0x2222ull));
}
TEST_(vector, each_cpu_has_its_own_registers, NEEDS_SSE | NEEDS_SMP)
{
	sse_on();
	__asm__ volatile("movq %0, %%xmm7" : : "r"(0x1111ull));
	cpu_run(1, other_vector, 0);
	cpu_join(1);
	__asm__ volatile("fxsave %0" : "=m"(image));
	check_eq(XMM(image, 7), 0x1111);
}
