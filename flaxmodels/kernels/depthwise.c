// Convolutions of each channel with a kernel of its own, for a CPU, channels last: vectors of channels under the taps.

#include "native.h"

typedef struct {
  Windows w;
  const float *x, *kernel, *dy;
  float *out, *packed;
  int64_t parts;
} Depthwise;

// What some taps see times their rows of the kernel; without `row`, of all taps, whose rows lie behind each other.
INLINE Vec weighted(const Windows *w, const float *x, const float *kernel, const int64_t *tap, const int64_t *row,
                    int64_t taps, int64_t n) {
  Vec sum = {0};
  for (int64_t k = 0; k < taps; k++)
    sum += load_some(x + tap[k], n) * load_some(kernel + (row ? row[k] : k * w->channels), n);
  return sum;
}

static void forward_unit(void *arguments, int64_t unit) {
  const Depthwise *d = arguments;
  const Windows *w = &d->w;
  Span s = span(w, unit);
  int64_t room[room_of_taps(w)], taps;
  for (int64_t at = s.from; at < s.to; at++) {
    const int64_t *tap = taps_of(w, at, room, &taps);
    for (int64_t c = 0; c < w->channels; c += LANES) {
      const float *x = d->x + s.image * w->image + w->place[at] + c, *kernel = d->kernel + c;
      int64_t n = w->channels - c;
      Vec sum = w->edge[at] ? weighted(w, x, kernel, tap, tap + w->taps, taps, n)
                            : weighted(w, x, kernel, w->tap, NULL, w->taps, n);
      store_some(d->out + (s.image * w->places + at) * w->channels + c, sum, n);
    }
  }
}

static void data_unit(void *arguments, int64_t unit) {
  const Depthwise *d = arguments;
  const Windows *w = &d->w;
  int64_t room[room_of_taps(w)], taps;
  memset(d->out + unit * w->image, 0, w->image * sizeof(float));
  for (int64_t at = 0; at < w->places; at++) {
    const int64_t *tap = taps_of(w, at, room, &taps), *row = tap + w->taps;
    for (int64_t c = 0; c < w->channels; c += LANES) {
      float *out = d->out + unit * w->image + w->place[at] + c;
      int64_t n = w->channels - c;
      Vec dy = load_some(d->dy + (unit * w->places + at) * w->channels + c, n);
      for (int64_t k = 0; k < taps; k++) {
        float *to = out + tap[k];
        store_some(to, load_some(to, n) + dy * load_some(d->kernel + c + row[k], n), n);
      }
    }
  }
}

// own[k] += what some taps, as many as is constant, give to some channels' kernel under all places of an image but those
// at its edge.
INLINE void add_taps(int taps, const Windows *w, const float *x, const float *dy, const int64_t *tap, float *own,
                     int64_t n) {
  Vec sums[9];
  UNROLL for (int k = 0; k < taps; k++) sums[k] = load_some(own + k * w->channels, n);
  for (int64_t at = 0; at < w->places; at++) {
    if (w->edge[at]) continue;
    Vec d = load_some(dy + at * w->channels, n);
    UNROLL for (int k = 0; k < taps; k++) sums[k] += d * load_some(x + w->place[at] + tap[k], n);
  }
  UNROLL for (int k = 0; k < taps; k++) store_some(own + k * w->channels, sums[k], n);
}

// The same of all taps under the places at the edge.
static void add_edge(const Windows *w, const float *x, const float *dy, float *own) {
  int64_t room[room_of_taps(w)], taps;
  for (int64_t at = 0; at < w->places; at++) {
    if (!w->edge[at]) continue;
    const int64_t *tap = taps_of(w, at, room, &taps), *row = tap + w->taps;
    for (int64_t c = 0; c < w->channels; c += LANES) {
      int64_t n = w->channels - c;
      Vec d = load_some(dy + at * w->channels + c, n);
      for (int64_t k = 0; k < taps; k++) {
        float *to = own + row[k] + c;
        store_some(to, load_some(to, n) + d * load_some(x + w->place[at] + tap[k] + c, n), n);
      }
    }
  }
}

