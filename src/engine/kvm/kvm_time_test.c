/* kvm_time_test.c: what a guest under KVM sees of time: its TSC and KVM's clock over a pause, a
 * reset. */
#include "engine/kvm/kvm_testing.h"
#include "base/host_time.h"

static uint64_t tsc_now(struct rig *r)
{
	struct x86_state *s = malloc(sizeof(*s));
	uint64_t tsc;

	assert_int_equal(engine_kvm.get_state(r->vcpu, s), 0);
	tsc = s->tsc;
	free(s);
	return tsc;
}

/* By how much the TSC is ahead of the clock. Somebody may get the CPU between the two looks. */
static uint64_t tsc_ahead(struct rig *r, uint64_t ms)
{
	uint64_t best = UINT64_MAX, ahead = 0;

	for (unsigned i = 0; i < 100 && best > 500000; i++) {
		uint64_t before = clock_now_ns(r->clock), tsc = tsc_now(r);
		uint64_t took = clock_now_ns(r->clock) - before;

		if (took < best) {
			best = took;
			ahead = tsc - before * ms / 1000000;
		}
	}
	return ahead;
}

/* There are KVMs (PVM) that show a guest the host's TSC, whatever they are told. */
static void skip_if_tsc_is_fixed(struct rig *r)
{
	struct kvm_vcpu *v = kvm_vcpu_of(r->vcpu);
	uint64_t now = 0;

	assert_int_equal(kvm_msr_set(v, MSR_TSC, UINT64_C(1) << 50), 0);
	assert_int_equal(kvm_msr_get(v, MSR_TSC, &now), 0);
	if (now >> 50 == 1)
		return;
	rig_free(r);
	printf("skipped: this KVM does not let the guest's TSC be set\n");
	skip();
}

static void the_tsc_stands_while_the_clock_does(void **state)
{
	struct rig *r = rig_new();
	const struct timespec pause = {.tv_nsec = 30000000};
	uint64_t first, later, ms;

	skip_if_tsc_is_fixed(r);
	start_flat(r);
	LOAD(r, 0x0f, 0x31, 0xeb, 0xfc); /* 1: rdtsc; jmp 1b */
	thread_start(r);
	nanosleep(&pause, NULL);
	ms = kvm_engine_of(r->engine)->tsc_khz;
	vcpu_pause_begin(r->vcpu);
	vcpu_pause_wait(r->vcpu);
	clock_set_mode(r->clock, CLOCK_STOPPED);
	first = tsc_now(r);
	assert_true(first > 5 * ms);
	nanosleep(&pause, NULL);
	/* 30 ms have gone by; less than 5 are seen. */
	later = tsc_now(r);
	assert_true(later - first < 5 * ms || first - later < 5 * ms);
	/* Nor are they after it went on: the clock and the TSC have advanced by the same. */
	clock_set_mode(r->clock, CLOCK_REAL);
	vcpu_resume(r->vcpu);
	vcpu_pause_begin(r->vcpu);
	vcpu_pause_wait(r->vcpu);
	later = tsc_ahead(r, ms);
	vcpu_resume(r->vcpu);
	nanosleep(&pause, NULL);
	vcpu_pause_begin(r->vcpu);
	vcpu_pause_wait(r->vcpu);
	first = tsc_ahead(r, ms);
	assert_true(later - first < 5 * ms || first - later < 5 * ms);
	rig_free(r);
	(void)state;
}

static void a_tsc_that_was_set_counts_from_when_the_cpu_runs(void **state)
{
	struct rig *r = rig_new();
	const struct timespec pause = {.tv_nsec = 30000000};
	struct x86_state *s = malloc(sizeof(*s));
	uint64_t ms = kvm_engine_of(r->engine)->tsc_khz, now, ns;

	free(s);
	skip_if_tsc_is_fixed(r);
	s = malloc(sizeof(*s));
	start_flat(r);
	LOAD(r, 0xe6, PORT, 0xeb, 0xfe); /* out PORT,al; 1: jmp 1b */
	clock_set_mode(r->clock, CLOCK_STOPPED);
	assert_int_equal(engine_kvm.get_state(r->vcpu, s), 0);
	s->tsc = UINT64_C(1) << 40;
	state_set(r, s);
	clock_set_ns(r->clock, UINT64_C(5000000000)); /* as when a VM is restored */
	nanosleep(&pause, NULL);
	assert_true(tsc_now(r) == s->tsc);
	clock_set_mode(r->clock, CLOCK_REAL);
	assert_int_equal(drive(r, 1), RUN_KICKED);
	now = tsc_now(r);
	ns = clock_now_ns(r->clock) - UINT64_C(5000000000);
	assert_true(now >= s->tsc && now - s->tsc < ns * ms / 1000000 + ms);
	free(s);
	rig_free(r);
	(void)state;
}

