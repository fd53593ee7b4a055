/* start.S: PVH entry (32-bit, paging off) to 64-bit mode with 4 GiB mapped one to one; other CPUs' entry; trap stubs; jumps. */
	.section .note.pvh, "a", @note
	.align 4
	.long 4, 4, 18			/* "Xen", XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long pvh_entry

	.section .head, "ax"
	.code32
	.globl pvh_entry
pvh_entry:
	cli
	cld
	mov $boot_stack_top, %esp
	mov %ebx, start_info
	/* page directories: 2048 pages of 2 MiB */
	mov $page_dirs, %edi
	mov $0x83, %eax
	xor %ecx, %ecx
1:	mov %eax, (%edi, %ecx, 8)
	movl $0, 4(%edi, %ecx, 8)
	add $0x200000, %eax
	inc %ecx
	cmp $2048, %ecx
	jne 1b
	movl $page_dirs + 0x0003, pdpt
	movl $page_dirs + 0x1003, pdpt + 8
	movl $page_dirs + 0x2003, pdpt + 16
	movl $page_dirs + 0x3003, pdpt + 24
	movl $pdpt + 7, pml4
	call enter_long
	.code64
	mov $boot_stack_top, %rsp
	mov start_info(%rip), %edi
	call guest64_main
1:	hlt
	jmp 1b

	.code32
enter_long:
	pop %esi			/* continue there in 64-bit mode */
	mov %cr4, %eax
	or $0x20, %eax
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x900, %eax			/* LME, NXE */
	wrmsr
	mov %cr0, %eax
	and $0x9fffffff, %eax
	or $0x80010021, %eax		/* PG WP NE PE */
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $0x08, $1f
	.code64
1:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
	mov %esi, %esi
	jmp *%rsi

	/* Other CPUs start here after being copied to AP_START (0x8000): real mode. */
	.globl ap_start, ap_start_end
	.code16
ap_start:
	cli
	mov %cs, %ax
	mov %ax, %ds
	lgdtl ap_gdt_pointer - ap_start
	mov $0x21, %eax
	mov %eax, %cr0
	ljmpl $0x18, $ap_protected
ap_gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt
ap_start_end:
	.code32
ap_protected:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %ss
	mov ap_stack, %esp
	call enter_long
	.code64
	mov ap_stack(%rip), %rsp
	call ap_main
1:	hlt
	jmp 1b

	.text
	.globl jump_save, jump_to
jump_save:
	mov %rbx, 0(%rdi)
	mov %rbp, 8(%rdi)
	mov %r12, 16(%rdi)
	mov %r13, 24(%rdi)
	mov %r14, 32(%rdi)
	mov %r15, 40(%rdi)
	lea 8(%rsp), %rax
	mov %rax, 48(%rdi)
	mov (%rsp), %rax
	mov %rax, 56(%rdi)
	xor %eax, %eax
	ret
jump_to:
	mov %esi, %eax
	mov 0(%rdi), %rbx
	mov 8(%rdi), %rbp
	mov 16(%rdi), %r12
	mov 24(%rdi), %r13
	mov 32(%rdi), %r14
	mov 40(%rdi), %r15
	mov 48(%rdi), %rsp
	jmp *56(%rdi)

	/* One stub a vector: 16 bytes each; pushes an error code of 0 where the CPU pushes none. */
	.globl trap_stubs
	.align 16
trap_stubs:
	vector = 0
	.rept 256
	.align 16
	.if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
	.else
	push $0
	.endif
	push $vector
	jmp trap_common
	vector = vector + 1
	.endr
trap_common:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	call trap
	mov %rbp, %rsp
	.globl trap_return
trap_return:
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

	/* void frame_enter(struct frame *): continue from a frame */
	.globl frame_enter
frame_enter:
	mov %rdi, %rsp
	jmp trap_return

	.data
	.align 16
	.globl gdt, gdt_end
gdt:	.quad 0
	.quad 0x00af9b000000ffff	/* 08 kernel code, 64 bits */
	.quad 0x00cf93000000ffff	/* 10 kernel data */
	.quad 0x00cf9b000000ffff	/* 18 kernel code, 32 bits */
	.quad 0x00cffb000000ffff	/* 20 user code, 32 bits */
	.quad 0x00cff3000000ffff	/* 28 user data */
	.quad 0x00affb000000ffff	/* 30 user code, 64 bits */
	.quad 0
	.quad 0, 0			/* 40 TSS of CPU 0 */
	.quad 0, 0			/* 50 TSS of CPU 1 */
	.fill 52, 8, 0			/* 60 and up: the tests' own */
gdt_end:
	.word 0, 0, 0
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt
	.globl start_info, ap_stack
	.align 8
start_info: .quad 0
ap_stack: .quad 0

	.bss
	.align 4096
	.globl pml4, pdpt, page_dirs
pml4:	.skip 4096
pdpt:	.skip 4096
page_dirs: .skip 16384
boot_stack: .skip 32768
boot_stack_top:
	.section .note.GNU-stack, "", @progbits
