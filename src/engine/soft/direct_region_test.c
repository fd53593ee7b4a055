/* direct_region_test.c: what the guest maps where a helper's stub is: the stub is never replaced,
 * and the program sees what its tables give it there.
 *
 * Here user code can write to its own page tables. So it does itself what another CPU's kernel
 * would do meanwhile: the tables change while the helper runs.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_stub.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

#define TABLES	 UINT64_C(0x200000) /* PDPT, PD, page table of the stub's place */
#define OVERLAY	 UINT64_C(0x210000) /* what the guest has there */
#define SECRET	 UINT64_C(0x300000) /* the guest's kernel's */
#define AD	 (X86_PTE_A | X86_PTE_D)
#define TABLE(p) ((p) | X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A)

static int setup(void **state)
{
	board_setup_direct(state);
	user_state(*state, USER_CODE);
	return 0;
}

CODE(read_page, "mov (%rdi), %rax; syscall");
static struct direct_helper *helper_get(struct board *b)
{
	board_load(b, USER_CODE, read_page, (size_t)(read_page_end - read_page));
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_RDI] = USER_DATA;
	assert_int_equal(board_run(b), 0x80);
	ran(b);
	assert_non_null(user_helper(b));
	return user_helper(b);
}

/* Page `n` from `at` on is OVERLAY's page n, once the PML4 entry is there, which is returned; with
 * `large`, OVERLAY's 2 MiB are in place of all of that. */
static uint64_t tables_make(struct board *b, uint64_t at, uint64_t bits, _Bool large)
{
	for (uint64_t i = 0; i < 3 * 512; i++)
		board_write(b, TABLES + i * 8, 8, 0);
	board_write(b, TABLES + ((at >> 30) & 511) * 8, 8, TABLE(TABLES + 0x1000));
	board_write(b, TABLES + 0x1000 + ((at >> 21) & 511) * 8, 8,
		    large ? TABLE(OVERLAY & ~UINT64_C(0x1fffff)) | X86_PTE_PS | bits
			  : TABLE(TABLES + 0x2000));
	for (uint64_t n = 0; n < DIRECT_REGION / 4096; n++) {
		uint64_t index = ((at >> 12) & 511) + n;
		if (index < 512)
			board_write(b, TABLES + 0x2000 + index * 8, 8,
				    (OVERLAY + n * 0x1000) | X86_PTE_P | X86_PTE_U | bits);
	}
	return TABLE(TABLES);
}

/* A forged stop: a page fault of an instruction fetch at R12. R8 goes to (R9) first. */
CODE(steal, "mov %r8, (%r9)\n"
	    "mov %r12, 0xe0(%r13)\n"
	    "movq $14, 0xd0(%r13)\n"
	    "movq $0x14, 0xc8(%r13)\n"
	    "movl $1, 0x140(%r13)\n"
	    "mov %r14, 0xb0(%r13)\n"
	    "movl $11, (%rbx,%rbp)\n"
	    "mov $1, %eax\n"
	    "shl $32, %rax\n"
	    "mov (%rbx,%r11), %esi\n"
	    "or %rsi, %rax\n"
	    "movl $0, (%rbx,%r11)\n"
	    "lea (%rbx,%r10), %rsi\n"
	    "mov %rax, (%rsi)\n"
	    "mov $1, %eax\n"
	    "mov $2, %edi\n"
	    "mov $8, %edx\n"
	    "jmp *%r15\n");
/* Behind the stub's mmap, with the token in its registers: SECRET, and a store to it. */
CODE(payload, "cmp $0x1234567, %ebp\n"
	      "je 1f\n"
	      "mov $0x1234567, %ebp\n"
	      "mov $0x700000000000, %rdi\n"
	      "mov $4096, %esi\n"
	      "or $3, %rdx\n"
	      "mov $0x300000, %r9d\n"
	      "mov $9, %eax\n"
	      "jmp payload - 2\n"
	      "1: mov $0x700000000000, %rdi\n"
	      "movq $0xdead, (%rdi)\n"
	      "ud2\n");
