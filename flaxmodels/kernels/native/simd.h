// Vectors of float32: loads and stores of whole and partial vectors, blending, maximum.

#pragma once

#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

// LANES is the number of floats in a vector register. Zen 3 and Zen 4 are excluded from 512-bit vectors: they split
// 512-bit operations into halves, and narrower vectors waste less of a partly filled row.
#if defined(__AVX512F__) && !defined(__znver3__) && !defined(__znver4__)
#define HAVE_AVX512
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
// A comparison of two Vec gives an IntVec with all bits set in the lanes where it holds.
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE Vec load(const float *p) { return *(const Vec *)p; }
INLINE void store(float *p, Vec v) { *(Vec *)p = v; }

// The first n lanes of a vector, 0 < n < LANES; a load fills the other lanes with zeros.
#if defined(HAVE_AVX512)
INLINE Vec load_masked(const float *p, int64_t n) { return (Vec)_mm512_maskz_loadu_ps((1u << n) - 1, p); }
INLINE void store_masked(float *p, Vec v, int64_t n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v); }
#elif defined(__AVX2__)
INLINE __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE Vec load_masked(const float *p, int64_t n) { return (Vec)_mm256_maskload_ps(p, first_lanes(n)); }
INLINE void store_masked(float *p, Vec v, int64_t n) { _mm256_maskstore_ps(p, first_lanes(n), (__m256)v); }
#else
INLINE Vec load_masked(const float *p, int64_t n) {
  Vec v = {0};
  memcpy(&v, p, n * sizeof(float));
  return v;
}
INLINE void store_masked(float *p, Vec v, int64_t n) { memcpy(p, &v, n * sizeof(float)); }
#endif

// At most n lanes, where n is the number of values left in a row.
INLINE Vec load_n(const float *p, int64_t n) { return n >= LANES ? load(p) : load_masked(p, n); }

INLINE void store_n(float *p, Vec v, int64_t n) {
  if (n >= LANES)
    store(p, v);
  else
    store_masked(p, v, n);
}

INLINE Vec blend(IntVec mask, Vec a, Vec b) { return (Vec)(((IntVec)a & mask) | ((IntVec)b & ~mask)); }

// vec_max returns a where a > b, otherwise b; so it returns b if one of them is NaN, as the x86 instruction does.
#if defined(HAVE_AVX512)
INLINE Vec vec_max(Vec a, Vec b) { return (Vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE int any_nan(Vec v) { return _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q) != 0; }
#elif defined(__AVX2__)
INLINE Vec vec_max(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE int any_nan(Vec v) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q)) != 0; }
#else
INLINE Vec vec_max(Vec a, Vec b) { return blend(a > b, a, b); }
INLINE int any_nan(Vec v) {
  int any = 0;
  for (int i = 0; i < LANES; i++) any |= v[i] != v[i];
  return any;
}
#endif
