/* direct_hostile_test.c: user code that knows the stub and tries to use it, and what comes of that.
 *
 * Each attempt ends in a fault of its own program or in the end of its helper. What matters is what
 * comes after: the next program runs in a helper exactly as if nothing had been tried, which it
 * would not if the engine took a helper for stopped that runs, or an operation for done that was
 * not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_stub.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

#define FORGED	UINT64_C(0x52000) /* what the attacker writes over the shared part */
#define REGS	UINT64_C(0x54000) /* and what it has in its registers then */
#define COUNTER UINT64_C(0x56000)

static int setup(void **state)
{
	setenv("BOARD_SOFT", "direct", 1);
	struct board *b = board_new(1);
	*state = b;
	user_state(b, USER_CODE);
	return 0;
}
static int run_code(struct board *b, const uint8_t *code, const uint8_t *end, uint64_t r15)
{
	board_load(b, USER_CODE, code, (size_t)(end - code));
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_R15] = r15;
	return board_run(b);
}
#define RUN(b, name, r15) run_code(b, name, name##_end, r15)

/* A program that counts, in registers and in memory that is taken away from it in between. */
CODE(count, "mov $0x56000, %edi\n"
	    "mov $300, %ecx\n"
	    "xor %eax, %eax\n"
	    "1: add $3, %eax\n"
	    "incq (%rdi)\n"
	    "loop 1b\n"
	    "syscall\n"
	    "incq (%rdi)\n"
	    "syscall\n");
static void next_program_runs_well(struct board *b)
{
	b->cpu->direct->killed = 0;
	board_write(b, COUNTER, 8, 1000);
	assert_int_equal(RUN(b, count, 0), 0x80);
	if (b->cpu->direct->refused) {
		print_message("skipped: %s\n", b->cpu->direct->why);
		skip();
	}
	assert_int_equal(b->cpu->s.gpr[X86_RAX], 900);
	assert_int_equal(board_read(b, COUNTER, 8), 1300);
	/* The kernel takes the page away: the helper may not have it for another instruction. */
	uint64_t entries = b->cpu->stats.direct_entries;
	uint64_t rip = USER_CODE + (uint64_t)(count_end - count) - 5;
	board_pte_set(b, COUNTER, (COUNTER + 0x1000) | 7);
	board_write(b, COUNTER + 0x1000, 8, 77);
	soft_tlb_flush_page(b->cpu, COUNTER);
	user_again(b, rip);
	b->cpu->s.gpr[X86_RDI] = COUNTER;
	assert_int_equal(board_run(b), 0x80);
	assert_true(b->cpu->stats.direct_entries > entries);
	assert_int_equal(board_read(b, COUNTER + 0x1000, 8), 78);
	assert_int_equal(board_read(b, COUNTER, 8), 1300);
	board_pte_set(b, COUNTER, COUNTER | 7);
	soft_tlb_flush_page(b->cpu, COUNTER);
	assert_int_equal(b->cpu->direct->killed, 0);
}

/* Writes the forged image over the shared part, loads all registers, and jumps to where r15 said.
 */
CODE(forge, "mov %r15, %rdi\n"
	    "and $-0x1000, %rdi\n"
	    "mov $0x53f00, %esi\n"
	    "mov (%rsi), %rdi\n" /* the shared part's address */
	    "mov $0x52000, %esi\n"
	    "mov $0x1e00, %ecx\n"
	    "rep movsb\n"
	    "mov $0x54000, %esi\n"
	    "push 0x80(%rsi)\n"
	    "mov 0x88(%rsi), %rsp\n"
	    "mov %r15, 0x54100\n"
	    "mov 0x00(%rsi), %rax\n"
	    "mov 0x08(%rsi), %rbx\n"
	    "mov 0x10(%rsi), %rcx\n"
	    "mov 0x18(%rsi), %rdx\n"
	    "mov 0x20(%rsi), %rdi\n"
	    "mov 0x28(%rsi), %rbp\n"
	    "mov 0x30(%rsi), %r8\n"
	    "mov 0x38(%rsi), %r9\n"
	    "mov 0x40(%rsi), %r10\n"
	    "mov 0x48(%rsi), %r11\n"
	    "mov 0x50(%rsi), %r12\n"
	    "mov 0x58(%rsi), %r13\n"
	    "mov 0x60(%rsi), %r14\n"
	    "mov 0x68(%rsi), %r15\n"
	    "mov 0x70(%rsi), %rsi\n"
	    "jmp *0x54100\n");

