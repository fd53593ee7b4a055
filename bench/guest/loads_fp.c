/* loads_fp.c: floating point: scalar, x87, packed SSE and AVX. */
#include <immintrin.h>
#include <string.h>
#include <sys/platform/x86.h>
#include "cpubench.h"

static double fraction(double x)
{
	return x - (double)(int64_t)x;
}

/* Bodies that attract each other, without a square root's help from the library. */
static uint64_t nbody_run(uint64_t n)
{
	struct body {
		double x[3], v[3], m;
	} b[5];
	double sum = 0;

	for (int i = 0; i < 5; i++)
		for (int k = 0; k < 3; k++) {
			b[i].x[k] = 1.0 + i * 1.7 + k * 0.3;
			b[i].v[k] = 0.01 * (i - k);
			b[i].m = 0.1 * (i + 1);
		}
	for (n *= 20; n; n--) {
		for (int i = 0; i < 5; i++)
			for (int j = i + 1; j < 5; j++) {
				double d[3], r2 = 0.01, f;
				for (int k = 0; k < 3; k++) {
					d[k] = b[i].x[k] - b[j].x[k];
					r2 += d[k] * d[k];
				}
				__asm__("sqrtsd %1, %0" : "=x"(f) : "x"(r2));
				f = 0.001 / (r2 * f);
				for (int k = 0; k < 3; k++) {
					b[i].v[k] -= d[k] * b[j].m * f;
					b[j].v[k] += d[k] * b[i].m * f;
				}
			}
		for (int i = 0; i < 5; i++)
			for (int k = 0; k < 3; k++)
				b[i].x[k] += 0.001 * b[i].v[k];
	}
	for (int i = 0; i < 5; i++)
		sum += b[i].x[0];
	return (uint64_t)(fraction(sum) * 1e6);
}

static uint64_t mandelbrot_run(uint64_t n)
{
	uint64_t total = 0;

	for (; n; n--)
		for (int y = 0; y < 8; y++)
			for (int x = 0; x < 8; x++) {
				double cr = x / 4.0 - 1.5, ci = y / 4.0 - 1.0, zr = 0, zi = 0;
				for (int i = 0; i < 50 && zr * zr + zi * zi < 4; i++) {
					double t = zr * zr - zi * zi + cr;
					zi = 2 * zr * zi + ci;
					zr = t;
					total++;
				}
			}
	return total;
}

static uint64_t x87_run(uint64_t n)
{
	long double a = 1, b = 0.5L;

	for (n *= 100; n; n--) {
		a = a * 1.0000001L + b;
		b = b * 0.999L + 1 / a;
	}
	return (uint64_t)(a + b);
}

#define SIDE 48
static float fa[SIDE * SIDE], fb[SIDE * SIDE], fc[SIDE * SIDE];

static void matrices(void)
{
	for (int i = 0; i < SIDE * SIDE; i++) {
		fa[i] = (float)(i % 17) * 0.25f;
		fb[i] = (float)(i % 23) * 0.5f;
	}
}

static uint64_t sse_run(uint64_t n)
{
	matrices();
	for (; n; n--)
		for (int i = 0; i < SIDE; i++)
			for (int j = 0; j < SIDE; j += 4) {
				__m128 s = _mm_setzero_ps();
				for (int k = 0; k < SIDE; k++)
					s = _mm_add_ps(s,
						       _mm_mul_ps(_mm_set1_ps(fa[i * SIDE + k]),
								  _mm_loadu_ps(&fb[k * SIDE + j])));
				_mm_storeu_ps(&fc[i * SIDE + j], s);
			}
	return (uint64_t)fc[100];
}

/* The C library is asked: gcc's own function would bring CPUID instructions into the pages of the
 * loads, and direct execution leaves such pages to the translator. */
static int avx_usable(void)
{
	return CPU_FEATURE_ACTIVE(AVX2);
}

__attribute__((target("avx2"))) static uint64_t avx_run(uint64_t n)
{
	matrices();
	for (; n; n--)
		for (int i = 0; i < SIDE; i++)
			for (int j = 0; j < SIDE; j += 8) {
				__m256 s = _mm256_setzero_ps();
				for (int k = 0; k < SIDE; k++)
					s = _mm256_add_ps(
					    s, _mm256_mul_ps(_mm256_set1_ps(fa[i * SIDE + k]),
							     _mm256_loadu_ps(&fb[k * SIDE + j])));
				_mm256_storeu_ps(&fc[i * SIDE + j], s);
			}
	return (uint64_t)fc[100];
}

/* Integers in vectors: differences of bytes, as video coders have them. */
static uint64_t sse_int_run(uint64_t n)
{
	static uint8_t a[4096], b[4096];
	__m128i sum = _mm_setzero_si128();

	for (unsigned i = 0; i < sizeof(a); i++) {
		a[i] = (uint8_t)(i * 7);
		b[i] = (uint8_t)(i * 13 + 5);
	}
	for (; n; n--)
		for (unsigned i = 0; i < sizeof(a); i += 16) {
			__m128i x = _mm_loadu_si128((const __m128i *)(const void *)&a[i]);
			__m128i y = _mm_loadu_si128((const __m128i *)(const void *)&b[i]);
			sum = _mm_add_epi64(sum, _mm_sad_epu8(_mm_add_epi8(x, sum), y));
		}
	return (uint64_t)_mm_cvtsi128_si64(sum);
}

const struct load loads_fp[] = {
    {"nbody", "float", nbody_run, NULL},
    {"mandelbrot", "float", mandelbrot_run, NULL},
    {"x87", "float", x87_run, NULL},
    {"sse-matrix", "float", sse_run, NULL},
    {"avx-matrix", "float", avx_run, avx_usable},
    {"sse-bytes", "float", sse_int_run, NULL},
    {NULL, NULL, NULL, NULL},
};
