/* code.c: calls with all registers chosen, in ring 0 and ring 3; code copied to pages; numbers that
 * look random. */
#include "code.h"

extern void frame_enter(struct frame *f) __attribute__((noreturn));

/* Stack while the code runs: its return address, where it is, regs, the caller's registers. */
__asm__(".pushsection .text\n"
	".globl regs_call\n"
	"regs_call:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	push %rdi\n"
	"	push 128(%rdi)\n"
	"	push 136(%rdi)\n"
	"	popf\n"
	"	mov 0(%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx\n"
	"	mov 40(%rdi), %rbp; mov 48(%rdi), %rsi\n"
	"	mov 64(%rdi), %r8; mov 72(%rdi), %r9; mov 80(%rdi), %r10; mov 88(%rdi), %r11\n"
	"	mov 96(%rdi), %r12; mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15\n"
	"	mov 56(%rdi), %rdi\n"
	"	call *(%rsp)\n"
	"	xchg %rdi, 8(%rsp)\n"
	"	mov %rax, 0(%rdi); mov %rcx, 8(%rdi); mov %rdx, 16(%rdi); mov %rbx, 24(%rdi)\n"
	"	mov %rbp, 40(%rdi); mov %rsi, 48(%rdi)\n"
	"	mov %r8, 64(%rdi); mov %r9, 72(%rdi); mov %r10, 80(%rdi); mov %r11, 88(%rdi)\n"
	"	mov %r12, 96(%rdi); mov %r13, 104(%rdi); mov %r14, 112(%rdi); mov %r15, 120(%rdi)\n"
	"	pushf\n"
	"	popq 136(%rdi)\n"
	"	cld\n"
	"	lea 8(%rsp), %rsp\n"
	"	popq 56(%rdi)\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n"
	".popsection\n");

static struct regs *user_regs;
static bool note_end(struct frame *f)
{
	const uint64_t now[16] = {f->rax, f->rcx, f->rdx, f->rbx, f->rsp, f->rbp, f->rsi, f->rdi,
				  f->r8,  f->r9,  f->r10, f->r11, f->r12, f->r13, f->r14, f->r15};

	memcpy(user_regs, now, sizeof(now));
	user_regs->rip = f->rip;
	user_regs->rflags = f->rflags;
	return 0;
}

void regs_user(struct regs *r, uint64_t rsp)
{
	struct frame f = {.rax = r->rax,
			  .rcx = r->rcx,
			  .rdx = r->rdx,
			  .rbx = r->rbx,
			  .rbp = r->rbp,
			  .rsi = r->rsi,
			  .rdi = r->rdi,
			  .r8 = r->r8,
			  .r9 = r->r9,
			  .r10 = r->r10,
			  .r11 = r->r11,
			  .r12 = r->r12,
			  .r13 = r->r13,
			  .r14 = r->r14,
			  .r15 = r->r15,
			  .rip = r->rip,
			  .rflags = r->rflags | 2,
			  .rsp = rsp,
			  .cs = SEL_UCODE64,
			  .ss = SEL_UDATA};

	user_regs = r;
	set_handler(0x80, note_end);
	CATCH(frame_enter(&f));
}

uint8_t *place(const uint8_t *code, const uint8_t *end, unsigned offset)
{
	uint8_t *page = alloc_page();

	memcpy(page + offset, code, (unsigned long)(end - code));
	return page;
}

static uint32_t random_state = 1;

void random_seed(uint32_t seed)
{
	random_state = seed | 1;
}

uint32_t random_next(void)
{
	random_state = random_state * 1664525u + 1013904223u;
	return random_state >> 8;
}
