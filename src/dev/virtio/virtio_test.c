/* virtio_test.c: negotiation, status, interrupts and configuration over both transports. */
#include "dev/virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>

#include "dev/virtio/testing.h"

/* A device that answers every chain at once. The first half of its configuration can be written. */
struct toy {
	struct virtio_dev vd; /* first */
	unsigned notified, written, refused_bit;
};

static void toy_notify(struct virtio_dev *vd, unsigned q)
{
	static struct vq_chain chain;
	((struct toy *)vd)->notified++;
	while (virtio_pop(vd, q, &chain))
		virtio_push(vd, q, &chain, chain.in_bytes);
	virtio_interrupt(vd, q);
}

static _Bool toy_features(struct virtio_dev *vd, uint64_t features)
{
	return !(features & 2);
}

static void toy_written(struct virtio_dev *vd, unsigned offset, unsigned size)
{
	((struct toy *)vd)->written++;
}

static void toy_reset(struct virtio_dev *vd, enum reset_kind kind)
{
	memcpy(vd->config, "\1\2\3\4\5\6\7\10", 8);
}

static void toy_free(struct device *dev)
{
	virtio_fini(virtio_of(dev));
	free(dev);
}

static int toy_check(const void *shadow, struct error *err)
{
	return virtio_check(&((const struct toy *)shadow)->vd, err);
}

static const struct virtio_ops toy_ops = {
    .features = toy_features,
    .config_written = toy_written,
    .notify = toy_notify,
    .reset = toy_reset,
};
static const struct state_field toy_fields[] = {VIRTIO_STATE(struct toy, vd), STATE_END};
static const struct state_desc toy_state = {"toy", toy_fields, sizeof(struct toy), toy_check};
static const struct device_class toy_class = {
    .name = "toy",
    .reset = virtio_device_reset,
    .free = toy_free,
    .pre_save = virtio_pre_save,
    .post_load = virtio_post_load,
    .state = &toy_state,
};

static void toy_new(struct vt *t, _Bool mmio)
{
	static const uint16_t sizes[] = {64, 64};
	struct virtio_place place = vt_init(t);
	struct virtio_setup setup = {.cls = &toy_class,
				     .ops = &toy_ops,
				     .id = VIRTIO_ID_RNG,
				     .name = "toy0",
				     .class_code = 0xff0000,
				     .features = 7,
				     .queues = 2,
				     .queue_sizes = sizes,
				     .config_size = 8};
	struct toy *toy = calloc(1, sizeof(*toy));
	if (mmio) {
		place.bus = NULL;
		place.memory = t->b.memory;
		place.base = VT_MMIO;
		place.irq = bench_irq(&t->b, 5);
	}
	memset(toy->vd.config_rw, 0xff, 4);
	assert_int_equal(virtio_init(&toy->vd, &place, &setup, NULL), 0);
	t->dev = &toy->vd.pci.dev;
	if (mmio)
		device_reset(t->dev, RESET_POWER);
	else
		vt_power_on(t);
}

static uint32_t min(struct vt *t, unsigned offset)
{
	return (uint32_t)space_read(t->b.memory, VT_MMIO + offset, 4);
}

static void mout(struct vt *t, unsigned offset, uint32_t value)
{
	space_write(t->b.memory, VT_MMIO + offset, 4, value);
}

static void a_driver_must_accept_version_1_and_nothing_that_is_not_offered(void **state)
{
	struct vt t;
	toy_new(&t, 0);
	const uint64_t bad[] = {1, VIRTIO_F_VERSION_1 | 8, VIRTIO_F_VERSION_1 | BIT64(63),
				VIRTIO_F_VERSION_1 | 2};
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		vt_status(&t, 0);
		vt_status(&t, 3);
		vt_features(&t, bad[i]);
		vt_status(&t, 11);
		assert_int_equal(vt_in(&t, 20, 1), 3);
		vt_status(&t, 15); /* DRIVER_OK needs FEATURES_OK */
		assert_int_equal(vt_in(&t, 20, 1), 3);
	}
	vt_features(&t, VIRTIO_F_VERSION_1 | 1);
	vt_status(&t, 11);
	assert_int_equal(vt_in(&t, 20, 1), 11);
	vt_features(&t, VIRTIO_F_VERSION_1 | 4); /* too late */
	vt_out(&t, 8, 4, 0);
	assert_int_equal(vt_in(&t, 12, 4), 1);
	vt_status(&t, 1); /* nothing is taken back */
	assert_int_equal(vt_in(&t, 20, 1), 11);
	vt_status(&t, 0x40); /* not the driver's bit */
	assert_int_equal(vt_in(&t, 20, 1), 11);
	vt_out(&t, 0, 4, 2);
	assert_int_equal(vt_in(&t, 4, 4), 0);
	vt_fini(&t);
}

