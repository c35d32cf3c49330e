// What the two ways to convolve share: the sizes of a convolution and where its arrays are.

#pragma once

#include "native.h"

// Of `groups` groups of channels and features, `depth` and `features` are those of one; a row of y has all features.
typedef struct {
  int64_t batch, image, places, segments, length, depth, features, groups, row, relu;
  // Values and places along the last two axes, channels of all groups, and whether the way of winograd.c is taken.
  int64_t size[2], along[2], channels, winograd;
  int64_t *place, *segment;
  int64_t *behind;  // for each value of a window its offset in the window
  // Where only the largest of two neighbours along each of the last axes is kept, or of the last one if the other has
  // one place: neighbours down and across, and windows of an image down and across; else all zero.
  int64_t near[2], windows[2];
  int64_t *seen;  // for each place 4 times its window, and which of the neighbours it is; below zero outside of all
  // `bias` is NULL where there is none, `y` where gradients pass everywhere, `d_bias` where nobody asks for it.
  const float *x, *kernel, *bias, *dy, *y;
  // Which neighbour the largest is, row by row; NOBODY or more where the rectifier lets no gradient pass.
  const uint8_t *which;
  uint8_t *found;
  float *out, *d_bias, *packed, *gated;
  int64_t parts;
} Conv;

// Images of one unit: enough units that no thread waits long, but few for small images.
static inline int64_t first_of(const Conv *c, int64_t part) { return c->batch * part / c->parts; }

// max(v, 0), and NaN stays.
INLINE Vec rectified(Vec v) { return choose((v > 0) | (v != v), v, (Vec){0}); }

// Gradients where they pass the rectifier: where its output is above zero.
INLINE Vec passed(Vec dy, Vec y) { return choose(y > 0, dy, (Vec){0}); }

// ---------------------------------------------------------------- the largest of neighbours

enum { NOBODY = 8 };

typedef uint8_t Taps __attribute__((vector_size(LANES), aligned(1), may_alias));

// Some bytes, the usual number of them in one instruction.
INLINE void copy_taps(void *to, const void *from, int64_t columns) {
  if (columns >= LANES)
    memcpy(to, from, LANES);
  else
    memcpy(to, from, columns);
}

// The largest of n neighbours, the first of equal ones, NaN if there is one; `at` is where some columns of it go.
INLINE void write_largest(const Conv *c, const Vec *v, int n, int64_t at, int64_t columns) {
  Vec best = v[0];
  Bits which = {0};
  UNROLL for (int k = 1; k < n; k++) {
    Bits larger = (v[k] > best) | (v[k] != v[k]);
    best = choose(larger, v[k], best);
    which = (which & ~larger) | (larger & k);
  }
  if (c->relu) which |= ~(best > 0) & NOBODY, best = rectified(best);
  Taps taps = __builtin_convertvector(which, Taps);
  store_some(c->out + at, best, columns);
  copy_taps(c->found + at, &taps, columns);
}

// To which neighbour some gradients go.
INLINE Bits taps_at(const uint8_t *which, int64_t columns) {
  Taps taps = {0};
  copy_taps(&taps, which, columns);
  return __builtin_convertvector(taps, Bits);
}

#define HIDDEN __attribute__((visibility("hidden")))

// In winograd.c; each returns whether there was memory for it.
HIDDEN int winograd_suits(const Conv *c, const Numbers *g);
HIDDEN int winograd_kernel_suits(const Conv *c);
HIDDEN int winograd(XLA_FFI_CallFrame *frame, Conv *c);
HIDDEN int winograd_data(XLA_FFI_CallFrame *frame, Conv *c);
HIDDEN int winograd_kernel(XLA_FFI_CallFrame *frame, Conv *c);
