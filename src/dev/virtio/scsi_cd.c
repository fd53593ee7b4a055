/* scsi_cd.c: the commands of a CD-ROM drive with one data track (SPC-4, MMC-6). */
#include <string.h>

#include "dev/virtio/scsi_impl.h"

#define PROFILE_CD	0x0008
#define PROFILE_DVD	0x0010
#define CD_LARGEST	405000u /* blocks: 90 minutes; what is larger is a DVD */
#define MSF_GAP		150	/* two seconds before block 0 */
#define TRACK_DATA	0x14
#define LEAD_OUT	0xaa
#define PAGE_CAPABILITY 0x2a

static const struct scsi_sense no_lun = {5, 0x25, 0}, bad_opcode = {5, 0x20, 0},
			       bad_field = {5, 0x24, 0}, bad_lba = {5, 0x21, 0},
			       stays_in = {5, 0x53, 2}, no_disc = {2, 0x3a, 1},
			       no_disc_open = {2, 0x3a, 2}, new_disc = {6, 0x28, 0};

static uint16_t be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}
static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)be16(p) << 16 | be16(p + 2);
}
static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}
static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

static void refuse(struct cd_result *r, struct scsi_sense sense)
{
	r->kind = CD_ERROR;
	r->sense = sense;
	r->len = 0;
}

/* The answer, cut to what the initiator has room for. */
static void answer(struct cd_result *r, uint32_t len, uint32_t allocation)
{
	r->kind = CD_DONE;
	r->len = MIN(len, allocation);
}

/* SPC-4 6.6. Byte 0 says whether there is such a unit. */
static void inquiry(_Bool present, const uint8_t *cdb, struct cd_result *r)
{
	uint8_t *d = r->data;

	d[0] = present ? 0x05 : 0x7f;
	if (cdb[1] & 1) { /* vital product data: the list of pages, which is the only one */
		if (cdb[2]) {
			refuse(r, bad_field);
			return;
		}
		d[3] = 1;
		answer(r, 5, be16(cdb + 3));
		return;
	}
	if (cdb[2]) {
		refuse(r, bad_field);
		return;
	}
	d[1] = 0x80; /* removable medium */
	d[2] = 0x05; /* SPC-3 */
	d[3] = 0x02;
	d[4] = 36 - 5;
	memcpy(d + 8, "POLYVISR", 8);
	memcpy(d + 16, "CD-ROM          ", 16);
	memcpy(d + 32, "1.0 ", 4);
	answer(r, 36, be16(cdb + 3));
}

/* SPC-4 6.39: what the next command would have been refused for, if it is a new disc. */
static void request_sense(struct cd_drive *drive, const uint8_t *cdb, struct cd_result *r)
{
	r->data[0] = 0x70;
	r->data[7] = SCSI_SENSE - 8;
	if (drive && drive->attention) {
		r->data[2] = new_disc.key;
		r->data[12] = new_disc.asc;
		r->data[13] = new_disc.ascq;
		drive->attention = 0;
	}
	answer(r, SCSI_SENSE, cdb[4]);
}

/* Mode pages (MMC-6 7.2): the drive's abilities only. */
static void mode_sense(const struct cd_drive *drive, const uint8_t *cdb, _Bool ten,
		       struct cd_result *r)
{
	uint8_t page = cdb[2] & 0x3f, *d = r->data;
	unsigned head = ten ? 8 : 4, len = head;

	if ((page != PAGE_CAPABILITY && page != 0x3f) || (cdb[2] >> 6) == 3) {
		refuse(r, bad_field);
		return;
	}
	if (cdb[2] >> 6 != 1) { /* not "which could be changed": then the values */
		/* Loads by a tray, ejects, can be locked; plays nothing. */
		d[head + 6] = (uint8_t)(0x29 | drive->locked << 1);
		put16(d + head + 8, 706);
		put16(d + head + 14, 706);
	}
	d[head] = PAGE_CAPABILITY;
	d[head + 1] = 20;
	len += 22;
	if (ten)
		put16(d, len - 2);
	else
		d[0] = (uint8_t)(len - 1);
	answer(r, len, ten ? be16(cdb + 7) : cdb[4]);
}