static void queues_are_reset_and_enabled_in_the_order_of_the_specification(void **state)
{
	struct vt t;
	toy_new(&t, 0);
	struct toy *toy = (struct toy *)t.dev;
	vt_queue(&t, 0); /* before FEATURES_OK */
	assert_int_equal(vt_in(&t, 28, 2), 0);
	vt_out(&t, 22, 2, 2); /* no such queue */
	assert_int_equal(vt_in(&t, 24, 2), 0);
	vt_out(&t, 28, 2, 1);
	assert_int_equal(vt_in(&t, 28, 2), 0);
	vt_start(&t, 1, 2);
	vt_out(&t, 22, 2, 1);
	assert_int_equal(vt_in(&t, 28, 2), 1);
	vt_out(&t, 24, 2, 8); /* while it is enabled */
	assert_int_equal(vt_in(&t, 24, 2), VT_SIZE);
	vt_out(&t, 58, 2, 1); /* not negotiated */
	assert_int_equal(vt_in(&t, 28, 2), 1);
	vt_notify(&t, 1);
	vt_notify(&t, 2);
	assert_int_equal(toy->notified, 1);
	vt_status(&t, 0);
	vt_notify(&t, 1);
	assert_int_equal(toy->notified, 1);
	assert_int_equal(vt_in(&t, 28, 2), 0);
	vt_out(&t, 22, 2, 1);
	assert_int_equal(vt_in(&t, 24, 2), 64);
	assert_int_equal(vt_in(&t, 26, 2), VIRTIO_NO_VECTOR);
	vt_out(&t, 26, 2, 3); /* vectors 0 to 2 exist */
	assert_int_equal(vt_in(&t, 26, 2), VIRTIO_NO_VECTOR);
	vt_fini(&t);
}

static void rings_outside_ram_break_the_device(void **state)
{
	struct vt t;
	toy_new(&t, 0);
	vt_status(&t, 3);
	vt_features(&t, VIRTIO_F_VERSION_1);
	vt_status(&t, 11);
	vt_out(&t, 22, 2, 0);
	vt_out(&t, 36, 4, 0x80000000);
	vt_out(&t, 28, 2, 1);
	assert_int_equal(vt_in(&t, 28, 2), 0);
	assert_int_equal(vt_in(&t, 20, 1), 11 | VIRTIO_NEEDS_RESET);
	vt_start(&t, 0, 2);
	vt_fini(&t);
}

static void chains_offered_before_driver_ok_are_seen_then(void **state)
{
	struct vt t;
	uint32_t head, len;
	toy_new(&t, 0);
	vt_status(&t, 3);
	vt_features(&t, VIRTIO_F_VERSION_1);
	vt_status(&t, 11);
	vt_queue(&t, 0);
	vt_desc(&t, 0, 0, VT_DATA, 8, 2, 0);
	vt_offer(&t, 0, 0);
	vt_notify(&t, 0);
	assert_false(vt_used(&t, 0, &head, &len));
	vt_status(&t, 15);
	assert_true(vt_used(&t, 0, &head, &len));
	assert_int_equal(len, 8);
	vt_fini(&t);
}

static void without_bus_mastering_memory_is_left_alone(void **state)
{
	struct vt t;
	uint32_t head, len;
	toy_new(&t, 0);
	vt_start(&t, 0, 1);
	vt_config_write(&t, 4, 2, 2);
	vt_desc(&t, 0, 0, VT_DATA, 8, 2, 0);
	vt_offer(&t, 0, 0);
	vt_notify(&t, 0);
	assert_false(vt_used(&t, 0, &head, &len));
	vt_fini(&t);
}

static void without_msi_x_the_status_byte_and_the_pin_tell(void **state)
{
	struct vt t;
	toy_new(&t, 0);
	struct virtio_dev *vd = (struct virtio_dev *)t.dev;
	vt_start(&t, 0, 1);
	vt_config_write(&t, vd->pci.msix_cap + 2u, 2, 0);
	unsigned messages = t.b.messages, line = 16 + 1; /* pin A of slot 1 */
	vt_desc(&t, 0, 0, VT_DATA, 8, 2, 0);
	vt_offer(&t, 0, 0);
	vt_notify(&t, 0);
	assert_int_equal(t.b.messages, messages);
	assert_true(t.b.level[line]);
	assert_int_equal(vt_in(&t, 0x1000, 1), 1);
	assert_false(t.b.level[line]);
	assert_int_equal(vt_in(&t, 0x1000, 1), 0);
	lock_take(&t.dev->lock);
	virtio_config_changed(vd);
	lock_drop(&t.dev->lock);
	assert_true(t.b.level[line]);
	assert_int_equal(vt_in(&t, 0x1000, 1), 2);
	vt_fini(&t);
}

