/* direct_testing.h: what the tests of direct execution share: a board's CPU in a Linux user's mode.
 */
#ifndef ENGINE_SOFT_DIRECT_TESTING_H
#define ENGINE_SOFT_DIRECT_TESTING_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/soft/direct.h"
#include "engine/soft/testboard.h"

#define USER_CODE  UINT64_C(0x40000)
#define USER_DATA  UINT64_C(0x50000)
#define USER_STACK UINT64_C(0x61000)
#define LSTAR_PAGE (BOARD_HANDLERS + 0x80 * 16)

/* A Linux kernel's user mode: its selectors, its control bits, null data segments. */
static inline void user_state(struct board *b, uint64_t rip)
{
	struct x86_state *s = &b->cpu->s;

	board_user(b, rip);
	s->seg[X86_CS].selector = 0x33;
	s->seg[X86_SS].selector = 0x2b;
	for (unsigned i = 0; i < 6; i++)
		if (i != X86_CS && i != X86_SS)
			s->seg[i] = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
	s->cr4 |= X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_FSGSBASE;
	s->xcr0 = 7;
	s->star = UINT64_C(0x0023000800000000);
	s->lstar = LSTAR_PAGE;
	s->sfmask = X86_IF | X86_TF;
	s->gpr[X86_RSP] = USER_STACK;
	soft_flags_set(b->cpu, X86_IF | X86_FIXED);
	soft_mode_update(b->cpu);
}

/* The same once more in the same address space: with the same helper. */
static inline void user_again(struct board *b, uint64_t rip)
{
	struct x86_state *s = &b->cpu->s;

	s->seg[X86_CS].attr = 0xa0fb;
	s->seg[X86_CS].selector = 0x33;
	s->seg[X86_SS] = (struct x86_seg){.limit = UINT32_MAX, .attr = 0xc0f3, .selector = 0x2b};
	s->gpr[X86_RSP] = USER_STACK;
	s->rip = rip;
	soft_flags_set(b->cpu, X86_IF | X86_FIXED);
	soft_mode_update(b->cpu);
	s->activity = X86_RUNNING;
}

/* Runs user code; as board_run. */
static inline int run_user(struct board *b, const uint8_t *code, const uint8_t *end)
{
	board_load(b, USER_CODE, code, (size_t)(end - code));
	user_state(b, USER_CODE);
	return board_run(b);
}
#define RUN_USER(b, name) run_user(b, name, name##_end)

/* The helper of the present address space, or NULL. */
static inline struct direct_helper *user_helper(struct board *b)
{
	for (unsigned i = 0; i < DIRECT_SPACES; i++) {
		struct direct_space *s = &b->cpu->direct->space[i];

		if (s->asid == b->cpu->asid_user && s->helper.pid)
			return &s->helper;
	}
	return NULL;
}

/* The next user code runs in a helper that has nothing yet. */
static inline void helpers_empty(struct board *b)
{
	direct_forget_all(b->cpu);
	soft_tlb_flush_all(b->cpu);
}

/* Has the host refused breakpoints? Else a test that has got none has failed. */
static inline void breaks_needed(struct board *b)
{
	struct direct_helper *h = user_helper(b);
	const char *why = b->cpu->direct->breakless_for && h ? direct_break_probe(h) : NULL;

	if (why) {
		print_message("skipped: no breakpoints: %s\n", why);
		skip();
	}
	assert_int_equal(b->cpu->direct->breakless_for, 0);
}

/* Was user code let go at all? Where the host forbids helpers, nothing here can be tested. */
static inline void ran(struct board *b)
{
	if (b->cpu->direct->refused) {
		print_message("skipped: %s\n", b->cpu->direct->why);
		skip();
	}
	assert_true(b->cpu->stats.direct_entries > 0);
}

#endif
