/* thunk_test.c: tests of thunk.c. */
#include "engine/soft/thunk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <cpuid.h>
#include "engine/soft/cpu.h"

struct fixture {
	struct thunk_cache *cache;
	struct soft_cpu cpu;
	alignas(64) uint8_t mem[64];
	struct thunk thunk;
};

static int setup(void **state)
{
	struct fixture *f = aligned_alloc(64, ALIGN_UP(sizeof(*f), 64));
	static const uint16_t fcw = 0x37f;
	static const uint32_t mxcsr = 0x1f80;

	memset(f, 0, sizeof(*f));
	memcpy(f->cpu.s.fpu.fx + X86_FX_FCW, &fcw, sizeof(fcw));
	memcpy(f->cpu.s.fpu.fx + X86_FX_MXCSR, &mxcsr, sizeof(mxcsr));
	assert_int_equal(thunk_cache_new(&f->cache, 64 << 10, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	thunk_cache_attach(NULL);
	thunk_cache_free(f->cache);
	free(f);
	return 0;
}

static int find(struct fixture *f, ZydisMachineMode mode, const void *bytes, size_t len)
{
	ZydisStackWidth width = mode == ZYDIS_MACHINE_MODE_LONG_64	    ? ZYDIS_STACK_WIDTH_64
				: mode == ZYDIS_MACHINE_MODE_LONG_COMPAT_32 ? ZYDIS_STACK_WIDTH_32
									    : ZYDIS_STACK_WIDTH_16;
	ZydisDecoder decoder;
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

	assert_true(ZYAN_SUCCESS(ZydisDecoderInit(&decoder, mode, width)));
	assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, &insn, ops)));
	assert_int_equal(insn.length, len);
	return thunk_get(f->cache, &insn, ops, bytes, &f->thunk);
}

static unsigned run_mode(struct fixture *f, ZydisMachineMode mode, const void *bytes, size_t len)
{
	assert_int_equal(find(f, mode, bytes, len), 0);
	thunk_cache_attach(f->cache); /* here: cmocka's own handlers are about */
	return f->thunk.fn(&f->cpu, f->mem);
}
#define RUN(f, bytes)	run_mode(f, ZYDIS_MACHINE_MODE_LONG_64, bytes, sizeof(bytes) - 1)
#define RUN32(f, bytes) run_mode(f, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, bytes, sizeof(bytes) - 1)
#define RUN16(f, bytes) run_mode(f, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, bytes, sizeof(bytes) - 1)

static void floats(void *to, float a, float b, float c, float d)
{
	const float v[4] = {a, b, c, d};

	memcpy(to, v, sizeof(v));
}

static float get_float(const void *from, unsigned i)
{
	float v;

	memcpy(&v, (const uint8_t *)from + 4 * i, sizeof(v));
	return v;
}

static uint32_t mxcsr(const struct fixture *f)
{
	uint32_t v;

	memcpy(&v, f->cpu.s.fpu.fx + X86_FX_MXCSR, sizeof(v));
	return v;
}

static void set_mxcsr(struct fixture *f, uint32_t v)
{
	memcpy(f->cpu.s.fpu.fx + X86_FX_MXCSR, &v, sizeof(v));
}

static _Bool avx512(struct fixture *f)
{
	if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
		assert_int_equal(thunk_cache_avx512(f->cache), 0);
		return 1;
	}
	print_message("skipped: this host has no AVX-512\n");
	return 0;
}

static void avx512_uses_masks_and_all_registers(void **state)
{
	struct fixture *f = *state;

	if (!avx512(f))
		skip();
	floats(f->cpu.s.fpu.vec[17] + 48, 1, 2, 3, 4);
	floats(f->cpu.s.fpu.vec[30] + 48, 10, 20, 30, 40);
	memset(f->cpu.s.fpu.vec[31], 0xaa, 64);
	f->cpu.s.fpu.k[3] = 0x5000;
	/* vaddps zmm31{k3}, zmm17, zmm30 */
	assert_int_equal(RUN(f, "\x62\x01\x74\x43\x58\xfe"), THUNK_DONE);
	assert_true(get_float(f->cpu.s.fpu.vec[31], 12) == 11 &&
		    get_float(f->cpu.s.fpu.vec[31], 14) == 33);
	assert_int_equal(f->cpu.s.fpu.vec[31][52], 0xaa);
	assert_int_equal(RUN(f, "\xc5\xe4\x4b\xe3"), THUNK_DONE); /* kunpckwd k4, k3, k3 */
	assert_int_equal(f->cpu.s.fpu.k[4], 0x50005000);
	/* vxorps ymm31 is not there; vxorps ymm1, ymm1, ymm1 clears all 512 bits */
	memset(f->cpu.s.fpu.vec[1], 0xaa, 64);
	assert_int_equal(RUN(f, "\xc5\xf4\x57\xc9"), THUNK_DONE);
	assert_int_equal(f->cpu.s.fpu.vec[1][63], 0);
}