static void configuration_space_is_a_window_to_the_registers(void **state)
{
	struct vt t;
	toy_new(&t, 0);
	unsigned at = vt_config_read(&t, 0x34, 1), found = 0, types = 0;
	while (at && found < 20) {
		if (vt_config_read(&t, at, 1) == 9) {
			unsigned type = vt_config_read(&t, at + 3, 1);
			types |= 1u << type;
			if (type == 5)
				break;
		}
		at = vt_config_read(&t, at + 1, 1);
		found++;
	}
	assert_int_equal(types, 0x3e);
	vt_config_write(&t, at + 4, 1, 4);
	vt_config_write(&t, at + 8, 4, 0x2000);
	vt_config_write(&t, at + 12, 4, 4);
	assert_int_equal(vt_config_read(&t, at + 16, 4), 0x04030201);
	vt_config_write(&t, at + 16, 4, 0xaabbccdd);
	assert_int_equal(vt_in(&t, 0x2000, 4), 0xaabbccdd);
	vt_config_write(&t, at + 8, 4, 0x2004);
	vt_config_write(&t, at + 16, 4, 0xaabbccdd);
	assert_int_equal(vt_in(&t, 0x2004, 4), 0x08070605);
	/* Windows that are none. */
	const uint32_t bad[][3] = {
	    {3, 0, 4}, {4, 0x2000, 3}, {4, 0x2001, 4}, {4, 0x3008, 4}, {4, UINT32_MAX, 1}};
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		vt_config_write(&t, at + 4, 1, bad[i][0]);
		vt_config_write(&t, at + 8, 4, bad[i][1]);
		vt_config_write(&t, at + 12, 4, bad[i][2]);
		vt_config_write(&t, at + 16, 4, 0);
		(void)vt_config_read(&t, at + 16, 4);
	}
	assert_int_equal(vt_in(&t, 20, 1), 0);
	vt_fini(&t);
}

static void pci_registers_take_every_width_and_state_goes_round(void **state)
{
	struct vt a, b;
	toy_new(&a, 0);
	toy_new(&b, 0);
	bench_sweep(a.b.memory, VT_BAR, 0x80);
	bench_sweep(a.b.memory, VT_BAR + 0x2000, 0x10);
	bench_sweep(a.b.memory, VT_BAR + 0x3000, 0x10);
	vt_start(&a, 5, 2);
	vt_out(&a, 0x2000, 4, 99);
	bench_round_trip(a.dev, b.dev);
	assert_int_equal(vt_in(&b, 20, 1), 15);
	assert_int_equal(vt_in(&b, 0x2000, 4), 99);
	bench_corrupt(a.dev);
	vt_fini(&a);
	vt_fini(&b);
}

/* The driver may write what it likes to a queue that it has not enabled, also before a save. */
static void a_size_that_cannot_be_of_a_queue_that_is_off_goes_round(void **state)
{
	static const uint16_t sizes[] = {0, 3, 65, 0xffff};

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct vt a, b;
		toy_new(&a, 0);
		toy_new(&b, 0);
		vt_start(&a, 0, 1);
		vt_out(&a, 22, 2, 1);
		vt_out(&a, 24, 2, sizes[i]);
		assert_int_equal(vt_in(&a, 24, 2), sizes[i]);
		bench_round_trip(a.dev, b.dev);
		assert_int_equal(vt_in(&b, 24, 2), sizes[i]);
		assert_int_equal(vt_in(&b, 20, 1), 15);
		/* It is judged when it is enabled. */
		vt_out(&b, 28, 2, 1);
		assert_int_equal(vt_in(&b, 28, 2), 0);
		assert_int_equal(vt_in(&b, 20, 1), 15 | VIRTIO_NEEDS_RESET);
		bench_refuses(a.dev, struct toy, vd.saved.size[0], sizes[i]);
		vt_fini(&a);
		vt_fini(&b);
	}
}

/* ---- MMIO ---- */

