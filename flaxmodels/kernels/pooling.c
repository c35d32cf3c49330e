// The largest of windows for a CPU, channels last: for each place of the window, vectors of channels under its taps.
//
// The way back asks again which tap it was, the first of equal ones in row-major order, instead of keeping
// that in memory.

#include <math.h>

#include "native.h"

typedef struct {
  Windows w;
  const float *x, *values, *dy;
  float *out;
} Pool;

// Which of some taps holds the maximum of each channel; NaN is one. If it is minus infinity everywhere, the first tap of
// the window does, and none of these if that one lies `outside` of the image.
INLINE Bits largest(const float *x, const int64_t *tap, int64_t taps, int outside, int64_t n) {
  Vec best = (Vec){0} - INFINITY;
  Bits where = (Bits){0} - outside;
  if (!outside) best = load_some(x + tap[0], n);
  for (int32_t k = !outside; k < taps; k++) {
    Vec next = load_some(x + tap[k], n);
    Bits above = (next > best) | (next != next);
    best = choose(above, next, best);
    where = (where & ~above) | (above & k);
  }
  return where;
}

// The sum is NaN if one of them is, seldom otherwise: then it is looked at again.
INLINE Vec maximum(const float *x, const int64_t *tap, int64_t taps, int64_t n) {
  Vec best = load_some(x + tap[0], n), sum = best;
  for (int64_t k = 1; k < taps; k++) {
    Vec next = load_some(x + tap[k], n);
    best = larger(next, best), sum += next;
  }
  for (int64_t k = 0; any_nan(sum) && k < taps; k++) {
    Vec next = load_some(x + tap[k], n);
    best = choose((next > best) | (next != next), next, best);
  }
  return best;
}

INLINE Vec selected(const float *x, const float *values, const int64_t *tap, int64_t taps, int outside, int64_t n) {
  Bits where = largest(x, tap, taps, outside, n);
  Vec value = {0};
  for (int32_t k = 0; k < taps; k++) value = choose(where == k, load_some(values + tap[k], n), value);
  return value;
}

static void select_unit(void *arguments, int64_t unit) {
  const Pool *p = arguments;
  const Windows *w = &p->w;
  Span s = span(w, unit);
  int64_t room[room_of_taps(w)], taps;
  for (int64_t at = s.from; at < s.to; at++) {
    const int64_t *tap = taps_of(w, at, room, &taps);
    int64_t from = s.image * w->image + w->place[at], outside = tap[w->taps] > 0;
    float *out = p->out + (s.image * w->places + at) * w->channels;
    if (p->x == p->values)
      for (int64_t c = 0; c < w->channels; c += LANES)
        store_some(out + c, maximum(p->x + from + c, tap, taps, w->channels - c), w->channels - c);
    else
      for (int64_t c = 0; c < w->channels; c += LANES)
        store_some(out + c, selected(p->x + from + c, p->values + from + c, tap, taps, outside, w->channels - c),
                   w->channels - c);
  }
}

static void scatter_unit(void *arguments, int64_t unit) {
  const Pool *p = arguments;
  const Windows *w = &p->w;
  int64_t room[room_of_taps(w)], taps;
  // Windows side by side write each value once, and often all there are.
  if (!w->apart || w->seen * w->channels < w->image) memset(p->out + unit * w->image, 0, w->image * sizeof(float));
  for (int64_t at = 0; at < w->places; at++) {
    const int64_t *tap = taps_of(w, at, room, &taps);
    for (int64_t c = 0; c < w->channels; c += LANES) {
      int64_t to = unit * w->image + w->place[at] + c, n = w->channels - c;
      Bits where = largest(p->x + to, tap, taps, tap[w->taps] > 0, n);
      Vec dy = load_some(p->dy + (unit * w->places + at) * w->channels + c, n);
      for (int32_t k = 0; k < taps; k++) {
        float *out = p->out + to + tap[k];
        Vec given = choose(where == k, dy, (Vec){0});
        if (!w->apart) given += load_some(out, n);
        store_some(out, given, n);
      }
    }
  }
}

// ---------------------------------------------------------------- what XLA calls

// `spans` says whether the work is on some places of an image, or on all of it.
static XLA_FFI_Error *run(XLA_FFI_CallFrame *frame, Work *work, int spans) {
  if (told_version(frame)) return NULL;
  const Numbers *g = window_numbers(frame);
  int64_t batch = size_of(frame, 0, 0);
  if (!g || batch < 1) return refused(frame);
  // Each window sees a value, so that one of them is the largest.
  for (int i = 0; i < 3; i++)
    if (g->dilation[i] > 1 || g->before[i] >= g->window[i] || last_of(g, i) >= g->size[i]) return refused(frame);
  const Kind image = FLOATS(batch, image_size(g)), outputs = FLOATS(batch, places_of(g), g->channels);
  const Kind arguments[] = {image, spans ? image : outputs};
  if (!takes(frame, arguments, 2, spans ? &outputs : &image, 1)) return refused(frame);
  Pool p;
  if (!windows(&p.w, g, batch)) return failed(frame, "no memory for pooling");
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
