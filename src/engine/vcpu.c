/* vcpu.c: a vCPU's thread: requests from the VM, guest code, halting and waking. */
#include "engine/vcpu.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * How requests and wake-ups reach the thread without a lock on its hot path.
 *
 * A request (pause, stop) is written under the lock, then CPU_EVENT_KICK is raised in link.events.
 * The thread looks at that one bit between runs, clears it, and only then takes the lock and reads
 * the requests; so one that comes in later finds the bit clear and sets it again.
 *
 * A halted thread sets `sleeping`, then looks at what could wake it, then waits on `sleeping` as a
 * futex. A waker first makes the reason visible in link.events, then looks at `sleeping`: of the
 * two, at least one sees what the other wrote (full barriers on both sides). Raising an interrupt
 * at a CPU that runs therefore costs an atomic OR, a barrier and the engine's kick.
 */

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	(void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
	(void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void vcpu_wake(struct cpu_link *link)
{
	struct vcpu *vcpu = container_of(link, struct vcpu, link);

	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&vcpu->sleeping, memory_order_relaxed)) {
		if (atomic_exchange(&vcpu->sleeping, 0))
			futex_wake(&vcpu->sleeping);
		return;
	}
	vcpu->engine->ops->kick(vcpu);
}

void vcpu_init(struct vcpu *vcpu, struct engine *engine, unsigned index)
{
	memset(vcpu, 0, sizeof(*vcpu));
	vcpu->engine = engine;
	vcpu->index = index;
	vcpu->link.wake = vcpu_wake;
	lock_init(&vcpu->lock, RANK_VCPU);
	pthread_cond_init(&vcpu->cond, NULL);
	vcpu->want_pause = 1;
	/* The thread's first look finds the request to pause. */
	atomic_store(&vcpu->link.events, CPU_EVENT_KICK);
}

void vcpu_fini(struct vcpu *vcpu)
{
	assert(!vcpu->thread_started);
	pthread_cond_destroy(&vcpu->cond);
	lock_fini(&vcpu->lock);
}

static _Bool vcpu_kicked(struct vcpu *vcpu)
{
	return atomic_load_explicit(&vcpu->link.events, memory_order_acquire) & CPU_EVENT_KICK;
}

/* Serves requests. *was_paused is set when the VM had the CPU in its hands meanwhile. True: end. */
static _Bool vcpu_serve(struct vcpu *vcpu, _Bool *was_paused)
{
	_Bool stop;

	cpu_link_clear(&vcpu->link, CPU_EVENT_KICK);
	lock_take(&vcpu->lock);
	while (vcpu->want_pause && !vcpu->want_stop) {
		*was_paused = 1;
		vcpu->paused = 1;
		pthread_cond_broadcast(&vcpu->cond);
		pthread_cond_wait(&vcpu->cond, &vcpu->lock.mutex);
	}
	vcpu->paused = 0;
	stop = vcpu->want_stop;
	if (stop) {
		vcpu->stopped = 1;
		pthread_cond_broadcast(&vcpu->cond);
	}
	lock_drop(&vcpu->lock);
	return stop;
}

/* Sleeps until a request comes or, unless `parked`, the engine says that the CPU would go on. */
static void vcpu_halt(struct vcpu *vcpu, _Bool parked)
{
	for (;;) {
		atomic_store(&vcpu->sleeping, 1);
		atomic_thread_fence(memory_order_seq_cst);
		if (vcpu_kicked(vcpu) || (!parked && vcpu->engine->ops->runnable(vcpu)))
			break;
		while (atomic_load(&vcpu->sleeping))
			futex_wait(&vcpu->sleeping, 1);
	}
	atomic_store(&vcpu->sleeping, 0);
}

static void vcpu_event(struct vcpu *vcpu, enum engine_event event, const char *text)
{
	const struct engine_env *env = vcpu->engine->env;

	env->event(env->opaque, event, vcpu->index, text);
}

