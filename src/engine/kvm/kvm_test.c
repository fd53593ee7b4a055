/* kvm_test.c: tiny guests on /dev/kvm; skipped, with a sentence, where there is none. */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/kvm/kvm_testing.h"

static void a_real_mode_loop_writes_ports_and_reads_them(void **state)
{
	struct rig *r = rig_new();

	start_real(r);
	/* mov cx,3; 1: mov ax,cx; out 0x80,ax; loop 1b; in al,0x80; mov [0x4000],al; out 0x80,al;
	 * hlt */
	LOAD(r, 0xb9, 3, 0, 0x89, 0xc8, 0xe7, PORT, 0xe2, 0xfa, 0xe4, PORT, 0xa2, 0x00, 0x40, 0xe6,
	     PORT, 0xf4);
	assert_int_equal(drive(r, 4), RUN_KICKED);
	assert_int_equal(r->last[0], 3);
	assert_int_equal(r->last[2], 1);
	assert_int_equal(r->last[3], 0x11);
	assert_int_equal(guest32(r, 0x4000) & 0xff, 0x11);
	assert_int_equal(r->vcpu->exits[EXIT_PORT], 5);
	rig_free(r);
	(void)state;
}

static void device_memory_is_read_and_written(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	/* mov eax,[HOLE]; mov [0x4000],eax; mov dword [HOLE+4],0x12345678; mov [ROM],eax;
	 * mov eax,[ROM]; mov [HOLE],eax */
	LOAD(r, 0xa1, 0, 0, 0, 0xd0, 0xa3, 0, 0x40, 0, 0, 0xc7, 0x05, 4, 0, 0, 0xd0, 0x78, 0x56,
	     0x34, 0x12, 0xa3, 0, 0, 0, 0x80, 0xa1, 0, 0, 0, 0x80, 0xa3, 0, 0, 0, 0xd0, 0xf4);
	assert_int_equal(drive(r, 2), RUN_KICKED);
	assert_int_equal(guest32(r, 0x4000), 0x44332211);
	assert_int_equal(r->last[0], 0x12345678);
	assert_int_equal(r->last[1], 0); /* what was written to ROM went nowhere */
	rig_free(r);
	(void)state;
}

/* mov eax,[0x4000]; mov [ROM],eax; mov eax,[ROM]; mov [HOLE],eax: what was left of the store. */
static uint64_t store_to_rom(struct rig *r, uint32_t value)
{
	unsigned before = r->writes;

	start_flat(r);
	LOAD(r, 0xa1, 0, 0x40, 0, 0, 0xa3, 0, 0, 0, 0x80, 0xa1, 0, 0, 0, 0x80, 0xa3, 0, 0, 0, 0xd0,
	     0xf4);
	assert_int_equal(gmem_write(r->mem, gpa(0x4000), &value, sizeof(value)), 0);
	assert_int_equal(drive(r, before + 1), RUN_KICKED);
	return r->last[before];
}

static void memory_becomes_read_only_and_writable(void **state)
{
	struct rig *r = rig_new();

	assert_int_equal(store_to_rom(r, 1), 0);
	assert_int_equal(gmem_protect(r->mem, gpa(ROM_BASE), 0), 0);
	assert_int_equal(store_to_rom(r, 2), 2);
	assert_int_equal(gmem_protect(r->mem, gpa(ROM_BASE), GMEM_READONLY), 0);
	assert_int_equal(store_to_rom(r, 3), 2);
	rig_free(r);
	(void)state;
}

/* A handler at 0x3000: mov al,0x77; out PORT,al; EOI; then it waits itself, for there are KVMs
 * whose emulator has no IRET: sti; 1: hlt; jmp 1b. */
static void load_handler(struct rig *r)
{
	static const uint8_t code[] = {0xb0, 0x77, 0xe6, PORT, 0xc7, 0x05, 0xb0, 0x00, 0xe0,
				       0xfe, 0,	   0,	 0,    0,    0xfb, 0xf4, 0xeb, 0xfd};

	load(r, 0x3000, code, sizeof(code));
}