struct random {
	uint64_t s;
};
static uint64_t random_next(struct random *r)
{
	r->s ^= r->s << 13;
	r->s ^= r->s >> 7;
	r->s ^= r->s << 17;
	return r->s;
}
/* Something that means something to the stub: a number, an address of its own, one of the guest's.
 */
static uint64_t random_value(struct random *r, uint64_t base)
{
	uint64_t v = random_next(r);

	switch (v % 8) {
	case 0: return v >> 8 & 15;
	case 1: return v >> 8 & 0x3ff;
	case 2: return base + DIRECT_CODE_SIZE + (v >> 8) % DIRECT_SHARED_SIZE;
	case 3: return base + DIRECT_CODE_SIZE + ((v >> 8) % 64) * 8;
	case 4: return base + (v >> 8) % DIRECT_CODE_SIZE;
	case 5: return USER_DATA + ((v >> 8) & 0xfff8);
	case 6: return SYS_write + (v >> 8 & 1 ? SYS_mmap : 0);
	default: return v;
	}
}

static void forged_image(struct board *b, struct random *r, struct direct_helper *h)
{
	struct direct_shared *s = calloc(1, 0x1e00);
	uint64_t low = h->base + DIRECT_CODE_SIZE;

	/* As it is, and in it some of what decides. */
	memcpy(s, h->shared, sizeof(*s));
	s->go = (uint32_t)(random_next(r) & 1 ? random_next(r) : random_next(r) & 1);
	s->one = random_next(r) & 1 ? DIRECT_TOLD | h->go : random_value(r, h->base);
	s->ops = (uint32_t)(random_next(r) % 3);
	for (unsigned i = 0; i < 2; i++) /* not what it runs on, or there is nothing to be seen */
		s->op[i] = (struct direct_op){0x58000, 0x1000, random_next(r) & 1 ? 3 : 0, 0};
	s->out_frame =
	    low + (random_next(r) & 1 ? h->frame : DIRECT_STACK + (random_next(r) & 0x3fc0));
	s->frame = s->out_frame;
	s->out_signal = (uint32_t)random_value(r, h->base);
	for (unsigned i = 0; i < 3; i++) {
		s->token[i] = random_value(r, h->base);
		s->held[i] = random_value(r, h->base);
	}
	board_load(b, FORGED, s, 0x1e00);
	board_write(b, 0x53f00, 8, low);
	for (unsigned i = 0; i < 15; i++)
		board_write(b, REGS + i * 8, 8, random_value(r, h->base));
	board_write(b, REGS + 0x80, 8, random_value(r, h->base));
	board_write(b, REGS + 0x88, 8,
		    random_next(r) & 1 ? USER_STACK - 256 : random_value(r, h->base));
	free(s);
}

static void attempt(struct board *b, struct random *r, uint64_t offset)
{
	struct direct_helper *h = user_helper(b);

	assert_non_null(h);
	forged_image(b, r, h);
	b->cpu->stats.direct_exits = 0;
	(void)RUN(b, forge, h->base + offset); /* whatever comes of it */
	assert_true(b->cpu->direct->killed || b->cpu->stats.direct_exits);
}

/* Where the calls of the stub are: the instructions themselves. */
static unsigned calls_of(uint64_t at[5])
{
	memcpy(at, direct_stub + DIRECT_FILE_OFFSET, 5 * 8);
	for (unsigned i = 0; i < 5; i++)
		at[i] -= 2;
	return 5;
}

static void forged_shared_state_and_jumps_anywhere_change_nothing_for_others(void **state)
{
	struct board *b = *state;
	const char *seed = getenv("DIRECT_SEED"), *rounds = getenv("DIRECT_ROUNDS");
	struct random r = {seed ? strtoull(seed, NULL, 0) : 0x2545f4914f6cdd1d};

	next_program_runs_well(b);
	for (unsigned round = 0; round < (rounds ? (unsigned)atoi(rounds) : 400); round++) {
		attempt(b, &r, random_next(&r) % 0x700);
		next_program_runs_well(b);
	}
}

static void jumps_to_its_calls_with_forged_state_change_nothing_for_others(void **state)
{
	struct board *b = *state;
	struct random r = {0x9e3779b97f4a7c15};
	const char *rounds = getenv("DIRECT_ROUNDS");
	uint64_t at[5];
	unsigned n = calls_of(at);

	next_program_runs_well(b);
	for (unsigned round = 0; round < (rounds ? (unsigned)atoi(rounds) : 60) * n; round++) {
		attempt(b, &r, at[round % n]);
		next_program_runs_well(b);
	}
}

