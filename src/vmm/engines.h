/* engines.h: the engines that are linked in, best first. */
#ifndef VMM_ENGINES_H
#define VMM_ENGINES_H

#include "engine/choose.h"

extern const struct engine_list vmm_engines;

#endif
