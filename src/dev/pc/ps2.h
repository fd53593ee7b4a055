/* ps2.h: PS/2 keyboard and mouse, as the keyboard controller talks to them. */
#ifndef DEV_PC_PS2_H
#define DEV_PC_PS2_H

#include "base/util.h"

/*
 * Plain structs inside the controller, under its lock, without a state of their own. Bytes that a
 * device wants to send wait in its queue; the controller takes them when its output buffer is
 * free.
 */
#define PS2_QUEUE 32

struct ps2_queue {
	uint8_t data[PS2_QUEUE];
	uint8_t len;
	uint8_t last; /* the last byte taken, for "resend" */
};

_Bool ps2_queue_empty(const struct ps2_queue *q);
uint8_t ps2_queue_take(struct ps2_queue *q);
/* All or nothing. */
_Bool ps2_queue_put(struct ps2_queue *q, const uint8_t *data, size_t len);

struct ps2_keyboard {
	struct ps2_queue queue;
	uint8_t command; /* that waits for its parameter; 0: none */
	uint8_t leds, rate, scan_set;
	_Bool enabled;
};

void ps2_keyboard_reset(struct ps2_keyboard *k);
void ps2_keyboard_command(struct ps2_keyboard *k, uint8_t byte);
/* A key event in scan code set 2; dropped whole when keys are off or the buffer is full. */
void ps2_keyboard_key(struct ps2_keyboard *k, const uint8_t *code, size_t len);

struct ps2_mouse {
	struct ps2_queue queue;
	uint8_t command;
	uint8_t rate, resolution, id; /* id 3: with wheel */
	uint8_t knock;		      /* progress of the rate sequence that turns the wheel on */
	uint8_t buttons;	      /* now held, and the ones last reported */
	uint8_t reported;
	_Bool scaling, enabled, remote, wrap;
	int32_t dx, dy, dz; /* not yet reported */
};

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_command(struct ps2_mouse *m, uint8_t byte);
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons);
/* Queues a report if one is due and fits: after a move, and when the queue has drained. */
void ps2_mouse_report(struct ps2_mouse *m);

#endif
