/* fuzz_vsock.c: virtio socket packets that a guest makes up, beside a host's side that comes and
 * goes. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/vsock.h"

/* Input: steps of 8 bytes: operation or act of the host's, flags, ports, length, credit. What is
 * fetched never exceeds the room that was offered nor the credit that was given. */
static uint8_t data[VSOCK_BUF];

static int dial(const char *path, const char *line)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) ||
	    write(fd, line, strlen(line)) != (ssize_t)strlen(line)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void on_stop(struct loop_work *work)
{
	loop_stop(work->opaque, 0);
}

static void step(struct vsock *v, const uint8_t *in, const char *path, int host[4])
{
	struct vsock_packet p = {.src_port = in[2] & 3,
				 .dst_port = in[3] & 0x80 ? (1u << 30) + (in[3] & 3) : in[3] & 3,
				 .flags = in[1],
				 .buf_alloc = (uint32_t)in[5] << 8,
				 .fwd_cnt = (uint32_t)in[6] << (in[7] & 31),
				 .len = (uint32_t)in[4] << 7,
				 .type = in[1] & 0x80 ? 2 : 1,
				 .op = in[0] & 15};
	struct vsock_packet out;
	int *h = &host[in[2] & 3];

	if (in[0] & 0x80) {
		if (*h >= 0)
			close(*h);
		*h = dial(path, in[1] & 1 ? "CONNECT 1\nhello" : "CONNECT 2\n");
	} else if (*h >= 0 && in[0] & 0x40) {
		(void)!write(*h, data, p.len);
		(void)!read(*h, data, p.len);
	}
	p.len = MIN(p.len, (uint32_t)VSOCK_BUF);
	(void)!vsock_take(v, &p, data);
	for (unsigned i = 0; i < 4 && vsock_fetch(v, &out, data, 1 + in[7]); i++)
		if (out.len > 1u + in[7] || (out.len && out.op != VSOCK_RW))
			abort();
	vsock_rest(v, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	char dir[] = "/tmp/fuzz_vsock.XXXXXX", path[64];
	int host[4] = {-1, -1, -1, -1};
	struct loop_work stop = {.fn = on_stop};
	struct vsock *v;

	if (!mkdtemp(dir))
		abort();
	snprintf(path, sizeof(path), "%s/v", dir);
	if (loop_new((struct loop **)&stop.opaque, NULL) || vsock_new(&v, stop.opaque, path, NULL))
		abort();
	vsock_rest(v, 1);
	for (unsigned n = 0; size >= 8 && n < 200; n++, in += 8, size -= 8) {
		step(v, in, path, host);
		loop_post(stop.opaque, &stop);
		loop_run(stop.opaque);
	}
	vsock_free(v);
	loop_free(stop.opaque);
	for (unsigned i = 0; i < 4; i++)
		if (host[i] >= 0)
			close(host[i]);
	rmdir(dir);
	return 0;
}
