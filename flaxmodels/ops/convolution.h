// What the two ways to convolve share: the sizes of a convolution and where its arrays are.

#pragma once

#include "native.h"

// Of `groups` groups of channels and features, `depth` and `features` are those of one; a row of y has all features.
typedef struct {
  int64_t batch, image, places, segments, length, depth, features, groups, row, relu;
  // Values and places along the last two axes, channels of all groups, and whether the way of winograd.c is taken.
  int64_t size[2], along[2], channels, winograd;
  int64_t *place, *segment;
  // `bias` is NULL where there is none, `y` where gradients pass everywhere, `d_bias` where nobody asks for it.
  const float *x, *kernel, *bias, *dy, *y;
  float *out, *d_bias, *packed, *gated;
  int64_t parts;
} Conv;

// Images of one unit: enough units that no thread waits long, but few for small images.
static inline int64_t first_of(const Conv *c, int64_t part) { return c->batch * part / c->parts; }

// max(v, 0), and NaN stays.
INLINE Vec rectified(Vec v) { return choose((v > 0) | (v != v), v, (Vec){0}); }

// Gradients where they pass the rectifier: where its output is above zero.
INLINE Vec passed(Vec dy, Vec y) { return choose(y > 0, dy, (Vec){0}); }

#define HIDDEN __attribute__((visibility("hidden")))

// In winograd.c; each returns whether there was memory for it.
HIDDEN int winograd_suits(const Conv *c, const int64_t *numbers);
HIDDEN int winograd_kernel_suits(const Conv *c);
HIDDEN int winograd(XLA_FFI_CallFrame *frame, Conv *c);
HIDDEN int winograd_data(XLA_FFI_CallFrame *frame, Conv *c);
HIDDEN int winograd_kernel(XLA_FFI_CallFrame *frame, Conv *c);
