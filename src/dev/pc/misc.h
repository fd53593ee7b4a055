/* misc.h: small ports: debug exit, panic event, POST code, debug console. */
#ifndef DEV_PC_MISC_H
#define DEV_PC_MISC_H

#include "backend/chardev.h"
#include "bus/power.h"
#include "bus/space.h"

/* A port of 4 bytes; a guest writes a value to end the machine: POWER_EXIT with it. */
struct debug_exit_config {
	struct space *ports;
	uint16_t base; /* 0xf4 */
	struct power_sink power;
};
NODISCARD int debug_exit_new(struct device **dev, const struct debug_exit_config *cfg,
			     struct error *err);

/* The panic event port: bit 0 written: panicked, bit 1: crash kernel loaded. */
struct pvpanic_config {
	struct space *ports;
	uint16_t base; /* 0x505 */
	struct power_sink power;
};
NODISCARD int pvpanic_new(struct device **dev, const struct pvpanic_config *cfg, struct error *err);

/* POST code (0x80): keeps the last byte written; readable by the guest and by diagnostics. */
struct post_config {
	struct space *ports;
	uint16_t base; /* 0x80 */
};
NODISCARD int post_new(struct device **dev, const struct post_config *cfg, struct error *err);
uint8_t post_code(struct device *dev); /* takes the device's lock */

/* Debug console (0x402): bytes written go to a character back end, or line by line to the log at
 * level info when there is none. Reads give 0xe9: "I am here". */
struct debug_con_config {
	struct space *ports;
	uint16_t base;		 /* 0x402 */
	struct chardev *chardev; /* not owned, may be NULL */
};
NODISCARD int debug_con_new(struct device **dev, const struct debug_con_config *cfg,
			    struct error *err);

#endif
