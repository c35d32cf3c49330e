// Max pooling for a CPU, channels last: vectors of channels, tap by tap.
//
// The backward pass recomputes which tap is the largest instead of reading it from memory. Among equal maxima it is the
// first one in row-major order, and a NaN counts as the largest value.

#include <math.h>

#include "windows.h"

// `values` is the array that the selected taps are read from, often x; `dy` is scattered to the selected taps.
typedef struct {
  Windows windows;
  const float *x, *values, *dy;
  float *out;
} Pool;

// The index of the tap that holds the maximum of each channel. `first_is_outside` says that the first tap of the window
// lies outside the image. That tap wins if all others are minus infinity, and then none of these taps is selected.
INLINE IntVec argmax(const float *x, const int64_t *tap_offset, int64_t taps, int first_is_outside, int64_t n) {
  Vec best = (Vec){0} - INFINITY;
  IntVec index = (IntVec){0} - first_is_outside;
  if (!first_is_outside) best = load_n(x + tap_offset[0], n);
  for (int32_t k = !first_is_outside; k < taps; k++) {
    Vec next = load_n(x + tap_offset[k], n);
    IntVec larger = (next > best) | (next != next);
    best = blend(larger, next, best);
    index = (index & ~larger) | (larger & k);
  }
  return index;
}

// The maximum. vec_max drops some NaN, so the running sum detects them: it is NaN if any value is NaN. It may also be
// NaN because of infinities, so a second pass then checks for NaN in each comparison.
INLINE Vec maximum(const float *x, const int64_t *tap_offset, int64_t taps, int64_t n) {
  Vec best = load_n(x + tap_offset[0], n), sum = best;
  for (int64_t k = 1; k < taps; k++) {
    Vec next = load_n(x + tap_offset[k], n);
    best = vec_max(next, best), sum += next;
  }
  for (int64_t k = 0; any_nan(sum) && k < taps; k++) {
    Vec next = load_n(x + tap_offset[k], n);
    best = blend((next > best) | (next != next), next, best);
  }
  return best;
}

INLINE Vec select_at_max(const float *x, const float *values, const int64_t *tap_offset, int64_t taps,
                         int first_is_outside, int64_t n) {
  IntVec index = argmax(x, tap_offset, taps, first_is_outside, n);
  Vec selected = {0};
  for (int32_t k = 0; k < taps; k++) selected = blend(index == k, load_n(values + tap_offset[k], n), selected);
  return selected;
}

static void select_unit(void *arguments, int64_t unit) {
  const Pool *p = arguments;
  const Windows *w = &p->windows;
  PositionRange range = position_range(w, unit);
  int64_t buffer[tap_buffer_size(w)];
  for (int64_t position = range.from; position < range.to; position++) {
    TapList taps = taps_at(w, position, buffer);
    int64_t from = range.image * w->image_elements + w->position_offset[position];
    int first_is_outside = taps.kernel_offset[0] > 0;
    float *out = p->out + (range.image * w->positions + position) * w->channels;
    for (int64_t c = 0; c < w->channels; c += LANES) {
      const float *x = p->x + from + c;
      int64_t n = w->channels - c;
      Vec y = p->x == p->values
                  ? maximum(x, taps.offset, taps.count, n)
                  : select_at_max(x, p->values + from + c, taps.offset, taps.count, first_is_outside, n);
      store_n(out + c, y, n);
    }
  }
}

static void scatter_unit(void *arguments, int64_t image) {
  const Pool *p = arguments;
  const Windows *w = &p->windows;
  int64_t buffer[tap_buffer_size(w)];
  // Disjoint windows write each value once, so zeros are needed only for values that no window covers.
  if (!w->disjoint || w->valid_taps * w->channels < w->image_elements)
    memset(p->out + image * w->image_elements, 0, w->image_elements * sizeof(float));
  for (int64_t position = 0; position < w->positions; position++) {
    TapList taps = taps_at(w, position, buffer);
    int first_is_outside = taps.kernel_offset[0] > 0;
    for (int64_t c = 0; c < w->channels; c += LANES) {
      int64_t to = image * w->image_elements + w->position_offset[position] + c, n = w->channels - c;
      IntVec index = argmax(p->x + to, taps.offset, taps.count, first_is_outside, n);
      Vec dy = load_n(p->dy + (image * w->positions + position) * w->channels + c, n);
      for (int32_t k = 0; k < taps.count; k++) {
        float *out = p->out + to + taps.offset[k];
        Vec dx = blend(index == k, dy, (Vec){0});
        if (!w->disjoint) dx += load_n(out, n);
        store_n(out, dx, n);
      }
    }
  }
}

// ---------------------------------------------------------------- entry points

// The sizes of the arrays of a call; `geometry` is NULL if the attributes are invalid.
typedef struct {
  const WindowAttributes *geometry;
  int64_t batch;
  Expected image, outputs;
} Sizes;

static Sizes sizes_of(XLA_FFI_CallFrame *frame) {
  const WindowAttributes *g = window_attributes(frame);
  Sizes sizes = {.batch = axis_size(frame, 0, 0)};
  if (!g || sizes.batch < 1) return sizes;
  // Each window must cover a value, because an empty window has no maximum.
  for (int i = 0; i < 3; i++)
    if (g->dilation[i] > 1 || g->pad_before[i] >= g->window[i] || last_window_start(g, i) >= g->image_size[i])
      return sizes;
  sizes.geometry = g, sizes.image = FLOATS(sizes.batch, image_elements(g));
  sizes.outputs = FLOATS(sizes.batch, output_positions(g), g->channels);
  return sizes;
}

// The values of `values` where x is largest in each window; the maximum itself if both are the same array.
KERNEL(pool_select) {
  Sizes s = sizes_of(frame);
  if (!s.geometry || !sizes_match(frame, (Expected[]){s.image, s.image}, &s.outputs))
    return size_mismatch(frame, kernel_name);
  Pool p = {.x = operand(frame, POOL_SELECT_X)->data, .values = operand(frame, POOL_SELECT_VALUES)->data};
  p.out = result(frame, POOL_SELECT_Y)->data;
  if (!init_windows(&p.windows, s.geometry, s.batch)) return out_of_memory(frame, kernel_name);
  int done = parallel_for(frame, select_unit, &p, s.batch * ranges_per_image(&p.windows));
  free_windows(&p.windows);
  return done ? NULL : out_of_memory(frame, kernel_name);
}

// The gradients of the outputs where x is largest in each window, zero elsewhere.
KERNEL(pool_scatter) {
  Sizes s = sizes_of(frame);
  if (!s.geometry || !sizes_match(frame, (Expected[]){s.image, s.outputs}, &s.image))
    return size_mismatch(frame, kernel_name);
  Pool p = {.x = operand(frame, POOL_SCATTER_X)->data, .dy = operand(frame, POOL_SCATTER_Y)->data};
  p.out = result(frame, POOL_SCATTER_VALUES)->data;
  if (!init_windows(&p.windows, s.geometry, s.batch)) return out_of_memory(frame, kernel_name);
  int done = parallel_for(frame, scatter_unit, &p, s.batch);
  free_windows(&p.windows);
  return done ? NULL : out_of_memory(frame, kernel_name);
}
