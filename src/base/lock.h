/* lock.h: mutexes with ranks; in debug builds a wrong order is an assertion. */
#ifndef BASE_LOCK_H
#define BASE_LOCK_H

#include <pthread.h>
#include "base/util.h"

/*
 * A thread may take a lock only when its rank is greater than that of every lock it holds. So a
 * device (RANK_DEVICE) may raise an interrupt (RANK_INTC, then RANK_LAPIC) or arm a timer
 * (RANK_CLOCK) under its own lock; an interrupt controller never calls back into a device with its
 * lock held.
 */
enum lock_rank {
	RANK_VM = 10,	    /* the VM's state machine */
	RANK_BOARD = 20,    /* topology: regions being mapped and moved */
	RANK_DEVICE = 30,   /* a device's registers */
	RANK_BACKEND = 40,  /* a back end's queues */
	RANK_PCI_WIRE = 43, /* a PCI bus's shared INTx lines, before the board's wires */
	RANK_WIRE = 45,	    /* shared interrupt lines on their way to a controller */
	RANK_INTC = 50,	    /* IOAPIC, PIC and interrupt routing */
	RANK_LAPIC = 60,    /* one local APIC */
	RANK_VCPU = 70,	    /* a vCPU's request word and wait queue */
	RANK_CLOCK = 80,    /* the timer heap */
	RANK_LOOP = 85,	    /* the event loop's tables */
	RANK_MEM = 90, /* RAM slots, dirty log, who is mapped in a space: nothing is taken below */
};

struct lock {
	pthread_mutex_t mutex;
	enum lock_rank rank;
};

void lock_init(struct lock *lock, enum lock_rank rank);
void lock_fini(struct lock *lock);
void lock_take(struct lock *lock);
void lock_drop(struct lock *lock);
/* True when the calling thread holds the lock (debug builds; always true with NDEBUG). For
 * assertions. */
_Bool lock_held(const struct lock *lock);

#endif