/* mov dword [APIC+SVR],0x1ff; sti; 1: hlt; jmp 1b: the local APIC on, waiting. */
static void load_waiter(struct rig *r)
{
	LOAD(r, 0xc7, 0x05, 0xf0, 0, 0xe0, 0xfe, 0xff, 1, 0, 0, 0xfb, 0xf4, 0xeb, 0xfd);
}

static void wait_for(_Atomic unsigned *what, unsigned value)
{
	const struct timespec ms = {.tv_nsec = 1000000};

	for (unsigned i = 0; i < 60000 && *what < value; i++)
		nanosleep(&ms, NULL);
	assert_true(*what >= value);
}

/* Waits until the CPU has halted, as far as KVM tells. */
static void wait_halted(struct rig *r)
{
	struct kvm_vcpu *v = kvm_vcpu_of(r->vcpu);
	struct x86_state *s = malloc(sizeof(*s));
	const struct timespec ms = {.tv_nsec = 1000000};

	do {
		vcpu_resume(r->vcpu);
		nanosleep(&ms, NULL);
		vcpu_pause_begin(r->vcpu);
		vcpu_pause_wait(r->vcpu);
		assert_int_equal(engine_kvm.get_state(&v->vcpu, s), 0);
	} while (s->activity != X86_HALTED && r->errors == 0);
	assert_int_equal(r->errors, 0);
	vcpu_resume(r->vcpu);
	free(s);
}

static void a_message_ends_a_halt(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	load_waiter(r);
	thread_start(r);
	wait_halted(r);
	engine_kvm.msi(r->engine, APIC, 0x50);
	wait_for(&r->writes, 1);
	assert_int_equal(r->last[0], 0x77);
	assert_int_equal(r->eois, 0); /* nobody asked for it */
	rig_free(r);
	(void)state;
}

static void an_irqfd_sends_its_message(void **state)
{
	struct rig *r = rig_new();
	int fd = eventfd(0, EFD_CLOEXEC), handle;

	start_flat(r);
	load_handler(r);
	load_waiter(r);
	thread_start(r);
	wait_halted(r);
	handle = engine_kvm.irqfd_add(r->engine, fd, APIC, 0x51);
	assert_true(handle >= 0);
	assert_int_equal(engine_kvm.irqfd_set(r->engine, handle, APIC, 0x52), 0);
	assert_int_equal(eventfd_write(fd, 1), 0);
	wait_for(&r->writes, 1);
	engine_kvm.irqfd_del(r->engine, handle);
	assert_int_equal(engine_kvm.irqfd_set(r->engine, handle, APIC, 0x52), -EINVAL);
	assert_true(engine_kvm.irqfd_add(r->engine, fd, 0x1000, 0x51) < 0);
	close(fd);
	rig_free(r);
	(void)state;
}

