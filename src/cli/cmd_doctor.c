/* cmd_doctor.c: "polyvisor doctor": what this host offers and what follows from it. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"
#include "vmm/doctor.h"

struct printer {
	unsigned width;
	_Bool color;
};

/* Prints text in words from column `indent` on, never past the width. */
static void print_wrapped(const char *text, unsigned indent, unsigned width)
{
	unsigned column = indent;

	while (*text) {
		size_t len = strcspn(text, " ");
		if (column > indent && column + 1 + len > width) {
			printf("\n%*s", (int)indent, "");
			column = indent;
		} else if (column > indent) {
			putchar(' ');
			column++;
		}
		printf("%.*s", (int)len, text);
		column += (unsigned)len;
		text += len + (text[len] == ' ');
	}
	putchar('\n');
}

static void print_finding(void *opaque, const struct doctor_finding *f)
{
	static const char *const marks[] = {"ok", "note", "bad"};
	static const char *const colors[] = {"\033[32m", "\033[33m", "\033[31m"};
	const struct printer *p = opaque;

	printf("%s%-5s%s%-12s", p->color ? colors[f->verdict] : "", marks[f->verdict],
	       p->color ? "\033[0m" : "", f->topic);
	print_wrapped(f->found, 17, p->width);
	if (f->follows[0]) {
		printf("%17s", "");
		print_wrapped(f->follows, 17, p->width);
	}
}

static unsigned terminal_width(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || size.ws_col < 40)
		return 80;
	return MIN(size.ws_col, 110);
}

int cmd_doctor(int argc, char **argv)
{
	static const struct option options[] = {{"help", no_argument, NULL, 'h'},
						{NULL, 0, NULL, 0}};
	struct printer printer = {.width = terminal_width(), .color = isatty(STDOUT_FILENO) != 0};
	int code;

	opterr = 0;
	while ((code = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		if (code != 'h')
			return cli_usage_error("doctor", "unknown option '%s'", argv[optind - 1]);
		puts("usage: polyvisor doctor\n\n"
		     "Looks at this host and says, line by line, what it offers to virtual "
		     "machines and what\n"
		     "follows from it. Changes nothing. Exit status: 0, or 1 when no machine could "
		     "run here.");
		return STATUS_OK;
	}
	if (optind < argc)
		return cli_usage_error("doctor", "'%s': doctor takes no arguments", argv[optind]);
	return doctor_examine(print_finding, &printer) ? STATUS_HOST : STATUS_OK;
}