static void vcpu_failed(struct vcpu *vcpu, int code)
{
	char text[sizeof(vcpu->failure)];

	if (vcpu->failure[0])
		snprintf(text, sizeof(text), "%s", vcpu->failure);
	else
		snprintf(text, sizeof(text), "the engine cannot run it: %s", strerror(-code));
	vcpu_event(vcpu, ENGINE_EVENT_ERROR, text);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;
	const struct engine_ops *ops = vcpu->engine->ops;
	/* After a shutdown or a failure guest code runs no more until the VM has had the CPU in its
	 * hands (a reset pauses, sets new state, resumes). */
	_Bool parked = 0;
	int result = RUN_KICKED;

	for (;;) {
		if (result != RUN_EXIT && vcpu_kicked(vcpu)) {
			_Bool was_paused = 0;

			if (vcpu_serve(vcpu, &was_paused))
				return NULL;
			if (was_paused)
				parked = 0;
		}
		if (parked) {
			vcpu_halt(vcpu, 1);
			result = RUN_KICKED;
			continue;
		}
		result = ops->run(vcpu);
		if (result == RUN_EXIT) {
			exit_handle(vcpu);
		} else if (result == RUN_HALTED) {
			vcpu_halt(vcpu, 0);
		} else if (result == RUN_SHUTDOWN) {
			parked = 1;
			vcpu_event(vcpu, ENGINE_EVENT_TRIPLE_FAULT, "triple fault");
		} else if (result == RUN_DEBUG) {
			parked = 1;
			vcpu_event(vcpu, ENGINE_EVENT_DEBUG, NULL);
		} else if (result < 0) {
			parked = 1;
			vcpu_failed(vcpu, result);
		}
	}
}

/* Signals meant for the process go to its main thread; only those that an instruction of this very
 * thread raises stay open. */
static void vcpu_sigmask(sigset_t *set)
{
	static const int open[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};

	sigfillset(set);
	for (unsigned i = 0; i < ARRAY_SIZE(open); i++)
		sigdelset(set, open[i]);
}

int vcpu_start(struct vcpu *vcpu, struct error *err)
{
	sigset_t mask, old;
	char name[16];
	int rc;

	assert(!vcpu->thread_started);
	vcpu_sigmask(&mask);
	pthread_sigmask(SIG_SETMASK, &mask, &old);
	rc = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return error_set(err, -rc, "cannot start a thread for CPU %u: %s", vcpu->index,
				 strerror(rc));
	vcpu->thread_started = 1;
	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	pthread_setname_np(vcpu->thread, name);
	return 0;
}

void vcpu_pause_begin(struct vcpu *vcpu)
{
	lock_take(&vcpu->lock);
	vcpu->want_pause = 1;
	lock_drop(&vcpu->lock);
	cpu_link_raise(&vcpu->link, CPU_EVENT_KICK);
}

void vcpu_pause_wait(struct vcpu *vcpu)
{
	if (!vcpu->thread_started)
		return;
	lock_take(&vcpu->lock);
	while (!vcpu->paused && !vcpu->stopped)
		pthread_cond_wait(&vcpu->cond, &vcpu->lock.mutex);
	lock_drop(&vcpu->lock);
}

_Bool vcpu_is_paused(struct vcpu *vcpu)
{
	_Bool paused;

	lock_take(&vcpu->lock);
	paused = !vcpu->thread_started || (vcpu->want_pause && vcpu->paused);
	lock_drop(&vcpu->lock);
	return paused;
}

void vcpu_resume(struct vcpu *vcpu)
{
	lock_take(&vcpu->lock);
	vcpu->want_pause = 0;
	/* From here on it counts as running: a pause that follows at once waits for the thread. */
	vcpu->paused = 0;
	pthread_cond_broadcast(&vcpu->cond);
	lock_drop(&vcpu->lock);
}

void vcpu_stop(struct vcpu *vcpu)
{
	if (!vcpu->thread_started)
		return;
	lock_take(&vcpu->lock);
	vcpu->want_stop = 1;
	pthread_cond_broadcast(&vcpu->cond);
	lock_drop(&vcpu->lock);
	cpu_link_raise(&vcpu->link, CPU_EVENT_KICK);
	pthread_join(vcpu->thread, NULL);
	vcpu->thread_started = 0;
}
