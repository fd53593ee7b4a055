/* board.c: guests that turn the board against the hypervisor: every port, every address, BARs over
 * everything, a serial line that never stops. */
#include "../g64/g64.h"

#define ECAM_PORT 0xcf8
#define HOLE	  0xd0000000ull

static uint64_t noise_state = 1234567890123456789;
static uint64_t noise(void)
{
	noise_state ^= noise_state << 13;
	noise_state ^= noise_state >> 7;
	return noise_state ^= noise_state << 17;
}

/* The serial line as `print` expects it. */
static void serial_again(void)
{
	outb(0x3fb, 3);
	outb(0x3f9, 0);
	outb(0x3fc, 3);
	outb(0x3fa, 7);
}

/* Ports that end or reset the machine, and say so. */
static bool ends(unsigned port, unsigned size)
{
	static const uint16_t all[] = {0x64, 0x92,  0xf4,  0xf5,  0xf6,
				       0xf7, 0x505, 0x604, 0x605, 0xcf9};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		for (unsigned b = 0; b < size; b++)
			if (((port + b) & 0xffff) == all[i])
				return 1;
	return 0;
}

static void write_port(unsigned port, unsigned size, uint32_t v)
{
	if (size == 1)
		outb((uint16_t)port, (uint8_t)v);
	else if (size == 2)
		outw((uint16_t)port, (uint16_t)v);
	else
		outl((uint16_t)port, v);
}

static unsigned step(void)
{
	return cmdline_has("slow") ? 61 : 1;
}

static void write_ports(bool spare)
{
	static const uint32_t values[] = {0, 0xffffffff, 0xa5a5a5a5, 0x01010101};

	memset((void *)0x1000, 0, 0x1000);
	for (unsigned size = 1; size <= 4; size *= 2)
		for (unsigned i = 0; i < 4; i++)
			for (unsigned port = 0; port < 0x10000;
			     port += spare || port > 0xd00 ? step() : 1) {
				if ((port >= 0x3f0 && port <= 0x3ff) || (spare && ends(port, size)))
					continue;
				write_port(port, size, i == 3 ? (uint32_t)noise() : values[i]);
			}
	for (unsigned port = 0x3f5; port < 0x400; port++)
		for (unsigned v = 0; v < 256; v++)
			outb((uint16_t)port, (uint8_t)v);
	serial_again();
}

TEST(hostile, writes_to_every_port)
{
	write_ports(1);
}

TEST(hostile, writes_to_every_port_that_ends_the_machine_too)
{
	write_ports(0);
}

TEST(hostile, reads_of_every_port)
{
	for (unsigned port = 0; port < 0x10000; port += step()) {
		inb((uint16_t)port);
		inw((uint16_t)port);
		inl((uint16_t)port);
	}
}

TEST(hostile, string_io_over_every_port)
{
	static uint8_t buffer[64];

	for (unsigned port = 0; port < 0x10000; port += step()) {
		uint64_t n = 9;
		void *p = buffer;

		__asm__ volatile("rep insb" : "+c"(n), "+D"(p) : "d"(port) : "memory");
	}
}

/* Reads and writes in every page from the end of RAM on. The first 4 GiB are mapped one to one. */
TEST(hostile, every_address)
{
	uint64_t last = 0x100000000ull, stride = cmdline_has("slow") ? 0x80000 + 0x1000 : 0x1000;

	for (uint64_t at = 0x4000000; at < last; at += stride) {
		uint64_t r = noise();
		volatile uint8_t *p = (volatile uint8_t *)at;

		(void)*(volatile uint32_t *)p;
		(void)p[r & 0xfff];
		/* What this program and its board stand on stays: the local APIC and PCI's setup.
		 */
		if (at >= 0xb0000000 && at < 0xc0000000)
			continue;
		if (at == 0xfee00000)
			continue;
		*(volatile uint64_t *)(p + (r >> 12 & 0xff8)) = r;
		*(volatile uint16_t *)(p + (r >> 24 & 0xffe)) = (uint16_t)r;
		p[r >> 36 & 0xfff] = (uint8_t)r;
	}
}

TEST(hostile, addresses_above_everything)
{
	for (unsigned bit = 32; bit < 52; bit++)
		for (unsigned i = 0; i < 8; i++) {
			uint64_t pa = 1ull << bit | (noise() & ((1ull << bit) - 1) & ~0xfffull);

			map(FREE_VA, i ? pa : 1ull << bit, PTE_P | PTE_W);
			CATCH((void)*(volatile uint64_t *)(FREE_VA + (noise() & 0xff8)));
			CATCH(*(volatile uint64_t *)(FREE_VA + (noise() & 0xff8)) = noise());
			CATCH((void)*(volatile uint64_t *)(FREE_VA + 0xffc));
		}
}