static void read_capacity(uint64_t blocks, struct cd_result *r)
{
	uint64_t last = blocks ? blocks - 1 : 0;

	put32(r->data, last > UINT32_MAX ? UINT32_MAX : (uint32_t)last);
	put32(r->data + 4, CD_BLOCK);
	answer(r, 8, 8);
}

static void read_blocks(uint64_t blocks, uint32_t lba, uint32_t count, struct cd_result *r)
{
	if (!range_fits(lba, count, blocks)) {
		refuse(r, bad_lba);
		return;
	}
	r->kind = CD_READ;
	r->lba = lba;
	r->count = count;
}

static void put_address(uint8_t *p, uint64_t lba, _Bool msf)
{
	if (!msf) {
		put32(p, lba > UINT32_MAX ? UINT32_MAX : (uint32_t)lba);
		return;
	}
	lba += MSF_GAP;
	p[0] = 0;
	p[1] = (uint8_t)MIN(lba / (75 * 60), (uint64_t)99);
	p[2] = (uint8_t)(lba / 75 % 60);
	p[3] = (uint8_t)(lba % 75);
}

/* MMC-6 6.25: one track, one session. */
static void read_toc(uint64_t blocks, const uint8_t *cdb, struct cd_result *r)
{
	_Bool msf = cdb[1] & 2;
	unsigned format = cdb[2] & 0xf, len = 4;
	uint8_t *d = r->data, first = cdb[6];

	if (!format)
		format = cdb[9] >> 6; /* where older initiators put it */
	if (format > 1 || (format == 0 && first > 1 && first != LEAD_OUT)) {
		refuse(r, bad_field);
		return;
	}
	d[2] = d[3] = 1;
	if (format == 1 || first <= 1) {
		d[len + 1] = TRACK_DATA;
		d[len + 2] = 1;
		put_address(d + len + 4, 0, msf);
		len += 8;
	}
	if (format == 0) {
		d[len + 1] = TRACK_DATA;
		d[len + 2] = LEAD_OUT;
		put_address(d + len + 4, blocks, msf);
		len += 8;
	}
	put16(d, len - 2);
	answer(r, len, be16(cdb + 7));
}

/* MMC-6 6.5: profiles, core, removable medium, random reading. All of them, from the one that was
 * asked for on. */
static void get_configuration(const struct cd_drive *drive, const uint8_t *cdb, struct cd_result *r)
{
	static const uint8_t profiles[] = {0, 0, 3, 8, 0, PROFILE_DVD, 0, 0, 0, PROFILE_CD, 0, 0};
	static const uint8_t core[] = {0, 1, 3, 4, 0, 0, 0, 1};
	static const uint8_t medium[] = {0, 3, 3, 4, 0x29, 0, 0, 0}; /* as the mode page */
	static const uint8_t reading[] = {0, 0x10, 3, 8, 0, 0, 8, 0, 0, 1, 0, 0};
	static const struct {
		const uint8_t *bytes;
		unsigned len;
	} features[] = {{profiles, sizeof(profiles)},
			{core, sizeof(core)},
			{medium, sizeof(medium)},
			{reading, sizeof(reading)}};
	unsigned from = be16(cdb + 2), which = cdb[1] & 3, len = 8;

	if (which == 3) {
		refuse(r, bad_field);
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		unsigned code = be16(features[i].bytes);
		if (which == 2 ? code != from : code < from)
			continue;
		memcpy(r->data + len, features[i].bytes, features[i].len);
		len += features[i].len;
	}
	put32(r->data, len - 4);
	if (drive->present)
		put16(r->data + 6, drive->blocks > CD_LARGEST ? PROFILE_DVD : PROFILE_CD);
	answer(r, len, be16(cdb + 7));
}

