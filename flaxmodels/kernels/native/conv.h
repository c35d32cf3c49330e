// Code shared by both convolution algorithms: the description of a convolution, and ReLU and max pooling fused into it.

#pragma once

#include "tiles.h"
#include "windows.h"

// A convolution over 1 to 3 spatial axes and the arrays of a call. Sizes and offsets count floats.
//
// Max pooling fused into a convolution takes the maximum of 2 neighbors along each of the last two axes, or along the
// last axis alone if the other has size 1.
typedef struct {
  int64_t batch, groups, relu;
  int64_t use_winograd;

  // Images [batch, image_size..., channels].
  int64_t image_elements, channels;
  int64_t image_size[2];  // along the last two axes

  // Outputs [batch, positions, features]; each group has `group_features` of them.
  int64_t positions, features, group_features;
  int64_t output_size[2];  // along the last two axes

  // Window: `segments` runs of `segment_length` contiguous values of the image, together `depth` values per group.
  int64_t segments, segment_length, depth;

  int64_t *position_offset;  // [positions] offset of the window in the image
  int64_t *segment_offset;   // [segments] offset of each segment from the window's first value
  int64_t *value_offset;     // [depth] offset of each value from the window's first value

  // Fused max pooling; its sizes are zero if there is no pooling.
  int64_t pool_window[2], pooled_size[2];
  int64_t *pool_target;  // [positions] 4 * index of the pooled output + tap in its window; -1 outside all windows

  // Arrays of the call. `bias` is NULL if there is no bias; `d_bias` is NULL if it is not requested.
  const float *x, *kernel, *bias, *dy;
  float *out, *d_bias;
  uint8_t *argmax_out;  // [batch, pooled outputs, features] with fused pooling
  // The gate of the gradients in the backward pass; both are NULL if all gradients pass.
  const float *y;         // outputs after ReLU
  const uint8_t *argmax;  // tap that holds the maximum; BLOCKED where ReLU passes no gradient

  // Work memory.
  float *packed;   // kernel in panels, or partial sums of its gradient
  float *scratch;  // for each part: outputs before pooling, or gated gradients
  int64_t parts;   // pieces of the batch that are computed independently
} Conv;

// ---------------------------------------------------------------- ReLU

// max(v, 0); NaN stays NaN.
INLINE Vec apply_relu(Vec v) { return blend((v > 0) | (v != v), v, (Vec){0}); }

// The gradient of ReLU: passes dy where the output y is positive.
INLINE Vec gate_by_relu(Vec dy, Vec y) { return blend(y > 0, dy, (Vec){0}); }

// ---------------------------------------------------------------- fused max pooling

// One byte for each lane of a Vec.
typedef uint8_t ByteVec __attribute__((vector_size(LANES), aligned(1), may_alias));

// Copies up to LANES bytes; the common case is one instruction.
INLINE void copy_bytes(void *to, const void *from, int64_t columns) {
  if (columns >= LANES)
    memcpy(to, from, LANES);
  else
    memcpy(to, from, columns);
}

// Writes the maximum of n neighbors and its index: the first one of equal values, or a NaN if there is one. `columns`
// features are written at `offset`.
INLINE void write_maximum(const Conv *c, const Vec *v, int n, int64_t offset, int64_t columns) {
  Vec best = v[0];
  IntVec argmax = {0};
  UNROLL for (int k = 1; k < n; k++) {
    IntVec larger = (v[k] > best) | (v[k] != v[k]);
    best = blend(larger, v[k], best);
    argmax = (argmax & ~larger) | (larger & k);
  }
  if (c->relu) argmax |= ~(best > 0) & BLOCKED, best = apply_relu(best);
  ByteVec bytes = __builtin_convertvector(argmax, ByteVec);
  store_n(c->out + offset, best, columns);
  copy_bytes(c->argmax_out + offset, &bytes, columns);
}

// Loads the indices of the taps that receive some gradients.
INLINE IntVec load_argmax(const uint8_t *argmax, int64_t columns) {
  ByteVec bytes = {0};
  copy_bytes(&bytes, argmax, columns);
  return __builtin_convertvector(bytes, IntVec);
}
