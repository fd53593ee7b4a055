/* fw_cfg_test.c: tests of the firmware configuration device. */
#include "dev/pc/fw_cfg.h"
#include "bus/testing.h"
#include <errno.h>
#include <stdlib.h>

#define PORT	0x510
#define DESC	0x1000
#define BUFFER	0x2000
#define READ	2
#define SKIP	4
#define SELECT	8
#define WRITE	16
#define BE32(v) (uint8_t)((v) >> 24), (uint8_t)((v) >> 16), (uint8_t)((v) >> 8), (uint8_t)(v)

struct fixture {
	struct bench b;
	struct device *dev;
};

static void setup(struct fixture *f)
{
	bench_init(&f->b);
	const struct fw_cfg_config cfg = {f->b.ports, PORT, f->b.mem};
	assert_int_equal(fw_cfg_new(&f->dev, &cfg, NULL), 0);
	assert_int_equal(fw_cfg_u16(f->dev, FW_CFG_NB_CPUS, 3, NULL), 0);
	assert_int_equal(fw_cfg_u64(f->dev, FW_CFG_RAM_SIZE, 0x123456789a, NULL), 0);
	assert_int_equal(fw_cfg_file(f->dev, "etc/zeta", "zz", 2, 0, NULL), 0);
	assert_int_equal(fw_cfg_file(f->dev, "bootorder", "disk\n", 6, FW_CFG_REFER, NULL), 0);
	assert_int_equal(fw_cfg_file(f->dev, "etc/note", "....", 4, FW_CFG_WRITABLE, NULL), 0);
	device_reset(f->dev, RESET_POWER);
}

static void teardown(struct fixture *f)
{
	device_free(f->dev);
	bench_fini(&f->b);
}

static void pick(struct fixture *f, unsigned key)
{
	bench_out(&f->b, PORT, 2, key);
}

static uint8_t next(struct fixture *f)
{
	return (uint8_t)bench_in(&f->b, PORT + 1, 1);
}

/* Runs one DMA operation; gives what the control word has become. */
static uint32_t dma(struct fixture *f, uint32_t control, uint32_t len, uint64_t addr)
{
	const uint8_t desc[16] = {BE32(control), BE32(len), BE32((uint32_t)(addr >> 32)),
				  BE32((uint32_t)addr)};
	uint8_t answer[4];
	assert_int_equal(gmem_write(f->b.mem, gpa(DESC), desc, sizeof(desc)), 0);
	bench_out(&f->b, PORT + 4, 4, 0);
	bench_out(&f->b, PORT + 8, 4, __builtin_bswap32(DESC));
	assert_int_equal(gmem_read(f->b.mem, gpa(DESC), answer, 4), 0);
	return (uint32_t)answer[0] << 24 | answer[1] << 16 | answer[2] << 8 | answer[3];
}

static void after_reset_the_signature_is_selected(void **state)
{
	struct fixture f;
	setup(&f);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(next(&f), "QEMU"[i]);
	assert_int_equal(next(&f), 0);
	pick(&f, FW_CFG_ID);
	assert_int_equal(next(&f), 3);
	assert_int_equal(bench_in(&f.b, PORT + 4, 4), 0x554d4551);
	assert_int_equal(bench_in(&f.b, PORT + 8, 4), 0x47464320);
	pick(&f, FW_CFG_NB_CPUS);
	device_reset(f.dev, RESET_SYSTEM);
	assert_int_equal(next(&f), 'Q');
	teardown(&f);
}

static void every_offset_answers_at_every_width(void **state)
{
	struct fixture f;
	setup(&f);
	bench_sweep(f.b.ports, PORT, 12);
	for (unsigned key = 0; key < 0x10000; key++) {
		pick(&f, key);
		for (unsigned i = 0; i < 3; i++)
			(void)next(&f);
	}
	teardown(&f);
}

static void items_read_little_endian_and_then_zeroes(void **state)
{
	static const uint8_t want[] = {0x9a, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0};
	struct fixture f;
	setup(&f);
	pick(&f, FW_CFG_RAM_SIZE);
	for (unsigned i = 0; i < sizeof(want); i++)
		assert_int_equal(next(&f), want[i]);
	pick(&f, FW_CFG_NB_CPUS);
	bench_out(&f.b, PORT + 1, 1, 0x55); /* writing data is no more */
	assert_int_equal(next(&f), 3);
	teardown(&f);
}