static void a_doorbell_rings_without_the_board(void **state)
{
	struct rig *r = rig_new();
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t count = 0;

	start_flat(r);
	/* mov [HOLE],eax twice; out PORT,al */
	LOAD(r, 0xa3, 0, 0, 0, 0xd0, 0xa3, 0, 0, 0, 0xd0, 0xe6, PORT, 0xf4);
	assert_int_equal(engine_kvm.doorbell(r->engine, 0, HOLE, 4, NULL, fd, 1), 0);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	assert_int_equal(eventfd_read(fd, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(engine_kvm.doorbell(r->engine, 0, HOLE, 4, NULL, fd, 0), 0);
	assert_true(engine_kvm.doorbell(r->engine, 0, HOLE, 4, NULL, fd, 0) < 0);
	close(fd);
	rig_free(r);
	(void)state;
}

static void a_level_triggered_vector_reports_its_eoi(void **state)
{
	struct rig *r = rig_new();
	const uint64_t wanted[4] = {0, BIT64(0x60 - 64), 0, 0};

	start_flat(r);
	load_handler(r);
	load_waiter(r);
	engine_kvm.eoi_vectors(r->engine, wanted);
	thread_start(r);
	wait_halted(r);
	engine_kvm.msi(r->engine, APIC, 0x60 | 1 << 15 | 1 << 14);
	wait_for(&r->writes, 1);
	wait_halted(r);
	vcpu_pause_begin(r->vcpu);
	vcpu_pause_wait(r->vcpu);
	assert_int_equal(r->eois, 1);
	assert_int_equal(r->eoi_vector, 0x60);
	rig_free(r);
	(void)state;
}

static void the_pic_interrupts_through_lint0(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	/* LINT0 as ExtINT, APIC on, then wait. */
	LOAD(r, 0xc7, 0x05, 0xf0, 0, 0xe0, 0xfe, 0xff, 1, 0, 0, 0xc7, 0x05, 0x50, 3, 0xe0, 0xfe, 0,
	     7, 0, 0, 0xfb, 0xf4, 0xeb, 0xfd);
	thread_start(r);
	wait_halted(r);
	engine_kvm.extint(r->engine, 1);
	wait_for(&r->writes, 1);
	assert_int_equal(r->acks, 1);
	/* ... and once more while it runs towards the next halt. */
	engine_kvm.extint(r->engine, 1);
	wait_for(&r->writes, 2);
	rig_free(r);
	(void)state;
}

static void the_pic_waits_until_interrupts_are_on(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	/* APIC on, LINT0 as ExtINT, out PORT,al, a while with interrupts off, sti; 1: jmp 1b */
	LOAD(r, 0xc7, 0x05, 0xf0, 0, 0xe0, 0xfe, 0xff, 1, 0, 0, 0xc7, 0x05, 0x50, 3, 0xe0, 0xfe, 0,
	     7, 0, 0, 0xe6, PORT, 0xb9, 0, 8, 0, 0, 0xe2, 0xfe, 0xfb, 0xeb, 0xfe);
	engine_kvm.extint(r->engine, 1);
	thread_start(r);
	wait_for(&r->writes, 2);
	assert_int_equal(r->acks, 1);
	assert_int_equal(r->last[1], 0x77);
	rig_free(r);
	(void)state;
}

static void an_nmi_reaches_a_halted_cpu(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	LOAD(r, 0xfa, 0xf4, 0xeb, 0xfd); /* cli; 1: hlt; jmp 1b */
	thread_start(r);
	wait_halted(r);
	cpu_link_raise(&r->vcpu->link, CPU_EVENT_NMI);
	wait_for(&r->writes, 1);
	rig_free(r);
	(void)state;
}

static void msrs_of_doors_come_to_the_board(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r); /* #GP */
	/* mov ecx,0xc0020000; rdmsr; out PORT,eax; mov eax,0x55; wrmsr; mov eax,0xbad;
	 * xor edx,edx; wrmsr */
	LOAD(r, 0xb9, 0, 0, 2, 0xc0, 0x0f, 0x32, 0xe7, PORT, 0xb8, 0x55, 0, 0, 0, 0x31, 0xd2, 0x0f,
	     0x30, 0xb8, 0xad, 0x0b, 0, 0, 0x0f, 0x30, 0xf4);
	assert_int_equal(drive(r, 4), RUN_KICKED);
	assert_int_equal(r->last[0], 0xc0020000);
	assert_int_equal(r->last[1], 0x55);
	assert_int_equal(r->last[2], 0xbad);
	assert_int_equal(r->last[3], 0x77); /* the handler: the write faulted */
	rig_free(r);
	(void)state;
}

static void an_unknown_msr_faults(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	LOAD(r, 0xb9, 0x34, 0x12, 0, 0, 0x0f, 0x32, 0xf4); /* mov ecx,0x1234; rdmsr; hlt */
	assert_int_equal(drive(r, 1), RUN_KICKED);
	assert_int_equal(r->last[0], 0x77);
	rig_free(r);
	(void)state;
}

/* KVM offers it by itself where the host's CPU has it; elsewhere it may be told to. */
static void the_switch_of_what_cpuid_has_not_is_not_offered(void **state)
{
	struct rig *r = rig_new();
	struct kvm_vcpu *v = kvm_vcpu_of(r->vcpu);
	uint64_t value, now;

	assert_false(cpuid_has(&r->cpuid, 7, 0, CPUID_EBX, 11)); /* RTM */
	if (!kvm_msr_get(v, MSR_ARCH_CAP, &value)) {
		assert_int_equal(value & X86_ARCH_TSX_CTRL, 0);
		if (!kvm_msr_set(v, MSR_ARCH_CAP, value | X86_ARCH_TSX_CTRL)) {
			kvm_tsx_ctrl_hide(v);
			assert_int_equal(kvm_msr_get(v, MSR_ARCH_CAP, &now), 0);
			assert_int_equal(now, value);
		}
	}
	rig_free(r);
	(void)state;
}

static void a_triple_fault_is_told_and_ended_by_new_state(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	/* lidt [0x1020]: no limit; mov ecx,0x1234; rdmsr: #GP, which has nowhere to go */
	LOAD(r, 0x0f, 0x01, 0x1d, 0x20, 0x10, 0, 0, 0xb9, 0x34, 0x12, 0, 0, 0x0f, 0x32, 0xf4);
	assert_int_equal(drive(r, 1), RUN_SHUTDOWN);
	assert_int_equal(engine_kvm.run(r->vcpu), RUN_SHUTDOWN);
	start_real(r);
	LOAD(r, 0xe6, PORT, 0xf4);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	assert_int_equal(r->writes, 1);
	rig_free(r);
	(void)state;
}

/* Fills in what KVM may hold of the vector state. */
static void state_fill(struct rig *r, struct x86_state *s)
{
	uint64_t x = kvm_engine_of(r->engine)->xfeatures;

	for (unsigned i = 0; i < 16; i++) {
		s->gpr[i] = UINT64_C(0x0101010101010101) * (i + 1);
		memset(s->fpu.vec[i], (int)(i + 1), x >> 6 & 1 ? 64 : x >> 2 & 1 ? 32 : 16);
		if (x >> 7 & 1)
			memset(s->fpu.vec[16 + i], (int)(i + 33), 64);
	}
	for (unsigned i = 0; i < 8; i++) {
		memset(s->fpu.fx + X86_FX_ST + 16 * i, (int)(0x50 + i), 10);
		s->fpu.k[i] = x >> 5 & 1 ? i * 3 : 0;
	}
	s->fpu.fx[X86_FX_FTW] = 0xff;
	s->lstar = UINT64_C(0xffffffff81000000);
	s->tsc = 123456789;
	s->star = UINT64_C(0x0023001000000000);
	s->kernel_gs_base = 0x1234;
	s->sysenter_esp = 0x5678;
	s->dr[1] = 0x4444;
	s->shadow_sti = 1;
	s->nmi_masked = 1;
}

static void state_goes_in_and_comes_out_the_same(void **state)
{
	struct rig *r = rig_new();
	struct x86_state *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));

	start_flat(r);
	assert_int_equal(engine_kvm.get_state(r->vcpu, a), 0);
	state_fill(r, a);
	state_set(r, a);
	assert_int_equal(engine_kvm.get_state(r->vcpu, b), 0);
	for (size_t i = 0; i < sizeof(*a); i++)
		if (((uint8_t *)a)[i] != ((uint8_t *)b)[i])
			fail_msg("byte %zu differs: %02x %02x", i, ((uint8_t *)a)[i],
				 ((uint8_t *)b)[i]);
	a->event_valid = 1;
	a->event_kind = X86_EVENT_EXCEPTION;
	a->event_vector = X86_VEC_GP;
	a->event_has_error = 1;
	a->event_error = 0x18;
	a->activity = X86_WAIT_SIPI;
	state_set(r, a);
	assert_int_equal(engine_kvm.get_state(r->vcpu, b), 0);
	assert_memory_equal(a, b, sizeof(*a));
	free(a);
	free(b);
	rig_free(r);
	(void)state;
}