CODE(call_from_stub, "mov %r12, %rax\n"
		     "jmp *%r15\n");
static void no_system_call_from_the_stub_is_the_hosts_but_what_harms_oneself(void **state)
{
	struct board *b = *state;
	uint64_t at[5];
	unsigned n = calls_of(at);

	next_program_runs_well(b);
	for (unsigned nr = 0; nr < 460; nr++) {
		struct direct_helper *h = user_helper(b);
		unsigned which = nr % n;
		/* What must not be: a descriptor of ours is used, a process is made, ours is hit.
		 */
		board_load(b, USER_CODE, call_from_stub,
			   (size_t)(call_from_stub_end - call_from_stub));
		user_again(b, USER_CODE);
		b->cpu->s.gpr[X86_R12] = nr;
		b->cpu->s.gpr[X86_R15] = h->base + at[which];
		b->cpu->s.gpr[X86_RDI] = nr % 3 ? DIRECT_FD_RAM : (uint64_t)getpid();
		b->cpu->s.gpr[X86_RSI] = nr & 1 ? USER_DATA : SIGKILL;
		b->cpu->s.gpr[X86_RDX] = 9;
		int vector = board_run(b);
		/* Either it is the guest's, or it was refused in the stub. */
		assert_true(vector == 0x80 || vector == X86_VEC_PF || vector == X86_VEC_GP ||
			    vector == X86_VEC_UD);
		next_program_runs_well(b);
	}
}

CODE(call_high, "mov %r12, %rax\nsyscall\n");
CODE(call_enter, "mov %r12, %rax\npush %rax\npop %rcx\nsysenter\n");
CODE(call_nothing, "mov %r12, %rax\npush %rax\npop %rcx\nud2\n");
/* Into a 32-bit code segment of the host's, where the numbers are others. */
CODE(call_narrow, "push $0x23\n"
		  "push $0x40040\n"
		  "lretq\n"
		  ".org call_narrow + 0x40\n"
		  ".byte 0xcd, 0x80, 0x0f, 0x05, 0x0f, 0x34\n");
/* SYSENTER is the guest's: an undefined instruction on AMD's CPUs in long mode, and a fault on
 * others where the guest's kernel has no entry for it. */
static void enters(struct board *b, uint64_t nr)
{
	helpers_empty(b);
	board_load(b, USER_CODE, call_enter, (size_t)(call_enter_end - call_enter));
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_R12] = nr;
	assert_int_equal(board_run(b), b->cpuid.amd ? X86_VEC_UD : X86_VEC_GP);
	assert_int_equal(b->cpu->s.gpr[X86_RAX], nr);
	assert_int_equal(board_stack(b, b->cpuid.amd ? 0 : 1), USER_CODE + 5);
}

/* Does SYSENTER enter the host's kernel, or is it a fault itself? Asked by a process that ends: the
 * kernel goes on where a 32-bit program's vDSO would be, with ESP from EBP. */
__asm__(".pushsection .text\n"
	"enter_host: mov $20, %eax\n" /* getpid */
	"xor %ebp, %ebp\n"
	"enter_host_at: sysenter\n"
	"ud2\n"
	".popsection\n");
void enter_host(void) __attribute__((noreturn, visibility("hidden")));
extern const uint8_t enter_host_at[] __attribute__((visibility("hidden")));

static void entered(int sig, siginfo_t *info, void *context)
{
	const ucontext_t *u = context;

	(void)sig, (void)info;
	_exit((uint64_t)u->uc_mcontext.gregs[REG_RIP] != (uint64_t)(uintptr_t)enter_host_at);
}

