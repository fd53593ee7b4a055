/* fuzz_loader.c: any bytes as a kernel, for every protocol, and as an initrd, in a small VM. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "machine/loader.h"

#define RAM (UINT64_C(8) << 20)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One VM for all runs: a new one for each would measure mmap. */
static struct gmem *mem;
static struct board_layout layout;
static int kernel_fd, initrd_fd;
static char kernel_path[32], initrd_path[32];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct gmem_config cfg = {.ram_bytes = RAM, .low_limit = BOARD_LOW_LIMIT};

	log_set_level(LOG_ERROR);
	kernel_fd = memfd_create("kernel", 0);
	initrd_fd = memfd_create("initrd", 0);
	snprintf(kernel_path, sizeof(kernel_path), "/proc/self/fd/%d", kernel_fd);
	snprintf(initrd_path, sizeof(initrd_path), "/proc/self/fd/%d", initrd_fd);
	if (board_layout_init(&layout, RAM, 2, 40, NULL) || gmem_new(&mem, &cfg, NULL))
		abort();
	return 0;
}

static void fill(int fd, const uint8_t *data, size_t size)
{
	if (ftruncate(fd, 0) || pwrite(fd, data, size, 0) != (ssize_t)size)
		abort();
}

/* The first byte chooses protocol and unpacking and whether the last bytes are an initrd. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	uint8_t choice = *data++;
	size--;
	size_t initrd = choice & 0x80 ? size / 8 : 0;
	const char *initrds[2] = {initrd_path, initrd_path};
	struct boot_config cfg = {
	    .kernel = kernel_path,
	    .initrds = initrds,
	    .initrd_count = initrd ? 1 + (choice >> 6 & 1) : 0,
	    .cmdline = choice & 0x20 ? "console=ttyS0 some=thing" : "",
	    .protocol = (enum boot_protocol)((choice & 7) % 5),
	    .unpack = choice & 8 ? UNPACK_GUEST : UNPACK_HOST,
	};
	struct boot_files *files = NULL;
	struct x86_state state, before;
	struct error err = {0};
	char what[128];

	fill(kernel_fd, data, size - initrd);
	fill(initrd_fd, data + size - initrd, initrd);
	if (boot_open(&files, &cfg, &err)) {
		if (!err.text[0])
			abort(); /* every refusal says why */
		return 0;
	}
	memset(&before, 0, sizeof(before));
	x86_state_reset(&before, 1);
	boot_state_common(&layout, &before);
	state = before;
	if (boot_load(files, mem, &layout, 0xf0000, &state, what, &err)) {
		if (!err.text[0] || memcmp(&state, &before, sizeof(state)))
			abort();
	} else if (x86_state_check(&state, &err)) {
		abort();
	}
	boot_close(files);
	return 0;
}