static void the_local_apic_goes_in_and_comes_out_the_same(void **state)
{
	struct rig *r = rig_new();
	uint8_t a[1024], b[1024];
	uint64_t base, base2, deadline, deadline2;

	start_flat(r);
	assert_int_equal(engine_kvm.apic_get(r->vcpu, a, &base, &deadline), 0);
	assert_int_equal(base, APIC | 0x900);
	a[0xf0] = 0xef;
	a[0xf1] = 1;
	a[0x80] = a[0xa0] = 0x30; /* the processor priority follows the task priority */
	assert_int_equal(engine_kvm.apic_set(r->vcpu, a, base, deadline), 0);
	assert_int_equal(engine_kvm.apic_get(r->vcpu, b, &base2, &deadline2), 0);
	assert_memory_equal(a, b, sizeof(a));
	assert_int_equal(base, base2);
	assert_int_equal(deadline, deadline2);
	rig_free(r);
	(void)state;
}

static void pages_that_the_guest_writes_are_logged(void **state)
{
	struct rig *r = rig_new();
	uint64_t bits[4] = {0};

	start_flat(r);
	LOAD(r, 0xa3, 0, 0x50, 0, 0, 0xe6, PORT, 0xf4); /* mov [0x5000],eax; out PORT,al */
	assert_int_equal(gmem_log_start(r->mem), 0);
	assert_int_equal(engine_kvm.dirty_log(r->engine, 1), 0);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	assert_int_equal(engine_kvm.dirty_sync(r->engine), 0);
	assert_true(gmem_log_harvest(r->mem, 0, bits) >= 1);
	assert_true(bits[0] >> 5 & 1);
	assert_false(bits[0] >> 6 & 1);
	memset(bits, 0, sizeof(bits));
	assert_int_equal(engine_kvm.dirty_sync(r->engine), 0);
	assert_int_equal(gmem_log_harvest(r->mem, 0, bits), 0);
	assert_int_equal(engine_kvm.dirty_log(r->engine, 0), 0);
	gmem_log_stop(r->mem);
	rig_free(r);
	(void)state;
}