static void the_directory_lists_files_in_order_of_name(void **state)
{
	static const char *const names[] = {"bootorder", "etc/note", "etc/zeta"};
	static const unsigned sizes[] = {6, 4, 2};
	struct fixture f;
	uint8_t dir[4 + 3 * 64];
	setup(&f);
	pick(&f, FW_CFG_FILE_DIR);
	for (unsigned i = 0; i < sizeof(dir); i++)
		dir[i] = next(&f);
	assert_int_equal(dir[3], 3);
	for (unsigned i = 0; i < 3; i++) {
		const uint8_t *e = dir + 4 + 64 * i;
		assert_int_equal(e[3], sizes[i]);
		assert_int_equal(e[4] << 8 | e[5], FW_CFG_FILE_FIRST + i);
		assert_string_equal((const char *)e + 8, names[i]);
	}
	pick(&f, FW_CFG_FILE_FIRST);
	assert_int_equal(next(&f), 'd');
	assert_int_equal(fw_cfg_file(f.dev, "bootorder", "net", 3, 0, NULL), 0);
	pick(&f, FW_CFG_FILE_FIRST);
	assert_int_equal(next(&f), 'n');
	teardown(&f);
}

static void dma_selects_reads_and_skips(void **state)
{
	struct fixture f;
	char got[9] = "";
	setup(&f);
	assert_int_equal(gmem_fill(f.b.mem, gpa(BUFFER), 0xee, 16), 0);
	assert_int_equal(dma(&f, FW_CFG_FILE_FIRST << 16 | SELECT | SKIP, 1, 0), 0);
	assert_int_equal(dma(&f, READ, 8, BUFFER), 0);
	assert_int_equal(gmem_read(f.b.mem, gpa(BUFFER), got, 9), 0);
	assert_memory_equal(got, "isk\n\0\0\0\0\xee", 9);
	assert_int_equal(dma(&f, FW_CFG_ID << 16 | SELECT, 0, 0), 0);
	assert_int_equal(next(&f), 3);
	teardown(&f);
}

static void zeroes_past_an_items_end_are_bounded(void **state)
{
	const uint32_t most = 256 << 10;
	struct fixture f;
	uint8_t got[2];
	setup(&f);
	assert_int_equal(gmem_fill(f.b.mem, gpa(BUFFER), 0xee, most + 8), 0);
	assert_int_equal(dma(&f, FW_CFG_SIGNATURE << 16 | SELECT | READ, 4 + most + 1, BUFFER), 1);
	assert_int_equal(gmem_read(f.b.mem, gpa(BUFFER), got, 1), 0);
	assert_int_equal(got[0], 0xee);
	assert_int_equal(dma(&f, FW_CFG_SIGNATURE << 16 | SELECT | READ, 4 + most, BUFFER), 0);
	assert_int_equal(gmem_read(f.b.mem, gpa(BUFFER + 4 + most - 1), got, 2), 0);
	assert_int_equal(got[0], 0);
	assert_int_equal(got[1], 0xee);
	teardown(&f);
}

static void only_writable_files_can_be_written_within_their_size(void **state)
{
	struct fixture f;
	char got[5] = "";
	const uint32_t note = (FW_CFG_FILE_FIRST + 1) << 16;
	setup(&f);
	assert_int_equal(gmem_write(f.b.mem, gpa(BUFFER), "ABCDEFGH", 8), 0);
	assert_int_equal(dma(&f, note | SELECT | WRITE, 3, BUFFER), 0);
	assert_int_equal(dma(&f, WRITE, 2, BUFFER), 1);
	assert_int_equal(dma(&f, note | SELECT | SKIP, UINT32_MAX, 0), 0);
	assert_int_equal(dma(&f, WRITE, 1, BUFFER), 1);
	assert_int_equal(dma(&f, note | SELECT | WRITE, UINT32_MAX, BUFFER), 1);
	assert_int_equal(fw_cfg_file_read(f.dev, "etc/note", got, sizeof(got)), 4);
	assert_string_equal(got, "ABC.");
	assert_int_equal(dma(&f, FW_CFG_FILE_FIRST << 16 | SELECT | WRITE, 1, BUFFER), 1);
	pick(&f, FW_CFG_FILE_FIRST);
	assert_int_equal(next(&f), 'd');
	assert_int_equal(fw_cfg_file_read(f.dev, "etc/none", got, 1), -ENOENT);
	teardown(&f);
}

