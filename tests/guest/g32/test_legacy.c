/* test_legacy.c: instructions that 64-bit mode lost, and the coprocessor bits of CR0. */
#include "g32.h"

#define CF 0x01u
#define PF 0x04u
#define AF 0x10u
#define ZF 0x40u
#define SF 0x80u
#define OF 0x800u

/* Runs one instruction on AX with given flags; the flags after it. */
#define ON_AX(insn, ax, flags)                                                                     \
	({                                                                                         \
		uint32_t f_ = (flags);                                                             \
		__asm__ volatile("push %1; popf; " insn "; pushf; pop %1"                          \
				 : "+a"(ax), "+r"(f_)                                              \
				 :                                                                 \
				 : "cc", "memory");                                                \
		f_;                                                                                \
	})

TEST_REAL(legacy, daa_and_das_adjust_packed_decimals)
{
	uint32_t a = 0x9a, f = ON_AX("daa", a, 2);

	check_eq(a & 0xff, 0);
	check_eq(f & (CF | AF | ZF), CF | AF | ZF);
	a = 0x12;
	f = ON_AX("daa", a, 2 | AF);
	check_eq(a & 0xff, 0x18);
	check_eq(f & (CF | AF), AF);
	a = 0x12;
	f = ON_AX("daa", a, 2 | CF);
	check_eq(a & 0xff, 0x72);
	check_eq(f & (CF | AF), CF);
	a = 0xff;
	f = ON_AX("das", a, 2);
	check_eq(a & 0xff, 0x99);
	check_eq(f & (CF | AF | SF), CF | AF | SF);
	a = 0x05;
	f = ON_AX("das", a, 2 | AF);
	check_eq(a & 0xff, 0xff);
	check_eq(f & (CF | AF), CF | AF);
}

TEST_REAL(legacy, aaa_and_aas_adjust_unpacked_decimals)
{
	uint32_t a = 0x10f, f = ON_AX("aaa", a, 2);

	check_eq(a & 0xffff, 0x205);
	check_eq(f & (CF | AF), CF | AF);
	a = 0x1fa;
	f = ON_AX("aaa", a, 2);
	check_eq(a & 0xffff, 0x300); /* 6 is added to AX, so the carry counts too */
	a = 0x105;
	f = ON_AX("aaa", a, 2 | CF);
	check_eq(a & 0xffff, 0x105);
	check_eq(f & (CF | AF), 0);
	a = 0x20f;
	f = ON_AX("aas", a, 2);
	check_eq(a & 0xffff, 0x109);
	check_eq(f & (CF | AF), CF | AF);
	a = 0x203;
	f = ON_AX("aas", a, 2 | AF);
	check_eq(a & 0xffff, 0x00d);
}

TEST(legacy, aam_divides_and_aad_multiplies)
{
	uint32_t a = 0x12ff, f = ON_AX("aam", a, 2);

	check_eq(a & 0xffff, 25 << 8 | 5);
	check_eq(f & (ZF | SF | PF), PF);
	a = 0x0203;
	ON_AX("aad", a, 2);
	check_eq(a & 0xffff, 23);
	a = 0x0203;
	ON_AX(".byte 0xd5, 0x10", a, 2);
	check_eq(a & 0xffff, 0x23);
	CATCH(__asm__ volatile(".byte 0xd4, 0x00" : : "a"(1) : "cc"));
	check_fault(V_DE, 0);
}

TEST(legacy, salc_spreads_the_carry)
{
	uint32_t a = 0x1234, f = ON_AX(".byte 0xd6", a, 2 | CF);

	check_eq(a & 0xffff, 0x12ff);
	check_eq(f & CF, CF);
	ON_AX(".byte 0xd6", a, 2);
	check_eq(a & 0xffff, 0x1200);
}

TEST_REAL(legacy, bound_checks_both_ends)
{
	static const int32_t bounds[2] = {-2, 5};

	for (int32_t i = -4; i < 8; i++) {
		CATCH(__asm__ volatile("bound %0, %1" : : "r"(i), "m"(bounds)));
		check_eq(fault.vector, i < -2 || i > 5 ? V_BR : V_NONE);
	}
	CATCH(__asm__ volatile(".byte 0x0f, 0xff, 0xc0")); /* UD0, for contrast */
	check_fault(V_UD, 0);
}

TEST_REAL(legacy, into_traps_with_overflow_only)
{
	CATCH(__asm__ volatile("xor %%eax, %%eax; into" : : : "eax", "cc"));
	check_no_fault();
	CATCH(__asm__ volatile("mov $0x7fffffff, %%eax; inc %%eax; into" : : : "eax", "cc"));
	check_fault(V_OF, 0);
	check_eq(*(const uint8_t *)(fault.eip - 1), 0xce);
}

