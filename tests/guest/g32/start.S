/* start.S: Multiboot entry of the 32-bit image: own GDT, IDT and stack; trap stubs; jumps; a way into real mode and back. */
	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 2, -(0x1badb002 + 2)

	.section .head, "ax"
	.code32
	.globl start
start:
	cli
	cld
	mov $boot_stack_top, %esp
	lgdt gdt_pointer
	ljmp $0x08, $1f
1:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov %eax, %fs
	mov %eax, %gs
	push %ebx
	call guest32_main
1:	hlt
	jmp 1b

	.text
	.globl jump_save, jump_to
jump_save:
	mov 4(%esp), %eax
	mov %ebx, 0(%eax)
	mov %ebp, 4(%eax)
	mov %esi, 8(%eax)
	mov %edi, 12(%eax)
	lea 4(%esp), %ecx
	mov %ecx, 16(%eax)
	mov (%esp), %ecx
	mov %ecx, 20(%eax)
	xor %eax, %eax
	ret
jump_to:
	mov 4(%esp), %ecx
	mov 8(%esp), %eax
	mov 0(%ecx), %ebx
	mov 4(%ecx), %ebp
	mov 8(%ecx), %esi
	mov 12(%ecx), %edi
	mov $0x10, %edx			/* a test may have left another stack segment */
	mov %edx, %ss
	mov 16(%ecx), %esp
	jmp *20(%ecx)

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
	/* Segment registers are saved and set to flat data, so that a trap from virtual-8086 mode or odd segments finds C's. */
trap_common:
	pusha
	push %ds
	push %es
	push %fs
	push %gs
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	push %esp
	call trap
	add $4, %esp
	.globl trap_return
trap_return:
	pop %gs
	pop %fs
	pop %es
	pop %ds
	popa
	add $8, %esp
	iret

	/* void frame_enter(struct frame *) */
	.globl frame_enter
frame_enter:
	mov 4(%esp), %esp
	jmp trap_return

	/*
	 * uint32_t real_mode(uint32_t eax): copies of this code at 0x7000 take the CPU to real mode and call 0000:0600 (far), with EAX; its EAX is the result. Interrupts are
	 * off; the IDT register is the real-mode table at 0, limit 0x3ff, while there.
	 */
	.globl real_mode, real_stub, real_stub_end
real_mode:
	pusha
	mov 36(%esp), %eax
	mov %esp, real_esp
	sidt saved_idt
	lidt real_idt
	ljmp $0x58, $0x7000
real_back:
	mov $0x10, %ecx
	mov %ecx, %ds
	mov %ecx, %es
	mov %ecx, %ss
	mov %ecx, %fs
	mov %ecx, %gs
	mov real_esp, %esp
	lidt saved_idt
	mov %eax, 28(%esp)
	popa
	ret
	.code16
real_stub:				/* runs at 0x7000, selector 0x58: 16-bit code, base 0 */
	mov $0x60, %cx
	mov %cx, %ds
	mov %cx, %es
	mov %cx, %ss
	mov %cx, %fs
	mov %cx, %gs
	mov %cr0, %ecx
	and $~1, %ecx
	mov %ecx, %cr0
	ljmp $0, $(0x7000 + 1f - real_stub)
1:	xor %cx, %cx
	mov %cx, %ds
	mov %cx, %es
	mov %cx, %ss
	mov %cx, %fs
	mov %cx, %gs
	mov $0x6ff0, %esp
	lcall $0, $0x600
	cli
	.globl real_return
real_return:				/* also reached by interrupt handlers of tests: EAX holds the result */
	mov %cr0, %ecx
	or $1, %cl
	mov %ecx, %cr0
	ljmpl $0x08, $real_back
real_stub_end:

	.data
	.align 16
	.globl gdt, gdt_end
gdt:	.quad 0
	.quad 0x00cf9b000000ffff	/* 08 code */
	.quad 0x00cf93000000ffff	/* 10 data */
	.quad 0x00cffb000000ffff	/* 18 user code */
	.quad 0x00cff3000000ffff	/* 20 user data */
	.quad 0, 0, 0, 0		/* 28 main TSS, 30 TSS for #DF, 38, 40: tests' TSSs */
	.quad 0, 0			/* 48, 50: tests' LDTs */
	.quad 0x00009b000000ffff	/* 58 code, 16 bits */
	.quad 0x000093000000ffff	/* 60 data, 16 bits */
	.fill 115, 8, 0			/* 68 and up: the tests' own */
gdt_end:
	.word 0
gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt
	.word 0
real_idt:
	.word 0x3ff
	.long 0
saved_idt:
	.skip 8
	.bss
	.align 16
real_esp: .skip 16
	.globl boot_stack_top
	.skip 32768
boot_stack_top:
	.section .note.GNU-stack, "", @progbits
