/* direct_abi.h: what the engine and a helper process of direct execution share in memory. */
#ifndef ENGINE_SOFT_DIRECT_ABI_H
#define ENGINE_SOFT_DIRECT_ABI_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * A helper's address space holds, beside what the guest's page tables give it, one region: the code
 * of direct_stub.c (read and execute) and behind it this structure and the signal stack. User code
 * of the guest can read and write all but the code, and can jump anywhere in the code: nothing here
 * may be trusted, and docs/threat-model.md says why that is enough.
 */
#define DIRECT_CODE_SIZE   0x2000u
#define DIRECT_SHARED_SIZE 0xa000u
#define DIRECT_REGION	   (DIRECT_CODE_SIZE + DIRECT_SHARED_SIZE)
#define DIRECT_STACK	   0x2000u /* the signal stack begins here in the shared part */

/* At the first byte of the code, which is at DIRECT_FILE_OFFSET of the program's file: the
 * addresses behind the system calls that guest code's must not be taken for, from the code's
 * beginning on. */
#define DIRECT_FILE_OFFSET 0x1000u
struct direct_layout {
	uint64_t map, unmap, tell, wait, leave;
};

/* The helper's descriptors; from its set-up on only the first and the event's. */
enum direct_fd { DIRECT_FD_RAM, DIRECT_FD_SHARED, DIRECT_FD_EVENT, DIRECT_FD_CODE };

/* What the helper writes to its event descriptor is `go` and this: never 0, which would tell
 * nothing. */
#define DIRECT_TOLD (UINT64_C(1) << 32)

/* RFLAGS that user code can change and that no signal frame has: NT and ID */
#define DIRECT_FLAGS 0x204000u

/* At most: 125 us on a Zen 4; more where PAUSE takes longer. */
#define DIRECT_SPIN_MAX 5000u

#define DIRECT_OPS 128u
/* prot 0: unmap. In `offset`: user code is about to use it, so the host's page tables get it at
 * once. */
#define DIRECT_POPULATE UINT64_C(1)
struct direct_op {
	uint64_t addr, len, prot, offset;
};

struct direct_shared {
	/* Engine to helper, with every `go`. The token opens mmap and sigreturn in the seccomp
	 * filter; the helper wipes it before guest code runs. */
	uint64_t token[3];
	uint64_t frame; /* address of the signal frame to return by */
	uint64_t fs_base, gs_base;
	uint32_t ops;
	/* A number that is another one each time; the helper waits while it is 0, and tells of its
	 * next stop by it. */
	_Atomic uint32_t go;
	_Atomic uint32_t asleep;
	_Atomic uint32_t spin; /* so often it looks whether there is a `go` before it sleeps */
	uint32_t flags;	       /* DIRECT_FLAGS of guest code */
	/* Helper to engine, at every exit; the registers are in the signal frame. */
	uint64_t out_frame, out_fs_base, out_gs_base;
	uint32_t out_signal;
	uint16_t out_sel[4]; /* DS, ES, FS, GS */
	uint32_t out_failed; /* one more than the number of the operation that failed; or 0 */
	int32_t out_error;
	uint64_t one;	  /* what is written to the event descriptor */
	uint64_t held[3]; /* the token, once the helper has taken it */
	/* Set-up */
	uint64_t base;	 /* where the region is to be */
	uint64_t bottom; /* lowest and first not usable address of user space */
	uint64_t top;
	int32_t parent;	     /* process; without it this one must not be */
	int32_t setup_error; /* negative errno of set-up's step */
	uint32_t setup_step;
	uint32_t cpuid_faults; /* CPUID in user code is to fault, if it can; then: it does */
	uint16_t filter_len, pad;
	struct direct_op op[DIRECT_OPS];
	uint64_t filter[128]; /* struct sock_filter; only during set-up */
};
_Static_assert(sizeof(struct direct_shared) <= 0x1d00, "the set-up's stack lies behind it");

#endif