static void a_closed_page_says_what_is_touched(void **state)
{
	struct fixture *f = *state;
	uint8_t *guard;

	if (!avx512(f))
		skip();
	guard = thunk_guard(f->cache);
	thunk_guard_open(f->cache, 0, 1);
	thunk_guard_open(f->cache, 1, 0);
	f->cpu.s.fpu.k[1] = 0x3;
	/* vmovdqu32 zmm2{k1}, [rsi] */
	assert_int_equal(find(f, ZYDIS_MACHINE_MODE_LONG_64, "\x62\xf1\x7e\x49\x6f\x16", 6), 0);
	thunk_cache_attach(f->cache);
	assert_int_equal(f->thunk.fn(&f->cpu, guard + 4096 - 8), THUNK_DONE);
	f->cpu.s.fpu.k[1] = 0x8;
	f->cpu.s.fpu.vec[2][0] = 9;
	assert_int_equal(f->thunk.fn(&f->cpu, guard + 4096 - 8), THUNK_PF);
	assert_int_equal(thunk_guard_hit(f->cache), 4096 + 4);
	assert_int_equal(f->cpu.s.fpu.vec[2][0], 9);
}

static void executes_on_registers_of_the_state(void **state)
{
	struct fixture *f = *state;

	floats(f->cpu.s.fpu.vec[0], 1, 2, 3, 4);
	floats(f->cpu.s.fpu.vec[9], 10, 20, 30, 40);
	memset(f->cpu.s.fpu.vec[0] + 16, 0xaa, 16);
	assert_int_equal(RUN(f, "\x41\x0f\x58\xc1"), THUNK_DONE); /* addps xmm0, xmm9 */
	assert_true(get_float(f->cpu.s.fpu.vec[0], 0) == 11 &&
		    get_float(f->cpu.s.fpu.vec[0], 3) == 44);
	assert_int_equal(f->cpu.s.fpu.vec[0][16], 0xaa);
	assert_int_equal(f->cpu.s.fpu.vec[0][31], 0xaa);
}

static void replaces_the_memory_operand(void **state)
{
	struct fixture *f = *state;

	floats(f->cpu.s.fpu.vec[12], 1, 2, 3, 4);
	floats(f->mem, 5, 6, 7, 8);
	/* addps xmm12, fs:[r13 + r14*8 + 0x11223344] */
	assert_int_equal(RUN(f, "\x64\x47\x0f\x58\xa4\xf5\x44\x33\x22\x11"), THUNK_DONE);
	assert_true(get_float(f->cpu.s.fpu.vec[12], 1) == 8);
	/* movlps [rip + 5], xmm12: eight bytes and no more */
	memset(f->mem, 0x55, sizeof(f->mem));
	assert_int_equal(RUN(f, "\x44\x0f\x13\x25\x05\x00\x00\x00"), THUNK_DONE);
	assert_true(get_float(f->mem, 0) == 6 && get_float(f->mem, 1) == 8);
	assert_int_equal(f->mem[8], 0x55);
}

static void vex_forms_zero_the_upper_half(void **state)
{
	struct fixture *f = *state;

	memset(f->cpu.s.fpu.vec[3], 0xff, 32);
	floats(f->cpu.s.fpu.vec[14], 1, 2, 3, 4);
	floats(f->cpu.s.fpu.vec[15], 1, 1, 1, 1);
	assert_int_equal(RUN(f, "\xc4\xc1\x08\x58\xdf"),
			 THUNK_DONE); /* vaddps xmm3, xmm14, xmm15 */
	assert_true(get_float(f->cpu.s.fpu.vec[3], 3) == 5);
	for (unsigned i = 16; i < 32; i++)
		assert_int_equal(f->cpu.s.fpu.vec[3][i], 0);
	memset(f->cpu.s.fpu.vec[14] + 16, 0, 16);
	floats(f->cpu.s.fpu.vec[15] + 16, 9, 9, 9, 9);
	assert_int_equal(RUN(f, "\xc4\xc1\x0c\x58\xdf"), THUNK_DONE); /* the same with ymm */
	assert_true(get_float(f->cpu.s.fpu.vec[3], 4) == 9);
}

