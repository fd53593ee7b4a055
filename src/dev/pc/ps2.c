/* ps2.c: PS/2 keyboard and mouse: commands, queues, reports. */
#include "dev/pc/ps2.h"
#include <string.h>

/* Citations are to IBM's PS/2 Hardware Interface Technical Reference (1990): "Keyboards (101- and
 * 102-Key)" and "Auxiliary device". */

#define ACK    0xfa
#define RESEND 0xfe
#define BAT_OK 0xaa

/* Commands that both know. */
#define CMD_ID	     0xf2
#define CMD_RATE     0xf3
#define CMD_ENABLE   0xf4
#define CMD_DISABLE  0xf5
#define CMD_DEFAULTS 0xf6
#define CMD_RESEND   0xfe
#define CMD_RESET    0xff

#define KBD_LEDS     0xed
#define KBD_ECHO     0xee
#define KBD_SCAN_SET 0xf0

#define MOUSE_SCALE_1	 0xe6
#define MOUSE_SCALE_2	 0xe7
#define MOUSE_RESOLUTION 0xe8
#define MOUSE_STATUS	 0xe9
#define MOUSE_STREAM	 0xea
#define MOUSE_READ	 0xeb
#define MOUSE_WRAP_OFF	 0xec
#define MOUSE_WRAP_ON	 0xee
#define MOUSE_REMOTE	 0xf0
#define MOUSE_ID_PLAIN	 0
#define MOUSE_ID_WHEEL	 3

#define MOUSE_DELTA_MAX 255
#define MOUSE_WHEEL_MAX 7
#define MOUSE_SUM_MAX	(1 << 16) /* motion that piles up while nobody reads */

_Bool ps2_queue_empty(const struct ps2_queue *q)
{
	return q->len == 0;
}

uint8_t ps2_queue_take(struct ps2_queue *q)
{
	if (!q->len)
		return q->last;
	q->last = q->data[0];
	q->len--;
	memmove(q->data, q->data + 1, q->len);
	return q->last;
}

_Bool ps2_queue_put(struct ps2_queue *q, const uint8_t *data, size_t len)
{
	if (len > (size_t)(PS2_QUEUE - q->len))
		return 0;
	memcpy(q->data + q->len, data, len);
	q->len = (uint8_t)(q->len + len);
	return 1;
}

static void queue_clear(struct ps2_queue *q)
{
	q->len = 0;
}

/* A reply replaces what waits: a device that gets a command stops sending and starts anew. */
static void reply(struct ps2_queue *q, const uint8_t *data, size_t len)
{
	queue_clear(q);
	(void)ps2_queue_put(q, data, len);
}

static void reply_byte(struct ps2_queue *q, uint8_t byte)
{
	reply(q, &byte, 1);
}

/* --- Keyboard ------------------------------------------------------------------------------ */

static void keyboard_defaults(struct ps2_keyboard *k)
{
	k->rate = 0x2b; /* 10.9 a second after 500 ms */
	k->scan_set = 2;
	k->command = 0;
}

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
	memset(k, 0, sizeof(*k));
	keyboard_defaults(k);
	k->enabled = 1;
}

static void keyboard_parameter(struct ps2_keyboard *k, uint8_t byte)
{
	uint8_t command = k->command;
	k->command = 0;
	switch (command) {
	case KBD_LEDS: k->leds = byte & 7; break;
	case CMD_RATE: k->rate = byte & 0x7f; break;
	case KBD_SCAN_SET:
		if (byte == 0) {
			const uint8_t answer[] = {ACK, k->scan_set};
			reply(&k->queue, answer, sizeof(answer));
			return;
		}
		if (byte > 3) {
			reply_byte(&k->queue, RESEND);
			return;
		}
		k->scan_set = byte;
		break;
	}
	reply_byte(&k->queue, ACK);
}

void ps2_keyboard_command(struct ps2_keyboard *k, uint8_t byte)
{
	static const uint8_t id[] = {ACK, 0xab, 0x83};
	static const uint8_t bat[] = {ACK, BAT_OK};
	/* A byte with the high bits of a command ends the wait for a parameter. */
	if (k->command && byte < 0xed) {
		keyboard_parameter(k, byte);
		return;
	}
	k->command = 0;
	switch (byte) {
	case KBD_LEDS:
	case CMD_RATE:
	case KBD_SCAN_SET:
		k->command = byte;
		reply_byte(&k->queue, ACK);
		break;
	case KBD_ECHO: reply_byte(&k->queue, KBD_ECHO); break;
	case CMD_ID: reply(&k->queue, id, sizeof(id)); break;
	case CMD_ENABLE:
		k->enabled = 1;
		reply_byte(&k->queue, ACK);
		break;
	case CMD_DISABLE:
		keyboard_defaults(k);
		k->enabled = 0;
		reply_byte(&k->queue, ACK);
		break;
	case CMD_DEFAULTS:
		keyboard_defaults(k);
		k->enabled = 1;
		reply_byte(&k->queue, ACK);
		break;
	case 0xf7:
	case 0xf8:
	case 0xf9:
	case 0xfa: reply_byte(&k->queue, ACK); break; /* key types of scan code set 3 */
	case CMD_RESEND: reply_byte(&k->queue, k->queue.last); break;
	case CMD_RESET:
		ps2_keyboard_reset(k);
		reply(&k->queue, bat, sizeof(bat));
		break;
	default: reply_byte(&k->queue, RESEND); break;
	}
}

