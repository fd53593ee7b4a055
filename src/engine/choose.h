/* choose.h: which engine: by name, or by probing. */
#ifndef ENGINE_CHOOSE_H
#define ENGINE_CHOOSE_H

#include "engine/engine.h"

/* Filled by whoever links engines in (src/vmm): the engines to try, best first. */
struct engine_list {
	const struct engine_ops *const *ops;
	unsigned count;
};

/* name: "auto" or an engine's. On success *why (may be NULL, 512 bytes) says in one line which and
 * why. -ENODEV or -EINVAL with a sentence. */
NODISCARD int engine_choose(const struct engine_list *list, const char *name,
			    const struct engine_ops **ops, char *why, struct error *err);

#endif
