/* ram.c: guest-physical memory as the engine sees it: slots, page flags, changes to code. */
#include "engine/soft/core.h"
#include "engine/soft/lockstep.h"

const struct soft_slot *soft_ram_slot(const struct soft_ram *ram, uint64_t phys)
{
	for (unsigned i = 0; i < ram->slots; i++)
		if (phys - ram->slot[i].base < ram->slot[i].size)
			return &ram->slot[i];
	return NULL;
}

const struct soft_slot *soft_ram_slot_of_flags(const struct soft_ram *ram, const uint8_t *flags,
					       uint64_t *phys)
{
	uint64_t page = (uint64_t)(flags - ram->flags);

	for (unsigned i = 0; i < ram->slots; i++) {
		const struct soft_slot *slot = &ram->slot[i];
		if (page - slot->first_page < slot->size >> 12) {
			*phys = slot->base + ((page - slot->first_page) << 12);
			return slot;
		}
	}
	return NULL;
}

void soft_stored(struct soft_cpu *cpu, uint8_t *flags, uint64_t lin, unsigned size)
{
	uint64_t phys = 0;
	uint8_t f = __atomic_load_n(flags, __ATOMIC_RELAXED);

	if (!soft_ram_slot_of_flags(&cpu->engine->ram, flags, &phys))
		return;
	phys |= lin & 0xfff;
	if (UNLIKELY(cpu->lockstep != NULL))
		lockstep_stored(cpu, flags, (unsigned)phys & 0xfff, size);
	if (f & SOFT_PAGE_LOG) {
		/* The flag goes first: a harvest between the two sees the mark next time. */
		__atomic_and_fetch(flags, (uint8_t)~SOFT_PAGE_LOG, __ATOMIC_ACQ_REL);
		gmem_log_mark(cpu->base.engine->env->mem, gpa(phys), size);
	}
	if (f & SOFT_PAGE_CODE)
		soft_code_changed(cpu->engine, cpu, flags, phys, size);
}
