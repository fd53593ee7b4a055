/* smbios.c: SMBIOS 3.0 structures that describe the VM (DSP0134 3.0). */
#include "machine/firmware.h"

#include <stdio.h>
#include <string.h>

#include "base/le.h"
#include "machine/acpi_internal.h"

#define MAKER "Polyvisor"

/* Handles: type in the high byte. */
#define HANDLE(type, n) (uint16_t)((type) << 8 | (n))
#define NO_HANDLE	0xfffe

struct smbios {
	struct wbuf *out;
	size_t start, strings;
	unsigned string_count;
	char text[256]; /* strings of the structure at hand, each with its end */
	unsigned largest, count;
};

static void structure_begin(struct smbios *s, uint8_t type, uint8_t len, uint16_t handle)
{
	s->start = s->out->len;
	s->strings = 0;
	s->string_count = 0;
	wbuf_u8(s->out, type);
	wbuf_u8(s->out, len);
	wbuf_u16(s->out, handle);
}

/* A string's number, to be stored where the structure refers to it; 0 for none. */
static void put_string(struct smbios *s, const char *text)
{
	size_t len = text ? strlen(text) : 0;

	len = MIN(len, (size_t)64); /* what SMBIOS 2.x readers expect at most */
	if (!len || s->strings + len + 1 > sizeof(s->text)) {
		wbuf_u8(s->out, 0);
		return;
	}
	memcpy(s->text + s->strings, text, len);
	s->strings += len;
	s->text[s->strings++] = 0;
	wbuf_u8(s->out, (uint8_t)++s->string_count);
}

static void structure_end(struct smbios *s)
{
	wbuf_put(s->out, s->text, s->strings);
	if (!s->string_count)
		wbuf_u8(s->out, 0);
	wbuf_u8(s->out, 0);
	s->largest = MAX(s->largest, (unsigned)(s->out->len - s->start));
	s->count++;
}

static void bios_information(struct smbios *s)
{
	structure_begin(s, 0, 0x1a, HANDLE(0, 0));
	put_string(s, MAKER);
	put_string(s, "1.0");
	wbuf_u16(s->out, BOARD_TABLES >> 4);
	put_string(s, "01/01/2025");
	wbuf_u8(s->out, 1);	      /* (n + 1) * 64 KiB */
	wbuf_u64(s->out, 0x08);	      /* characteristics are not given */
	wbuf_u8(s->out, 0x01);	      /* ACPI */
	wbuf_u8(s->out, 0x14);	      /* targeted content, a virtual machine */
	wbuf_u32(s->out, 0xffff0001); /* release 1.0; no embedded controller */
	structure_end(s);
}

static void system_information(struct smbios *s, const struct firmware_ident *id)
{
	const uint8_t *u = id->uuid;
	/* The first three fields are little-endian (DSP0134 7.2.1). */
	const uint8_t uuid[16] = {u[3], u[2], u[1],  u[0],  u[5],  u[4],  u[7],	 u[6],
				  u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]};

	structure_begin(s, 1, 0x1b, HANDLE(1, 0));
	put_string(s, MAKER);
	put_string(s, "Virtual Machine");
	put_string(s, "1.0");
	put_string(s, id->name);
	wbuf_put(s->out, uuid, sizeof(uuid));
	wbuf_u8(s->out, 6); /* woken by the power switch */
	put_string(s, NULL);
	put_string(s, NULL);
	structure_end(s);
}

static void enclosure(struct smbios *s)
{
	structure_begin(s, 3, 0x16, HANDLE(3, 0));
	put_string(s, MAKER);
	wbuf_u8(s->out, 1); /* other */
	put_string(s, "1.0");
	put_string(s, NULL);
	put_string(s, NULL);
	wbuf_u32(s->out, 0x02030303); /* boot-up, power and thermal state safe; security unknown */
	wbuf_u32(s->out, 0);
	wbuf_u32(s->out, 0); /* height, power cords, contained elements (none) and their size */
	put_string(s, NULL);
	structure_end(s);
}

/* One package with a core for every CPU. */
static void processor(struct smbios *s, const struct board_layout *l,
		      const struct firmware_ident *id)
{
	uint8_t cores = (uint8_t)MIN(l->ncpus, 255u);

	structure_begin(s, 4, 0x30, HANDLE(4, 0));
	put_string(s, "CPU 0");
	wbuf_u8(s->out, 3); /* central processor */
	wbuf_u8(s->out, 1); /* family: other */
	put_string(s, MAKER);
	wbuf_u32(s->out, id->cpu_signature);
	wbuf_u32(s->out, id->cpu_features);
	put_string(s, id->cpu_brand);
	wbuf_u8(s->out, 0);
	wbuf_u16(s->out, 0);
	wbuf_u16(s->out, (uint16_t)MIN(id->cpu_mhz, 0xffffu));
	wbuf_u16(s->out, (uint16_t)MIN(id->cpu_mhz, 0xffffu));
	wbuf_u8(s->out, 0x41); /* populated, enabled */
	wbuf_u8(s->out, 1);    /* upgrade: other */
	for (unsigned i = 0; i < 3; i++)
		wbuf_u16(s->out, 0xffff); /* caches are not described */
	put_string(s, NULL);
	put_string(s, NULL);
	put_string(s, NULL);
	wbuf_u8(s->out, cores);
	wbuf_u8(s->out, cores);
	wbuf_u8(s->out, cores);
	wbuf_u16(s->out, 0x04); /* 64-bit */
	wbuf_u16(s->out, 1);
	wbuf_u16(s->out, (uint16_t)l->ncpus);
	wbuf_u16(s->out, (uint16_t)l->ncpus);
	wbuf_u16(s->out, (uint16_t)l->ncpus);
	structure_end(s);
}