CODE(returned, "mov $7, %eax; syscall");
static void code_mapped_over_the_stub_never_runs_in_its_place(void **state)
{
	static const uint8_t call[] = {0x0f, 0x05};
	struct board *b = *state;
	struct x86_state *s = &b->cpu->s;
	struct direct_layout at;

	memcpy(&at, direct_stub + DIRECT_FILE_OFFSET, sizeof(at));
	board_pte_set(b, SECRET, SECRET | X86_PTE_P | X86_PTE_W);
	board_write(b, SECRET, 8, 0x11);
	for (unsigned round = 0; round < 4; round++) {
		board_write(b, BOARD_PML4 + 8 * 64, 8, 0);
		soft_tlb_flush_all(b->cpu);
		struct direct_helper *h = helper_get(b);
		uint64_t base = h->base, low = base + DIRECT_CODE_SIZE;
		board_load(b, OVERLAY + at.map - 2, call, 2);
		board_load(b, OVERLAY + at.map, payload, (size_t)(payload_end - payload));
		board_load(b, USER_CODE, steal, (size_t)(steal_end - steal));
		board_load(b, USER_CODE + 0x200, returned, (size_t)(returned_end - returned));
		user_again(b, USER_CODE);
		s->gpr[X86_R8] =
		    tables_make(b, base, X86_PTE_A | (round & 1 ? X86_PTE_W | AD : 0), round & 2);
		s->gpr[X86_R9] = BOARD_PML4 + (base >> 39) * 8;
		s->gpr[X86_RBX] = low;
		s->gpr[X86_R12] = base;
		s->gpr[X86_R13] = low + h->frame;
		s->gpr[X86_R14] = USER_CODE + 0x200;
		s->gpr[X86_R15] = base + at.tell - 2;
		s->gpr[X86_R11] = offsetof(struct direct_shared, go);
		s->gpr[X86_R10] = offsetof(struct direct_shared, one);
		s->gpr[X86_RBP] = offsetof(struct direct_shared, out_signal);
		uint64_t lost = b->cpu->stats.direct_lost;
		/* It is believed, and its program goes on where it said: elsewhere. */
		assert_int_equal(board_run(b), 0x80);
		assert_int_equal(s->gpr[X86_RAX], 7);
		assert_int_equal(b->cpu->stats.direct_lost, lost);
		assert_int_equal(board_read(b, SECRET, 8), 0x11);
		assert_true(helper_get(b)->base - base >= DIRECT_REGION);
		board_write(b, BOARD_PML4 + (base >> 39) * 8, 8, 0);
		soft_tlb_flush_all(b->cpu);
		(void)helper_get(b);
	}
}

/* Whatever the tables say at that moment and a moment later: that the guest has something there is
 * no reason to order it. */
static void no_mapping_is_ordered_where_the_stub_is(void **state)
{
	static const enum soft_access all[] = {SOFT_READ, SOFT_WRITE, SOFT_EXEC};
	struct board *b = *state;

	for (unsigned round = 0; round < 8; round++) {
		struct direct_helper *h = helper_get(b);
		struct direct_space *s = direct_space_get(b->cpu);
		uint64_t base = h->base, asid = b->cpu->asid_user;
		assert_ptr_equal(h, &s->helper);
		board_write(b, BOARD_PML4 + (base >> 39) * 8, 8,
			    tables_make(b, base, X86_PTE_W | AD, round & 1));
		user_again(b, USER_CODE);
		for (uint64_t n = 0; n < DIRECT_REGION / 4096; n++) {
			uint64_t at = base + n * 4096;
			if (at >> 21 != base >> 21)
				break; /* nothing is mapped there */
			for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
				assert_false(direct_map_fault(b->cpu, s, at, all[i]));
				direct_map_expected(b->cpu, s, at, all[i]);
			}
		}
		assert_int_equal(s->ops, 0);
		/* What is beside it is mapped, if the guest has it; the stub is not. */
		if (base >> 21 == (base - 4096) >> 21 && round & 1)
			assert_true(direct_map_fault(b->cpu, s, base - 4096, SOFT_READ));
		for (unsigned i = 0; i < s->ops; i++)
			assert_true(s->op[i].addr >= base + DIRECT_REGION ||
				    s->op[i].addr + s->op[i].len <= base);
		assert_int_equal(b->cpu->asid_user, asid);
		board_write(b, BOARD_PML4 + (base >> 39) * 8, 8, 0);
		soft_tlb_flush_all(b->cpu);
		direct_helper_kill(h);
	}
}