static void reads_and_writes_rsp_without_moving_the_hosts_stack(void **state)
{
	struct fixture *f = *state;

	f->cpu.s.gpr[X86_RSP] = 0x8000000000000001;
	f->cpu.s.gpr[X86_RBP] = 77;
	f->cpu.s.gpr[X86_RAX] = 3;
	assert_int_equal(RUN(f, "\xf3\x48\x0f\xb8\xec"), THUNK_DONE); /* popcnt rbp, rsp */
	assert_int_equal(f->cpu.s.gpr[X86_RBP], 2);
	assert_int_equal(RUN(f, "\xf3\x48\x0f\xb8\xe5"), THUNK_DONE); /* popcnt rsp, rbp */
	assert_int_equal(f->cpu.s.gpr[X86_RSP], 1);
	f->cpu.s.gpr[X86_RSP] = 0xf0f0;
	/* pdep rsp, rsp, rax */
	assert_int_equal(RUN(f, "\xc4\xe2\xdb\xf5\xe0"), THUNK_DONE);
	assert_int_equal(f->cpu.s.gpr[X86_RSP], 0);
	assert_int_equal(f->cpu.s.gpr[X86_RBP], 2);
}

static uint64_t flags(const struct fixture *f)
{
	return soft_af_to(f->cpu.af);
}

static void carries_flags_in_and_out(void **state)
{
	struct fixture *f = *state;

	f->cpu.af = soft_af_of(X86_CF | X86_OF | X86_AF);
	f->cpu.s.gpr[X86_RAX] = 1;
	f->cpu.s.gpr[X86_RBX] = ~UINT64_C(0);
	assert_int_equal(RUN(f, "\x66\x48\x0f\x38\xf6\xd8"), THUNK_DONE); /* adcx rbx, rax */
	assert_int_equal(f->cpu.s.gpr[X86_RBX], 1);
	assert_int_equal(flags(f), X86_CF | X86_OF | X86_AF);
	assert_int_equal(RUN(f, "\xf3\x48\x0f\x38\xf6\xd8"), THUNK_DONE); /* adox rbx, rax */
	assert_int_equal(f->cpu.s.gpr[X86_RBX], 3);
	assert_int_equal(flags(f), X86_CF | X86_AF);
	floats(f->cpu.s.fpu.vec[1], 1, 0, 0, 0);
	assert_int_equal(RUN(f, "\x0f\x2f\xc1"), THUNK_DONE); /* comiss xmm0, xmm1 */
	assert_int_equal(flags(f), X86_CF);
}

static void masked_exceptions_are_left_in_mxcsr(void **state)
{
	struct fixture *f = *state;

	floats(f->cpu.s.fpu.vec[0], 1, 1, 1, 1);
	assert_int_equal(RUN(f, "\x0f\x5e\xc1"), THUNK_DONE); /* divps xmm0, xmm1 */
	assert_int_equal(mxcsr(f), 0x1f84);
	assert_int_equal(__builtin_ia32_stmxcsr(), 0x1f80);
	set_mxcsr(f, 0x7f80); /* round towards zero */
	floats(f->cpu.s.fpu.vec[0], 2, 2, 2, 2);
	floats(f->cpu.s.fpu.vec[1], 3, 3, 3, 3);
	assert_int_equal(RUN(f, "\x0f\x5e\xc1"), THUNK_DONE);
	assert_true(get_float(f->cpu.s.fpu.vec[0], 0) < 2.0f / 3.0f);
	assert_int_equal(mxcsr(f), 0x7fa0);
}