void ps2_keyboard_key(struct ps2_keyboard *k, const uint8_t *code, size_t len)
{
	if (k->enabled && !k->command)
		(void)ps2_queue_put(&k->queue, code, len);
}

/* --- Mouse --------------------------------------------------------------------------------- */

static void mouse_defaults(struct ps2_mouse *m)
{
	m->rate = 100;
	m->resolution = 2;
	m->scaling = m->remote = m->enabled = m->wrap = 0;
	m->command = 0;
	m->dx = m->dy = m->dz = 0;
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
	memset(m, 0, sizeof(*m));
	mouse_defaults(m);
}

static int clamp(int v, int limit)
{
	return v > limit ? limit : v < -limit ? -limit : v;
}

static void queue_report(struct ps2_mouse *m)
{
	int dx = clamp(m->dx, MOUSE_DELTA_MAX), dy = clamp(m->dy, MOUSE_DELTA_MAX);
	int dz = clamp(m->dz, MOUSE_WHEEL_MAX);
	const uint8_t report[4] = {
	    (uint8_t)(0x08 | (m->buttons & 7) | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)),
	    (uint8_t)dx, (uint8_t)dy, (uint8_t)-dz, /* the wheel counts towards the person */
	};
	if (!ps2_queue_put(&m->queue, report, m->id == MOUSE_ID_WHEEL ? 4 : 3))
		return;
	m->dx -= dx;
	m->dy -= dy;
	m->dz = m->id == MOUSE_ID_WHEEL ? m->dz - dz : 0;
	m->reported = m->buttons;
}

void ps2_mouse_report(struct ps2_mouse *m)
{
	_Bool news = m->dx || m->dy || m->dz || m->buttons != m->reported;
	if (m->enabled && !m->remote && !m->wrap && !m->command && news &&
	    ps2_queue_empty(&m->queue))
		queue_report(m);
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons)
{
	dx = clamp(dx, MOUSE_SUM_MAX);
	dy = clamp(dy, MOUSE_SUM_MAX);
	dz = clamp(dz, MOUSE_SUM_MAX);
	if (m->enabled) {
		m->dx = clamp(m->dx + dx, MOUSE_SUM_MAX);
		m->dy = clamp(m->dy + dy, MOUSE_SUM_MAX);
		m->dz = clamp(m->dz + dz, MOUSE_SUM_MAX);
	}
	m->buttons = buttons & 7;
	ps2_mouse_report(m);
}

static void mouse_parameter(struct ps2_mouse *m, uint8_t byte)
{
	static const uint8_t knocks[] = {200, 100, 80};
	if (m->command == CMD_RATE) {
		m->rate = byte;
		/* The wheel is turned on by three rates in a row, as drivers do. */
		m->knock = byte == knocks[m->knock] ? m->knock + 1 : byte == knocks[0];
		if (m->knock == ARRAY_SIZE(knocks)) {
			m->id = MOUSE_ID_WHEEL;
			m->knock = 0;
		}
	} else {
		m->resolution = byte & 3;
	}
	m->command = 0;
	reply_byte(&m->queue, ACK);
}

static void mouse_status(struct ps2_mouse *m)
{
	uint8_t b = m->buttons;
	const uint8_t answer[] = {
	    ACK,
	    (uint8_t)((m->remote ? 0x40 : 0) | (m->enabled ? 0x20 : 0) | (m->scaling ? 0x10 : 0) |
		      (b & 1 ? 4 : 0) | (b & 4 ? 2 : 0) | (b & 2 ? 1 : 0)),
	    m->resolution,
	    m->rate,
	};
	reply(&m->queue, answer, sizeof(answer));
}

static void mouse_simple(struct ps2_mouse *m, uint8_t byte)
{
	switch (byte) {
	case MOUSE_SCALE_1: m->scaling = 0; break;
	case MOUSE_SCALE_2: m->scaling = 1; break;
	case MOUSE_STREAM: m->remote = 0; break;
	case MOUSE_REMOTE: m->remote = 1; break;
	case MOUSE_WRAP_ON: m->wrap = 1; break;
	case MOUSE_WRAP_OFF: break;
	case CMD_ENABLE: m->enabled = 1; break;
	case CMD_DISABLE: m->enabled = 0; break;
	case CMD_DEFAULTS: mouse_defaults(m); break;
	case MOUSE_RESOLUTION:
	case CMD_RATE: m->command = byte; break;
	default: reply_byte(&m->queue, RESEND); return;
	}
	reply_byte(&m->queue, ACK);
}

void ps2_mouse_command(struct ps2_mouse *m, uint8_t byte)
{
	static const uint8_t bat[] = {ACK, BAT_OK, MOUSE_ID_PLAIN};
	if (m->wrap && byte != CMD_RESET && byte != MOUSE_WRAP_OFF) {
		reply_byte(&m->queue, byte);
		return;
	}
	m->wrap = 0;
	if (m->command) {
		mouse_parameter(m, byte);
		return;
	}
	switch (byte) {
	case MOUSE_STATUS: mouse_status(m); break;
	case MOUSE_READ:
		reply_byte(&m->queue, ACK);
		queue_report(m);
		break;
	case CMD_ID: {
		const uint8_t answer[] = {ACK, m->id};
		reply(&m->queue, answer, sizeof(answer));
		break;
	}
	case CMD_RESEND: reply_byte(&m->queue, m->queue.last); break;
	case CMD_RESET:
		ps2_mouse_reset(m);
		reply(&m->queue, bat, sizeof(bat));
		break;
	default: mouse_simple(m, byte); break;
	}
}