// Each unit sums some images into a kernel of its own; they are added in order afterwards.
static void kernel_unit(void *arguments, int64_t unit) {
  const Depthwise *d = arguments;
  const Windows *w = &d->w;
  float *own = d->packed + unit * w->taps * w->channels;
  memset(own, 0, w->taps * w->channels * sizeof(float));
  for (int64_t image = w->batch * unit / d->parts; image < w->batch * (unit + 1) / d->parts; image++) {
    add_edge(w, d->x + image * w->image, d->dy + image * w->places * w->channels, own);
    for (int64_t c = 0; c < w->channels; c += LANES) {
      const float *x = d->x + image * w->image + c, *dy = d->dy + image * w->places * w->channels + c;
      for (int64_t k = 0, taps; k < w->taps; k += taps) {
        int64_t left = w->taps - k;
        taps = left >= 9 ? 9 : left >= 3 ? 3 : 1;
        float *to = own + k * w->channels + c;
        if (taps == 9) add_taps(9, w, x, dy, w->tap + k, to, w->channels - c);
        if (taps == 3) add_taps(3, w, x, dy, w->tap + k, to, w->channels - c);
        if (taps == 1) add_taps(1, w, x, dy, w->tap + k, to, w->channels - c);
      }
    }
  }
}

// ---------------------------------------------------------------- what XLA calls

static XLA_FFI_Error *done(XLA_FFI_CallFrame *frame, Depthwise *d, int fine) {
  free(d->w.place);
  free(d->packed);
  return fine ? NULL : failed(frame, "no memory for a depthwise convolution");
}

// The numbers, NULL unless the two operands and the result have these numbers of values: 0 of images, 1 of outputs, 2 of
// the kernel.
static const Numbers *checked(XLA_FFI_CallFrame *frame, int first, int second, int made) {
  const Numbers *g = window_numbers(frame);
  int64_t batch = size_of(frame, 0, 0);
  if (!g || batch < 1) return NULL;
  const Kind kinds[] = {FLOATS(batch, image_size(g)), FLOATS(batch, places_of(g), g->channels),
                        FLOATS(taps_in(g), g->channels)};
  const Kind arguments[] = {kinds[first], kinds[second]};
  return takes(frame, arguments, 2, kinds + made, 1) ? g : NULL;
}

// y [B, places, C] of x [B, image] and kernel [taps, C].
XLA_FFI_Error *flaxmodels_depthwise(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  const Numbers *g = checked(frame, 0, 2, 1);
  if (!g) return refused(frame);
  Depthwise d = {.x = argument(frame, 0)->data, .kernel = argument(frame, 1)->data, .out = result(frame, 0)->data};
  int fine = windows(&d.w, g, argument(frame, 0)->dims[0]);
  return done(frame, &d, fine && in_parallel(frame, forward_unit, &d, d.w.batch * spans_of_image(&d.w)));
}

// dx [B, image] of dy [B, places, C] and kernel [taps, C].
XLA_FFI_Error *flaxmodels_depthwise_data(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  const Numbers *g = checked(frame, 1, 2, 0);
  if (!g) return refused(frame);
  Depthwise d = {.dy = argument(frame, 0)->data, .kernel = argument(frame, 1)->data, .out = result(frame, 0)->data};
  int fine = windows(&d.w, g, argument(frame, 0)->dims[0]);
  return done(frame, &d, fine && in_parallel(frame, data_unit, &d, d.w.batch));
}

// The kernel's gradient [taps, C] of x [B, image] and dy [B, places, C].
XLA_FFI_Error *flaxmodels_depthwise_kernel(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  const Numbers *g = checked(frame, 0, 1, 2);
  if (!g) return refused(frame);
  Depthwise d = {.x = argument(frame, 0)->data, .dy = argument(frame, 1)->data, .out = result(frame, 0)->data};
  int fine = windows(&d.w, g, argument(frame, 0)->dims[0]);
  int64_t size = fine ? d.w.taps * d.w.channels : 0;
  if (fine) {
    d.parts = least(d.w.batch, MOST_PARTS);
    d.packed = malloc(d.parts * size * sizeof(float));
    fine = d.packed && in_parallel(frame, kernel_unit, &d, d.parts);
  }
  if (fine) add_parts(d.out, d.packed, d.parts, size, size);
  return done(frame, &d, fine);
}
