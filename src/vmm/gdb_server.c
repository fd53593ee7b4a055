/* gdb_server.c: where a debugger connects. */
#include "vmm/gdb_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/unix_socket.h"

struct gdb_server {
	struct gdb_server_config cfg;
	struct unix_listener listener; /* fd -1 when it is a port */
	int port_fd;
	struct loop_fd listen_lfd, lfd; /* lfd: the debugger's connection */
	struct gdb_session *session;	/* NULL: nobody is connected */
};

/* The port number in tcp:PORT or :PORT, 0 for unix:PATH, or a negative errno with a sentence. */
static int parse_where(const char *where, struct error *err)
{
	const char *digits = !strncmp(where, "tcp:", 4) ? where + 4 : where + 1;
	char *end;
	unsigned long port;

	if (!strncmp(where, "unix:", 5) && where[5])
		return 0;
	if (where[0] != ':' && strncmp(where, "tcp:", 4))
		return error_set(err, -EINVAL, "--gdb '%s' is not unix:PATH, tcp:PORT or :PORT",
				 where);
	port = strtoul(digits, &end, 10);
	if (*digits < '0' || *digits > '9' || *end || port < 1 || port > 65535)
		return error_set(err, -EINVAL, "--gdb '%s': '%s' is not a port from 1 to 65535",
				 where, digits);
	return (int)port;
}

int gdb_server_check(const char *where, struct error *err)
{
	int rc = parse_where(where, err);

	return rc < 0 ? rc : 0;
}

static int listen_port(struct gdb_server *server, uint16_t port, struct error *err)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server->port_fd = fd;
	if (fd < 0)
		return error_set(err, -errno, "cannot make a socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 1))
		return error_set(err, -errno, "cannot listen for gdb at port %u of this host: %s",
				 port, strerror(errno));
	return 0;
}

static void connection_close(struct gdb_server *server)
{
	loop_fd_del(server->cfg.loop, &server->lfd);
	close(server->lfd.fd);
	gdb_session_free(server->session);
	server->session = NULL;
}

static void connection_lost(struct gdb_server *server)
{
	_Bool done = gdb_session_done(server->session);

	connection_close(server);
	if (!done)
		server->cfg.lost(server->cfg.opaque);
}

/* Sends what there is. False: the connection is broken, or over. */
static _Bool connection_write(struct gdb_server *server)
{
	struct wbuf *out = gdb_session_output(server->session);
	ssize_t n;

	if (out->failed)
		return 0;
	n = out->len ? send(server->lfd.fd, out->data, out->len, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return 0;
	if (n > 0) {
		out->len -= (size_t)n;
		memmove(out->data, out->data + n, out->len);
	}
	return out->len || !gdb_session_done(server->session);
}

/* A debugger that does not take its answers gets no new ones. */
static _Bool connection_watch(struct gdb_server *server)
{
	uint32_t events = gdb_session_output(server->session)->len ? EPOLLOUT : EPOLLIN;

	return !loop_fd_mod(server->cfg.loop, &server->lfd, events);
}

static void on_connection(struct loop_fd *lfd, uint32_t events)
{
	struct gdb_server *server = lfd->opaque;
	uint8_t data[4096];
	ssize_t n;

	if (events & EPOLLIN) {
		n = recv(lfd->fd, data, sizeof(data), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			connection_lost(server);
			return;
		}
		if (n > 0)
			gdb_session_input(server->session, data, (size_t)n);
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		connection_lost(server);
		return;
	}
	gdb_server_flush(server);
}

void gdb_server_flush(struct gdb_server *server)
{
	if (server->session && (!connection_write(server) || !connection_watch(server)))
		connection_lost(server);
}

static int accept_one(struct gdb_server *server)
{
	int one = 1, fd;

	if (server->port_fd < 0)
		return unix_accept(&server->listener);
	fd = accept4(server->port_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void on_connect(struct loop_fd *lfd, uint32_t events)
{
	struct gdb_server *server = lfd->opaque;
	int fd = accept_one(server);

	if (unix_accept_later(fd))
		loop_fd_rest(server->cfg.loop, lfd, UNIX_ACCEPT_REST_MS);
	if (fd < 0)
		return;
	if (server->session) {
		log_warn("a second debugger was turned away");
		close(fd);
		return;
	}
	server->session = gdb_session_new(&server->cfg.target);
	server->lfd = (struct loop_fd){.fd = fd, .fn = on_connection, .opaque = server};
	if (!server->session || loop_fd_add(server->cfg.loop, &server->lfd, EPOLLIN)) {
		gdb_session_free(server->session);
		server->session = NULL;
		close(fd);
		return;
	}
	server->cfg.attached(server->cfg.opaque);
}

int gdb_server_new(struct gdb_server **out, const struct gdb_server_config *cfg, struct error *err)
{
	struct gdb_server *server;
	int port = parse_where(cfg->where, err), rc;

	if (port < 0)
		return port;
	server = calloc(1, sizeof(*server));
	if (!server)
		return error_set(err, -ENOMEM, "out of memory");
	server->cfg = *cfg;
	server->port_fd = server->listener.fd = -1;
	rc = port ? listen_port(server, (uint16_t)port, err)
		  : unix_listen(&server->listener, cfg->where + 5, err);
	server->listen_lfd = (struct loop_fd){
	    .fd = port ? server->port_fd : server->listener.fd, .fn = on_connect, .opaque = server};
	if (!rc && (rc = loop_fd_add(cfg->loop, &server->listen_lfd, EPOLLIN)))
		error_set(err, rc, "cannot watch the debugger's socket: %s", strerror(-rc));
	if (rc) {
		gdb_server_free(server);
		return rc;
	}
	*out = server;
	return 0;
}

void gdb_server_free(struct gdb_server *server)
{
	if (!server)
		return;
	if (server->session)
		connection_close(server);
	loop_fd_del(server->cfg.loop, &server->listen_lfd);
	unix_listener_close(&server->listener);
	if (server->port_fd >= 0)
		close(server->port_fd);
	free(server);
}

struct gdb_session *gdb_server_session(struct gdb_server *server)
{
	return server->session;
}
