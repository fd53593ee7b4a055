/* vcpu_state.h: the saved-state table of a CPU. */
#ifndef ENGINE_VCPU_STATE_H
#define ENGINE_VCPU_STATE_H

#include "bus/state.h"

/* Every field of struct x86_state. Decoding checks with x86_state_check. */
extern const struct state_desc x86_state_desc;

#endif
