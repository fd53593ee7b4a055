/* chardev.c: character back ends: dispatch, the null one and the one in memory. */
#include "backend/chardev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/chardev_impl.h"
#include "base/lock.h"

size_t chardev_write(struct chardev *ch, const uint8_t *data, size_t len)
{
	return ch->ops->write(ch, data, len);
}

void chardev_kick_input(struct chardev *ch)
{
	if (ch->ops->kick_input)
		ch->ops->kick_input(ch);
}

void chardev_attach(struct chardev *ch, const struct chardev_client *client)
{
	ch->client = *client;
	chardev_kick_input(ch);
}

void chardev_flush(struct chardev *ch, unsigned timeout_ms)
{
	if (ch->ops->flush)
		ch->ops->flush(ch, timeout_ms);
}

void chardev_free(struct chardev *ch)
{
	if (ch)
		ch->ops->free(ch);
}

/* ---- null ---- */

static size_t null_write(struct chardev *ch, const uint8_t *data, size_t len)
{
	return len;
}

static void null_free(struct chardev *ch)
{
	free(ch);
}

static const struct chardev_ops null_ops = {.write = null_write, .free = null_free};

int chardev_null_new(struct chardev **out)
{
	struct chardev *ch = calloc(1, sizeof(*ch));

	if (!ch)
		return -ENOMEM;
	ch->ops = &null_ops;
	*out = ch;
	return 0;
}

/* ---- memory ---- */

struct chardev_mem {
	struct chardev ch;
	struct lock lock;
	size_t limit, start, len; /* a ring */
	uint8_t data[];
};

static size_t mem_write(struct chardev *ch, const uint8_t *data, size_t len)
{
	struct chardev_mem *mem = container_of(ch, struct chardev_mem, ch);

	lock_take(&mem->lock);
	for (size_t i = 0; i < len; i++) {
		if (mem->len == mem->limit) {
			mem->start = (mem->start + 1) % mem->limit;
			mem->len--;
		}
		mem->data[(mem->start + mem->len++) % mem->limit] = data[i];
	}
	lock_drop(&mem->lock);
	return len;
}

static void mem_free(struct chardev *ch)
{
	struct chardev_mem *mem = container_of(ch, struct chardev_mem, ch);

	lock_fini(&mem->lock);
	free(mem);
}

static const struct chardev_ops mem_ops = {.write = mem_write, .free = mem_free};

int chardev_mem_new(struct chardev **out, size_t limit)
{
	struct chardev_mem *mem;

	if (!limit)
		return -EINVAL;
	mem = calloc(1, sizeof(*mem) + limit);
	if (!mem)
		return -ENOMEM;
	mem->ch.ops = &mem_ops;
	mem->limit = limit;
	lock_init(&mem->lock, RANK_BACKEND);
	*out = &mem->ch;
	return 0;
}

size_t chardev_mem_read(struct chardev *ch, char *buf, size_t len)
{
	struct chardev_mem *mem = container_of(ch, struct chardev_mem, ch);
	size_t n = 0;

	lock_take(&mem->lock);
	for (; n < len && mem->len; n++, mem->len--) {
		buf[n] = (char)mem->data[mem->start];
		mem->start = (mem->start + 1) % mem->limit;
	}
	lock_drop(&mem->lock);
	return n;
}

size_t chardev_mem_feed(struct chardev *ch, const uint8_t *data, size_t len)
{
	const struct chardev_client *client = &ch->client;
	size_t done = 0;

	while (client->room && done < len) {
		size_t n = MIN(client->room(client->opaque), len - done);

		if (!n)
			break;
		client->receive(client->opaque, data + done, n);
		done += n;
	}
	return done;
}