/* The kernel has mapped it; the program learns that and uses it, all in one go. */
CODE(use_mapped, "mov %r8, (%r9)\n"
		 "mov %r12, %rdi\n"
		 "mov $12, %ecx\n"
		 "1: movq $0, 16(%rdi)\n" /* faults on the stub's code, not on its data */
		 "add $0x1000, %rdi\n"
		 "loop 1b\n"
		 "mov %r12, %rdi\n"
		 "mov $12, %ecx\n"
		 "2: mov 8(%rdi), %rdx\n"
		 "add %rdx, %rbx\n"
		 "add $0x1000, %rdi\n"
		 "loop 2b\n"
		 "syscall\n");
static void a_page_that_is_mapped_over_the_stub_is_the_programs(void **state)
{
	struct board *b = *state;
	struct x86_state *s = &b->cpu->s;

	for (unsigned round = 0; round < 4; round++) {
		uint64_t base = helper_get(b)->base;
		/* What is in it. */
		for (uint64_t n = 0; n < DIRECT_REGION / 4096; n++) {
			board_write(b, OVERLAY + n * 0x1000 + 8, 8, 3);
			board_write(b, OVERLAY + n * 0x1000 + 16, 8, 5);
		}
		board_load(b, USER_CODE, use_mapped, (size_t)(use_mapped_end - use_mapped));
		user_again(b, USER_CODE);
		uint64_t pml4e = tables_make(b, base, X86_PTE_W | (round & 1 ? AD : 0), 0);
		s->gpr[X86_R8] = pml4e;
		s->gpr[X86_R9] = BOARD_PML4 + (base >> 39) * 8;
		s->gpr[X86_R12] = base;
		s->gpr[X86_RBX] = 0;
		if (round & 2) /* before it runs */
			board_write(b, s->gpr[X86_R9], 8, pml4e);
		uint64_t entries = b->cpu->stats.direct_entries;
		uint64_t pages =
		    DIRECT_REGION / 4096 -
		    (((base >> 12) & 511) + 12 > 512 ? ((base >> 12) & 511) + 12 - 512 : 0);
		if (pages == DIRECT_REGION / 4096) {
			assert_int_equal(board_run(b), 0x80);
			assert_int_equal(s->gpr[X86_RBX], pages * 3);
			for (uint64_t n = 0; n < pages; n++)
				assert_int_equal(board_read(b, OVERLAY + n * 0x1000 + 16, 8), 0);
			/* And it ran in helpers, but for what moved the stub. */
			assert_true(b->cpu->stats.direct_entries > entries);
			/* (Those may have done all of the rest.) */
			assert_true(helper_get(b)->base - base >= DIRECT_REGION);
		}
		board_write(b, BOARD_PML4 + (base >> 39) * 8, 8, 0);
		soft_tlb_flush_all(b->cpu);
	}
}

