/* machine_list.c: what is on the board, for people and programs that ask. */
#include <string.h>

#include "dev/pci/pci.h"
#include "machine/internal.h"

struct collect {
	struct machine_device *out;
	const struct device *dev;
	_Bool port;
};

static void add_range(void *opaque, const struct region *region)
{
	struct collect *c = opaque;
	struct machine_device *out = c->out;

	if (region->dev != c->dev || out->range_count == MACHINE_RANGES)
		return;
	out->range[out->range_count++] = (struct machine_range){
	    .port = c->port, .name = region->name, .base = region->base, .size = region->size};
}

void machine_each_device(struct machine *m,
			 void (*fn)(void *opaque, const struct machine_device *device),
			 void *opaque)
{
	for (struct device *dev = m->devices; dev; dev = dev->next) {
		struct machine_device out = {
		    .kind = dev->cls->name,
		    .id = dev->id,
		    .instance = dev->instance,
		    .pci = m->pci ? pci_address(m->pci, dev) : -1,
		};
		struct collect c = {.out = &out, .dev = dev, .port = 1};

		space_each(m->ports, add_range, &c);
		c.port = 0;
		space_each(m->memory, add_range, &c);
		fn(opaque, &out);
	}
}