/* MMC-6 6.6: asked, not waited for. What has been told is forgotten. */
static void event_status(struct cd_drive *drive, const uint8_t *cdb, struct cd_result *r)
{
	_Bool wanted = cdb[4] & 0x10; /* the class of media events */

	if (!(cdb[1] & 1)) {
		refuse(r, bad_field);
		return;
	}
	r->data[2] = wanted ? 0x04 : 0x80;
	r->data[3] = 0x10;
	put16(r->data, wanted ? 6 : 2);
	if (wanted) {
		r->data[4] = drive->event;
		r->data[5] = (uint8_t)(drive->present << 1 | drive->open);
	}
	answer(r, wanted ? 8 : 4, be16(cdb + 7));
	if (r->len > 4)
		drive->event = CD_NO_CHANGE;
}

void cd_take_out(struct cd_drive *drive)
{
	drive->present = drive->locked = drive->attention = 0;
	drive->blocks = 0;
	drive->open = 1;
	drive->event = CD_REMOVAL;
}

void cd_put_in(struct cd_drive *drive, uint64_t blocks)
{
	drive->present = drive->attention = 1;
	drive->blocks = blocks;
	drive->open = 0;
	drive->event = CD_NEW_MEDIUM;
}

/* START STOP UNIT (MMC-6 6.42): opening and closing the tray; the disc need not be started. While
 * it is being read it stays in. */
static void start_stop(struct cd_drive *drive, const uint8_t *cdb, struct cd_result *r)
{
	_Bool start = cdb[4] & 1, tray = cdb[4] & 2;

	if (tray && !start && (drive->locked || drive->reading)) {
		refuse(r, stays_in);
		return;
	}
	if (tray && !start && drive->present)
		cd_take_out(drive);
	else if (tray)
		drive->open = !start;
	answer(r, 0, 0);
}

static void report_luns(const uint8_t *cdb, struct cd_result *r)
{
	put32(r->data, 8); /* one: 0 */
	answer(r, 16, be32(cdb + 6));
}

/* Commands about the disc, which are refused without one. */
static void disc_command(const struct cd_drive *drive, const uint8_t *cdb, struct cd_result *r)
{
	uint64_t blocks = drive->blocks;

	if (!drive->present) {
		refuse(r, drive->open ? no_disc_open : no_disc);
		return;
	}
	switch (cdb[0]) {
	case 0x00: /* TEST UNIT READY */ answer(r, 0, 0); break;
	case 0x25: read_capacity(blocks, r); break;
	case 0x28: read_blocks(blocks, be32(cdb + 2), be16(cdb + 7), r); break;
	case 0x43: read_toc(blocks, cdb, r); break;
	case 0xa8: read_blocks(blocks, be32(cdb + 2), be32(cdb + 6), r); break;
	}
}

/* Answered whatever is pending (SPC-4 5.14, MMC-6 4.1.6.1). */
static _Bool ignores_attention(uint8_t opcode)
{
	return opcode == 0x12 || opcode == 0x03 || opcode == 0xa0 || opcode == 0x46 ||
	       opcode == 0x4a;
}

void cd_command(struct cd_drive *drive, _Bool present, const uint8_t cdb[SCSI_CDB_MAX],
		struct cd_result *r)
{
	memset(r, 0, sizeof(*r));
	if (!present && cdb[0] != 0x12 && cdb[0] != 0x03 && cdb[0] != 0xa0) {
		refuse(r, no_lun);
		return;
	}
	if (present && drive->attention && !ignores_attention(cdb[0])) {
		drive->attention = 0;
		refuse(r, new_disc);
		return;
	}
	switch (cdb[0]) {
	case 0x00:
	case 0x25:
	case 0x28:
	case 0x43:
	case 0xa8: disc_command(drive, cdb, r); break;
	case 0x03: request_sense(present ? drive : NULL, cdb, r); break;
	case 0x12: inquiry(present, cdb, r); break;
	case 0x1a: mode_sense(drive, cdb, 0, r); break;
	case 0x1b: start_stop(drive, cdb, r); break;
	case 0x1e: /* PREVENT ALLOW MEDIUM REMOVAL */
		drive->locked = cdb[4] & 1;
		answer(r, 0, 0);
		break;
	case 0x46: get_configuration(drive, cdb, r); break;
	case 0x4a: event_status(drive, cdb, r); break;
	case 0x5a: mode_sense(drive, cdb, 1, r); break;
	case 0xa0: report_luns(cdb, r); break;
	default: refuse(r, bad_opcode);
	}
}
