// Depthwise convolutions for a CPU, channels last: each channel has its own kernel.
//
// The matrix product of a single channel would have one column, so register blocking does not help. The loops go over
// vectors of channels and multiply and add tap by tap.

#include "windows.h"

typedef struct {
  Windows windows;
  const float *x, *kernel, *dy;
  float *out;
  float *partial_sums;  // [parts, taps, channels]
  int64_t parts;
} Depthwise;

// The weighted sum over some taps. If `kernel_offset` is NULL, these are all taps, whose kernel rows are contiguous.
INLINE Vec weighted_sum(const Windows *w, const float *x, const float *kernel, const int64_t *tap_offset,
                        const int64_t *kernel_offset, int64_t taps, int64_t n) {
  Vec sum = {0};
  for (int64_t k = 0; k < taps; k++)
    sum += load_n(x + tap_offset[k], n) * load_n(kernel + (kernel_offset ? kernel_offset[k] : k * w->channels), n);
  return sum;
}

static void forward_unit(void *arguments, int64_t unit) {
  const Depthwise *d = arguments;
  const Windows *w = &d->windows;
  PositionRange range = position_range(w, unit);
  int64_t buffer[tap_buffer_size(w)];
  for (int64_t position = range.from; position < range.to; position++) {
    TapList taps = taps_at(w, position, buffer);
    for (int64_t c = 0; c < w->channels; c += LANES) {
      const float *x = d->x + range.image * w->image_elements + w->position_offset[position] + c;
      const float *kernel = d->kernel + c;
      int64_t n = w->channels - c;
      Vec sum = w->crosses_edge[position] ? weighted_sum(w, x, kernel, taps.offset, taps.kernel_offset, taps.count, n)
                                          : weighted_sum(w, x, kernel, w->tap_offset, NULL, w->taps, n);
      store_n(d->out + (range.image * w->positions + position) * w->channels + c, sum, n);
    }
  }
}

// Scatters the gradients of one image's outputs to its inputs.
static void backward_input_unit(void *arguments, int64_t image) {
  const Depthwise *d = arguments;
  const Windows *w = &d->windows;
  int64_t buffer[tap_buffer_size(w)];
  memset(d->out + image * w->image_elements, 0, w->image_elements * sizeof(float));
  for (int64_t position = 0; position < w->positions; position++) {
    TapList taps = taps_at(w, position, buffer);
    for (int64_t c = 0; c < w->channels; c += LANES) {
      float *out = d->out + image * w->image_elements + w->position_offset[position] + c;
      int64_t n = w->channels - c;
      Vec dy = load_n(d->dy + (image * w->positions + position) * w->channels + c, n);
      for (int64_t k = 0; k < taps.count; k++) {
        float *to = out + taps.offset[k];
        store_n(to, load_n(to, n) + dy * load_n(d->kernel + c + taps.kernel_offset[k], n), n);
      }
    }
  }
}

// Adds the contributions of the positions inside one image to the gradients of some taps. `taps` is a constant at each
// call, so that the sums stay in registers.
INLINE void add_inner_positions(int taps, const Windows *w, const float *x, const float *dy, const int64_t *tap_offset,
                                float *d_kernel, int64_t n) {
  Vec sums[9];
  UNROLL for (int k = 0; k < taps; k++) sums[k] = load_n(d_kernel + k * w->channels, n);
  for (int64_t position = 0; position < w->positions; position++) {
    if (w->crosses_edge[position]) continue;
    Vec d = load_n(dy + position * w->channels, n);
    UNROLL for (int k = 0; k < taps; k++) sums[k] += d * load_n(x + w->position_offset[position] + tap_offset[k], n);
  }
  UNROLL for (int k = 0; k < taps; k++) store_n(d_kernel + k * w->channels, sums[k], n);
}

// Adds the contributions of the positions at the edge of one image, for all taps and channels.
static void add_edge_positions(const Windows *w, const float *x, const float *dy, float *d_kernel) {
  int64_t buffer[tap_buffer_size(w)];
  for (int64_t position = 0; position < w->positions; position++) {
    if (!w->crosses_edge[position]) continue;
    TapList taps = taps_at(w, position, buffer);
    for (int64_t c = 0; c < w->channels; c += LANES) {
      int64_t n = w->channels - c;
      Vec d = load_n(dy + position * w->channels + c, n);
      for (int64_t k = 0; k < taps.count; k++) {
        float *to = d_kernel + taps.kernel_offset[k] + c;
        store_n(to, load_n(to, n) + d * load_n(x + w->position_offset[position] + taps.offset[k] + c, n), n);
      }
    }
  }
}

