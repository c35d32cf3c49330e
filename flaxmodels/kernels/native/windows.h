// Windows that move over an image, channels last: offsets of their taps, and which taps lie inside the image.
//
// A position is an index of the output; a tap is an index of the window. If the image has fewer than three spatial
// axes, the missing ones have size 1.

#pragma once

#include "ffi.h"
#include "threads.h"

// ---------------------------------------------------------------- sizes and checks

static inline int64_t image_elements(const WindowAttributes *g) {
  return PRODUCT(g->image_size[0], g->image_size[1], g->image_size[2], g->channels);
}
static inline int64_t output_positions(const WindowAttributes *g) {
  return PRODUCT(g->output_size[0], g->output_size[1], g->output_size[2]);
}
static inline int64_t window_taps(const WindowAttributes *g) {
  return PRODUCT(g->window[0], g->window[1], g->window[2]);
}

// The distance between the first and the last tap along an axis, and the image index at which the last window starts.
static inline int64_t window_span(const WindowAttributes *g, int axis) {
  return (g->window[axis] - 1) * g->dilation[axis];
}
static inline int64_t last_window_start(const WindowAttributes *g, int axis) {
  return (g->output_size[axis] - 1) * g->stride[axis] - g->pad_before[axis];
}

// The attributes of a call; NULL if a size is zero, or if windows with too many taps reach beyond the image.
static inline const WindowAttributes *window_attributes(XLA_FFI_CallFrame *frame) {
  const WindowAttributes *g = attributes_of(frame);
  if (!g->channels || g->relu > 1 || g->pooled > 1) return NULL;
  for (int i = 0; i < 3; i++) {
    if (!g->image_size[i] || !g->window[i] || !g->stride[i] || !g->dilation[i] || !g->output_size[i]) return NULL;
    int crosses_edge = g->pad_before[i] || last_window_start(g, i) + window_span(g, i) >= g->image_size[i];
    if (crosses_edge && (window_taps(g) < 0 || window_taps(g) > MAX_EDGE_TAPS)) return NULL;
  }
  return g;
}

// Writes the offsets of a grid of points in an image [size 0, size 1, size 2, channels]: `count` points along each
// axis, `step` apart.
static inline void fill_offsets(int64_t *offsets, const int64_t *count, const int64_t *step, const int64_t *size,
                                int64_t channels) {
  for (int64_t i = 0; i < count[0]; i++)
    for (int64_t j = 0; j < count[1]; j++)
      for (int64_t k = 0; k < count[2]; k++)
        *offsets++ = ((i * step[0] * size[1] + j * step[1]) * size[2] + k * step[2]) * channels;
}

// ---------------------------------------------------------------- windows that treat each channel separately

// The geometry of a depthwise convolution or a pooling. Offsets count floats.
typedef struct {
  const WindowAttributes *geometry;
  int64_t batch, image_elements, positions, taps, channels;
  int64_t valid_taps;  // taps inside the image, summed over all positions
  int64_t disjoint;  // whether windows never overlap
  int64_t *position_offset;  // [positions] offset of the window's first tap in the image; may point before the image
  int64_t *tap_offset;  // [taps] offset of each tap from the first one
  int64_t *kernel_offset;  // [taps] offset of each tap's row in a kernel
  uint8_t *crosses_edge;  // [positions] whether some taps lie outside the image
} Windows;

// Taps of one window: offsets from its first tap, and offsets of their rows in a kernel.
typedef struct {
  int64_t count;
  const int64_t *offset, *kernel_offset;
} TapList;

// Returns the number of taps along an axis that lie inside the image for the window at an output index, and the first
// of them.
static inline int64_t valid_taps_along(const WindowAttributes *g, int axis, int64_t index, int64_t *first) {
  int64_t start = index * g->stride[axis] - g->pad_before[axis], before = start < 0 ? -start : 0;
  int64_t left = start < g->image_size[axis] ? g->image_size[axis] - start : 0, dilation = g->dilation[axis];
  if (dilation > 1) before = ceil_div(before, dilation), left = ceil_div(left, dilation);
  left = min64(g->window[axis], left), *first = min64(before, left);
  return left - *first;
}