static void mmio_start(struct vt *t)
{
	mout(t, 0x70, 0);
	mout(t, 0x70, 3);
	mout(t, 0x24, 1);
	mout(t, 0x20, 1);
	mout(t, 0x24, 0);
	mout(t, 0x20, 1);
	mout(t, 0x70, 11);
	assert_int_equal(min(t, 0x70), 11);
	assert_int_equal(gmem_fill(t->b.mem, gpa(VT_RING(0)), 0, 0x1000), 0);
	mout(t, 0x30, 0);
	assert_int_equal(min(t, 0x34), 64);
	mout(t, 0x38, VT_SIZE);
	mout(t, 0x80, (uint32_t)VT_RING(0));
	mout(t, 0x90, (uint32_t)VT_RING(0) + 0x400);
	mout(t, 0xa0, (uint32_t)VT_RING(0) + 0x800);
	mout(t, 0x44, 1);
	assert_int_equal(min(t, 0x44), 1);
	mout(t, 0x70, 15);
}

static void mmio_resets_to_what_the_specification_says(void **state)
{
	struct vt t;
	toy_new(&t, 1);
	assert_int_equal(min(&t, 0), 0x74726976);
	assert_int_equal(min(&t, 4), 2);
	assert_int_equal(min(&t, 8), VIRTIO_ID_RNG);
	assert_int_equal(min(&t, 0x70), 0);
	assert_int_equal(min(&t, 0xb0), UINT32_MAX);
	assert_int_equal(min(&t, 0x100), 0x04030201);
	assert_int_equal(space_read(t.b.memory, VT_MMIO + 0x107, 1), 8);
	mout(&t, 0x14, 1);
	assert_int_equal(min(&t, 0x10), 0x105);
	bench_sweep(t.b.memory, VT_MMIO, 0x110);
	vt_fini(&t);
}

static void mmio_moves_chains_and_raises_its_line(void **state)
{
	struct vt t;
	uint32_t head, len;
	toy_new(&t, 1);
	mmio_start(&t);
	vt_desc(&t, 0, 0, VT_DATA, 8, 2, 0);
	vt_offer(&t, 0, 0);
	mout(&t, 0x50, 0);
	assert_true(vt_used(&t, 0, &head, &len));
	assert_true(t.b.level[5]);
	assert_int_equal(min(&t, 0x60), 1);
	mout(&t, 0x64, 1);
	assert_false(t.b.level[5]);
	mout(&t, 0x50, 7);
	mout(&t, 0x44, 0);
	assert_int_equal(min(&t, 0x44), 0);
	mmio_start(&t);
	mout(&t, 0x70, 0);
	assert_int_equal(min(&t, 0x44), 0);
	vt_fini(&t);
}

static void mmio_state_goes_round(void **state)
{
	struct vt a, b;
	toy_new(&a, 1);
	toy_new(&b, 1);
	mmio_start(&a);
	vt_desc(&a, 0, 0, VT_DATA, 8, 2, 0);
	vt_offer(&a, 0, 0);
	mout(&a, 0x50, 0);
	uint8_t page[4096];
	assert_int_equal(gmem_read(a.b.mem, gpa(VT_RING(0)), page, 4096), 0);
	assert_int_equal(gmem_write(b.b.mem, gpa(VT_RING(0)), page, 4096), 0);
	bench_round_trip(a.dev, b.dev);
	assert_true(b.b.level[5]);
	assert_int_equal(min(&b, 0x70), 15);
	bench_refuses(a.dev, struct toy, vd.config_vector, 0);
	bench_corrupt(a.dev);
	vt_fini(&a);
	vt_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_driver_must_accept_version_1_and_nothing_that_is_not_offered),
	    cmocka_unit_test(queues_are_reset_and_enabled_in_the_order_of_the_specification),
	    cmocka_unit_test(rings_outside_ram_break_the_device),
	    cmocka_unit_test(chains_offered_before_driver_ok_are_seen_then),
	    cmocka_unit_test(without_bus_mastering_memory_is_left_alone),
	    cmocka_unit_test(without_msi_x_the_status_byte_and_the_pin_tell),
	    cmocka_unit_test(configuration_space_is_a_window_to_the_registers),
	    cmocka_unit_test(pci_registers_take_every_width_and_state_goes_round),
	    cmocka_unit_test(a_size_that_cannot_be_of_a_queue_that_is_off_goes_round),
	    cmocka_unit_test(mmio_resets_to_what_the_specification_says),
	    cmocka_unit_test(mmio_moves_chains_and_raises_its_line),
	    cmocka_unit_test(mmio_state_goes_round),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
