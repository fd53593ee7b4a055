/* vendor_test.c: where AMD's and Intel's CPUs differ: either way, whatever the host is. */
#include <stdarg.h>
#include <stddef.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/soft/core.h"
#include "engine/soft/testcode.h"
#include "engine/soft/vec.h"

/* A page that is there, and the next, which is not. */
#define EDGE (BOARD_DATA + 0x1000)

/* A new board, as what is decoded is kept. */
static struct board *prepare(void **state, _Bool amd, const uint8_t *code, const uint8_t *end)
{
	struct board *b = *state;

	board_teardown(state);
	assert_int_equal(board_setup(state), 0);
	b = *state;
	b->cpuid.amd = amd;
	b->cpu->vec->fop_late = b->cpu->vec->fdp_late = b->cpu->vec->no_selectors = !amd;
	board_load(b, BOARD_CODE, code, (size_t)(end - code));
	board_long(b, BOARD_CODE);
	board_pte_set(b, EDGE, 0);
	b->cpu->s.cr4 |= X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	b->cpu->s.xcr0 = b->cpuid.xcr0_allowed & 7;
	vec_x87_init(b->cpu);
	soft_mode_update(b->cpu);
	return b;
}
#define PREPARE(state, amd, name) prepare(state, amd, name, name##_end)
#define BOTH(amd)		  for (int amd = 0; amd < 2; amd++)

static uint64_t flags(struct board *b)
{
	return soft_flags_get(b->cpu);
}

static uint32_t vec32(struct board *b, unsigned reg, unsigned lane)
{
	uint32_t v;

	memcpy(&v, b->cpu->s.fpu.vec[reg] + lane * 4, 4);
	return v;
}

static uint16_t fx16(struct board *b, unsigned at)
{
	uint16_t v;

	memcpy(&v, b->cpu->s.fpu.fx + at, 2);
	return v;
}

CODE(gather, "mov $0x20ffc, %ebx; vpgatherdd %xmm2, (%rbx,%xmm1,4), %xmm0; hlt");
static void a_gathers_mask_at_a_fault(void **state)
{
	static const uint32_t index[4] = {0, 1, 0, 0}, mask[4] = {~0u, 0x80000001, 5, 0x80000000};

	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, gather);
		struct x86_fpu *f = &b->cpu->s.fpu;

		if (!cpuid_has(&b->cpuid, 7, 0, CPUID_EBX, 5))
			skip();
		memcpy(f->vec[1], index, 16);
		memset(f->vec[0], 0x55, 32);
		memset(f->vec[2], 0x55, 32);
		memcpy(f->vec[2], mask, 16);
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(vec32(b, 2, 0), 0);
		assert_int_equal(vec32(b, 2, 1), amd ? 0x80000001 : ~0u);
		assert_int_equal(vec32(b, 2, 2), amd ? 5 : 0);
		assert_int_equal(vec32(b, 2, 3), amd ? 0x80000000 : ~0u);
		assert_int_equal(vec32(b, 2, 4), amd ? 0x55555555 : 0);
		assert_int_equal(vec32(b, 0, 4), amd ? 0x55555555 : 0);
	}
}

CODE(maskmov, "mov $0x20ffc, %edi; maskmovdqu %xmm1, %xmm0; hlt");
CODE(vmaskmov, "mov $0x20ff8, %ebx; vmaskmovps %xmm1, %xmm0, (%rbx); hlt");
static void the_address_that_a_masked_store_reports(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, maskmov);

		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, amd ? EDGE : EDGE + 4);
		b = PREPARE(state, amd, vmaskmov);
		memset(b->cpu->s.fpu.vec[0], 0xff, 16);
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, amd ? EDGE : EDGE + 7);
	}
}

CODE_BITS(push_seg, 32, "push %ds; push %cs; hlt");
static void a_selector_takes_2_or_4_bytes_of_the_stack(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, push_seg);

		board_prot(b, BOARD_CODE);
		b->cpu->s.gpr[X86_RSP] = BOARD_STACK;
		board_write(b, BOARD_STACK - 8, 8, UINT64_MAX);
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RSP], BOARD_STACK - 8);
		assert_int_equal(board_read(b, BOARD_STACK - 4, 4),
				 BOARD_DS | (amd ? 0 : 0xffff0000));
		assert_int_equal(board_read(b, BOARD_STACK - 8, 4),
				 BOARD_CS32 | (amd ? 0 : 0xffff0000));
	}
}