static void an_unmasked_exception_comes_back_as_a_status(void **state)
{
	struct fixture *f = *state;

	set_mxcsr(f, 0x1f80 & ~0x200u);
	floats(f->cpu.s.fpu.vec[0], 1, 1, 1, 1);
	f->cpu.s.gpr[X86_RBX] = 5;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(RUN(f, "\x0f\x5e\xc1"), THUNK_XM);
		assert_int_equal(mxcsr(f), 0x1d84);
		assert_true(get_float(f->cpu.s.fpu.vec[0], 0) == 1);
		assert_int_equal(__builtin_ia32_stmxcsr(), 0x1f80);
	}
	/* and for a memory operand with a general register: cvtss2si rbx, [rax] */
	set_mxcsr(f, 0x1f80 & ~0x80u);
	floats(f->mem, 1e30f, 0, 0, 0);
	assert_int_equal(RUN(f, "\xf3\x48\x0f\x2d\x18"), THUNK_XM);
	assert_int_equal(f->cpu.s.gpr[X86_RBX], 5);
}

static void x87_state_stays_between_thunks(void **state)
{
	struct fixture *f = *state;
	double d = 2.5;

	memcpy(f->mem, &d, sizeof(d));
	assert_int_equal(RUN(f, "\xdd\x00"), THUNK_DONE); /* fld qword [rax] */
	assert_int_equal(RUN(f, "\xd9\xe8"), THUNK_DONE); /* fld1 */
	assert_int_equal(RUN(f, "\xde\xc1"), THUNK_DONE); /* faddp */
	assert_int_equal(f->cpu.s.fpu.fx[X86_FX_FTW], 0x80);
	assert_int_equal(RUN(f, "\xdd\x5d\x08"), THUNK_DONE); /* fstp qword [rbp + 8] */
	memcpy(&d, f->mem, sizeof(d));
	assert_true(d == 3.5);
	assert_int_equal(f->cpu.s.fpu.fx[X86_FX_FTW], 0);
}

static void a_pending_x87_exception_faults_at_the_next_instruction(void **state)
{
	struct fixture *f = *state;
	uint16_t fcw = 0x37b, fsw;
	uint64_t fip;

	memcpy(f->cpu.s.fpu.fx, &fcw, sizeof(fcw));
	assert_int_equal(RUN(f, "\xd9\xe8"), THUNK_DONE); /* fld1 */
	assert_int_equal(RUN(f, "\xd9\xee"), THUNK_DONE); /* fldz */
	assert_int_equal(RUN(f, "\xd8\xf9"), THUNK_DONE); /* fdivr st0, st1: 1/0 */
	memcpy(&fsw, f->cpu.s.fpu.fx + X86_FX_FSW, sizeof(fsw));
	assert_int_equal(fsw & 0x80ff, 0x8084);
	memcpy(&fip, f->cpu.s.fpu.fx + X86_FX_FIP, sizeof(fip));
	assert_true(fip == (uint64_t)(uintptr_t)f->thunk.at);
	assert_int_equal(RUN(f, "\xd9\xe8"), THUNK_MF);
	assert_int_equal(RUN(f, "\x9b"), THUNK_MF);	    /* fwait */
	assert_int_equal(RUN(f, "\x0f\xef\xc0"), THUNK_MF); /* pxor mm0, mm0 */
	assert_int_equal(RUN(f, "\xdb\xe2"), THUNK_DONE);   /* fnclex */
	assert_int_equal(RUN(f, "\xd9\xe8"), THUNK_DONE);
}

static void mmx_marks_the_x87_tags(void **state)
{
	struct fixture *f = *state;

	f->cpu.s.gpr[X86_RDX] = 0x1234567;
	assert_int_equal(RUN(f, "\x0f\x6e\xda"), THUNK_DONE); /* movd mm3, edx */
	assert_int_equal(f->cpu.s.fpu.fx[X86_FX_FTW], 0xff);
	assert_int_equal(f->cpu.s.fpu.fx[X86_FX_ST + 3 * 16], 0x67);
	assert_int_equal(f->cpu.s.fpu.fx[X86_FX_ST + 3 * 16 + 9], 0xff);
	assert_int_equal(RUN(f, "\xf3\x0f\xd6\xcb"), THUNK_DONE); /* movq2dq xmm1, mm3 */
	assert_int_equal(f->cpu.s.fpu.vec[1][0], 0x67);
	assert_int_equal(RUN(f, "\x0f\x77"), THUNK_DONE); /* emms */
	assert_int_equal(f->cpu.s.fpu.fx[X86_FX_FTW], 0);
}

