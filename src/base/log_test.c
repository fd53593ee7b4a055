/* log_test.c: tests of messages and trace points, read back from a redirected stderr. */
#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/trace.h"

struct capture {
	int saved, pipe[2];
};

static struct capture capture_start(void)
{
	struct capture c;

	assert_int_equal(pipe(c.pipe), 0);
	c.saved = dup(STDERR_FILENO);
	dup2(c.pipe[1], STDERR_FILENO);
	return c;
}

static char *capture_end(struct capture c)
{
	char *text = calloc(1, 8192);
	ssize_t n;

	dup2(c.saved, STDERR_FILENO);
	close(c.saved);
	close(c.pipe[1]);
	n = read(c.pipe[0], text, 8191);
	assert_true(n >= 0);
	close(c.pipe[0]);
	return text;
}

static void drops_what_is_above_the_level(void **state)
{
	struct capture c = capture_start();
	char *text;

	errno = 77;
	log_error("bad %d", 1);
	log_info("not shown");
	log_set_level(LOG_DEBUG);
	log_debug("shown");
	log_set_level(LOG_WARN);
	assert_int_equal(errno, 77);
	text = capture_end(c);
	assert_string_equal(text, "polyvisor: error: bad 1\npolyvisor: debug: shown\n");
	free(text);
}

static void a_guest_is_heard_eight_times(void **state)
{
	struct capture c = capture_start();
	unsigned lines = 0;
	char *text;

	for (int i = 0; i < 1000; i++)
		log_guest("register %d", i);
	text = capture_end(c);
	for (char *p = text; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, LOG_GUEST_BURST);
	assert_non_null(strstr(text, "silent from now on): register 7\n"));
	free(text);
}

static void lines_end_in_crlf_in_raw_mode_and_are_cut(void **state)
{
	char longer[3000];
	struct capture c;
	char *text;

	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	c = capture_start();
	log_set_crlf(1);
	log_error("%s", longer);
	log_set_crlf(0);
	text = capture_end(c);
	assert_true(strlen(text) <= 1024);
	assert_string_equal(text + strlen(text) - 3, "x\r\n");
	free(text);
}

static void traces_only_the_topics_asked_for(void **state)
{
	struct capture c;
	char *text;

	assert_int_equal(trace_parse("irq,pci", &trace_topics), 0);
	assert_int_equal(trace_topics, TRACE_IRQ | TRACE_PCI);
	c = capture_start();
	trace(TRACE_IRQ, "line %d", 3);
	trace(TRACE_IO, "port");
	trace_topics = 0;
	trace(TRACE_IRQ, "line %d", 4);
	text = capture_end(c);
	assert_string_equal(text, "polyvisor: irq: line 3\n");
	free(text);
}

static void refuses_unknown_topics_whole(void **state)
{
	unsigned topics = 42;

	assert_int_equal(trace_parse("io,nonsense", &topics), -EINVAL);
	assert_int_equal(trace_parse("", &topics), -EINVAL);
	assert_int_equal(trace_parse("io,", &topics), -EINVAL);
	assert_int_equal(topics, 42);
	assert_int_equal(trace_parse("all", &topics), 0);
	assert_true(topics & TRACE_VM && topics & TRACE_IO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(drops_what_is_above_the_level),
	    cmocka_unit_test(a_guest_is_heard_eight_times),
	    cmocka_unit_test(lines_end_in_crlf_in_raw_mode_and_are_cut),
	    cmocka_unit_test(traces_only_the_topics_asked_for),
	    cmocka_unit_test(refuses_unknown_topics_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
