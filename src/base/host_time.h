/* host_time.h: the host's monotonic clock. */
#ifndef BASE_HOST_TIME_H
#define BASE_HOST_TIME_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds since some moment of the past; it stands while the host sleeps. Any thread. */
static inline uint64_t host_time_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* The same in milliseconds. */
static inline uint64_t host_time_ms(void)
{
	return host_time_ns() / 1000000;
}

#endif