static void operand_size_follows_the_mode_of_the_code(void **state)
{
	struct fixture *f = *state;

	f->cpu.s.gpr[X86_RCX] = 0xffff0003;
	f->cpu.s.gpr[X86_RAX] = 0x11110000;
	assert_int_equal(RUN16(f, "\xf3\x0f\xb8\xc1"), THUNK_DONE); /* popcnt ax, cx */
	assert_int_equal(f->cpu.s.gpr[X86_RAX], 0x11110002);
	assert_int_equal(RUN16(f, "\x66\xf3\x0f\xb8\xc1"), THUNK_DONE); /* popcnt eax, ecx */
	assert_int_equal(f->cpu.s.gpr[X86_RAX], 18);
	assert_int_equal(RUN32(f, "\x66\xf3\x0f\xb8\xc1"), THUNK_DONE); /* popcnt ax, cx */
	assert_int_equal(f->cpu.s.gpr[X86_RAX], 2);
	floats(f->mem, 4, 5, 6, 7);
	assert_int_equal(RUN16(f, "\x0f\x10\x12"), THUNK_DONE); /* movups xmm2, [bp + si] */
	assert_true(get_float(f->cpu.s.fpu.vec[2], 1) == 5);
}

static void vex_in_32_bit_code_knows_eight_registers(void **state)
{
	struct fixture *f = *state;

	f->cpu.s.gpr[X86_RSI] = 0xf0;
	f->cpu.s.gpr[X86_RDX] = 0xff00ff;
	/* andn eax, esi, edx with VEX.W set: still 32 bits */
	f->cpu.s.gpr[X86_RSI] |= UINT64_C(1) << 40;
	assert_int_equal(RUN32(f, "\xc4\xe2\xc8\xf2\xc2"), THUNK_DONE);
	assert_int_equal(f->cpu.s.gpr[X86_RAX], 0xff000f);
}

static void the_hosts_refusal_is_invalid_opcode(void **state)
{
	struct fixture *f = *state;
	unsigned a, b, c, d;

	if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & BIT32(4)))
		skip();
	assert_int_equal(RUN(f, "\xc4\xe2\x71\x50\xc2"), THUNK_UD); /* AVX-VNNI vpdpbusd */
}

static void equal_instructions_share_a_thunk(void **state)
{
	struct fixture *f = *state;
	thunk_fn *first;

	assert_int_equal(RUN(f, "\x0f\x58\x00"), THUNK_DONE);
	first = f->thunk.fn;
	assert_int_equal(RUN(f, "\x0f\x58\x83\x78\x56\x34\x12"), THUNK_DONE);
	assert_true(f->thunk.fn == first);
	assert_int_equal(RUN(f, "\x0f\x58\x08"), THUNK_DONE);
	assert_false(f->thunk.fn == first);
}

static void a_full_cache_says_so_and_works_again_when_emptied(void **state)
{
	struct fixture *f = *state;
	unsigned made = 0;

	for (unsigned i = 0; i < 16 * 256; i++) {
		uint8_t shufps[] = {0x0f, 0xc6, (uint8_t)(0xc0 + i / 256), (uint8_t)i};

		if (find(f, ZYDIS_MACHINE_MODE_LONG_64, shufps, sizeof(shufps)) == -ENOSPC)
			break;
		made++;
	}
	assert_in_range(made, 100, 16 * 256 - 1);
	thunk_cache_empty(f->cache);
	assert_int_equal(RUN(f, "\x0f\x58\xc1"), THUNK_DONE);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(executes_on_registers_of_the_state),
	    TEST(avx512_uses_masks_and_all_registers),
	    TEST(a_closed_page_says_what_is_touched),
	    TEST(replaces_the_memory_operand),
	    TEST(vex_forms_zero_the_upper_half),
	    TEST(reads_and_writes_rsp_without_moving_the_hosts_stack),
	    TEST(carries_flags_in_and_out),
	    TEST(masked_exceptions_are_left_in_mxcsr),
	    TEST(an_unmasked_exception_comes_back_as_a_status),
	    TEST(x87_state_stays_between_thunks),
	    TEST(a_pending_x87_exception_faults_at_the_next_instruction),
	    TEST(mmx_marks_the_x87_tags),
	    TEST(operand_size_follows_the_mode_of_the_code),
	    TEST(vex_in_32_bit_code_knows_eight_registers),
	    TEST(the_hosts_refusal_is_invalid_opcode),
	    TEST(equal_instructions_share_a_thunk),
	    TEST(a_full_cache_says_so_and_works_again_when_emptied),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
