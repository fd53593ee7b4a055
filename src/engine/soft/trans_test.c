/* trans_test.c: tests of the translator: its encoder, its blocks, its code memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/buf.h"
#include "engine/soft/testcode.h"
#include "engine/soft/trans.h"

/* What Zydis makes of bytes: one instruction with two operands, the second being rm. */
static void decode(const uint8_t *bytes, size_t n, ZydisDecodedInstruction *zi,
		   ZydisDecodedOperand *ops)
{
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, bytes, n, zi, ops)));
	assert_int_equal(zi->length, n);
}

static void every_memory_operand_is_encoded_as_asked(void **state)
{
	static const int32_t disps[] = {0, 1, -128, 127, 128, INT32_MIN, INT32_MAX};

	for (int reg = 0; reg < 16; reg++)
		for (int base = 0; base < 16; base++)
			for (int index = -1; index < 16; index++)
				for (unsigned k = 0; k < ARRAY_SIZE(disps); k++) {
					uint8_t buf[16];
					struct emit e = {.at = buf, .end = buf + sizeof(buf)};
					ZydisDecodedInstruction zi;
					ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
					unsigned scale = k & 3;
					if (index == H_RSP)
						continue;
					emit_op64(
					    &e, 0x8b, reg,
					    rm_mem(base, index, index < 0 ? 0 : scale, disps[k]));
					decode(buf, (size_t)(e.at - buf), &zi, ops);
					assert_int_equal(zi.mnemonic, ZYDIS_MNEMONIC_MOV);
					assert_int_equal(ops[0].reg.value,
							 ZYDIS_REGISTER_RAX + reg);
					assert_int_equal(ops[1].mem.base,
							 ZYDIS_REGISTER_RAX + base);
					assert_int_equal(ops[1].mem.index,
							 index < 0 ? ZYDIS_REGISTER_NONE
								   : ZYDIS_REGISTER_RAX + index);
					if (index >= 0)
						assert_int_equal(ops[1].mem.scale, 1 << scale);
					assert_int_equal((int32_t)ops[1].mem.disp.value, disps[k]);
				}
}

static void byte_registers_are_never_the_high_ones(void **state)
{
	for (int reg = 0; reg < 16; reg++)
		for (int rm = 0; rm < 16; rm++) {
			uint8_t buf[16];
			struct emit e = {.at = buf, .end = buf + sizeof(buf)};
			ZydisDecodedInstruction zi;
			ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

			emit_modrm(
			    &e, &(struct emit_op){.opcode = 0x88, .bytes = 1, .reg = (uint8_t)reg},
			    rm_reg(rm));
			decode(buf, (size_t)(e.at - buf), &zi, ops);
			assert_int_equal(soft_gpr_offset(ops[0].reg.value), rm * 8);
			assert_int_equal(soft_gpr_offset(ops[1].reg.value), reg * 8);
		}
}

static void a_full_buffer_is_not_overrun(void **state)
{
	uint8_t buf[32];

	memset(buf, 0xee, sizeof(buf));
	for (unsigned room = 0; room < 10; room++) {
		struct emit e = {.at = buf, .end = buf + room};
		emit_mov_imm(&e, H_R9, UINT64_C(0x123456789abcdef0));
		assert_int_equal(e.full, 1);
		assert_int_equal(buf[room], 0xee);
	}
}

CODE(loop_code, "mov $1000, %ecx; xor %eax, %eax; 1: add %rcx, %rax; dec %ecx; jnz 1b; hlt");
static void a_loop_runs_as_host_code(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, loop_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 500500);
	assert_true(b->cpu->stats.translated >= 2);
	assert_true(b->cpu->stats.retired < 10);
	assert_true(b->cpu->stats.lookups < 10);
}

/* The flags of the addition are dead but for the fault between it and the comparison. */
CODE(fault_code, "mov $-1, %rax; add $1, %rax; mov $0x5000000000, %rbx; mov %rax, %r10;"
		 "lea 7(%r10), %r11; mov (%rbx), %rdx; cmp $5, %rax; hlt");