CODE(call_away, "mov $0x1, %edx; shl $63, %rdx; call *%rdx; hlt");
static void a_call_to_nowhere_has_or_has_not_written(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, call_away);
		uint64_t next = BOARD_CODE + (uint64_t)(call_away_end - call_away) - 1;

		/* In ring 3, so that the handler's frame is elsewhere. */
		board_user(b, BOARD_CODE);
		b->cpu->s.gpr[X86_RSP] = BOARD_DATA + 0x100;
		board_write(b, BOARD_DATA + 0xf8, 8, 77);
		assert_int_equal(board_run(b), X86_VEC_GP);
		assert_int_equal(board_read(b, BOARD_DATA + 0xf8, 8), amd ? 77 : next);
		assert_int_equal(board_stack(b, 4), BOARD_DATA + 0x100);
	}
}

CODE(movups, "mov $0x20001, %ebx; movups (%rbx), %xmm0; ud2");
CODE(mov8, "mov $0x20001, %ebx; mov (%rbx), %rax; ud2");
static void alignment_of_16_bytes_is_checked_or_not(void **state)
{
	BOTH(amd)
	{
		for (int wide = 0; wide < 2; wide++) {
			struct board *b =
			    wide ? PREPARE(state, amd, movups) : PREPARE(state, amd, mov8);

			board_user(b, BOARD_CODE);
			b->cpu->s.cr0 |= X86_CR0_AM;
			b->cpu->s.rflags |= X86_AC;
			soft_mode_update(b->cpu);
			assert_int_equal(board_run(b), wide && !amd ? X86_VEC_UD : X86_VEC_AC);
		}
	}
}

CODE_BITS(wrap, 32, "mov 0xfffffffe, %eax; hlt");
CODE_BITS(wrap_stack, 32, "mov $2, %esp; pushf; hlt");
static void four_gigabytes_end_or_begin_anew(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, wrap);

		board_write(b, 0, 2, 0x1234);
		board_prot(b, BOARD_CODE);
		assert_int_equal(board_run(b), amd ? X86_VEC_GP : -1);
		if (!amd)
			assert_int_equal(b->cpu->s.gpr[X86_RAX] >> 16, 0x1234);
		b = PREPARE(state, amd, wrap_stack);
		board_prot(b, BOARD_CODE);
		/* No frame finds room for the fault either. */
		assert_int_equal(board_run(b), amd ? -2 : -1);
	}
}

CODE(pointers, "mov $0x20000, %ebx; fldl (%rbx); fnstenv 64(%rbx); movl $0x37b, (%rbx);"
	       "fldcw (%rbx); fld1; fdivl 8(%rbx); fnstenv 96(%rbx); hlt");
static void x87_pointers_are_of_the_last_instruction_or_the_last_exception(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, pointers);
		uint64_t env = BOARD_DATA + 64, code = BOARD_CODE;

		assert_int_equal(board_run(b), -1);
		assert_int_equal(board_read(b, env + 12, 4), code + 5);
		assert_int_equal(board_read(b, env + 16, 4), amd ? BOARD_CS64 | 0x503 << 16 : 0);
		assert_int_equal(board_read(b, env + 20, 4), amd ? BOARD_DATA : 0);
		assert_int_equal(board_read(b, env + 24, 2), amd ? BOARD_DS : 0);
		env += 32;
		assert_int_equal(board_read(b, env + 12, 4), code + 20);
		assert_int_equal(board_read(b, env + 16, 4), (amd ? BOARD_CS64 : 0) | 0x473 << 16);
		assert_int_equal(board_read(b, env + 20, 4), BOARD_DATA + 8);
	}
}

CODE(vain, "mov $0x20000, %ebx; movl $0x37e, (%rbx); fldcw (%rbx); movl $0x7f800000, (%rbx);"
	   "flds (%rbx); mov $0x21000, %ebx; fistl (%rbx); fnstsw %ax; hlt");
