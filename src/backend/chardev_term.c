/* chardev_term.c: the person's terminal: raw mode, and the menu behind Ctrl-A. */
#include "backend/chardev.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "backend/chardev_impl.h"
#include "base/log.h"

#define KEY_MENU 0x01 /* Ctrl-A */

/*
 * The terminal outlives us, so it is put back on every way out: chardev_free, exit, and the signals
 * that end a process. Handlers and atexit functions have nothing to hold on to but data at file
 * scope; hence this one exception. `fd` is written last on the way in and taken atomically on the
 * way out, so that of several that restore only one does.
 *
 * A signal that somebody else handles already stays theirs; whoever handles SIGSEGV and its like
 * later on passes on what is not for them to the handler that was there before (this one).
 */
static struct {
	_Atomic int fd; /* the raw terminal, or -1 */
	_Atomic int winch_fd;
	atomic_bool hooked; /* atexit and the handlers are in place */
	struct termios cooked, raw;
} tty = {.fd = -1, .winch_fd = -1};

struct term {
	struct chardev *ch;
	struct loop *loop;
	struct term_config cfg;
	struct loop_fd winch;
	_Bool menu; /* the key before was Ctrl-A */
};

static const char help_text[] = "\r\n"
				"Ctrl-A x   quit: the guest's power is cut\r\n"
				"Ctrl-A r   reset the guest\r\n"
				"Ctrl-A p   pause, and resume\r\n"
				"Ctrl-A s   one line of statistics\r\n"
				"Ctrl-A b   send a break\r\n"
				"Ctrl-A o   press the guest's power button\r\n"
				"Ctrl-A a   send Ctrl-A itself\r\n"
				"Ctrl-A h   this help\r\n";

void chardev_term_restore(void)
{
	int saved = errno, fd = atomic_exchange(&tty.fd, -1);

	if (fd >= 0) {
		tcsetattr(fd, TCSANOW, &tty.cooked);
		log_set_crlf(0);
	}
	errno = saved;
}

/* Puts the terminal back and lets the signal do what it would have done. */
static void on_fatal(int sig)
{
	chardev_term_restore();
	signal(sig, SIG_DFL);
	raise(sig);
}

/* Stopped by job control (not by Ctrl-Z, which is the guest's): the shell gets its terminal back
 * meanwhile. */
static void on_stop(int sig)
{
	int saved = errno, fd = atomic_load(&tty.fd);

	if (fd >= 0)
		tcsetattr(fd, TCSANOW, &tty.cooked);
	kill(getpid(), SIGSTOP);
	if (fd >= 0)
		tcsetattr(fd, TCSANOW, &tty.raw);
	errno = saved;
}

static void on_winch(int sig)
{
	int saved = errno, fd = atomic_load(&tty.winch_fd);
	uint64_t one = 1;

	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0) {
		/* full: a wake-up is under way */
	}
	errno = saved;
}

static void hook_signal(int sig, void (*fn)(int), int flags)
{
	struct sigaction act = {.sa_handler = fn, .sa_flags = flags}, old;

	sigemptyset(&act.sa_mask);
	if (!sigaction(sig, NULL, &old) && !(old.sa_flags & SA_SIGINFO) &&
	    old.sa_handler == SIG_DFL)
		sigaction(sig, &act, NULL);
}

static void hook_exits(void)
{
	static const int fatal[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGABRT, SIGSEGV,  SIGBUS,
				    SIGILL,  SIGFPE,  SIGSYS,  SIGTRAP, SIGXCPU, SIGXFSZ,  SIGALRM,
				    SIGUSR1, SIGUSR2, SIGPIPE, SIGPROF, SIGPOLL, SIGVTALRM};

	if (atomic_exchange(&tty.hooked, 1))
		return;
	atexit(chardev_term_restore);
	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
		hook_signal(fatal[i], on_fatal, 0);
	hook_signal(SIGTSTP, on_stop, SA_RESTART);
	hook_signal(SIGWINCH, on_winch, SA_RESTART);
}