static _Bool host_has_32_bit_calls(void)
{
	static uint8_t stack[65536];
	const stack_t other = {.ss_sp = stack, .ss_size = sizeof(stack)};
	const struct sigaction a = {.sa_sigaction = entered, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		sigaltstack(&other, NULL);
		sigaction(SIGSEGV, &a, NULL);
		enter_host();
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* The same where a helper executes it, as it was written into the page later: the host's kernel
 * does nothing but let the program go on where its vDSO would be, by the lower half of the address.
 */
static void enters_unseen(struct board *b, uint64_t nr, uint64_t rbp, _Bool enters_host)
{
	helpers_empty(b);
	board_load(b, USER_CODE, call_nothing, (size_t)(call_nothing_end - call_nothing));
	user_again(b, USER_CODE);
	assert_int_equal(board_run(b), X86_VEC_UD);
	board_load(b, USER_CODE, call_enter, (size_t)(call_enter_end - call_enter));
	user_again(b, USER_CODE);
	b->cpu->s.gpr[X86_R12] = nr;
	b->cpu->s.gpr[X86_RBP] = rbp;
	uint64_t entries = b->cpu->stats.direct_entries;
	int vector = board_run(b);
	uint32_t eax = (uint32_t)b->cpu->s.gpr[X86_RAX];
	assert_true(b->cpu->stats.direct_entries > entries);
	if (b->cpuid.amd)
		assert_int_equal(vector, X86_VEC_UD);
	else
		assert_int_equal(vector, enters_host ? X86_VEC_PF : X86_VEC_GP);
	/* An address of 32-bit code has no more, whatever the kernel tells. */
	assert_int_equal(board_stack(b, b->cpuid.amd ? 0 : 1) >> 32, 0);
	assert_true(eax == nr || (!b->cpuid.amd && eax == (uint32_t)-EFAULT));
	assert_int_equal(b->cpu->direct->killed, 0);
}

static void no_system_call_of_other_abis_is_the_hosts(void **state)
{
	struct board *b = *state;
	static const uint64_t numbers[] = {
	    0x40000000, 0x40000009, 0x40000201, 0x4000003b, UINT64_C(0x1000000e7),
	    UINT64_MAX, 0x7fffffff, 0xffffffff, 335,	    424,
	    435,	461,	    1000};

	_Bool enters_host = !b->cpuid.amd && host_has_32_bit_calls();
	next_program_runs_well(b);
	for (unsigned i = 2; i < 128; i++) /* user code has no more than what it uses */
		board_write(b, BOARD_PML4 + 0x2000 + i * 8, 8, 0);
	soft_tlb_flush_all(b->cpu);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
		board_load(b, USER_CODE, call_high, (size_t)(call_high_end - call_high));
		user_again(b, USER_CODE);
		b->cpu->s.gpr[X86_R12] = numbers[i];
		assert_int_equal(board_run(b), 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], numbers[i]);
	}
	for (unsigned nr = 0; nr < 440; nr += 3) {
		enters(b, nr);
		enters_unseen(b, nr, 0, enters_host);
		enters_unseen(b, nr, USER_STACK - 8, enters_host);
		board_load(b, USER_CODE, call_narrow, (size_t)(call_narrow_end - call_narrow));
		for (unsigned k = 0; k < 3; k++) {
			static const uint8_t nop2[] = {0x90, 0x90};
			user_again(b, USER_CODE);
			b->cpu->s.gpr[X86_RAX] = nr;
			(void)board_run(b); /* this kernel's table has no such segment */
			/* (A host's kernel gives this before it asks whether there is a call.) */
			uint32_t eax = (uint32_t)b->cpu->s.gpr[X86_RAX];
			assert_true(eax == nr || (k && eax == (uint32_t)-EFAULT));
			board_load(b, USER_CODE + 0x40 + k * 2, nop2, 2);
		}
	}
	assert_int_equal(b->cpu->direct->killed, 0);
	next_program_runs_well(b);
}

/* Everything that the stub's region shows, copied to where the test can look at it. */
CODE(read_region, "mov %r15, %rsi\n"
		  "mov $0x70000, %edi\n"
		  "mov $0x1000, %ecx\n"
		  "rep movsb\n"
		  "add $0x1000, %rsi\n" /* behind the end of the program's file */
		  "mov $0x72000, %edi\n"
		  "mov $0xa000, %ecx\n"
		  "rep movsb\n"
		  "syscall\n");
static void what_a_helper_can_read_of_its_stub_is_worth_nothing(void **state)
{
	struct board *b = *state;
	static uint8_t seen[DIRECT_REGION];

	next_program_runs_well(b);
	for (unsigned round = 0; round < 20; round++) {
		struct direct_helper *h = user_helper(b);
		assert_int_equal(RUN(b, read_region, h->base), 0x80);
		for (unsigned i = 0; i < DIRECT_REGION; i += 8) {
			uint64_t v = board_read(b, 0x70000 + i, 8);
			memcpy(seen + i, &v, 8);
		}
		/* It was there, and no part of the token is in it, whole or half, at any place. */
		assert_memory_equal(seen, direct_stub + DIRECT_FILE_OFFSET, 256);
		assert_memory_equal(seen + DIRECT_CODE_SIZE + offsetof(struct direct_shared, base),
				    &h->base, 8);
		for (unsigned i = 0; i + 8 <= DIRECT_REGION; i++)
			for (unsigned t = 0; t < 3; t++) {
				uint32_t half[2] = {(uint32_t)h->token[t],
						    (uint32_t)(h->token[t] >> 32)};
				assert_true(memcmp(seen + i, &half[0], 4) &&
					    memcmp(seen + i, &half[1], 4));
			}
	}
}

