/* cond.h: the sixteen conditions, on flags as struct soft_cpu.af keeps them. */
#ifndef ENGINE_SOFT_COND_H
#define ENGINE_SOFT_COND_H

#include "engine/soft/cpu.h"

/* Named as Zydis names Jcc, SETcc and CMOVcc. */
#define COND_O(f)   ((f)&SOFT_AF_OF)
#define COND_NO(f)  (!COND_O(f))
#define COND_B(f)   (((f) >> 8) & 1)
#define COND_NB(f)  (!COND_B(f))
#define COND_Z(f)   (((f) >> 14) & 1)
#define COND_NZ(f)  (!COND_Z(f))
#define COND_BE(f)  (!!((f) & (SOFT_AF_CF | SOFT_AF_ZF)))
#define COND_NBE(f) (!COND_BE(f))
#define COND_S(f)   (((f) >> 15) & 1)
#define COND_NS(f)  (!COND_S(f))
#define COND_P(f)   (((f) >> 10) & 1)
#define COND_NP(f)  (!COND_P(f))
#define COND_L(f)   ((((f) >> 15) ^ (f)) & 1)
#define COND_NL(f)  (!COND_L(f))
#define COND_LE(f)  (COND_L(f) | COND_Z(f))
#define COND_NLE(f) (!COND_LE(f))

#define COND_EACH(M, arg)                                                                          \
	M(O, arg)                                                                                  \
	M(NO, arg)                                                                                 \
	M(B, arg)                                                                                  \
	M(NB, arg)                                                                                 \
	M(Z, arg)                                                                                  \
	M(NZ, arg)                                                                                 \
	M(BE, arg)                                                                                 \
	M(NBE, arg)                                                                                \
	M(S, arg) M(NS, arg) M(P, arg) M(NP, arg) M(L, arg) M(NL, arg) M(LE, arg) M(NLE, arg)

#endif