static void a_fault_in_a_block_leaves_the_exact_state(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, fault_code), X86_VEC_PF);
	assert_int_equal(b->cpu->s.gpr[X86_R10], 0);
	assert_int_equal(b->cpu->s.gpr[X86_R11], 7);
	/* error code, rip, cs, rflags */
	assert_int_equal(board_stack(b, 1), BOARD_CODE + 7 + 4 + 10 + 3 + 4);
	assert_int_equal(board_stack(b, 3) & X86_ARITH, X86_ZF | X86_CF | X86_PF | X86_AF);
}

/* The store changes the immediate of the instruction after it. */
CODE(smc_code, "mov $3, %ecx; 2: movl %ecx, 1f+1(%rip); 1: mov $77, %eax; add %eax, %esi;"
	       "dec %ecx; jnz 2b; hlt");
static void a_store_into_the_running_block_is_seen_at_once(void **state)
{
	struct board *b = *state;

	board_load(b, BOARD_CODE, smc_code, (size_t)(smc_code_end - smc_code));
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RSI] = 0;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 6);
	assert_true(b->cpu->stats.invalidations >= 3);
}

/* Calls through a register, a register kept in memory, and memory below the stack pointer, which
 * the push overwrites. */
CODE(call_code,
     "xor %esi, %esi; lea 2f(%rip), %rax; mov %rax, %r15; mov $10, %ecx;"
     "1: call *%rax; call *%r15; mov %rax, -8(%rsp); call *-8(%rsp); dec %ecx; jnz 1b; hlt;"
     "2: inc %esi; ret");
static void indirect_calls_go_where_they_should(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, call_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 30);
	assert_true(b->cpu->stats.lookups < 40);
}

/* The stack is in code that was executed before, so every push drops the page's code. */
CODE(drop_code,
     "mov %rsp, %rbp; xor %esi, %esi; mov $10, %ecx; lea 2f(%rip), %rax;"
     "1: mov %rbp, %rsp; call 3f; lea 3f+16(%rip), %rsp; call *%rax; movb $0x90, 3f+8(%rip);"
     "lea 3f+16(%rip), %rsp; call 2f; lea 3f+16(%rip), %rsp; pushq %rax; popq %rdx;"
     "movabs $0x9090909090909090, %rdx; mov %rdx, 3f+8(%rip);"
     "dec %ecx; jnz 1b; mov %rbp, %rsp; hlt;"
     "2: inc %esi; ret; 3: .fill 16, 1, 0x90; ret");
static void a_push_into_code_leaves_for_where_it_was_going(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, drop_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 20);
	assert_true(b->cpu->stats.invalidations >= 20);
}

/* Two pages that share an index of the TLB, and a page table's change for the one that was pushed
 * out. */
CODE(victim_code,
     "mov $0x20000, %ebx; mov $0x420000, %edx; mov $1000, %ecx; xor %esi, %esi;"
     "1: add (%rbx), %rsi; add (%rdx), %rsi; dec %ecx; jnz 1b;"
     "mov $0x103100, %edi; mov (%rdi), %rax; add $0x1000, %rax; mov %rax, (%rdi); invlpg (%rbx);"
     "mov (%rbx), %rax; hlt");
/* A jump in two pages, with no other code in the second one, which is written; then another one
 * comes in its place. */
CODE(pages_code, "mov $50, %ecx; xor %eax, %eax; mov $0x20ffd, %ebx; 1: call *%rbx; cmp $20, %ecx;"
		 "jne 2f; movb $1, 0x21000; 2: cmp $10, %ecx; jne 3f; movq $0x22003, 0x103108;"
		 "invlpg 0x21000; 3: dec %ecx; jnz 1b; hlt");