TEST_REAL(legacy, arpl_raises_the_rpl)
{
	uint32_t a = 0x10;
	bool z;

	__asm__ volatile("arpl %w2, %w0; setz %1" : "+r"(a), "=qm"(z) : "r"(3) : "cc");
	check_eq(a, 0x13);
	check(z);
	__asm__ volatile("arpl %w2, %w0; setz %1" : "+r"(a), "=qm"(z) : "r"(1) : "cc");
	check_eq(a, 0x13);
	check(!z);
}

extern uint32_t legacy_out[8];
uint32_t legacy_out[8];
void pusha_order(void);
__asm__(
    ".text\npusha_order: pusha; mov $1, %eax; mov $2, %ecx; mov $3, %edx; mov $4, %ebx; mov $6, "
    "%ebp; mov $7, %esi; mov $8, %edi; mov %esp, legacy_out + 4; pusha; mov legacy_out + 4, "
    "%eax; sub %esp, %eax; mov %eax, legacy_out; mov 28(%esp), %eax; mov %eax, legacy_out + 8;"
    "mov (%esp), %eax; mov %eax, legacy_out + 12; mov 12(%esp), %eax; mov %eax, legacy_out + 16;"
    "add $32, %esp; popa; ret\n");
TEST(legacy, pusha_pushes_all_registers_with_the_old_stack_pointer)
{
	pusha_order();
	check_eq(legacy_out[0], 32);
	check_eq(legacy_out[2], 1);
	check_eq(legacy_out[3], 8);
	check_eq(legacy_out[4], legacy_out[1]);
}

CODE(popa_skips, "pusha; movl $0x11111111, 12(%esp); popa; mov %esp, %eax; ret");
TEST(legacy, popa_leaves_the_stack_pointer_alone)
{
	uint32_t before, after;

	__asm__ volatile("mov %%esp, %0; call popa_skips"
			 : "=&r"(before), "=a"(after)
			 :
			 : "memory");
	check_eq(after, before - 4);
}

CODE(enter_2,
     "push %ebp; mov $frames + 16, %ebp; mov %esp, %ecx; enter $8, $3; mov %esp, %edx; mov "
     "%ebp, %esi; mov -4(%ebp), %eax; mov -8(%ebp), %ebx; leave; mov %esp, %edi; pop %ebp; "
     "sub %ecx, %edi; sub %ecx, %edx; ret");
extern uint32_t frames[8];
uint32_t frames[8];
TEST_REAL(legacy, enter_copies_the_display_of_outer_frames)
{
	uint32_t a, b, d, di, si;

	frames[3] = 0xaaaa; /* at EBP - 4 */
	frames[2] = 0xbbbb; /* at EBP - 8 */
	__asm__ volatile("call enter_2"
			 : "=a"(a), "=b"(b), "=d"(d), "=D"(di), "=S"(si)
			 :
			 : "ecx", "memory");
	check_eq(a, 0xaaaa);
	check_eq(b, 0xbbbb);
	check_eq(d, (uint32_t) - (4 + 3 * 4 + 8)); /* EBP, two frames and the new one, locals */
	check_eq(di, 0);
}

CODE(u_enter, "enter $0x100, $0");
TEST_REAL(legacy, enter_faults_without_changing_anything)
{
	struct frame f;

	set_descriptor(SEL_FREE, descriptor(0, 0xfff, 0xf7, 4)); /* expand-down: from 0x1000 on */
	f = user_frame(u_enter, 0);
	f.ss3 = SEL_FREE | 3;
	f.esp3 = 0x1002;
	f.ebp = 0x4444;
	CATCH(frame_enter(&f));
	check_fault(V_SS, 0);
	check_eq(fault.esp3, 0x1002);
	check_eq(fault_frame.ebp, 0x4444);
}

TEST(legacy, push_and_pop_of_segment_registers_keep_the_stack_aligned)
{
	uint32_t before, after, v;

	__asm__ volatile("mov %%esp, %0; push %%ds; mov %%esp, %1; pop %2"
			 : "=&r"(before), "=&r"(after), "=&r"(v));
	check_eq(before - after, 4);
	check_eq(v & 0xffff, SEL_DATA);
	__asm__ volatile("mov %%esp, %0; data16 push %%es; mov %%esp, %1; data16 pop %%es"
			 : "=&r"(before), "=&r"(after));
	check_eq(before - after, 2);
}

