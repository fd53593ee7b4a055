/* cli.h: what the commands share: exit statuses and options. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/util.h"

/* The process's exit status. A guest that uses the debug exit port, and a signal (128 + number),
 * choose others. */
enum cli_status {
	STATUS_OK = 0,	    /* the guest powered off, or the person quit */
	STATUS_HOST = 1,    /* something on the host: a file, memory, the engine */
	STATUS_USAGE = 2,   /* the command line */
	STATUS_PANIC = 3,   /* the guest's kernel panicked */
	STATUS_RESET = 4,   /* the guest asked for a reset and --no-reboot was given */
	STATUS_CRASHED = 5, /* the guest's CPU shut down (triple fault) */
};

struct command {
	const char *name;
	const char *summary; /* one line for the list of commands */
	int (*run)(int argc,
		   char **argv); /* argv[0] is the command's name; returns the exit status */
};

int cmd_run(int argc, char **argv);
int cmd_ctl(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_doctor(int argc, char **argv);

/* One sentence on stderr and where to look next; returns STATUS_USAGE. */
int cli_usage_error(const char *command, const char *fmt, ...) PRINTF(2, 3);

/* The entry of a list that looks most like what was typed, or NULL when nothing is close. */
const char *cli_nearest(const char *typed, const char *const *names, unsigned count);

#endif