static void an_instruction_in_two_pages_is_what_it_is_now(void **state)
{
	struct board *b = *state;

	board_write(b, 0x20ffd, 8, 0xeffee9); /* jmp 0x30000 */
	board_write(b, 0x22000, 4, 2);
	board_write(b, 0x30000, 4, 0xc301c083); /* add $1, %eax; ret */
	board_write(b, 0x40000, 4, 0xc340c083);
	board_write(b, 0x50000, 4, 0xc365c083);
	assert_int_equal(RUN_LONG(b, pages_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 31 + 10 * 0x40 + 9 * 0x65);
	assert_true(b->cpu->stats.cold < 10);
	assert_true(b->cpu->stats.entries < 60);
	/* It is gone: a fault in the midst of translated code. */
	board_pte_set(b, 0x21000, 0);
	b->cpu->s.gpr[X86_RBX] = 0x20ffd;
	soft_tlb_flush_page(b->cpu, 0x21000);
	board_load(b, BOARD_CODE, (const uint8_t *)"\xff\xd3", 2);
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RBX] = 0x20ffd;
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, 0x21000);
	assert_int_equal(board_stack(b, 1), 0x20ffd);
}

/* Pushes, a misaligned and a crossing access by RSP; then another page comes in the stack's place.
 */
CODE(stack_code, "mov $0x30800, %esp; mov $9, %ecx; 1: push %rcx; dec %ecx; jnz 1b; pop %rax;"
		 "add (%rsp), %rax; addq $5, (%rsp); add (%rsp), %rax; mov 3(%rsp), %rbx;"
		 "movl $0x11223344, 0x83e(%rsp); mov 0x83e(%rsp), %edx;"
		 "movq $0x32003, 0x103180; invlpg 0x30000; mov (%rsp), %rsi; push %rax; hlt");
static void the_stack_is_found_again_after_every_change(void **state)
{
	struct board *b = *state;

	board_write(b, 0x327c0, 8, 99);
	assert_int_equal(RUN_LONG(b, stack_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 1 + 2 + 7);
	assert_int_equal(b->cpu->s.gpr[X86_RBX], UINT64_C(3) << 40);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], 0x11223344);
	assert_int_equal(board_read(b, 0x30ffe, 4), 0x11223344);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 99);
	assert_int_equal(board_read(b, 0x327b8, 8), 10);
	assert_int_equal(board_read(b, 0x307b8, 8), 1);
}

static void pages_that_share_an_index_stay_and_go_alike(void **state)
{
	struct board *b = *state;

	board_write(b, 0x20000, 8, 3);
	board_write(b, 0x21000, 8, 77);
	board_write(b, 0x420000, 8, 4);
	assert_int_equal(RUN_LONG(b, victim_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], 7000);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 77);
	assert_true(b->cpu->stats.tlb_misses < 20);
}

/* Across pages, from and to odd addresses, elements across the pages' ends; then a pattern. */
CODE(string_code,
     "mov $0x20ff3, %esi; mov $0x30ffb, %edi; mov $1500, %ecx; rep movsq;"
     "mov $0x123456789abcdef0, %rax; mov $0x40ffd, %edi; mov $3000, %ecx; rep stosl; mov %rdi, %r8;"
     "lea 0x41000, %rsi; lea 3(%rsi), %rdi; mov $20, %ecx; rep movsb;"
     "std; mov $0x21000, %esi; mov $0x51000, %edi; mov $4, %ecx; rep movsw; cld;"
     "mov $10, %ecx; lea 1f(%rip), %rdi; mov $0x90, %al; rep stosb; 1: mov $5, %eax; mov $6, %edx;"
     "hlt");
static void repeated_strings_do_what_they_do_one_by_one(void **state)
{
	struct board *b = *state;

	for (unsigned i = 0; i < 0x6000; i += 8)
		board_write(b, 0x20000 + i, 8, i * UINT64_C(0x1234567) + 99);
	assert_int_equal(RUN_LONG(b, string_code), -1);
	for (unsigned i = 0; i < 12000; i++)
		assert_int_equal(board_read(b, 0x30ffb + i, 1), board_read(b, 0x20ff3 + i, 1));
	for (unsigned i = 1200; i < 12000; i += 4)
		assert_int_equal(board_read(b, 0x40ffd + i, 4), 0x9abcdef0);
	assert_int_equal(b->cpu->s.gpr[X86_R8], 0x40ffd + 12000);
	for (unsigned i = 3; i < 23; i++)
		assert_int_equal(board_read(b, 0x41000 + i, 1), board_read(b, 0x41000 + i - 3, 1));
	assert_int_equal(board_read(b, 0x50ffa, 8), board_read(b, 0x20ffa, 8));
	assert_int_not_equal(b->cpu->s.gpr[X86_RDX], 6); /* nops are there */
	assert_int_equal(b->cpu->s.gpr[X86_RAX], UINT64_C(0x123456789abcde90));
	assert_true(b->cpu->stats.invalidations > 0);
}