CODE(tenth, "mov $0x20ff8, %ebx; fld1; fstpt (%rbx); hlt");
CODE(mmx_store, "fld1; mov $0x21000, %ebx; movq %mm0, (%rbx); hlt");
static void what_has_happened_when_an_x87_store_faults(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, vain);

		assert_int_equal(board_run(b), amd ? X86_VEC_PF : -1);
		if (!amd)
			assert_int_equal(b->cpu->s.gpr[X86_RAX] & 0x81, 0x81);
		b = PREPARE(state, amd, tenth);
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(board_read(b, EDGE - 1, 1), amd ? 0 : 0x80);
		assert_int_equal(fx16(b, X86_FX_FSW) & 0x3800, 0x3800);
		b = PREPARE(state, amd, mmx_store);
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(fx16(b, X86_FX_FSW) & 0x3800, amd ? 0x3800 : 0);
		assert_int_equal(b->cpu->s.fpu.fx[X86_FX_FTW], 0x80);
	}
}

CODE(xsave, "mov $0x21000, %ebx; mov $2, %eax; xor %edx, %edx; xsave (%rbx); hlt");
CODE(xsave_low, "mov $0x21fc0, %ebx; mov $2, %eax; xor %edx, %edx; xsave (%rbx); hlt");
CODE(xrstor, "mov $0x21000, %ebx; mov $2, %eax; xor %edx, %edx; xrstor (%rbx); hlt");
CODE(xrstor_low, "mov $0x20dc0, %ebx; mov $4, %eax; xor %edx, %edx; xrstor (%rbx); hlt");
static void the_address_that_xsave_reports(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, xsave);

		if (!(b->cpuid.xcr0_allowed & 4))
			skip();
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, amd ? EDGE : EDGE + 575);
		b = PREPARE(state, amd, xsave_low);
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, amd ? EDGE + 0xfc0 : EDGE + 0xfc0 + 24);
		b = PREPARE(state, amd, xrstor);
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, amd ? EDGE : EDGE + 520);
		/* Nothing of AVX's is in memory: Intel's CPUs look all the same. */
		b = PREPARE(state, amd, xrstor_low);
		board_write(b, BOARD_DATA + 0xdc0 + 24, 4, 0x1f80);
		assert_int_equal(board_run(b), amd ? -1 : X86_VEC_PF);
	}
}

CODE(xrstor_often,
     "mov $0x20000, %ebx; xor %edx, %edx; mov $10000, %ecx; mov $3, %eax;"
     "1: xrstor (%rbx); fxsave64 0x800(%rbx); mov 0x820(%rbx), %rsi; or 0x830(%rbx), %rsi;"
     "or 0x840(%rbx), %rsi; or 0x850(%rbx), %rsi; or 0x860(%rbx), %rsi; or 0x870(%rbx), %rsi;"
     "or 0x880(%rbx), %rsi; or 0x890(%rbx), %rsi; jnz 2f; dec %ecx; jnz 1b; 2: hlt");
struct flipper {
	volatile uint64_t *xstate_bv;
	volatile _Bool stop;
};
static void *xstate_bv_flip(void *arg)
{
	struct flipper *f = arg;

	for (uint64_t n = 0; !f->stop; n++)
		*f->xstate_bv = n >> 4 & 1;
	return NULL;
}
static void a_header_that_changes_under_xrstor_loads_nothing_that_is_not_there(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, xrstor_often);
		struct flipper f = {0};
		pthread_t thread;

		if (b->cpu->lockstep || !cpuid_has(&b->cpuid, 0xd, 1, CPUID_EAX, 1))
			skip();
		board_write(b, BOARD_DATA + 520, 8, BIT64(63) | 4);
		const struct soft_slot *slot = soft_ram_slot(&b->cpu->engine->ram, BOARD_DATA);
		f.xstate_bv =
		    (volatile uint64_t *)(void *)(slot->host + (BOARD_DATA + 512 - slot->base));
		assert_int_equal(pthread_create(&thread, NULL, xstate_bv_flip, &f), 0);
		/* Bit 0 is not in XCOMP_BV: it is #GP or, seen as 0, loads the initial state. */
		for (unsigned n = 0; n < 500; n++) {
			board_long(b, BOARD_CODE);
			b->cpu->s.cr4 |= X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
			b->cpu->s.xcr0 = 7;
			soft_mode_update(b->cpu);
			b->cpu->s.gpr[X86_RSI] = 0;
			int vector = board_run(b);
			assert_true(vector == -1 || vector == X86_VEC_GP);
			assert_true(vector == X86_VEC_GP || !b->cpu->s.gpr[X86_RSI]);
		}
		f.stop = 1;
		pthread_join(thread, NULL);
	}
}