static void a_busy_guest_is_paused_and_resumed(void **state)
{
	struct rig *r = rig_new();
	struct x86_state *s = malloc(sizeof(*s));
	uint64_t before = 0;

	start_flat(r);
	LOAD(r, 0x41, 0xeb, 0xfd); /* 1: inc ecx; jmp 1b */
	thread_start(r);
	for (unsigned i = 0; i < 20; i++) {
		vcpu_pause_begin(r->vcpu);
		vcpu_pause_wait(r->vcpu);
		assert_int_equal(engine_kvm.get_state(r->vcpu, s), 0);
		assert_true(s->gpr[X86_RCX] >= before);
		before = s->gpr[X86_RCX];
		vcpu_resume(r->vcpu);
	}
	free(s);
	rig_free(r);
	(void)state;
}

static void a_pause_finds_no_access_half_done(void **state)
{
	struct rig *r = rig_new();
	struct x86_state *s = malloc(sizeof(*s));

	start_flat(r);
	LOAD(r, 0xa1, 0, 0, 0, 0xd0, 0xf4); /* mov eax,[HOLE]; hlt */
	cpu_link_clear(&r->vcpu->link, CPU_EVENT_KICK);
	while (engine_kvm.run(r->vcpu) != RUN_EXIT)
		;
	exit_handle(r->vcpu);
	cpu_link_raise(&r->vcpu->link, CPU_EVENT_KICK);
	assert_int_equal(engine_kvm.run(r->vcpu), RUN_KICKED);
	assert_int_equal(engine_kvm.get_state(r->vcpu, s), 0);
	assert_int_equal(s->gpr[X86_RAX], 0x44332211);
	assert_int_equal(s->rip, CODE + 5);
	free(s);
	rig_free(r);
	(void)state;
}