CODE(pair_code,
     "mov $0x20000, %ebx; mov %rbx, %rdi; xor %eax, %eax; xor %edx, %edx; mov $7, %ecx;"
     "lock cmpxchg16b (%rdi); sete %r10b; cmpxchg16b (%rdi); mov %rax, %r11; mov %rdx, %r12;"
     "lock cmpxchg16b 8(%rdi); hlt");
static void a_pair_is_exchanged_and_must_be_aligned(void **state)
{
	struct board *b = *state;

	b->cpu->s.gpr[X86_R10] = 0;
	assert_int_equal(RUN_LONG(b, pair_code), X86_VEC_GP);
	assert_int_equal(b->cpu->s.gpr[X86_R10] & 0xff, 1);
	assert_int_equal(b->cpu->s.gpr[X86_R11], 0x20000);
	assert_int_equal(b->cpu->s.gpr[X86_R12], 7);
	assert_int_equal(board_stack(b, 1), BOARD_CODE + (uint64_t)(pair_code_end - pair_code) - 7);
}

/* Quotients that fit, and those that do not: by zero, and INT64_MIN by -1. */
CODE(divide_code,
     "mov $100, %eax; cqo; mov $-7, %r10; idiv %r10; mov %rax, %r8; mov %rdx, %r9;"
     "mov $-100, %rax; cqo; mov $0x20000, %ebx; movl $9, (%rbx); idivl (%rbx); mov %eax, %r12d;"
     "mov $3, %edx; xor %eax, %eax; mov $4, %ecx; div %rcx; mov %rax, %r13;"
     "mov $1, %eax; shl $63, %rax; cqo; mov $-1, %rcx; xor %esi, %esi; idiv %rcx; hlt");
static void division_is_exact_or_faults(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, divide_code), X86_VEC_DE);
	assert_int_equal(b->cpu->s.gpr[X86_R8], (uint64_t)-14);
	assert_int_equal(b->cpu->s.gpr[X86_R9], 2);
	assert_int_equal(b->cpu->s.gpr[X86_R12], (uint32_t)-11);
	assert_int_equal(b->cpu->s.gpr[X86_R13], UINT64_C(3) << 62);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], BIT64(63));
}

static void full_code_memory_is_emptied_and_used_again(void **state)
{
	struct board *b = *state;

	for (unsigned i = 0; i < 3; i++) {
		b->cpu->trans->used = b->cpu->trans->size - 100;
		assert_int_equal(RUN_LONG(b, loop_code), -1);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 500500);
		assert_true(b->cpu->trans->used < b->cpu->trans->size / 2);
	}
}

/* What `needle` is followed by in the counters' lines, or -1. */
static long counter(struct board *b, const char *needle)
{
	struct wbuf out;
	long v = -1;

	wbuf_init(&out, 1 << 20);
	soft_stats_write(b->cpu, &out);
	wbuf_u8(&out, 0);
	const char *at = strstr((const char *)out.data, needle);
	if (at)
		v = strtol(at + strlen(needle), NULL, 10);
	wbuf_fini(&out);
	return v;
}

CODE(count_code,
     "mov $100, %ecx; 1: cpuid; mov $7, %eax; pushfq; popfq; rdtsc; dec %esi; jnz 1b; hlt");
static void what_is_left_to_handlers_is_counted_by_mnemonic(void **state)
{
	struct board *b = *state;

	b->engine->cfg.trace.count = 1;
	board_load(b, BOARD_CODE, count_code, (size_t)(count_code_end - count_code));
	board_long(b, BOARD_CODE);
	b->cpu->s.gpr[X86_RSI] = 100;
	assert_int_equal(board_run(b), -1);
	assert_int_equal(counter(b, "handled.cpuid "), 100);
	assert_int_equal(counter(b, "handled.rdtsc "), 100);
	assert_int_equal(counter(b, "handled.hlt "), 1);
	assert_int_equal(counter(b, "handled.nop "), -1);
	assert_int_equal(counter(b, "cpu0.retired "), 1 + 700 + 1);
	assert_true(counter(b, "cpu0.host_bytes ") > counter(b, "cpu0.guest_bytes "));
	b->engine->cfg.trace.count = 0;
	assert_int_equal(counter(b, "cpu0.retired "), -1);
}

