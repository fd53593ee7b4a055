/* control_request_test.c: the control protocol's requests, good and bad. */
#include "vmm/control_request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static json_t *cmd_echo(void *opaque, json_t *arguments, struct control_error *err)
{
	++*(int *)opaque;
	return json_incref(arguments);
}

static json_t *cmd_fail(void *opaque, json_t *arguments, struct control_error *err)
{
	return control_refuse(err, CONTROL_FAILED, "it did not work");
}

static const struct control_arg echo_args[] = {
    {"n", CONTROL_INTEGER, 0, -2, 9},
    {"flag", CONTROL_BOOLEAN},
    {"text", CONTROL_STRING, 1},
    {NULL},
};
static const struct control_command commands[] = {
    {"echo", "says what it was told", echo_args, cmd_echo},
    {"fail", "fails", NULL, cmd_fail},
};

/* The reply to a line, as compact text. */
static const char *ask(const char *line, size_t len, int *calls, _Bool *subscribe)
{
	static char text[4096];
	int dummy = 0;
	_Bool sub = 0;
	const struct control_table table = {commands, ARRAY_SIZE(commands), calls ? calls : &dummy};
	json_t *reply = control_answer(&table, line, len, subscribe ? subscribe : &sub);
	char *dump = json_dumps(reply, JSON_COMPACT);

	assert_non_null(dump);
	snprintf(text, sizeof(text), "%s", dump);
	free(dump);
	json_decref(reply);
	return text;
}

static void expect(const char *line, const char *part)
{
	const char *reply = ask(line, strlen(line), NULL, NULL);

	if (!strstr(reply, part))
		fail_msg("%s: no '%s' in %s", line, part, reply);
}

static void answers_with_the_id_of_the_request(void **state)
{
	int calls = 0;
	const char *line =
	    "{\"id\":7,\"command\":\"echo\",\"arguments\":{\"text\":\"a\",\"n\":-2}}";

	assert_string_equal(ask(line, strlen(line), &calls, NULL),
			    "{\"id\":7,\"result\":{\"text\":\"a\",\"n\":-2}}");
	assert_int_equal(calls, 1);
	expect("{\"id\":\"x\",\"command\":\"echo\",\"arguments\":{\"text\":\"\",\"flag\":true}}",
	       "{\"id\":\"x\",\"result\":");
	expect("{\"command\":\"fail\"}",
	       "{\"id\":null,\"error\":{\"code\":\"failed\",\"message\":\"it did not work\"}}");
}

static void refuses_wrong_arguments_without_running_the_command(void **state)
{
	static const char *const bad[] = {
	    "{}",
	    "{\"text\":1}",
	    "{\"text\":\"a\",\"n\":10}",
	    "{\"text\":\"a\",\"n\":-3}",
	    "{\"text\":\"a\",\"n\":1.0}",
	    "{\"text\":\"a\",\"flag\":1}",
	    "{\"text\":\"a\",\"more\":1}",
	};
	char line[200];
	int calls = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(line, sizeof(line), "{\"command\":\"echo\",\"arguments\":%s}", bad[i]);
		assert_non_null(
		    strstr(ask(line, strlen(line), &calls, NULL), "\"code\":\"bad-argument\""));
	}
	assert_int_equal(calls, 0);
}

static void refuses_what_is_no_request(void **state)
{
	expect("", "bad-json");
	expect("hello", "bad-json");
	expect("{\"command\":\"echo\"", "bad-json");
	expect("{\"command\":\"fail\",\"command\":\"fail\"}", "bad-json");
	expect("[]", "bad-request");
	expect("{}", "bad-request");
	expect("{\"command\":3}", "bad-request");
	expect("{\"id\":[1],\"command\":\"fail\"}", "bad-request");
	expect("{\"command\":\"fail\",\"arguments\":[]}", "bad-request");
	expect("{\"command\":\"fail\",\"extra\":1}", "no member 'extra'");
	expect("{\"command\":\"\xff\"}", "bad-json");
	assert_non_null(strstr(ask("{\"command\":\"fail\"}\0{}", 21, NULL, NULL), "bad-json"));
}

static void names_the_commands_when_one_is_unknown(void **state)
{
	expect("{\"id\":1,\"command\":\"balloon\"}",
	       "unknown command 'balloon'; there are: echo, fail, commands and events");
	expect("{\"id\":1,\"command\":\"a\\u0007\\n\"}", "unknown command 'a?");
}

static void lists_commands_and_subscribes(void **state)
{
	_Bool subscribe = 0;
	const char *line = "{\"command\":\"events\"}";

	expect("{\"command\":\"commands\"}", "\"arguments\":[\"n\",\"flag\",\"text\"]");
	ask(line, strlen(line), NULL, &subscribe);
	assert_true(subscribe);
	expect("{\"command\":\"events\",\"arguments\":{\"all\":true}}", "bad-argument");
}

static void survives_deep_nesting(void **state)
{
	char *line = malloc(CONTROL_LINE_MAX);

	memset(line, '[', CONTROL_LINE_MAX);
	assert_non_null(strstr(ask(line, CONTROL_LINE_MAX, NULL, NULL), "bad-json"));
	free(line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(answers_with_the_id_of_the_request),
	    cmocka_unit_test(refuses_wrong_arguments_without_running_the_command),
	    cmocka_unit_test(refuses_what_is_no_request),
	    cmocka_unit_test(names_the_commands_when_one_is_unknown),
	    cmocka_unit_test(lists_commands_and_subscribes),
	    cmocka_unit_test(survives_deep_nesting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