/* Another address space whose turn it is to get the helper that the present one has. */
static void other_program_takes_it(struct board *b)
{
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		b->cpu->direct->space[i].used =
		    b->cpu->direct->space[i].asid == b->cpu->asid_user ? 0 : 1000000;
	uint64_t before = b->cpu->asid_user;
	soft_tlb_flush_all(b->cpu);
	assert_int_not_equal(b->cpu->asid_user, before);
}

/* A program with something to hide, which is stopped with it in its registers; then another one
 * that gets the same helper and looks for it, its own pages known to be in use, so that it looks
 * before it is stopped for the first time. */
#define HIDDEN_WORD UINT64_C(0x5ec4e75ec4e75ec4)
#define HIDDEN_BASE UINT64_C(0x123456789000)
CODE(has_secrets, "mov $0x5ec4e75ec4e75ec4, %rax\n"
		  "mov %rax, %r9\n"
		  "vmovq %rax, %xmm3\n"
		  "vpermq $0, %ymm3, %ymm3\n"
		  "mov $0x123456789000, %rdx\n"
		  "wrfsbase %rdx\n"
		  "wrgsbase %rdx\n"
		  "mov 0x58abc, %ecx\n"
		  "mov 0x5bff8, %ecx\n"
		  "mov %rax, 0x59abc\n"
		  "syscall\n");
CODE(copy_shared, "mov %r15, %rsi\n"
		  "mov $0x72000, %edi\n"
		  "mov $0xa000, %ecx\n"
		  "rep movsb\n"
		  "syscall\n");
static void what_a_program_had_is_not_seen_by_the_next_one(void **state)
{
	struct board *b = *state;
	struct x86_state *s = &b->cpu->s;

	next_program_runs_well(b);
	if (direct_helper_waits(user_helper(b)) < 0) {
		print_message("skipped: no /proc\n");
		skip();
	}
	for (unsigned i = 0; i < 16; i++)
		board_pte_set(b, USER_DATA + i * 4096,
			      (USER_DATA + (i * 7 % 16) * 4096) | 7 | X86_PTE_A);
	assert_int_equal(RUN(b, has_secrets, 0), 0x80);
	struct direct_helper *h = user_helper(b);
	int pid = h->pid;
	for (unsigned i = 0; i < DIRECT_OPS; i++)
		assert_int_equal(h->shared->op[i].offset | h->shared->op[i].addr, 0);
	uint64_t used = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D;
	for (unsigned i = 0; i < 16; i++)
		board_pte_set(b, 0x72000 + i * 4096, (0x72000 + i * 4096) | used);
	other_program_takes_it(b);
	memset(s->fpu.vec, 0, sizeof(s->fpu.vec));
	memset(s->gpr, 0, sizeof(s->gpr));
	s->seg[X86_FS].base = s->seg[X86_GS].base = 0;
	board_load(b, USER_CODE, copy_shared, (size_t)(copy_shared_end - copy_shared));
	user_again(b, USER_CODE);
	s->gpr[X86_R15] = h->base + DIRECT_CODE_SIZE;
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(user_helper(b)->pid, pid);
	for (unsigned i = 0; i < DIRECT_SHARED_SIZE; i += 4) {
		uint64_t v = board_read(b, 0x72000 + i, 8);
		if (v == HIDDEN_WORD || v == HIDDEN_BASE || (v >= USER_DATA && v < 0x60000))
			fail_msg("0x%x of the shared part has 0x%llx", i, (unsigned long long)v);
	}
}

CODE(nonsense, "mov %r12, %rsp\n"
	       "wrfsbase %r13\n"
	       "wrgsbase %r14\n"
	       "mov $0x50000, %eax\n"
	       "ud2\n");