TEST(legacy, loop_and_jecxz_use_the_address_size)
{
	uint32_t rounds = 0, cx = 0x20003;

	__asm__ volatile("1: inc %0; addr16 loop 1b" : "+r"(rounds), "+c"(cx) : : "cc");
	check_eq(rounds, 3);
	check_eq(cx, 0x20000);
	__asm__ volatile("xor %0, %0; jcxz 1f; inc %0; 1:" : "=&r"(rounds) : "c"(0x10000) : "cc");
	check_eq(rounds, 0);
	__asm__ volatile("xor %0, %0; jecxz 1f; inc %0; 1:" : "=&r"(rounds) : "c"(0x10000) : "cc");
	check_eq(rounds, 1);
}

TEST(legacy, opcode_82_is_opcode_80)
{
	uint32_t a = 5;

	__asm__ volatile(".byte 0x82, 0xc0, 0x03" : "+a"(a) : : "cc");
	check_eq(a, 8);
}

TEST(legacy, one_byte_inc_and_dec_keep_the_carry)
{
	uint32_t a = 0xffffffff, f;

	f = ON_AX(".byte 0x40", a, 2 | CF);
	check_eq(a, 0);
	check_eq(f & (CF | ZF | AF), CF | ZF | AF);
	f = ON_AX(".byte 0x48", a, 2);
	check_eq(a, 0xffffffff);
	check_eq(f & (CF | SF), SF);
}

TEST(legacy, an_instruction_of_more_than_15_bytes_faults)
{
	CATCH(__asm__ volatile(".fill 14, 1, 0x3e; nop"));
	check_no_fault();
	CATCH(__asm__ volatile(".fill 15, 1, 0x3e; nop"));
	check_fault(V_GP, 0);
}

TEST(legacy, lock_faults_where_it_has_no_meaning)
{
	static volatile uint32_t word;

	CATCH(__asm__ volatile("lock addl $1, %0" : "+m"(word)));
	check_no_fault();
	CATCH(__asm__ volatile(".byte 0xf0, 0x01, 0xc0")); /* lock add %eax, %eax */
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile(".byte 0xf0, 0x90"));
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile(".byte 0xf0, 0x39, 0x00" : : "a"(&word))); /* cmp */
	check_fault(V_UD, 0);
}

#define MP 2u
#define EM 4u
#define TS 8u
static void set_cr0(uint32_t bits)
{
	write_cr0((read_cr0() & ~(MP | EM | TS)) | bits);
}

TEST_SSE(fpu, em_and_ts_make_x87_instructions_unavailable)
{
	for (uint32_t bits = 0; bits < 16; bits += 2) {
		set_cr0(bits);
		CATCH(__asm__ volatile("fnop"));
		set_cr0(MP);
		check_eq(fault.vector, bits & (EM | TS) ? V_NM : V_NONE);
	}
}

TEST_SSE(fpu, wait_asks_mp_and_ts_together)
{
	for (uint32_t bits = 0; bits < 16; bits += 2) {
		set_cr0(bits);
		CATCH(__asm__ volatile("fwait"));
		set_cr0(MP);
		check_eq(fault.vector, (bits & (MP | TS)) == (MP | TS) ? V_NM : V_NONE);
	}
}

TEST_SSE(fpu, em_makes_mmx_and_sse_undefined)
{
	write_cr4(read_cr4() | 0x600);
	set_cr0(EM);
	CATCH(__asm__ volatile("emms"));
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile("xorps %xmm0, %xmm0"));
	set_cr0(MP);
	check_fault(V_UD, 0);
	set_cr0(TS);
	CATCH(__asm__ volatile("xorps %xmm0, %xmm0"));
	set_cr0(MP);
	check_fault(V_NM, 0);
	write_cr4(read_cr4() & ~0x200u);
	CATCH(__asm__ volatile("xorps %xmm0, %xmm0")); /* no OSFXSR */
	check_fault(V_UD, 0);
}

/* The protected-mode environment in its two sizes, and the real-mode one. */
TEST_SSE(fpu, the_environment_has_the_size_of_the_operand)
{
	static uint8_t env[28];

	__asm__ volatile("fninit");
	memset(env, 0xee, sizeof(env));
	__asm__ volatile("fnstenv %0" : "=m"(env));
	check_eq(*(uint16_t *)env, 0x37f);
	check_eq(*(uint16_t *)(env + 8), 0xffff);
	check(env[24] != 0xee || env[27] != 0xee);
	memset(env, 0xee, sizeof(env));
	__asm__ volatile("data16 fnstenv %0" : "=m"(env));
	check_eq(*(uint16_t *)env, 0x37f);
	check_eq(*(uint16_t *)(env + 4), 0xffff);
	check_eq(env[14], 0xee);
}