static void a_stop_of_any_length_is_taken_from_the_tsc(void **state)
{
	struct rig *r = rig_new();
	struct kvm_vcpu *v = kvm_vcpu_of(r->vcpu);

	start_flat(r);
	LOAD(r, 0xe6, PORT, 0xe6, PORT, 0xe6, PORT, 0xe6, PORT, 0xf4); /* out PORT,al; ... */
	for (unsigned i = 1; i < 5; i++) {
		int64_t before = v->tsc.applied_ns;

		/* However often it is looked at: going on as it was is no stop. */
		assert_int_equal(drive(r, i), RUN_KICKED);
		assert_true(v->tsc.applied_ns == clock_lag_ns(r->clock));
		assert_true(i == 1 || v->tsc.applied_ns > before);
		before = v->tsc.applied_ns;
		kvm_tsc_resume(v);
		assert_true(v->tsc.applied_ns == before);
		v->tsc.check = 1;			 /* as a pause leaves it */
		clock_set_mode(r->clock, CLOCK_STOPPED); /* for some nanoseconds */
		while (clock_lag_ns(r->clock) == before)
			;
		clock_set_mode(r->clock, CLOCK_REAL);
	}
	rig_free(r);
	(void)state;
}

static uint64_t pv_clock(struct rig *r)
{
	struct kvm_clock_data data = {0};

	assert_true(kvm_ioctl(kvm_engine_of(r->engine)->vm_fd, KVM_GET_CLOCK, &data) >= 0);
	return data.clock;
}

static void kvms_clock_stands_while_the_vms_does(void **state)
{
	struct rig *r = rig_new();
	const struct timespec pause = {.tv_nsec = 30000000};
	uint64_t begin, stopped, going, first, later, most;

	engine_kvm.time(r->engine, 1);
	begin = host_time_ns();
	first = pv_clock(r);
	engine_kvm.time(r->engine, 0);
	stopped = host_time_ns();
	nanosleep(&pause, NULL);
	going = host_time_ns();
	engine_kvm.time(r->engine, 1);
	later = pv_clock(r);
	/* What passed, but for the pause; and a little, for the two clocks are not one. */
	most = host_time_ns() - begin - (going - stopped);
	assert_true(later >= first);
	assert_true(later - first <= most + most / 100 + 1000000);
	rig_free(r);
	(void)state;
}

static void kvms_clock_begins_with_the_vm(void **state)
{
	struct rig *r = rig_new();
	const struct timespec pause = {.tv_nsec = 30000000};
	uint64_t begin, now;

	nanosleep(&pause, NULL); /* as one that is started paused */
	begin = host_time_ns();
	engine_kvm.time(r->engine, 1);
	now = pv_clock(r);
	assert_true(now <= host_time_ns() - begin + 1000000);
	rig_free(r);
	(void)state;
}

static void a_reset_ends_what_kvm_writes_into_the_guest(void **state)
{
	static const uint32_t msrs[] = {0x4b564d01, 0x12};
	struct rig *r = rig_new();
	struct kvm_vcpu *v = kvm_vcpu_of(r->vcpu);
	uint64_t value = 1;

	start_flat(r);
	for (size_t i = 0; i < ARRAY_SIZE(msrs); i++) {
		assert_int_equal(kvm_msr_set(v, msrs[i], 0x5001), 0);
		assert_int_equal(kvm_msr_get(v, msrs[i], &value), 0);
		assert_int_equal(value, 0x5001);
		engine_kvm.reset(r->vcpu);
		assert_int_equal(kvm_msr_get(v, msrs[i], &value), 0);
		assert_int_equal(value, 0);
	}
	/* Guest code runs, and nothing is written there. */
	start_flat(r);
	LOAD(r, 0xe6, PORT, 0xf4); /* out PORT,al; hlt */
	assert_int_equal(drive(r, 1), RUN_KICKED);
	for (unsigned at = 0; at < 32; at += 4)
		assert_int_equal(guest32(r, 0x5000 + at), 0);
	rig_free(r);
	(void)state;
}

/* One argument: a pattern for the names of tests to run. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_tsc_stands_while_the_clock_does),
	    cmocka_unit_test(a_tsc_that_was_set_counts_from_when_the_cpu_runs),
	    cmocka_unit_test(a_stop_of_any_length_is_taken_from_the_tsc),
	    cmocka_unit_test(kvms_clock_stands_while_the_vms_does),
	    cmocka_unit_test(kvms_clock_begins_with_the_vm),
	    cmocka_unit_test(a_reset_ends_what_kvm_writes_into_the_guest),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	if (kvm_missing())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