static int raw_enter(int fd, struct error *err)
{
	if (atomic_load(&tty.fd) >= 0)
		return error_set(err, -EBUSY, "the terminal is in use as a console already");
	if (tcgetattr(fd, &tty.cooked))
		return error_set(err, -errno, "cannot read the terminal's mode: %s",
				 strerror(errno));
	tty.raw = tty.cooked;
	cfmakeraw(&tty.raw);
	tty.raw.c_cc[VMIN] = 1;
	tty.raw.c_cc[VTIME] = 0;
	hook_exits();
	atomic_store(&tty.fd, fd); /* before the change: a signal between the two restores */
	if (tcsetattr(fd, TCSANOW, &tty.raw)) {
		int rc = error_set(err, -errno, "cannot put the terminal into raw mode: %s",
				   strerror(errno));

		atomic_store(&tty.fd, -1);
		return rc;
	}
	log_set_crlf(1);
	return 0;
}

static void term_size(struct term *term)
{
	struct winsize ws;

	if (!term->cfg.resized)
		return;
	if (ioctl(term->cfg.out_fd, TIOCGWINSZ, &ws) && ioctl(term->cfg.in_fd, TIOCGWINSZ, &ws))
		return;
	if (ws.ws_col && ws.ws_row)
		term->cfg.resized(term->cfg.opaque, ws.ws_col, ws.ws_row);
}

static void winch_ready(struct loop_fd *lfd, uint32_t events)
{
	uint64_t count;

	if (read(lfd->fd, &count, sizeof(count)) == sizeof(count))
		term_size(lfd->opaque);
}

/* The key after Ctrl-A. True when the guest gets a Ctrl-A. */
static _Bool menu_key(struct term *term, uint8_t key)
{
	if (key == 'a' || key == KEY_MENU)
		return 1;
	if (key == 'h' || key == '?')
		chardev_write(term->ch, (const uint8_t *)help_text, sizeof(help_text) - 1);
	else if (term->cfg.command)
		term->cfg.command(term->cfg.opaque, (char)key);
	return 0;
}

static size_t term_filter(void *opaque, uint8_t *data, size_t len)
{
	struct term *term = opaque;
	size_t kept = 0;

	for (size_t i = 0; i < len; i++) {
		if (term->menu) {
			term->menu = 0;
			if (menu_key(term, data[i]))
				data[kept++] = KEY_MENU;
		} else if (data[i] == KEY_MENU) {
			term->menu = 1;
		} else {
			data[kept++] = data[i];
		}
	}
	return kept;
}

static void term_cleanup(void *opaque)
{
	struct term *term = opaque;

	atomic_store(&tty.winch_fd, -1);
	if (term->winch.fd >= 0) {
		loop_fd_del(term->loop, &term->winch);
		close(term->winch.fd);
	}
	chardev_term_restore();
	free(term);
}

/* A window's size changes by a signal, which the loop hears of through an eventfd that starts
 * ready, so that the first size is told as well. */
static int term_winch(struct term *term, struct error *err)
{
	int rc;

	term->winch = (struct loop_fd){.fn = winch_ready, .opaque = term};
	term->winch.fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	if (term->winch.fd < 0)
		return error_set(err, -errno, "cannot watch the terminal's size: %s",
				 strerror(errno));
	rc = loop_fd_add(term->loop, &term->winch, EPOLLIN);
	if (rc)
		return error_set(err, rc, "cannot watch the terminal's size: %s", strerror(-rc));
	atomic_store(&tty.winch_fd, term->winch.fd);
	return 0;
}

int chardev_term_new(struct chardev **out, struct loop *loop, const struct term_config *cfg,
		     struct error *err)
{
	struct term *term;
	int rc = chardev_fd_new(out, loop, cfg->in_fd, cfg->out_fd, err);

	/* A pipe or a file has neither modes nor a person who would want a menu. */
	if (rc || cfg->in_fd < 0 || !isatty(cfg->in_fd))
		return rc;
	term = calloc(1, sizeof(*term));
	if (!term) {
		chardev_free(*out);
		return error_set(err, -ENOMEM, "out of memory for the terminal");
	}
	term->ch = *out;
	term->loop = loop;
	term->cfg = *cfg;
	term->winch.fd = -1;
	rc = raw_enter(cfg->in_fd, err);
	if (rc) {
		free(term);
		chardev_free(*out);
		return rc;
	}
	chardev_fd_set_cleanup(*out, term_cleanup, term);
	chardev_fd_set_filter(*out, term_filter, term);
	rc = term_winch(term, err);
	if (rc)
		chardev_free(*out);
	return rc;
}