static void nonsense_in_rsp_and_the_bases_does_not_keep_a_fault_from_the_guest(void **state)
{
	struct board *b = *state;
	static const uint64_t values[] = {0,
					  8,
					  0x1000,
					  UINT64_C(0x7ffffffff000),
					  UINT64_C(0xffff800000000000),
					  UINT64_C(0x800000000000),
					  UINT64_MAX,
					  UINT64_C(0xffffffffff600000)};

	next_program_runs_well(b);
	for (unsigned i = 0; i < ARRAY_SIZE(values) + 8; i++) {
		struct direct_helper *h = user_helper(b);
		uint64_t rsp = i < ARRAY_SIZE(values)
				   ? values[i]
				   : h->base + DIRECT_CODE_SIZE + 0x1000 * i - 0x7008;
		board_load(b, USER_CODE, nonsense, (size_t)(nonsense_end - nonsense));
		user_again(b, USER_CODE);
		b->cpu->s.gpr[X86_R12] = rsp;
		b->cpu->s.gpr[X86_R13] = UINT64_C(0xffffffff81000000);
		b->cpu->s.gpr[X86_R14] = h->base + 5;
		int vector = board_run(b);
		if (i < ARRAY_SIZE(values))
			assert_int_equal(vector, X86_VEC_UD);
		else /* in the signal stack there may be no room for the frame: that ends it */
			assert_true(vector == X86_VEC_UD || vector == X86_VEC_GP);
		if (vector == X86_VEC_UD) {
			assert_int_equal(b->cpu->s.gpr[X86_RAX], 0x50000);
			assert_int_equal(b->cpu->s.seg[X86_FS].base, UINT64_C(0xffffffff81000000));
		}
		next_program_runs_well(b);
	}
}

/* All that it can unmap: its own pages, the stub's data, the stub. */
CODE(unmap, "mov $11, %eax\n"
	    "mov %r12, %rdi\n"
	    "mov %r13, %rsi\n"
	    "jmp *%r15\n");
static void who_unmaps_what_it_stands_on_ends_only_itself(void **state)
{
	struct board *b = *state;
	uint64_t at[5];

	calls_of(at);
	for (unsigned i = 0; i < 2 + DIRECT_REGION / 4096; i++) {
		next_program_runs_well(b);
		uint64_t base = user_helper(b)->base;
		board_load(b, USER_CODE, unmap, (size_t)(unmap_end - unmap));
		user_again(b, USER_CODE);
		b->cpu->s.gpr[X86_R12] = i < 2 ? 0 : base + (i - 2) * 4096;
		b->cpu->s.gpr[X86_R13] = i == 0 ? base : i == 1 ? UINT64_C(0x7ffffffff000) : 4096;
		b->cpu->s.gpr[X86_R15] = base + at[1];
		(void)board_run(b);
	}
	next_program_runs_well(b);
}

/* Tells of a stop with its own hand, signals open: R15 is where the call is, RBX the shared part,
 * and R14 where the frame says that it was. */
CODE(tell_forged, "mov %rbx, %rcx\n"
		  "mov %r13, %rdx\n" /* the frame */
		  "mov %r14, 0xb0(%rdx)\n"
		  "mov $1, %eax\n"
		  "shl $32, %rax\n"
		  "mov (%rcx,%r11), %esi\n" /* the number that is right */
		  "or %rsi, %rax\n"
		  "movl $0, (%rcx,%r11)\n"
		  "lea (%rcx,%r12), %rsi\n"
		  "mov %rax, (%rsi)\n"
		  "mov $1, %eax\n"
		  "mov $2, %edi\n"
		  "mov $8, %edx\n"
		  "jmp *%r15\n");
/* Says that an operation has failed, behind one that has unmapped the signal stack. */
CODE(fail_forged, "push %rbx\n" /* so that the stack is there */
		  "pop %rcx\n"
		  "movl $2, (%rcx,%r11)\n" /* operations */
		  "lea (%rcx,%r12), %rsi\n"
		  "mov %r13, (%rsi)\n"
		  "mov %r14, 8(%rsi)\n"
		  "movq $0, 16(%rsi)\n"
		  "movq $1, 32(%rsi)\n" /* no page's address */
		  "movq $4096, 40(%rsi)\n"
		  "movq $0, 48(%rsi)\n"
		  "jmp *%r15\n");

/* direct_go: where the jump goes to that follows the call that tells. */
static uint64_t go_of(uint64_t behind_tell)
{
	const uint8_t *p = direct_stub + DIRECT_FILE_OFFSET + behind_tell + 7;
	int32_t rel;

	if (p[0] == 0xeb)
		return behind_tell + 9 + (uint64_t)(int64_t)(int8_t)p[1];
	if (p[0] != 0xe9) /* it is right behind it */
		return (behind_tell + 7 + 15) & ~UINT64_C(15);
	memcpy(&rel, p + 1, 4);
	return behind_tell + 12 + (uint64_t)(int64_t)rel;
}

