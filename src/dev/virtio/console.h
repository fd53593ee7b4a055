/* console.h: a console and named ports (VIRTIO12 5.3). */
#ifndef DEV_VIRTIO_CONSOLE_H
#define DEV_VIRTIO_CONSOLE_H

#include "backend/chardev.h"
#include "bus/clock.h"
#include "dev/virtio/virtio.h"

#define CONSOLE_PORTS_MAX 17 /* the console and sixteen named ports */
#define CONSOLE_NAME_MAX  63

struct console_port_config {
	const char *name;	 /* up to CONSOLE_NAME_MAX bytes */
	struct chardev *chardev; /* not owned; this device becomes its client */
	_Bool always_open;	 /* there is somebody from the start (not chardev_unix) */
};

struct console_config {
	struct virtio_place place;
	struct clock *clock;
	struct chardev *console; /* port 0; NULL: there is no console, only ports */
	/* Ports 1 and up. Without any the device has no control queue and is a plain console. */
	struct console_port_config port[CONSOLE_PORTS_MAX - 1];
	unsigned ports;
};
NODISCARD int console_new(struct device **dev, const struct console_config *cfg, struct error *err);

/* The console's size changed; takes the device's lock. */
void console_resize(struct device *dev, unsigned cols, unsigned rows);

#endif
