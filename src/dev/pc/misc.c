/* misc.c: small ports: debug exit, panic event, POST code, debug console. */
#include "dev/pc/misc.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "base/log.h"

/* All four are one region of ports with a few bytes of state, so they share a struct. */

#define PVPANIC_PANICKED     1u
#define PVPANIC_CRASH_LOADED 2u
#define DEBUG_CON_HERE	     0xe9
#define DEBUG_CON_LINE	     120
#define DEBUG_CON_MAX_LINES  10000 /* to the log, in one VM's life */

struct misc {
	struct device dev;
	struct space *ports;
	struct region region;
	struct power_sink power;
	struct chardev *chardev;
	uint8_t code;	/* POST */
	uint8_t column; /* debug console */
	char line[DEBUG_CON_LINE + 1];
	uint32_t lines;
};

static struct misc *misc_of(struct device *dev)
{
	return container_of(dev, struct misc, dev);
}

static void misc_free(struct device *dev)
{
	struct misc *m = misc_of(dev);
	if (m->region.mapped)
		space_unmap(m->ports, &m->region);
	device_fini(dev);
	free(m);
}

static int misc_new(struct misc **out, const struct device_class *cls, const struct region_ops *ops,
		    struct space *ports, uint16_t base, uint64_t size, struct error *err)
{
	struct misc *m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(err, -ENOMEM, "no memory for device %s", cls->name);
	device_init(&m->dev, cls, RANK_DEVICE, 0, cls->name);
	m->ports = ports;
	m->region = (struct region){.name = cls->name, .dev = &m->dev, .ops = ops, .size = size};
	int rc = space_map(ports, &m->region, base);
	if (rc) {
		misc_free(&m->dev);
		return error_set(err, rc, "port 0x%x of device %s is taken", base, cls->name);
	}
	*out = m;
	return 0;
}

static void nothing_to_reset(struct device *dev, enum reset_kind kind)
{
}

static const struct state_field no_fields[] = {STATE_END};

/* --- Debug exit ---------------------------------------------------------------------------- */

static uint64_t zero_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return 0;
}

static void exit_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	power_request(&misc_of(dev)->power, POWER_EXIT, (unsigned)value);
}

static const struct region_ops exit_ops = {.read = zero_read, .write = exit_write, .max_size = 4};
static const struct state_desc exit_state = {
    .name = "debug-exit", .fields = no_fields, .size = sizeof(struct misc)};
static const struct device_class exit_class = {
    .name = "debug-exit", .reset = nothing_to_reset, .free = misc_free, .state = &exit_state};

int debug_exit_new(struct device **out, const struct debug_exit_config *cfg, struct error *err)
{
	struct misc *m;
	int rc = misc_new(&m, &exit_class, &exit_ops, cfg->ports, cfg->base, 4, err);
	if (rc)
		return rc;
	m->power = cfg->power;
	*out = &m->dev;
	return 0;
}

/* --- Panic event --------------------------------------------------------------------------- */

static uint64_t panic_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return PVPANIC_PANICKED | PVPANIC_CRASH_LOADED; /* what is understood here */
}

static void panic_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
			uint64_t value)
{
	struct misc *m = misc_of(dev);
	if (value & PVPANIC_PANICKED)
		power_request(&m->power, POWER_PANIC, 0);
	else if (value & PVPANIC_CRASH_LOADED)
		power_request(&m->power, POWER_CRASH_LOADED, 0);
}

static const struct region_ops panic_ops = {
    .read = panic_read, .write = panic_write, .max_size = 1};
static const struct state_desc panic_state = {
    .name = "pvpanic", .fields = no_fields, .size = sizeof(struct misc)};
static const struct device_class panic_class = {
    .name = "pvpanic", .reset = nothing_to_reset, .free = misc_free, .state = &panic_state};

int pvpanic_new(struct device **out, const struct pvpanic_config *cfg, struct error *err)
{
	struct misc *m;
	int rc = misc_new(&m, &panic_class, &panic_ops, cfg->ports, cfg->base, 1, err);
	if (rc)
		return rc;
	m->power = cfg->power;
	*out = &m->dev;
	return 0;
}

/* --- POST code ----------------------------------------------------------------------------- */

static uint64_t post_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return misc_of(dev)->code;
}

static void post_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		       uint64_t value)
{
	misc_of(dev)->code = (uint8_t)value;
}

static void post_reset(struct device *dev, enum reset_kind kind)
{
	misc_of(dev)->code = 0;
}

static const struct region_ops post_ops = {.read = post_read, .write = post_write, .max_size = 1};
static const struct state_field post_fields[] = {
    STATE_SCALAR(1, struct misc, code),
    STATE_END,
};
static const struct state_desc post_state = {
    .name = "post", .fields = post_fields, .size = sizeof(struct misc)};
static const struct device_class post_class = {
    .name = "post", .reset = post_reset, .free = misc_free, .state = &post_state};

int post_new(struct device **out, const struct post_config *cfg, struct error *err)
{
	struct misc *m;
	int rc = misc_new(&m, &post_class, &post_ops, cfg->ports, cfg->base, 1, err);
	if (!rc)
		*out = &m->dev;
	return rc;
}

uint8_t post_code(struct device *dev)
{
	lock_take(&dev->lock);
	uint8_t code = misc_of(dev)->code;
	lock_drop(&dev->lock);
	return code;
}

/* --- Debug console ------------------------------------------------------------------------- */

static uint64_t con_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
	return DEBUG_CON_HERE;
}

static void con_end_line(struct misc *m)
{
	m->line[m->column] = 0;
	if (m->column && m->lines < DEBUG_CON_MAX_LINES) {
		m->lines++;
		log_info("guest: %s", m->line);
	}
	m->column = 0;
}

static void con_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct misc *m = misc_of(dev);
	uint8_t c = (uint8_t)value;
	if (m->chardev) {
		/* A console of this kind has no way to say "wait": what does not fit is lost. */
		(void)chardev_write(m->chardev, &c, 1);
		return;
	}
	if (log_get_level() < LOG_INFO)
		return;
	if (c == '\n')
		con_end_line(m);
	else if (c >= ' ' && c < 0x7f) /* the operator's terminal obeys no guest */
		m->line[m->column++] = (char)c;
	if (m->column == DEBUG_CON_LINE)
		con_end_line(m);
}

static void con_reset(struct device *dev, enum reset_kind kind)
{
	misc_of(dev)->column = 0;
}

static const struct region_ops con_ops = {.read = con_read, .write = con_write, .max_size = 1};
static const struct state_desc con_state = {
    .name = "debug-con", .fields = no_fields, .size = sizeof(struct misc)};
static const struct device_class con_class = {
    .name = "debug-con", .reset = con_reset, .free = misc_free, .state = &con_state};

int debug_con_new(struct device **out, const struct debug_con_config *cfg, struct error *err)
{
	struct misc *m;
	int rc = misc_new(&m, &con_class, &con_ops, cfg->ports, cfg->base, 1, err);
	if (rc)
		return rc;
	m->chardev = cfg->chardev;
	*out = &m->dev;
	return 0;
}
