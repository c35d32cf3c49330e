// The largest of windows for a CPU, channels last: for each place of the window, vectors of channels under its taps.
//
// The way back asks again which tap it was, the first of equal ones in row-major order, instead of keeping
// that in memory.

#include "native.h"

typedef struct {
  Windows w;
  const float *x, *values, *dy;
  float *out;
} Pool;

// Which tap holds the maximum of each channel; NaN is one.
INLINE Bits largest(const Pool *p, const float *x, int64_t n) {
  Vec best = load_some(x + p->w.tap[0], n);
  Bits where = {0};
  for (int32_t k = 1; k < p->w.taps; k++) {
    Vec next = load_some(x + p->w.tap[k], n);
    Bits larger = (next > best) | (next != next);
    best = choose(larger, next, best);
    where = (where & ~larger) | (larger & k);
  }
  return where;
}

static void maximum(const Pool *p, Span s) {
  for (int64_t at = s.from; at < s.to; at++)
    for (int64_t c = 0; c < p->w.channels; c += LANES) {
      const float *x = p->x + s.image * p->w.image + p->w.place[at] + c;
      int64_t n = p->w.channels - c;
      Vec best = load_some(x + p->w.tap[0], n);
      for (int64_t k = 1; k < p->w.taps; k++) {
        Vec next = load_some(x + p->w.tap[k], n);
        best = choose((next > best) | (next != next), next, best);
      }
      store_some(p->out + (s.image * p->w.places + at) * p->w.channels + c, best, n);
    }
}

static void select_unit(void *arguments, int64_t unit) {
  const Pool *p = arguments;
  Span s = span(&p->w, unit);
  if (p->x == p->values) {
    maximum(p, s);
    return;
  }
  for (int64_t at = s.from; at < s.to; at++)
    for (int64_t c = 0; c < p->w.channels; c += LANES) {
      int64_t from = s.image * p->w.image + p->w.place[at] + c, n = p->w.channels - c;
      Bits where = largest(p, p->x + from, n);
      Vec value = load_some(p->values + from + p->w.tap[0], n);
      for (int32_t k = 1; k < p->w.taps; k++)
        value = choose(where == k, load_some(p->values + from + p->w.tap[k], n), value);
      store_some(p->out + (s.image * p->w.places + at) * p->w.channels + c, value, n);
    }
}

static void scatter_unit(void *arguments, int64_t unit) {
  const Pool *p = arguments;
  // Windows side by side write each value once, and often all there are.
  if (!p->w.apart || p->w.places * p->w.taps * p->w.channels < p->w.image)
    memset(p->out + unit * p->w.image, 0, p->w.image * sizeof(float));
  for (int64_t at = 0; at < p->w.places; at++)
    for (int64_t c = 0; c < p->w.channels; c += LANES) {
      int64_t to = unit * p->w.image + p->w.place[at] + c, n = p->w.channels - c;
      Bits where = largest(p, p->x + to, n);
      Vec dy = load_some(p->dy + (unit * p->w.places + at) * p->w.channels + c, n);
      for (int32_t k = 0; k < p->w.taps; k++) {
        float *tap = p->out + to + p->w.tap[k];
        Vec given = choose(where == k, dy, (Vec){0});
        if (!p->w.apart) given += load_some(tap, n);
        store_some(tap, given, n);
      }
    }
}

// ---------------------------------------------------------------- what XLA calls

// `spans` says whether the work is on some places of an image, or on all of it.
static XLA_FFI_Error *run(XLA_FFI_CallFrame *frame, Work *work, int spans) {
  if (told_version(frame)) return NULL;
  Pool p;
  if (!windows(&p.w, numbers(frame), argument(frame, 0)->dims[0])) return failed(frame, "no memory for pooling");
  p.x = argument(frame, 0)->data, p.out = result(frame, 0)->data;
  p.values = p.dy = argument(frame, 1)->data;
  int done = in_parallel(frame, work, &p, p.w.batch * (spans ? spans_of_image(&p.w) : 1));
  free(p.w.place);
  return done ? NULL : failed(frame, "no memory for pooling");
}

// Of x and values [B, image], the value where x is largest [B, places, C].
XLA_FFI_Error *flaxmodels_pool_select(XLA_FFI_CallFrame *frame) { return run(frame, select_unit, 1); }
// Of x [B, image] and dy [B, places, C], dy where x is largest, else 0 [B, image].
XLA_FFI_Error *flaxmodels_pool_scatter(XLA_FFI_CallFrame *frame) { return run(frame, scatter_unit, 0); }