static void a_trace_shows_guest_and_host_code_of_the_blocks_asked_for(void **state)
{
	struct board *b = *state;
	char text[8192] = "", map[4096] = "";
	FILE *blocks = tmpfile(), *perf = tmpfile();

	b->engine->cfg.trace =
	    (struct engine_trace){.blocks = blocks, .from = 0, .to = BOARD_CODE, .perf_map = perf};
	assert_int_equal(RUN_LONG(b, loop_code), -1);
	b->engine->cfg.trace = (struct engine_trace){0};
	rewind(blocks);
	rewind(perf);
	text[fread(text, 1, sizeof(text) - 1, blocks)] = 0;
	map[fread(map, 1, sizeof(map) - 1, perf)] = 0;
	fclose(blocks);
	fclose(perf);
	assert_non_null(strstr(text, "mov ecx, 0x3E8"));
	assert_non_null(strstr(text, "out of line"));
	const char *one = strstr(text, "block 0000000000008000");
	assert_non_null(one);
	assert_null(strstr(one + 1, "block 000")); /* the others begin past the range */
	assert_non_null(strstr(map, " guest:kernel:8000\n"));
	assert_true(strtoull(map, NULL, 16) >= (uintptr_t)b->cpu->trans->rx);
}

static void no_memory_is_writable_and_executable(void **state)
{
	struct board *b = *state;
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned code = 0;
	char line[512];

	assert_int_equal(RUN_LONG(b, loop_code), -1);
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		assert_null(strstr(line, " rwx"));
		code += strstr(line, "polyvisor-code") != NULL;
	}
	fclose(f);
	assert_int_equal(code, 2);
}

/* What is left to handlers is counted by mnemonic. */
static uint64_t handled(const struct board *b)
{
	uint64_t n = 0;

	for (unsigned k = 0; k < SOFT_MNEMONICS; k++)
		n += k == ZYDIS_MNEMONIC_HLT ? 0 : b->cpu->handled[k];
	return n;
}

CODE(rare_code,
     "mov $0x20000, %esi; mov $0x20100, %edi; mov $3, %ecx; 1: movsw; lodsl; stosq; loop 1b;"
     "mov $0x20100, %esi; mov $0x20100, %edi; cmpsb; setz %bl; mov (%rdi), %al; scasb;"
     "setz %bh; stc; lahf; cmc; adc $0, %ebx; sahf; adc $0, %ebx; jrcxz 2f; hlt; 2: mov %cs, %edx;"
     "mov %cr2, %r10; mov %cr4, %r11; pause; clc; hlt");
static void rare_instructions_need_no_handler(void **state)
{
	struct board *b = *state;

	for (unsigned k = 0; k < 18; k++)
		board_write(b, BOARD_DATA + k, 1, 0x40 + k);
	assert_int_equal(RUN_LONG(b, rare_code), -1);
	assert_int_equal(board_read(b, BOARD_DATA + 0x100, 2), 0x4140);
	assert_int_equal(board_read(b, BOARD_DATA + 0x102, 8), 0x45444342);
	assert_int_equal(board_read(b, BOARD_DATA + 0x10a, 2), 0x4746);
	assert_int_equal(b->cpu->s.gpr[X86_RBX], 0x101 + 0 + 1);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], BOARD_CS64);
	assert_int_equal(b->cpu->s.gpr[X86_R11], X86_CR4_PAE | X86_CR4_OSFXSR);
	assert_int_equal(handled(b), 0);
}

CODE(far_code,
     "mov $5, %eax; mov $6, %r10d; mov $1, %r11d; stc; lea 0x7fffffff(%rax), %edx;"
     "lea -0x80000000(%r10,%r11,8), %rsi; lea 0x7fffffff(,%r10,2), %rdi; lea -0x80000000, %rcx;"
     "setc %bl; hlt");