CODE(write_there, "movq $9, (%rdi); syscall");
static void a_fault_where_the_stub_is_is_the_guests_and_may_be_answered_by_it(void **state)
{
	struct board *b = *state;
	uint64_t base = helper_get(b)->base;

	board_load(b, USER_CODE, write_there, (size_t)(write_there_end - write_there));
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_RDI] = base;
	assert_int_equal(board_run(b), X86_VEC_PF);
	assert_int_equal(b->cpu->s.cr2, base);
	assert_int_equal(board_stack(b, 0), X86_PFERR_W | X86_PFERR_U);
	assert_int_equal(user_helper(b)->base, base);
	/* The guest's kernel maps it, and goes back. */
	board_write(b, BOARD_PML4 + (base >> 39) * 8, 8, tables_make(b, base, X86_PTE_W | AD, 0));
	user_again(b, USER_CODE);
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(board_read(b, OVERLAY, 8), 9);
	assert_true(user_helper(b)->base - base >= DIRECT_REGION);
}

/* Then there is none, and it is not tried for each stretch of user code. */
static void where_no_place_is_free_helpers_are_not_made_again_and_again(void **state)
{
	struct board *b = *state;
	struct soft_direct *d = b->cpu->direct;

	(void)helper_get(b);
	uint64_t helpers = b->cpu->stats.direct_helpers;
	for (uint64_t i = 0; i < 512; i++) {
		board_write(b, TABLES + i * 8, 8, TABLE(TABLES + 0x1000));
		board_write(b, TABLES + 0x1000 + i * 8, 8,
			    TABLE(OVERLAY & ~UINT64_C(0x1fffff)) | X86_PTE_PS);
	}
	for (uint64_t i = 64; i < 144; i++)
		board_write(b, BOARD_PML4 + 8 * i, 8, TABLE(TABLES));
	soft_tlb_flush_all(b->cpu);
	for (unsigned i = 0; i < 20; i++) {
		board_write(b, USER_DATA, 8, 40 + i);
		user_again(b, USER_CODE);
		b->cpu->s.gpr[X86_RDI] = USER_DATA;
		assert_int_equal(board_run(b), 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 40 + i);
		assert_in_range(b->cpu->stats.direct_helpers - helpers, 1, 4);
		assert_int_equal(b->cpu->stats.direct_refused, 1);
		d->refused_for = UINT64_MAX / 16; /* however slow this machine is */
	}
	/* When a place is free again, and some time has passed, one is made. */
	for (uint64_t i = 64; i < 144; i++)
		board_write(b, BOARD_PML4 + 8 * i, 8, 0);
	soft_tlb_flush_all(b->cpu);
	d->refused_at = __builtin_ia32_rdtsc() - d->refused_for;
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_RDI] = USER_DATA;
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(b->cpu->stats.direct_refused, 0);
	assert_non_null(user_helper(b));
}

static void a_helper_has_two_files_open_and_its_program_cannot_be_changed(void **state)
{
	struct board *b = *state;
	struct direct_helper *h = helper_get(b);
	const int seals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
	int code = b->cpu->direct->code;
	char path[64];
	struct stat st;

	assert_int_equal(fcntl(code, F_GET_SEALS) & seals, seals);
	assert_int_equal(pwrite(code, "x", 1, DIRECT_FILE_OFFSET), -1);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0), MAP_FAILED);
	/* Only who may look at others' processes sees this. */
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", h->number, DIRECT_FD_EVENT);
	if (!h->number || lstat(path, &st)) {
		print_message("skipped: no right to look at the helper in /proc\n");
		skip();
	}
	for (int fd = 0; fd < 64; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", h->number, fd);
		assert_int_equal(!lstat(path, &st), fd == DIRECT_FD_RAM || fd == DIRECT_FD_EVENT);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(code_mapped_over_the_stub_never_runs_in_its_place),
	    T(no_mapping_is_ordered_where_the_stub_is),
	    T(a_page_that_is_mapped_over_the_stub_is_the_programs),
	    T(a_fault_where_the_stub_is_is_the_guests_and_may_be_answered_by_it),
	    T(where_no_place_is_free_helpers_are_not_made_again_and_again),
	    T(a_helper_has_two_files_open_and_its_program_cannot_be_changed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