// The number of integers that `taps_at` needs as a buffer, at least 1. The buffer is an array on the caller's stack.
static inline int64_t tap_buffer_size(const Windows *w) {
  return w->valid_taps < w->positions * w->taps ? 2 * w->taps : 1;
}

// Returns the taps of a position that lie inside the image. The list may be in the buffer.
static inline TapList taps_at(const Windows *w, int64_t position, int64_t *buffer) {
  const WindowAttributes *g = w->geometry;
  if (!w->crosses_edge[position]) return (TapList){w->taps, w->tap_offset, w->kernel_offset};
  int64_t line = position / g->output_size[2], first[3], count[3];
  const int64_t index[3] = {line / g->output_size[1], line % g->output_size[1], position - line * g->output_size[2]};
  for (int axis = 0; axis < 3; axis++) count[axis] = valid_taps_along(g, axis, index[axis], first + axis);
  TapList list = {0, buffer, buffer + w->taps};
  for (int64_t i = first[0]; i < first[0] + count[0]; i++)
    for (int64_t j = first[1]; j < first[1] + count[1]; j++)
      for (int64_t k = first[2]; k < first[2] + count[2]; k++, list.count++) {
        int64_t tap = (i * g->window[1] + j) * g->window[2] + k;
        buffer[list.count] = w->tap_offset[tap], buffer[w->taps + list.count] = w->kernel_offset[tap];
      }
  return list;
}

// Returns 0 if memory runs out. `free_windows` releases the lists.
static inline int init_windows(Windows *w, const WindowAttributes *g, int64_t batch) {
  int64_t plane = g->image_size[1] * g->image_size[2];
  int64_t pad_offset = g->pad_before[0] * plane + g->pad_before[1] * g->image_size[2] + g->pad_before[2];
  *w = (Windows){.geometry = g, .batch = batch, .channels = g->channels, .disjoint = 1};
  for (int i = 0; i < 3; i++) w->disjoint &= g->stride[i] > (g->window[i] - 1) * g->dilation[i];
  w->image_elements = g->image_size[0] * plane * w->channels;
  w->positions = g->output_size[0] * g->output_size[1] * g->output_size[2];
  w->taps = g->window[0] * g->window[1] * g->window[2];
  w->position_offset = malloc((w->positions + 2 * w->taps) * sizeof(int64_t) + w->positions);
  if (!w->position_offset) return 0;
  w->tap_offset = w->position_offset + w->positions, w->kernel_offset = w->tap_offset + w->taps;
  w->crosses_edge = (uint8_t *)(w->kernel_offset + w->taps);
  fill_offsets(w->position_offset, g->output_size, g->stride, g->image_size, w->channels);
  fill_offsets(w->tap_offset, g->window, g->dilation, g->image_size, w->channels);
  for (int64_t k = 0; k < w->taps; k++) w->kernel_offset[k] = k * w->channels;
  for (int64_t i = 0, position = 0, first; i < g->output_size[0]; i++)
    for (int64_t j = 0, planes = valid_taps_along(g, 0, i, &first); j < g->output_size[1]; j++)
      for (int64_t k = 0, lines = planes * valid_taps_along(g, 1, j, &first); k < g->output_size[2]; k++, position++) {
        int64_t valid = lines * valid_taps_along(g, 2, k, &first);
        w->position_offset[position] -= pad_offset * w->channels;
        w->crosses_edge[position] = valid < w->taps, w->valid_taps += valid;
      }
  return 1;
}

static inline void free_windows(Windows *w) { free(w->position_offset); }

// Positions of one image that are one unit of work. In small batches an image is split, so that all threads have work.
typedef struct {
  int64_t image, from, to;
} PositionRange;

static inline int64_t ranges_per_image(const Windows *w) {
  return w->batch < MAX_PARTS ? min64(w->positions, ceil_div(MAX_PARTS, w->batch)) : 1;
}

static inline PositionRange position_range(const Windows *w, int64_t unit) {
  int64_t n = ranges_per_image(w), part = unit % n;
  return (PositionRange){unit / n, w->positions * part / n, w->positions * (part + 1) / n};
}