static void lea_with_a_displacement_at_the_ends_of_32_bits_needs_no_handler(void **state)
{
	struct board *b = *state;

	b->cpu->s.gpr[X86_RBX] = 0;
	assert_int_equal(RUN_LONG(b, far_code), -1);
	assert_int_equal(b->cpu->s.gpr[X86_RDX], 0x80000004);
	assert_int_equal(b->cpu->s.gpr[X86_RSI], INT32_MIN + INT64_C(14));
	assert_int_equal(b->cpu->s.gpr[X86_RDI], INT64_C(0x7fffffff) + 12);
	assert_int_equal(b->cpu->s.gpr[X86_RCX], INT32_MIN);
	assert_int_equal(b->cpu->s.gpr[X86_RBX] & 1, 1);
	assert_int_equal(handled(b), 0);
}

CODE(state_code,
     "mov $100, %ecx; 1: mov %cr3, %rax; mov %rax, %cr3; pushfq; popfq; dec %ecx; jnz 1b;"
     "hlt");
static void a_change_of_state_goes_on_in_host_code(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, state_code), -1);
	assert_int_equal(b->cpu->handled[ZYDIS_MNEMONIC_POPFQ], 100);
	assert_true(b->cpu->stats.left_state <= 2);
}

/* The trap flag, set by the last instruction of a block. */
CODE(trap_code, "pushfq; orl $0x100, (%rsp); popfq; nop; nop; hlt");
static void a_state_that_asks_for_single_steps_is_left_for_them(void **state)
{
	struct board *b = *state;

	assert_int_equal(RUN_LONG(b, trap_code), X86_VEC_DB);
	assert_int_equal(board_stack(b, 0), BOARD_CODE + 1 + 7 + 1 + 1);
}

static void each_cpu_has_its_part_of_a_quarter_of_memory_for_code(void **state)
{
	(void)state;
	assert_int_equal(trans_code_size(UINT64_C(512) << 20, 1), 128u << 20);
	assert_int_equal(trans_code_size(UINT64_C(1024) << 20, 4), 64u << 20);
	assert_int_equal(trans_code_size((UINT64_C(512) << 20) + 4, 1), (128u << 20) + 4096);
	/* Never less, however many they are, and never more. */
	assert_int_equal(trans_code_size(0, 1), 48u << 20);
	assert_int_equal(trans_code_size(UINT64_C(1024) << 20, 255), 48u << 20);
	assert_int_equal(trans_code_size(UINT64_C(1) << 40, 1), 256u << 20);
	assert_int_equal(trans_code_size(UINT64_C(1024) << 20, 0), 256u << 20);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_translate, board_teardown)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_memory_operand_is_encoded_as_asked),
	    cmocka_unit_test(byte_registers_are_never_the_high_ones),
	    cmocka_unit_test(a_full_buffer_is_not_overrun),
	    cmocka_unit_test(each_cpu_has_its_part_of_a_quarter_of_memory_for_code),
	    T(a_loop_runs_as_host_code),
	    T(a_fault_in_a_block_leaves_the_exact_state),
	    T(a_store_into_the_running_block_is_seen_at_once),
	    T(indirect_calls_go_where_they_should),
	    T(a_push_into_code_leaves_for_where_it_was_going),
	    T(the_stack_is_found_again_after_every_change),
	    T(an_instruction_in_two_pages_is_what_it_is_now),
	    T(pages_that_share_an_index_stay_and_go_alike),
	    T(repeated_strings_do_what_they_do_one_by_one),
	    T(a_pair_is_exchanged_and_must_be_aligned),
	    T(division_is_exact_or_faults),
	    T(full_code_memory_is_emptied_and_used_again),
	    T(what_is_left_to_handlers_is_counted_by_mnemonic),
	    T(a_trace_shows_guest_and_host_code_of_the_blocks_asked_for),
	    T(no_memory_is_writable_and_executable),
	    T(rare_instructions_need_no_handler),
	    T(lea_with_a_displacement_at_the_ends_of_32_bits_needs_no_handler),
	    T(a_change_of_state_goes_on_in_host_code),
	    T(a_state_that_asks_for_single_steps_is_left_for_them),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