static void forge_and_leave(struct board *b, unsigned how)
{
	struct direct_helper *h = user_helper(b);
	struct x86_state *s = &b->cpu->s;
	uint64_t low = h->base + DIRECT_CODE_SIZE, at[5];

	calls_of(at);
	if (how)
		board_load(b, USER_CODE, fail_forged, (size_t)(fail_forged_end - fail_forged));
	else
		board_load(b, USER_CODE, tell_forged, (size_t)(tell_forged_end - tell_forged));
	user_again(b, USER_CODE);
	s->gpr[X86_RBX] = low;
	if (how) {
		s->gpr[X86_R11] = offsetof(struct direct_shared, ops);
		s->gpr[X86_R12] = offsetof(struct direct_shared, op);
		s->gpr[X86_R13] = how == 1 ? low + DIRECT_STACK : h->base;
		s->gpr[X86_R14] = how == 1 ? DIRECT_SHARED_SIZE - DIRECT_STACK : 0;
		s->gpr[X86_R15] = h->base + go_of(at[2] + 2);
	} else {
		s->gpr[X86_R11] = offsetof(struct direct_shared, go);
		s->gpr[X86_R12] = offsetof(struct direct_shared, one);
		s->gpr[X86_R13] = low + h->frame;
		s->gpr[X86_R14] = USER_CODE + 0x102; /* behind a system call */
		s->gpr[X86_R15] = h->base + at[2];
	}
	static const uint8_t call[] = {0x0f, 0x05};
	board_load(b, USER_CODE + 0x100, call, 2);
	int vector = board_run(b);
	assert_int_equal(vector, how ? X86_VEC_PF : 0x80);
}

static void who_forges_a_stop_and_leaves_leaves_nothing_to_the_next(void **state)
{
	struct board *b = *state;

	next_program_runs_well(b);
	/* What has done nothing is handed on. */
	int pid = user_helper(b)->pid;
	other_program_takes_it(b);
	next_program_runs_well(b);
	if (direct_helper_waits(user_helper(b)) < 0) {
		print_message("skipped: no /proc\n");
		skip();
	}
	assert_int_equal(user_helper(b)->pid, pid);
	for (unsigned round = 0; round < 60; round++) {
		pid = user_helper(b)->pid;
		forge_and_leave(b, round % 3);
		assert_int_equal(user_helper(b)->pid, pid); /* it was believed */
		b->cpu->direct->killed = 0;
		other_program_takes_it(b);
		uint64_t lost = b->cpu->stats.direct_lost;
		assert_null(user_helper(b));
		assert_int_equal(RUN(b, count, 0), 0x80);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 900);
		assert_int_equal(b->cpu->direct->killed, 1);
		next_program_runs_well(b);
		assert_int_equal(b->cpu->stats.direct_lost, lost);
		assert_int_not_equal(user_helper(b)->pid, pid);
	}
}

/* The same with a code segment, R8, and a signal that asks for nothing. */
CODE(tell_segment, "mov %r14, 0xb0(%r13)\n"
		   "movw %r8w, 0xc0(%r13)\n"
		   "movl $1, 0x140(%r13)\n"
		   "movl $8, (%rbx,%rbp)\n"
		   "mov $1, %eax\n"
		   "shl $32, %rax\n"
		   "mov (%rbx,%r11), %esi\n"
		   "or %rsi, %rax\n"
		   "movl $0, (%rbx,%r11)\n"
		   "lea (%rbx,%r12), %rsi\n"
		   "mov %rax, (%rsi)\n"
		   "mov $1, %eax\n"
		   "mov $2, %edi\n"
		   "mov $8, %edx\n"
		   "jmp *%r15\n");
static void a_stop_with_the_kernels_code_segment_is_a_fault(void **state)
{
	/* Ring 0's code, data, what is beyond the table; and what is allowed. */
	static const uint16_t sels[] = {BOARD_CS64 | 3, BOARD_DS3, 0x7b, BOARD_CS3};
	static const uint8_t ud[] = {0x0f, 0x0b};
	struct board *b = *state;
	struct x86_state *s = &b->cpu->s;
	uint64_t at[5];

	calls_of(at);
	for (unsigned i = 0; i < ARRAY_SIZE(sels); i++) {
		next_program_runs_well(b);
		struct direct_helper *h = user_helper(b);
		uint64_t low = h->base + DIRECT_CODE_SIZE;
		board_load(b, USER_CODE, tell_segment, (size_t)(tell_segment_end - tell_segment));
		board_load(b, USER_CODE + 0x200, ud, 2);
		user_again(b, USER_CODE);
		s->gpr[X86_RBX] = low;
		s->gpr[X86_RBP] = offsetof(struct direct_shared, out_signal);
		s->gpr[X86_R8] = sels[i];
		s->gpr[X86_R11] = offsetof(struct direct_shared, go);
		s->gpr[X86_R12] = offsetof(struct direct_shared, one);
		s->gpr[X86_R13] = low + h->frame;
		s->gpr[X86_R14] = USER_CODE + 0x200;
		s->gpr[X86_R15] = h->base + at[2];
		_Bool fine = sels[i] == BOARD_CS3;
		assert_int_equal(board_run(b), fine ? X86_VEC_UD : X86_VEC_GP);
		if (!fine)
			assert_int_equal(board_stack(b, 0), sels[i] & 0xfffc);
		assert_int_equal(board_stack(b, fine ? 1 : 2), fine ? BOARD_CS3 : 0x33);
	}
}