// Sums the kernel's gradient over the images of one part.
static void backward_kernel_unit(void *arguments, int64_t part) {
  const Depthwise *d = arguments;
  const Windows *w = &d->windows;
  float *d_kernel = d->partial_sums + part * w->taps * w->channels;
  memset(d_kernel, 0, w->taps * w->channels * sizeof(float));
  int64_t end = first_image(w->batch, part + 1, d->parts);
  for (int64_t image = first_image(w->batch, part, d->parts); image < end; image++) {
    const float *image_x = d->x + image * w->image_elements, *image_dy = d->dy + image * w->positions * w->channels;
    add_edge_positions(w, image_x, image_dy, d_kernel);
    for (int64_t c = 0; c < w->channels; c += LANES) {
      const float *x = image_x + c, *dy = image_dy + c;
      for (int64_t k = 0, taps; k < w->taps; k += taps) {
        int64_t left = w->taps - k, n = w->channels - c;
        float *to = d_kernel + k * w->channels + c;
        taps = left >= 9 ? 9 : left >= 3 ? 3 : 1;
        if (taps == 9) add_inner_positions(9, w, x, dy, w->tap_offset + k, to, n);
        if (taps == 3) add_inner_positions(3, w, x, dy, w->tap_offset + k, to, n);
        if (taps == 1) add_inner_positions(1, w, x, dy, w->tap_offset + k, to, n);
      }
    }
  }
}

// ---------------------------------------------------------------- entry points

static XLA_FFI_Error *finish(XLA_FFI_CallFrame *frame, Depthwise *d, const char *kernel_name, int done) {
  free_windows(&d->windows);
  free(d->partial_sums);
  return done ? NULL : out_of_memory(frame, kernel_name);
}

// The sizes of the arrays of a call; `geometry` is NULL if the attributes are invalid.
typedef struct {
  const WindowAttributes *geometry;
  int64_t batch;
  Expected x, y, kernel;
} Sizes;

static Sizes sizes_of(XLA_FFI_CallFrame *frame) {
  const WindowAttributes *g = window_attributes(frame);
  Sizes sizes = {.batch = axis_size(frame, 0, 0)};
  if (!g || sizes.batch < 1) return sizes;
  sizes.geometry = g;
  sizes.x = FLOATS(sizes.batch, image_elements(g)), sizes.y = FLOATS(sizes.batch, output_positions(g), g->channels);
  sizes.kernel = FLOATS(window_taps(g), g->channels);
  return sizes;
}

KERNEL(depthwise) {
  Sizes s = sizes_of(frame);
  if (!s.geometry || !sizes_match(frame, (Expected[]){s.x, s.kernel}, &s.y)) return size_mismatch(frame, kernel_name);
  Depthwise d = {.x = operand(frame, DEPTHWISE_X)->data, .kernel = operand(frame, DEPTHWISE_KERNEL)->data};
  d.out = result(frame, DEPTHWISE_Y)->data;
  int done = init_windows(&d.windows, s.geometry, s.batch) &&
             parallel_for(frame, forward_unit, &d, s.batch * ranges_per_image(&d.windows));
  return finish(frame, &d, kernel_name, done);
}

KERNEL(depthwise_backward_input) {
  Sizes s = sizes_of(frame);
  if (!s.geometry || !sizes_match(frame, (Expected[]){s.y, s.kernel}, &s.x))
    return size_mismatch(frame, kernel_name);
  Depthwise d = {.dy = operand(frame, DEPTHWISE_BACKWARD_INPUT_Y)->data};
  d.kernel = operand(frame, DEPTHWISE_BACKWARD_INPUT_KERNEL)->data;
  d.out = result(frame, DEPTHWISE_BACKWARD_INPUT_X)->data;
  int done = init_windows(&d.windows, s.geometry, s.batch) && parallel_for(frame, backward_input_unit, &d, s.batch);
  return finish(frame, &d, kernel_name, done);
}

KERNEL(depthwise_backward_kernel) {
  Sizes s = sizes_of(frame);
  if (!s.geometry || !sizes_match(frame, (Expected[]){s.x, s.y}, &s.kernel))
    return size_mismatch(frame, kernel_name);
  Depthwise d = {.x = operand(frame, DEPTHWISE_BACKWARD_KERNEL_X)->data, .parts = min64(s.batch, MAX_PARTS)};
  d.dy = operand(frame, DEPTHWISE_BACKWARD_KERNEL_Y)->data;
  d.out = result(frame, DEPTHWISE_BACKWARD_KERNEL_KERNEL)->data;
  int64_t size = s.kernel.elements;
  d.partial_sums = malloc(d.parts * size * sizeof(float));
  int done = d.partial_sums && init_windows(&d.windows, s.geometry, s.batch) &&
             parallel_for(frame, backward_kernel_unit, &d, d.parts);
  if (done) sum_parts(d.out, d.partial_sums, d.parts, size, size);
  return finish(frame, &d, kernel_name, done);
}
