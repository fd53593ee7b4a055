/* trace.c: trace points by topic. */
#include "base/trace.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/log.h"

/* Written once before threads start (see the header): a plain word, so that a trace point that is
 * off costs one test. */
unsigned trace_topics;

static const struct topic {
	const char *name;
	unsigned bits;
} topics_known[] = {
    {"io", TRACE_IO},	{"irq", TRACE_IRQ},	{"msr", TRACE_MSR}, {"int", TRACE_INT},
    {"pci", TRACE_PCI}, {"guest", TRACE_GUEST}, {"vm", TRACE_VM},   {"all", ~0u},
};

void trace_msg(enum trace_topic topic, const char *fmt, ...)
{
	const char *name = "trace";
	int saved = errno;
	va_list ap;

	for (size_t i = 0; i < ARRAY_SIZE(topics_known); i++) {
		if (topics_known[i].bits & topic) {
			name = topics_known[i].name;
			break;
		}
	}
	va_start(ap, fmt);
	log_line(name, fmt, ap);
	va_end(ap);
	errno = saved;
}

static unsigned topic_find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(topics_known); i++) {
		if (strlen(topics_known[i].name) == len && !memcmp(topics_known[i].name, name, len))
			return topics_known[i].bits;
	}
	return 0;
}

int trace_parse(const char *list, unsigned *topics)
{
	unsigned bits = 0;

	for (;;) {
		size_t len = strcspn(list, ",");
		unsigned bit = topic_find(list, len);

		if (!bit)
			return -EINVAL;
		bits |= bit;
		if (!list[len])
			break;
		list += len + 1;
	}
	*topics = bits;
	return 0;
}
