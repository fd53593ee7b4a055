/* lockstep.h: every block executed twice, by host code and by the interpreter, and compared. */
#ifndef ENGINE_SOFT_LOCKSTEP_H
#define ENGINE_SOFT_LOCKSTEP_H

#include "engine/soft/core.h"

struct soft_lockstep;

NODISCARD int lockstep_init(struct soft_cpu *cpu);
void lockstep_fini(struct soft_cpu *cpu);
/* Memory and registers were set from outside: what is there now is taken as it is. */
void lockstep_reset(struct soft_cpu *cpu);
/* Executes the block at rip in 64-bit mode. Does not come back when the two ways differ. */
void lockstep_run(struct soft_cpu *cpu);
/* Kicks the CPU once so many blocks were compared. */
void lockstep_stop_after(struct soft_cpu *cpu, unsigned blocks);
/* A store was made, to len bytes at an offset in the page of these flags. */
void lockstep_stored(struct soft_cpu *cpu, const uint8_t *flags, unsigned off, unsigned len);
/* ... by somebody else than the instruction under way. Any thread. */
void lockstep_written(struct soft_cpu *cpu, const uint8_t *flags, unsigned off, unsigned len);
/* A walk set accessed or dirty bits in the little-endian word there; they are not undone, what the
 * instruction under way has stored to the word's other bits is. */
void lockstep_marked(struct soft_cpu *cpu, const uint8_t *flags, unsigned off, unsigned len,
		     uint64_t bits);
/* How many blocks were compared, and how many only agreed when both were repeated. */
void lockstep_counts(const struct soft_cpu *cpu, uint64_t *blocks, uint64_t *repeated);

/* What an instruction asks of the world beyond registers and memory: done once, answered alike the
 * second time. */
enum soft_io_kind {
	SOFT_IO_PORT_READ,
	SOFT_IO_PORT_WRITE,
	SOFT_IO_MMIO_READ,
	SOFT_IO_MMIO_WRITE,
	SOFT_IO_MSR_READ,
	SOFT_IO_MSR_WRITE,
	SOFT_IO_CR8_READ,
	SOFT_IO_CR8_WRITE,
	SOFT_IO_TSC_READ,
	SOFT_IO_TSC_WRITE,
	SOFT_IO_RANDOM,
	SOFT_IO_HYPERCALL,
};
struct soft_io {
	enum soft_io_kind kind;
	uint64_t address, size;
	uint64_t value; /* written, or the answer */
	int rc;
	struct hypercall_regs regs; /* the answer */
};
/* True: it was done before, and `io` holds the answer. */
_Bool lockstep_replay(struct soft_cpu *cpu, struct soft_io *io);
void lockstep_record(struct soft_cpu *cpu, const struct soft_io *io);

#endif
