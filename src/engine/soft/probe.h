/* probe.h: what this host lets the software engine do, for those who ask without a VM. */
#ifndef ENGINE_SOFT_PROBE_H
#define ENGINE_SOFT_PROBE_H

/* Can user code run in helper processes? NULL: yes; else why not, a clause that is constant. Starts
 * such a process and ends it. If it can, *breaks says why it gets no breakpoints; NULL: it does. */
const char *soft_direct_probe(const char **breaks);

#endif
