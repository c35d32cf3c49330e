// The largest of windows for a CPU, channels last: for each place of the window, vectors of channels under its taps.
//
// The way back asks again which tap it was, the first of equal ones in row-major order, instead of keeping
// that in memory.

#include "native.h"

typedef struct {
  int64_t batch, image, places, taps, channels, apart;
  int64_t *place, *tap;
  const float *x, *values, *dy;
  float *out;
} Pool;

// What the attribute holds: sizes of the image, window, strides, dilation [3 each], channels, and a number not used.
static int plan(Pool *p, XLA_FFI_CallFrame *frame) {
  const int64_t *size = numbers(frame), *window = size + 3, *stride = size + 6, *dilation = size + 9;
  int64_t out[3];
  int64_t apart = 1;
  for (int i = 0; i < 3; i++) {
    out[i] = (size[i] - (window[i] - 1) * dilation[i] - 1) / stride[i] + 1;
    apart &= stride[i] > (window[i] - 1) * dilation[i];
  }
  *p = (Pool){.batch = argument(frame, 0)->dims[0], .channels = size[12], .apart = apart, .out = result(frame, 0)->data};
  p->image = size[0] * size[1] * size[2] * p->channels;
  p->places = out[0] * out[1] * out[2], p->taps = window[0] * window[1] * window[2];
  p->place = malloc((p->places + p->taps) * sizeof(int64_t));
  if (!p->place) return 0;
  p->tap = p->place + p->places;
  grid(p->place, out, stride, size, p->channels);
  grid(p->tap, window, dilation, size, p->channels);
  return 1;
}

// Which tap holds the maximum of each channel; NaN is one.
INLINE Bits largest(const Pool *p, const float *x, int64_t n) {
  Vec best = load_some(x + p->tap[0], n);
  Bits where = {0};
  for (int32_t k = 1; k < p->taps; k++) {
    Vec next = load_some(x + p->tap[k], n);
    Bits larger = (next > best) | (next != next);
    best = choose(larger, next, best);
    where = (where & ~larger) | (larger & k);
  }
  return where;
}

static void maximum_unit(void *arguments, int64_t unit) {
  const Pool *p = arguments;
  for (int64_t at = 0; at < p->places; at++)
    for (int64_t c = 0; c < p->channels; c += LANES) {
      const float *x = p->x + unit * p->image + p->place[at] + c;
      int64_t n = p->channels - c;
      Vec best = load_some(x + p->tap[0], n);
      for (int64_t k = 1; k < p->taps; k++) {
        Vec next = load_some(x + p->tap[k], n);
        best = choose((next > best) | (next != next), next, best);
      }
      store_some(p->out + (unit * p->places + at) * p->channels + c, best, n);
    }
}

static void select_unit(void *arguments, int64_t unit) {
  const Pool *p = arguments;
  if (p->x == p->values) {
    maximum_unit(arguments, unit);
    return;
  }
  for (int64_t at = 0; at < p->places; at++)
    for (int64_t c = 0; c < p->channels; c += LANES) {
      int64_t from = unit * p->image + p->place[at] + c, n = p->channels - c;
      Bits where = largest(p, p->x + from, n);
      Vec value = load_some(p->values + from + p->tap[0], n);
      for (int32_t k = 1; k < p->taps; k++)
        value = choose(where == k, load_some(p->values + from + p->tap[k], n), value);
      store_some(p->out + (unit * p->places + at) * p->channels + c, value, n);
    }
}

static void scatter_unit(void *arguments, int64_t unit) {
  const Pool *p = arguments;
  // Windows side by side write each value once, and often all there are.
  if (!p->apart || p->places * p->taps * p->channels < p->image)
    memset(p->out + unit * p->image, 0, p->image * sizeof(float));
  for (int64_t at = 0; at < p->places; at++)
    for (int64_t c = 0; c < p->channels; c += LANES) {
      int64_t to = unit * p->image + p->place[at] + c, n = p->channels - c;
      Bits where = largest(p, p->x + to, n);
      Vec dy = load_some(p->dy + (unit * p->places + at) * p->channels + c, n);
      for (int32_t k = 0; k < p->taps; k++) {
        float *tap = p->out + to + p->tap[k];
        Vec given = choose(where == k, dy, (Vec){0});
        if (!p->apart) given += load_some(tap, n);
        store_some(tap, given, n);
      }
    }
}

// ---------------------------------------------------------------- what XLA calls

static XLA_FFI_Error *run(XLA_FFI_CallFrame *frame, Work *work) {
  if (told_version(frame)) return NULL;
  Pool p;
  if (!plan(&p, frame)) return failed(frame, "no memory for pooling");
  p.x = argument(frame, 0)->data;
  p.values = p.dy = argument(frame, 1)->data;
  int done = in_parallel(frame, work, &p, p.batch);
  free(p.place);
  return done ? NULL : failed(frame, "no memory for pooling");
}

// Of x and values [B, image], the value where x is largest [B, places, C].
XLA_FFI_Error *flaxmodels_pool_select(XLA_FFI_CallFrame *frame) { return run(frame, select_unit); }
// Of x [B, image] and dy [B, places, C], dy where x is largest, else 0 [B, image].
XLA_FFI_Error *flaxmodels_pool_scatter(XLA_FFI_CallFrame *frame) { return run(frame, scatter_unit); }