CODE(rotate, "mov $0x40, %al; rol $2, %al; hlt");
CODE(rotate_more, "mov $0x40, %al; rol $0, %al; rol $1, %al; rol $3, %al; hlt");
CODE_BITS(aaa, 32, "mov $0x7a, %al; aaa; hlt");
CODE_BITS(daa, 32, "mov $0x7a, %al; daa; hlt");
static void flags_that_are_undefined(void **state)
{
	/* Translated, a rotation's flags are those of the host's CPU. */
	struct board *own = *state;
	_Bool exact = !own->cpu->trans || __builtin_cpu_is("intel");

	BOTH(amd)
	{
		struct board *b;

		if (!amd && exact) {
			b = PREPARE(state, amd, rotate);
			soft_flags_set(b->cpu, 2 | X86_OF);
			assert_int_equal(board_run(b), -1);
			assert_int_equal(flags(b) & (X86_OF | X86_CF), X86_OF | X86_CF);
			b = PREPARE(state, amd, rotate_more);
			assert_int_equal(board_run(b), -1);
			assert_int_equal(flags(b) & X86_OF, X86_OF);
		}
		b = PREPARE(state, amd, aaa);
		board_prot(b, BOARD_CODE);
		b->cpu->s.gpr[X86_RAX] = 0x7f00;
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 0x8000);
		assert_int_equal(flags(b) & (X86_OF | X86_SF | X86_ZF),
				 amd ? X86_OF | X86_SF : X86_ZF);
		b = PREPARE(state, amd, daa);
		board_prot(b, BOARD_CODE);
		assert_int_equal(board_run(b), -1);
		assert_int_equal((uint8_t)b->cpu->s.gpr[X86_RAX], 0x80);
		assert_int_equal(flags(b) & (X86_OF | X86_SF), amd ? X86_OF | X86_SF : X86_SF);
	}
}

CODE(cut, "mov $0x100000000, %rcx; mov %rcx, %rsi; mov %rcx, %rdi; .byte 0x67; rep movsb; hlt");
CODE(cut_scas, "mov $0x100000000, %rcx; mov %rcx, %rdi; .byte 0x67; repe scasb; hlt");
CODE(scas, "mov $0x20ffe, %edi; mov $9, %ecx; cmp %eax, %eax; mov $1, %al; repne scasb; hlt");
CODE(cmps, "mov $0x21000, %esi; mov $0x21800, %edi; mov $9, %ecx; repe cmpsb; hlt");
CODE(itself, "lea 1f(%rip), %rdi; mov $9, %ecx; mov $0x90, %al; 1: rep stosb; hlt; .skip 6, 0xcc;"
	     "hlt");
static void repeated_instructions(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, cut);
		uint64_t high = amd ? BIT64(32) : 0;

		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RCX], high);
		assert_int_equal(b->cpu->s.gpr[X86_RSI], high);
		assert_int_equal(b->cpu->s.gpr[X86_RDI], high);
		b = PREPARE(state, amd, cut_scas);
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RCX], high);
		assert_int_equal(b->cpu->s.gpr[X86_RDI], BIT64(32));
		/* The flags at a fault: of the last element, or of CMP. */
		b = PREPARE(state, amd, scas);
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(b->cpu->s.gpr[X86_RCX], 7);
		assert_int_equal(board_stack(b, 3) & (X86_CF | X86_ZF), amd ? 0 : X86_ZF);
		b = PREPARE(state, amd, cmps);
		assert_int_equal(board_run(b), X86_VEC_PF);
		assert_int_equal(b->cpu->s.cr2, amd ? EDGE : EDGE + 0x800);
		/* Over itself: NOPs, or what is after the first. */
		b = PREPARE(state, amd, itself);
		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RCX], amd ? 0 : 8);
	}
}

CODE(scas_step, "mov $0x20000, %edi; mov $3, %ecx; mov $1, %al; pushf; orl $0x140, (%rsp); popf;"
		"repne scasb; hlt");
static void a_single_steps_trap_between_iterations(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, scas_step);

		assert_int_equal(board_run(b), X86_VEC_DB);
		assert_int_equal(b->cpu->s.gpr[X86_RCX], 2);
		assert_int_equal(board_stack(b, 2) & (X86_RF | X86_ZF), amd ? 0 : X86_RF | X86_ZF);
	}
}

