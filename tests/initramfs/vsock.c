/* vsock.c: the guest's side of the virtio socket test.
 *
 *   vsock echo PORT COUNT     listens, and sends COUNT connections back what they send
 *   vsock send PORT BYTES     connects to the host, sends a pattern, and compares what comes back
 */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned char buf[40000];

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int all_sent(int fd, const unsigned char *p, size_t n)
{
	while (n) {
		ssize_t r = write(fd, p, n);

		if (r <= 0)
			return 0;
		p += r;
		n -= (size_t)r;
	}
	return 1;
}

static int echo(unsigned port, int count)
{
	struct sockaddr_vm a = {
	    .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
	int l = socket(AF_VSOCK, SOCK_STREAM, 0), fd;
	ssize_t n;

	if (l < 0 || bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 8))
		return fail("listen");
	puts("vsock: listening");
	fflush(stdout);
	while (count-- > 0) {
		fd = accept(l, NULL, NULL);
		if (fd < 0)
			return fail("accept");
		while ((n = read(fd, buf, sizeof(buf))) > 0)
			if (!all_sent(fd, buf, (size_t)n))
				break;
		close(fd);
	}
	return 0;
}

static int pattern(long at)
{
	return (int)(at * 7 + at / 251) & 0xff;
}

static int send_pattern(unsigned port, long bytes)
{
	struct sockaddr_vm a = {
	    .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	long at = 0, back = 0;
	ssize_t n;

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fail("connect");
	if (!fork()) { /* both directions at a time */
		while (at < bytes) {
			size_t len = 0;

			while (len < sizeof(buf) && at < bytes)
				buf[len++] = (unsigned char)pattern(at++);
			if (!all_sent(fd, buf, len))
				_exit(1);
		}
		shutdown(fd, SHUT_WR);
		_exit(0);
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			if (buf[i] != pattern(back++))
				return fail("another byte");
	printf("vsock: %ld bytes came back\n", back);
	return back != bytes;
}

int main(int argc, char **argv)
{
	unsigned port = argc == 4 ? (unsigned)atoi(argv[2]) : 0;

	if (argc == 4 && !strcmp(argv[1], "echo"))
		return echo(port, atoi(argv[3]));
	if (argc == 4 && !strcmp(argv[1], "send"))
		return send_pattern(port, atol(argv[3]));
	return 2;
}