TEST(hostile, copies_over_devices)
{
	static const uint64_t at[] = {HOLE,	  0xfec00000, 0xfed00000,
				      0xb0000000, 0xa0000,    0xfffc0000};
	unsigned n = cmdline_has("slow") ? 256 : 0x10000;

	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		uint64_t c = n, s = at[i], d = 0x800000;

		__asm__ volatile("rep movsb" : "+c"(c), "+S"(s), "+D"(d) : : "memory");
		c = n / 8, s = 0x800000, d = at[i];
		if (at[i] != 0xb0000000)
			__asm__ volatile("rep movsq" : "+c"(c), "+S"(s), "+D"(d) : : "memory");
		c = n / 4, s = at[i], d = at[i] + 1;
		if (at[i] != 0xb0000000)
			__asm__ volatile("rep movsl" : "+c"(c), "+S"(s), "+D"(d) : : "memory");
	}
}

static uint32_t config_read(unsigned devfn, unsigned reg)
{
	outl(0xcf8, 0x80000000u | devfn << 8 | reg);
	return inl(0xcfc);
}
static void config_write(unsigned devfn, unsigned reg, uint32_t v)
{
	outl(0xcf8, 0x80000000u | devfn << 8 | reg);
	outl(0xcfc, v);
}

/* Every BAR over RAM, over the interrupt controllers, over itself and its neighbours. */
TEST(hostile, bars_over_everything)
{
	static const uint32_t places[] = {0,	      0x100000,	  0x3fff000,  0xfec00000,
					  0xfee00000, 0xfed00000, 0xb0000000, 0xfffff000,
					  0xffffffff, 0xcf8,	  0x3f8};

	for (unsigned devfn = 0; devfn < 256; devfn++) {
		if (config_read(devfn, 0) == 0xffffffff)
			continue;
		for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			for (unsigned reg = 0x10; reg <= 0x30; reg += 4)
				config_write(devfn, reg, places[i]);
			config_write(devfn, 4, 7);
			(void)*(volatile uint32_t *)0x100000;
			(void)*(volatile uint32_t *)0xfee00030;
			(void)*(volatile uint32_t *)0xfec00000;
			inl(0xcf8);
			config_write(devfn, 4, 0);
		}
	}
}

TEST(hostile, every_register_of_every_pci_device)
{
	for (unsigned devfn = 0; devfn < 256; devfn++) {
		if (config_read(devfn, 0) == 0xffffffff)
			continue;
		for (unsigned reg = 0; reg < 0x100; reg += 4)
			for (unsigned i = 0; i < 8; i++) {
				uint32_t old = config_read(devfn, reg);

				config_write(devfn, reg, i ? (uint32_t)noise() : 0xffffffff);
				config_write(devfn, reg, old);
			}
	}
	serial_again();
}

TEST(hostile, dma_of_the_firmware_device_to_anywhere)
{
	static const uint64_t to[] = {0, 0x3fff800, 0x4000000, HOLE, 0xfee00000, ~0ull - 64};
	static volatile uint32_t order[4] __attribute__((aligned(16)));

	for (unsigned n = 0; n < 2000; n++) {
		uint64_t r = noise(), where = to[r % 6];
		uint32_t control = (uint32_t)(r >> 8) & 0x1f, len = (uint32_t)(r >> 32);

		if (where < 0x3000000) /* not over this program */
			len &= 0xff;
		order[0] = __builtin_bswap32(control | (uint32_t)(r & 0x3f) << 16);
		order[1] = __builtin_bswap32(len);
		order[2] = __builtin_bswap32((uint32_t)(where >> 32));
		order[3] = __builtin_bswap32((uint32_t)where);
		outl(0x514, 0);
		outl(0x518, __builtin_bswap32(n & 7 ? (uint32_t)(uint64_t)order : (uint32_t)HOLE));
	}
}

static uint8_t chunk[65536];
TEST(hostile, serial_flood)
{
	unsigned times = cmdline_has("long") ? 1600 : 160;

	memset(chunk, 'x', sizeof(chunk));
	for (unsigned i = 0; i < times; i++) {
		const uint8_t *p = chunk;
		uint64_t n = sizeof(chunk);

		__asm__ volatile("rep outsb" : "+c"(n), "+S"(p) : "d"(0x3f8));
	}
}

/* With a look at the line's state before each byte, as a driver does. */
TEST(hostile, polite_serial_flood)
{
	for (unsigned i = 0; i < 200000; i++)
		print("%c", 'y');
}