static void hostile_descriptors_are_refused(void **state)
{
	struct fixture f;
	uint8_t last;
	setup(&f);
	assert_int_equal(dma(&f, READ, 8, BENCH_RAM - 4), 1);
	assert_int_equal(dma(&f, READ, 8, UINT64_MAX - 3), 1);
	assert_int_equal(dma(&f, READ, UINT32_MAX, BUFFER), 1);
	assert_int_equal(dma(&f, 0x3fff << 16 | SELECT | READ, 8, BUFFER), 0);
	bench_out(&f.b, PORT + 4, 4, UINT32_MAX);
	bench_out(&f.b, PORT + 8, 4, UINT32_MAX); /* descriptor nowhere */
	bench_out(&f.b, PORT + 8, 4, __builtin_bswap32((uint32_t)BENCH_RAM - 8));
	assert_int_equal(dma(&f, FW_CFG_SIGNATURE << 16 | SELECT | READ, 4, DESC), 0);
	assert_int_equal(gmem_read(f.b.mem, gpa(BENCH_RAM - 1), &last, 1), 0);
	teardown(&f);
}

static void set_up_errors_have_sentences(void **state)
{
	struct fixture f;
	struct error err = {0};
	char name[80];
	setup(&f);
	memset(name, 'n', sizeof(name));
	name[56] = 0;
	assert_int_equal(fw_cfg_file(f.dev, name, "", 0, 0, &err), -EINVAL);
	name[55] = 0;
	assert_int_equal(fw_cfg_file(f.dev, name, "", 0, 0, &err), 0);
	assert_int_equal(fw_cfg_file(f.dev, "", "", 0, 0, &err), -EINVAL);
	assert_int_equal(fw_cfg_file(f.dev, "big", "", FW_CFG_MAX_FILE + 1, 0, &err), -EINVAL);
	char *page = calloc(1, 4096);
	assert_int_equal(fw_cfg_file(f.dev, "w", page, 4096, FW_CFG_WRITABLE, &err), -ENOSPC);
	free(page);
	int rc = 0;
	for (unsigned i = 0; i < 100 && !rc; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		rc = fw_cfg_file(f.dev, name, "x", 1, 0, &err);
	}
	assert_int_equal(rc, -ENOSPC);
	assert_true(err.text[0] != 0);
	teardown(&f);
}

static void state_survives_and_corrupt_state_changes_nothing(void **state)
{
	struct fixture f, g;
	char got[5] = "";
	setup(&f);
	setup(&g);
	assert_int_equal(gmem_write(f.b.mem, gpa(BUFFER), "WXYZ", 4), 0);
	assert_int_equal(dma(&f, (FW_CFG_FILE_FIRST + 1) << 16 | SELECT | WRITE, 4, BUFFER), 0);
	pick(&f, FW_CFG_SIGNATURE);
	(void)next(&f);
	bench_out(&f.b, PORT + 4, 4, 0x01000000);
	bench_round_trip(f.dev, g.dev);
	bench_corrupt(g.dev);
	assert_int_equal(next(&g), 'E');
	assert_int_equal(fw_cfg_file_read(g.dev, "etc/note", got, 4), 4);
	assert_string_equal(got, "WXYZ");
	teardown(&f);
	teardown(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(after_reset_the_signature_is_selected),
	    cmocka_unit_test(every_offset_answers_at_every_width),
	    cmocka_unit_test(items_read_little_endian_and_then_zeroes),
	    cmocka_unit_test(the_directory_lists_files_in_order_of_name),
	    cmocka_unit_test(dma_selects_reads_and_skips),
	    cmocka_unit_test(zeroes_past_an_items_end_are_bounded),
	    cmocka_unit_test(only_writable_files_can_be_written_within_their_size),
	    cmocka_unit_test(hostile_descriptors_are_refused),
	    cmocka_unit_test(set_up_errors_have_sentences),
	    cmocka_unit_test(state_survives_and_corrupt_state_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
