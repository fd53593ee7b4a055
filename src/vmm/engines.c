/* engines.c: the engines that are linked in, best first. */
#include "vmm/engines.h"

static const struct engine_ops *const ops[] = {&engine_kvm, &engine_soft};

const struct engine_list vmm_engines = {ops, ARRAY_SIZE(ops)};