CODE(movsxd16, "mov $0x20ffe, %ebx; .byte 0x66, 0x63, 0x03; hlt");
static void a_sign_extension_to_16_bits_reads_2_or_4_bytes(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, movsxd16);

		board_write(b, EDGE - 2, 2, 0x1234);
		assert_int_equal(board_run(b), amd ? X86_VEC_PF : -1);
		if (!amd)
			assert_int_equal((uint16_t)b->cpu->s.gpr[X86_RAX], 0x1234);
	}
}

CODE_BITS(bound, 32, "mov $0x20ffc, %ebx; bound %eax, (%ebx); hlt");
static void bounds_are_compared_at_once_or_one_by_one(void **state)
{
	BOTH(amd)
	{
		for (int below = 0; below < 2; below++) {
			struct board *b = PREPARE(state, amd, bound);

			/* 32-bit code with paging. */
			b->cpu->s.seg[X86_CS].attr = 0xc09b;
			soft_mode_update(b->cpu);
			board_write(b, EDGE - 4, 4, 5);
			b->cpu->s.gpr[X86_RAX] = below ? 4 : 5;
			assert_int_equal(board_run(b), below && !amd ? X86_VEC_BR : X86_VEC_PF);
		}
	}
}

CODE(pause_b, "mov $1, %eax; mov $2, %r8d; .byte 0xf3, 0x41, 0x90; hlt");
CODE_BITS(pinsr_w, 32, ".byte 0xc4, 0xe3, 0xf9, 0x22, 0xc0, 0x01; hlt");
static void encodings(void **state)
{
	BOTH(amd)
	{
		struct board *b = PREPARE(state, amd, pause_b);

		assert_int_equal(board_run(b), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], amd ? 2 : 1);
		if (!(b->cpuid.xcr0_allowed & 4))
			continue;
		b = PREPARE(state, amd, pinsr_w);
		board_prot(b, BOARD_CODE);
		b->cpu->s.cr4 |= X86_CR4_OSXSAVE;
		b->cpu->s.xcr0 = 7;
		soft_mode_update(b->cpu);
		b->cpu->s.gpr[X86_RAX] = 5;
		assert_int_equal(board_run(b), amd ? X86_VEC_UD : -1);
		if (!amd)
			assert_int_equal(vec32(b, 0, 1), 5);
	}
}

CODE(far_16, "lgs (%rbx), %ax; hlt");
CODE(far_32, "lgs (%rbx), %eax; hlt");
CODE(far_64, ".byte 0x48; lgs (%rbx), %eax; hlt");
static void the_alignment_of_far_pointers(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		unsigned align[2]; /* Intel's, AMD's */
	} rows[] = {{far_16, far_16_end, {2, 4}},
		    {far_32, far_32_end, {4, 1}},
		    {far_64, far_64_end, {8, 1}}};

	BOTH(amd)
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		for (unsigned off = 0; off < 16; off++) {
			struct board *b = prepare(state, amd, rows[i].code, rows[i].end);
			board_load(b, 0x50000, rows[i].code, (size_t)(rows[i].end - rows[i].code));
			board_user(b, 0x50000);
			b->cpu->s.cr0 |= X86_CR0_AM;
			b->cpu->s.rflags |= X86_AC;
			soft_mode_update(b->cpu);
			b->cpu->s.gpr[X86_RBX] = 0x51000 + off;
			_Bool fine = off % rows[i].align[amd] == 0;
			assert_int_equal(board_run(b), fine ? X86_VEC_GP : X86_VEC_AC);
		}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, board_setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(a_gathers_mask_at_a_fault),
	    T(the_address_that_a_masked_store_reports),
	    T(a_selector_takes_2_or_4_bytes_of_the_stack),
	    T(a_call_to_nowhere_has_or_has_not_written),
	    T(alignment_of_16_bytes_is_checked_or_not),
	    T(four_gigabytes_end_or_begin_anew),
	    T(x87_pointers_are_of_the_last_instruction_or_the_last_exception),
	    T(what_has_happened_when_an_x87_store_faults),
	    T(the_address_that_xsave_reports),
	    T(a_header_that_changes_under_xrstor_loads_nothing_that_is_not_there),
	    T(flags_that_are_undefined),
	    T(repeated_instructions),
	    T(a_single_steps_trap_between_iterations),
	    T(the_alignment_of_far_pointers),
	    T(a_sign_extension_to_16_bits_reads_2_or_4_bytes),
	    T(bounds_are_compared_at_once_or_one_by_one),
	    T(encodings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
