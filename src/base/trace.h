/* trace.h: trace points, off unless asked for with --trace or POLYVISOR_TRACE. */
#ifndef BASE_TRACE_H
#define BASE_TRACE_H

#include "base/util.h"

enum trace_topic {
	TRACE_IO = 1 << 0,    /* port and memory-mapped accesses */
	TRACE_IRQ = 1 << 1,   /* lines, messages, vectors */
	TRACE_MSR = 1 << 2,   /* model-specific registers */
	TRACE_INT = 1 << 3,   /* exceptions and interrupts delivered in a guest */
	TRACE_PCI = 1 << 4,   /* configuration space */
	TRACE_GUEST = 1 << 5, /* what a guest did wrong */
	TRACE_VM = 1 << 6,    /* life of the VM */
};

extern unsigned trace_topics; /* written once, before threads start */

void trace_msg(enum trace_topic topic, const char *fmt, ...) PRINTF(2, 3);
/* "io,irq" -> topics; returns 0 or -EINVAL with nothing changed. */
NODISCARD int trace_parse(const char *list, unsigned *topics);

#define trace(topic, ...)                                                                          \
	do {                                                                                       \
		if (UNLIKELY(trace_topics & (topic)))                                              \
			trace_msg(topic, __VA_ARGS__);                                             \
	} while (0)

#endif