CODE(copy_vector, "vmovups %ymm3, 0x56040\n"
		  "syscall\n");
static void nothing_of_a_forged_frame_is_gone_on_with(void **state)
{
	struct board *b = *state;
	struct direct_exit x;
	uint8_t *xsave;
	uint64_t bv;
	uint32_t size, end;

	next_program_runs_well(b);
	struct direct_helper *h = user_helper(b);
	uint64_t low = h->base + DIRECT_CODE_SIZE;
	ucontext_t *uc = (ucontext_t *)(void *)((uint8_t *)h->shared + h->frame + 8);
	fpregset_t place = uc->uc_mcontext.fpregs;
	xsave = (uint8_t *)h->shared + ((uint64_t)(uintptr_t)place - low);
	/* Components that are nobody's (protection keys among them), the compact form, no end. */
	memset(xsave + 464, 0xff, 48 + 64);
	memcpy(&size, h->software + 16, 4);
	memset(xsave + size, 0, 4);
	memset(b->cpu->s.fpu.vec[3], 0x5a, 32);
	assert_int_equal(RUN(b, copy_vector, 0), 0x80);
	assert_ptr_equal(user_helper(b), h);
	for (unsigned i = 0; i < 32; i += 8)
		assert_int_equal(board_read(b, 0x56040 + i, 8), UINT64_C(0x5a5a5a5a5a5a5a5a));
	memset(xsave + 464, 0xff, 48 + 64);
	memset(xsave + size, 0, 4);
	direct_regs_out(b->cpu, h);
	memcpy(&bv, xsave + 512, 8);
	assert_int_equal(bv, 7);
	for (unsigned i = 8; i < 64; i++)
		assert_int_equal(xsave[512 + i], 0);
	memcpy(&end, xsave + size, 4);
	assert_int_equal(end, 0x46505845);
	/* Its parts are apart from each other, or it is none. */
	assert_int_equal(direct_regs_in(b->cpu, h, &x), 0);
	for (unsigned i = 1; i < 8; i++) {
		uint64_t at = ((h->frame + 63) & ~UINT64_C(63)) + i * 64 - 64;
		uc->uc_mcontext.fpregs = (fpregset_t)(uintptr_t)(low + at);
		assert_int_equal(direct_regs_in(b->cpu, h, &x), at < h->frame + 440 ? -1 : 0);
	}
	uc->uc_mcontext.fpregs = (fpregset_t)(uintptr_t)(low + DIRECT_SHARED_SIZE - size);
	assert_int_equal(direct_regs_in(b->cpu, h, &x), -1);
	uc->uc_mcontext.fpregs = place;
	assert_int_equal(direct_regs_in(b->cpu, h, &x), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, board_teardown)
	const struct CMUnitTest tests[] = {
	    T(forged_shared_state_and_jumps_anywhere_change_nothing_for_others),
	    T(jumps_to_its_calls_with_forged_state_change_nothing_for_others),
	    T(no_system_call_from_the_stub_is_the_hosts_but_what_harms_oneself),
	    T(no_system_call_of_other_abis_is_the_hosts),
	    T(what_a_helper_can_read_of_its_stub_is_worth_nothing),
	    T(what_a_program_had_is_not_seen_by_the_next_one),
	    T(nonsense_in_rsp_and_the_bases_does_not_keep_a_fault_from_the_guest),
	    T(who_unmaps_what_it_stands_on_ends_only_itself),
	    T(who_forges_a_stop_and_leaves_leaves_nothing_to_the_next),
	    T(a_stop_with_the_kernels_code_segment_is_a_fault),
	    T(nothing_of_a_forged_frame_is_gone_on_with),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