static void a_pause_takes_no_interrupt_from_the_pic(void **state)
{
	struct rig *r = rig_new();

	start_flat(r);
	load_handler(r);
	/* APIC on, LINT0 as ExtINT, sti; mov eax,[HOLE]; 1: hlt; jmp 1b */
	LOAD(r, 0xc7, 0x05, 0xf0, 0, 0xe0, 0xfe, 0xff, 1, 0, 0, 0xc7, 0x05, 0x50, 3, 0xe0, 0xfe, 0,
	     7, 0, 0, 0xfb, 0x90, 0xa1, 0, 0, 0, 0xd0, 0xf4, 0xeb, 0xfd);
	cpu_link_clear(&r->vcpu->link, CPU_EVENT_KICK);
	while (engine_kvm.run(r->vcpu) != RUN_EXIT)
		;
	exit_handle(r->vcpu);
	engine_kvm.extint(r->engine, 1);
	/* The access is completed, and the VM stops: nothing would take the interrupt now. */
	cpu_link_raise(&r->vcpu->link, CPU_EVENT_KICK);
	assert_int_equal(engine_kvm.run(r->vcpu), RUN_KICKED);
	assert_int_equal(r->acks, 0);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	assert_int_equal(r->acks, 1);
	assert_int_equal(r->last[0], 0x77);
	rig_free(r);
	(void)state;
}

static void the_counters_have_names(void **state)
{
	struct rig *r = rig_new();
	struct wbuf out;

	start_real(r);
	LOAD(r, 0xe6, PORT, 0xf4);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	wbuf_init(&out, 4096);
	engine_kvm.stats(r->engine, &out);
	wbuf_u8(&out, 0);
	assert_false(out.failed);
	assert_non_null(strstr((char *)out.data, "kvm_exit_port 1\n"));
	wbuf_fini(&out);
	rig_free(r);
	(void)state;
}

/* One argument: a pattern for the names of tests to run. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_real_mode_loop_writes_ports_and_reads_them),
	    cmocka_unit_test(device_memory_is_read_and_written),
	    cmocka_unit_test(memory_becomes_read_only_and_writable),
	    cmocka_unit_test(a_message_ends_a_halt),
	    cmocka_unit_test(an_irqfd_sends_its_message),
	    cmocka_unit_test(a_doorbell_rings_without_the_board),
	    cmocka_unit_test(a_level_triggered_vector_reports_its_eoi),
	    cmocka_unit_test(the_pic_interrupts_through_lint0),
	    cmocka_unit_test(the_pic_waits_until_interrupts_are_on),
	    cmocka_unit_test(an_nmi_reaches_a_halted_cpu),
	    cmocka_unit_test(msrs_of_doors_come_to_the_board),
	    cmocka_unit_test(an_unknown_msr_faults),
	    cmocka_unit_test(the_switch_of_what_cpuid_has_not_is_not_offered),
	    cmocka_unit_test(a_triple_fault_is_told_and_ended_by_new_state),
	    cmocka_unit_test(state_goes_in_and_comes_out_the_same),
	    cmocka_unit_test(the_local_apic_goes_in_and_comes_out_the_same),
	    cmocka_unit_test(pages_that_the_guest_writes_are_logged),
	    cmocka_unit_test(a_busy_guest_is_paused_and_resumed),
	    cmocka_unit_test(a_pause_finds_no_access_half_done),
	    cmocka_unit_test(a_pause_takes_no_interrupt_from_the_pic),
	    cmocka_unit_test(the_counters_have_names),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (kvm_missing())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