static void memory_array(struct smbios *s, const struct board_layout *l)
{
	uint64_t kib = l->ram_bytes >> 10;
	_Bool wide = kib >= 0x80000000u;

	structure_begin(s, 16, 0x17, HANDLE(16, 0));
	wbuf_u8(s->out, 1); /* location: other */
	wbuf_u8(s->out, 3); /* system memory */
	wbuf_u8(s->out, 3); /* no error correction */
	wbuf_u32(s->out, wide ? 0x80000000u : (uint32_t)kib);
	wbuf_u16(s->out, NO_HANDLE);
	wbuf_u16(s->out, 1);
	wbuf_u64(s->out, wide ? l->ram_bytes : 0);
	structure_end(s);
}

static void memory_device(struct smbios *s, const struct board_layout *l)
{
	uint64_t mib = l->ram_bytes >> 20;
	_Bool wide = mib >= 0x7fff;

	structure_begin(s, 17, 0x28, HANDLE(17, 0));
	wbuf_u16(s->out, HANDLE(16, 0));
	wbuf_u16(s->out, NO_HANDLE);
	wbuf_u16(s->out, 0xffff); /* widths unknown */
	wbuf_u16(s->out, 0xffff);
	wbuf_u16(s->out, wide ? 0x7fff : (uint16_t)mib);
	wbuf_u8(s->out, 9); /* DIMM */
	wbuf_u8(s->out, 0);
	put_string(s, "DIMM 0");
	put_string(s, NULL);
	wbuf_u8(s->out, 7);	  /* RAM */
	wbuf_u16(s->out, 1 << 1); /* type detail: other */
	wbuf_u16(s->out, 0);
	put_string(s, MAKER);
	put_string(s, NULL);
	put_string(s, NULL);
	put_string(s, NULL);
	wbuf_u8(s->out, 0);
	wbuf_u32(s->out, wide ? (uint32_t)mib : 0);
	wbuf_u16(s->out, 0);
	wbuf_u16(s->out, 0); /* voltages unknown */
	wbuf_u16(s->out, 0);
	wbuf_u16(s->out, 0);
	structure_end(s);
}

static void mapped_address(struct smbios *s, unsigned n, uint64_t base, uint64_t size)
{
	uint64_t end = base + size;
	_Bool wide = end > UINT64_C(0x3ffffffffff);

	if (!size)
		return;
	structure_begin(s, 19, 0x1f, HANDLE(19, n));
	wbuf_u32(s->out, wide ? UINT32_MAX : (uint32_t)(base >> 10));
	wbuf_u32(s->out, wide ? UINT32_MAX : (uint32_t)((end >> 10) - 1));
	wbuf_u16(s->out, HANDLE(16, 0));
	wbuf_u8(s->out, 1);
	wbuf_u64(s->out, wide ? base : 0);
	wbuf_u64(s->out, wide ? end - 1 : 0);
	structure_end(s);
}

void smbios_build(const struct board_layout *layout, const struct firmware_ident *ident,
		  struct wbuf *out, unsigned *largest, unsigned *count)
{
	struct smbios s = {.out = out};

	bios_information(&s);
	system_information(&s, ident);
	enclosure(&s);
	processor(&s, layout, ident);
	memory_array(&s, layout);
	memory_device(&s, layout);
	mapped_address(&s, 0, 0, layout->ram_low_end);
	mapped_address(&s, 1, layout->ram_high_base, layout->ram_high_size);

	structure_begin(&s, 32, 0x0b, HANDLE(32, 0));
	wbuf_zero(out, 7); /* reserved; status: no errors */
	structure_end(&s);
	structure_begin(&s, 127, 4, HANDLE(127, 0));
	structure_end(&s);
	*largest = s.largest;
	*count = s.count;
}

/* DSP0134 5.2.1 */
void smbios_build_entry2(uint32_t table, unsigned len, unsigned largest, unsigned count,
			 uint8_t out[SMBIOS_ENTRY2_SIZE])
{
	memset(out, 0, SMBIOS_ENTRY2_SIZE);
	memcpy(out, "_SM_", 4);
	out[5] = SMBIOS_ENTRY2_SIZE;
	out[6] = 2;
	out[7] = 8;
	store_le16(out + 8, (uint16_t)largest);
	memcpy(out + 16, "_DMI_", 5);
	store_le16(out + 22, (uint16_t)len);
	store_le32(out + 24, table);
	store_le16(out + 28, (uint16_t)count);
	out[30] = 0x28;
	out[21] = table_checksum(out + 16, 15);
	out[4] = table_checksum(out, SMBIOS_ENTRY2_SIZE);
}

/* DSP0134 5.2.2 */
void smbios_build_entry3(uint64_t table, unsigned len, uint8_t out[SMBIOS_ENTRY3_SIZE])
{
	memset(out, 0, SMBIOS_ENTRY3_SIZE);
	memcpy(out, "_SM3_", 5);
	out[6] = SMBIOS_ENTRY3_SIZE;
	out[7] = 3;
	out[8] = 0;
	out[10] = 1;
	store_le32(out + 12, len);
	store_le64(out + 16, table);
	out[5] = table_checksum(out, SMBIOS_ENTRY3_SIZE);
}
