// What all kernels for a CPU share: threads, tiles of a matrix product, and what XLA's foreign function interface wants.
//
// Tiles of ROWS rows times COLS columns are summed in registers. The right matrix is laid out in panels of COLS columns,
// so that it is read in order. The left one need not be made: a row of it is wherever its segments lie.

#pragma once

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "xla/ffi/api/c_api.h"

// Numbers in a vector: what a register holds. Zen 4 does wide ones in halves; narrow ones waste less of a row there.
#if defined(__AVX512F__) && !defined(__znver3__) && !defined(__znver4__)
#define WIDE
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
enum { ROWS = 6, COLS = 2 * LANES, BLOCK = 128 };

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
// Memory that begins with a line of the cache, as panels should; NULL if there is none.
static float *room(int64_t n) { return aligned_alloc(64, (ceil_div(n, COLS) * COLS + COLS) * sizeof(float)); }

INLINE Vec load(const float *p) { return *(const Vec *)p; }
INLINE void store(float *p, Vec v) { *(Vec *)p = v; }

// Where a grid's points lie in an image [size 0, size 1, size 2, channels]: `count` of them along each axis, `step` apart.
static void grid(int64_t *to, const int64_t *count, const int64_t *step, const int64_t *size, int64_t channels) {
  for (int64_t i = 0; i < count[0]; i++)
    for (int64_t j = 0; j < count[1]; j++)
      for (int64_t k = 0; k < count[2]; k++)
        *to++ = ((i * step[0] * size[1] + j * step[1]) * size[2] + k * step[2]) * channels;
}

// What the attribute holds: three axes each of the image, the window, strides, dilation and places, and what the window
// sees before the image begins; channels, features, groups, whether outputs are rectified, whether the largest of
// neighbours is kept.
typedef struct {
  int64_t size[3], window[3], stride[3], dilation[3], places[3], before[3], channels, features, groups, relu, pooled;
} Numbers;

// What a window sees that takes each channel by itself: places are outputs' positions, taps those of the window.
typedef struct {
  const Numbers *numbers;
  int64_t batch, image, places, taps, channels, apart;
  int64_t seen;  // taps of all places that lie in the image
  int64_t *place;
  int64_t *tap;  // offsets of the taps in the image, and behind them those of their rows of a kernel
  uint8_t *edge;  // whether some taps of a place lie outside
} Windows;

// How many taps along an axis lie in the image, of a window at some place, and which is the first.
static int64_t taps_along(const Numbers *g, int axis, int64_t at, int64_t *first) {
  int64_t start = at * g->stride[axis] - g->before[axis], before = start < 0 ? -start : 0;
  int64_t left = start < g->size[axis] ? g->size[axis] - start : 0, apart = g->dilation[axis];
  if (apart > 1) before = ceil_div(before, apart), left = ceil_div(left, apart);
  left = least(g->window[axis], left), *first = least(before, left);
  return left - *first;
}

// What `taps_of` needs: the caller's own, on its stack.
static int64_t room_of_taps(const Windows *w) { return w->seen < w->places * w->taps ? 2 * w->taps : 1; }

// As w->tap, those taps of a place that lie in the image, and how many they are; `room` is where some of them can go.
static const int64_t *taps_of(const Windows *w, int64_t at, int64_t *room, int64_t *count) {
  const Numbers *g = w->numbers;
  if (!w->edge[at]) return *count = w->taps, w->tap;
  int64_t line = at / g->places[2], first[3];
  int64_t down = taps_along(g, 0, line / g->places[1], first);
  int64_t across = taps_along(g, 1, line % g->places[1], first + 1);
  int64_t along = taps_along(g, 2, at - line * g->places[2], first + 2);
  *count = 0;
  for (int64_t i = first[0]; i < first[0] + down; i++)
    for (int64_t j = first[1]; j < first[1] + across; j++)
      for (int64_t k = first[2]; k < first[2] + along; k++, ++*count) {
        int64_t tap = (i * g->window[1] + j) * g->window[2] + k;
        room[*count] = w->tap[tap], room[w->taps + *count] = w->tap[w->taps + tap];
      }
  return room;
}

// 0 without memory.
static int windows(Windows *w, const Numbers *g, int64_t batch) {
  int64_t rows = g->size[1] * g->size[2], before = g->before[0] * rows + g->before[1] * g->size[2] + g->before[2];
  *w = (Windows){.numbers = g, .batch = batch, .channels = g->channels, .apart = 1};
  for (int i = 0; i < 3; i++) w->apart &= g->stride[i] > (g->window[i] - 1) * g->dilation[i];
  w->image = g->size[0] * rows * w->channels;
  w->places = g->places[0] * g->places[1] * g->places[2], w->taps = g->window[0] * g->window[1] * g->window[2];
  w->place = malloc((w->places + 2 * w->taps) * sizeof(int64_t) + w->places);
  if (!w->place) return 0;
  w->tap = w->place + w->places, w->edge = (uint8_t *)(w->tap + 2 * w->taps);
  grid(w->place, g->places, g->stride, g->size, w->channels);
  grid(w->tap, g->window, g->dilation, g->size, w->channels);
  for (int64_t k = 0; k < w->taps; k++) w->tap[w->taps + k] = k * w->channels;
  for (int64_t i = 0, at = 0, first; i < g->places[0]; i++)
    for (int64_t j = 0, down = taps_along(g, 0, i, &first); j < g->places[1]; j++)
      for (int64_t k = 0, across = down * taps_along(g, 1, j, &first); k < g->places[2]; k++, at++) {
        int64_t inside = across * taps_along(g, 2, k, &first);
        w->place[at] -= before * w->channels;
        w->edge[at] = inside < w->taps, w->seen += inside;
      }
  return 1;
}

// ---------------------------------------------------------------- parts of vectors

typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

// The first n numbers of a vector, zeros behind; 0 < n < LANES.
#if defined(WIDE)
INLINE Vec load_part(const float *p, int64_t n) { return (Vec)_mm512_maskz_loadu_ps((1u << n) - 1, p); }
INLINE void store_part(float *p, Vec v, int64_t n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v); }
#elif defined(__AVX2__)
INLINE __m256i part(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE Vec load_part(const float *p, int64_t n) { return (Vec)_mm256_maskload_ps(p, part(n)); }
INLINE void store_part(float *p, Vec v, int64_t n) { _mm256_maskstore_ps(p, part(n), (__m256)v); }
#else
INLINE Vec load_part(const float *p, int64_t n) {
  Vec v = {0};
  memcpy(&v, p, n * sizeof(float));
  return v;
}
INLINE void store_part(float *p, Vec v, int64_t n) { memcpy(p, &v, n * sizeof(float)); }
#endif

INLINE Vec load_some(const float *p, int64_t n) { return n >= LANES ? load(p) : load_part(p, n); }

INLINE void store_some(float *p, Vec v, int64_t n) {
  if (n >= LANES)
    store(p, v);
  else
    store_part(p, v, n);
}

INLINE Vec choose(Bits where, Vec a, Vec b) { return (Vec)(((Bits)a & where) | ((Bits)b & ~where)); }

// a where it is above b, else b, also where one of them is NaN; and whether there is a NaN.
#if defined(WIDE)
INLINE Vec larger(Vec a, Vec b) { return (Vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE int any_nan(Vec v) { return _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q) != 0; }
#elif defined(__AVX2__)
INLINE Vec larger(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE int any_nan(Vec v) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q)) != 0; }
#else
INLINE Vec larger(Vec a, Vec b) { return choose(a > b, a, b); }
INLINE int any_nan(Vec v) {
  int any = 0;
  for (int i = 0; i < LANES; i++) any |= v[i] != v[i];
  return any;
}
#endif

// ---------------------------------------------------------------- threads of XLA's own pool

typedef void Work(void *arguments, int64_t unit);

typedef struct {
  Work *work;
  void *arguments;
  int64_t units;
  atomic_int_least64_t next, done, holders;
} Job;

static void take_units(Job *job) {
  int64_t unit;
  while ((unit = atomic_fetch_add(&job->next, 1)) < job->units) {
    job->work(job->arguments, unit);
    atomic_fetch_add(&job->done, 1);
  }
}

static void let_go(Job *job) {
  if (atomic_fetch_sub(&job->holders, 1) == 1) free(job);
}

static void task(void *job) {
  take_units(job);
  let_go(job);
}

static void forget(XLA_FFI_CallFrame *frame, XLA_FFI_Error *error) {
  XLA_FFI_Error_Destroy_Args gone = {sizeof gone, NULL, error};
  frame->api->XLA_FFI_Error_Destroy(&gone);
}

static int64_t threads_of(XLA_FFI_CallFrame *frame) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args asked = {sizeof asked, NULL, frame->ctx, &threads};
  XLA_FFI_Error *none = frame->api->XLA_FFI_ThreadPool_NumThreads(&asked);
  if (!none) return threads;
  forget(frame, none);
  return 1;
}

// Does all units, with the help of what threads are free; the caller works too, so a busy pool cannot block it.
static int in_parallel(XLA_FFI_CallFrame *frame, Work *work, void *arguments, int64_t units) {
  Job *job = malloc(sizeof *job);
  if (!job) return 0;
  int64_t helpers = least(threads_of(frame), units) - 1;
  *job = (Job){work, arguments, units, 0, 0, 1};
  for (int64_t i = 0; i < helpers; i++) {
    atomic_fetch_add(&job->holders, 1);
    XLA_FFI_ThreadPool_Schedule_Args one = {sizeof one, NULL, frame->ctx, task, job};
    XLA_FFI_Error *refused = frame->api->XLA_FFI_ThreadPool_Schedule(&one);
    if (refused) {
      forget(frame, refused);
      let_go(job);
    }
  }
  take_units(job);
  for (int64_t spins = 0; atomic_load(&job->done) < units; spins++)
    if (spins > 4000) sched_yield();
  let_go(job);
  return 1;
}

// Units that sum into memory of their own, one behind the other, are no more than these.
enum { MOST_PARTS = 16 };

// Places of one image that are one unit: few images are split, so that there is some for each thread.
typedef struct {
  int64_t image, from, to;
} Span;

static int64_t spans_of_image(const Windows *w) {
  return w->batch < MOST_PARTS ? least(w->places, ceil_div(MOST_PARTS, w->batch)) : 1;
}

static Span span(const Windows *w, int64_t unit) {
  int64_t n = spans_of_image(w), part = unit % n;
  return (Span){unit / n, w->places * part / n, w->places * (part + 1) / n};
}

// What units found, added in order, so that the sum is the same whichever thread did which unit.
static void add_parts(float *to, const float *parts, int64_t count, int64_t apart, int64_t size) {
  memset(to, 0, size * sizeof(float));
  for (int64_t part = 0; part < count; part++)
    for (int64_t i = 0; i < size; i++) to[i] += parts[part * apart + i];
}

// ---------------------------------------------------------------- tiles of a matrix product

// Sums are kept in an array of the function's own: in registers, where memory behind a pointer is written at each step.

// to[i] = the row behind a[i], segment by segment, times a panel, or the first vector of its columns.
INLINE void tile(int rows, int vectors, const float *const *a, const float *panel, const int64_t *segment,
                 int64_t segments, int64_t length, Vec to[ROWS][2]) {
  Vec sums[ROWS][2] = {0};
  for (int64_t s = 0; s < segments; s++) {
    const float *p[ROWS];
    UNROLL for (int i = 0; i < rows; i++) p[i] = a[i] + segment[s];
    for (int64_t k = 0; k < length; k++, panel += COLS) {
      Vec v[2];
      UNROLL for (int j = 0; j < vectors; j++) v[j] = load(panel + j * LANES);
      UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++) sums[i][j] += p[i][k] * v[j];
    }
  }
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < vectors; j++) to[i][j] = sums[i][j];
}

// to[i] += over n places, the value that lies behind[i] behind the place times the place's row of the block.
INLINE void outer_tile(int rows, int vectors, const float *x, const int64_t *place, const int64_t *behind,
                       const float *block, int64_t n, Vec to[ROWS][2]) {
  Vec sums[ROWS][2];
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < vectors; j++) sums[i][j] = to[i][j];
  for (int64_t k = 0; k < n; k++, block += COLS) {
    const float *a = x + place[k];
    Vec v[2];
    UNROLL for (int j = 0; j < vectors; j++) v[j] = load(block + j * LANES);
    UNROLL for (int i = 0; i < rows; i++)
      UNROLL for (int j = 0; j < vectors; j++) sums[i][j] += a[behind[i]] * v[j];
  }
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < vectors; j++) to[i][j] = sums[i][j];
}

// A function whose first arguments, rows and vectors of so many columns, are constants in each case.
#define BY_SIZE(function, rows, columns, ...)               \
  switch ((columns) > LANES ? (rows) : (rows) - ROWS) {     \
    case 1: function(1, 2, __VA_ARGS__); break;             \
    case 2: function(2, 2, __VA_ARGS__); break;             \
    case 3: function(3, 2, __VA_ARGS__); break;             \
    case 4: function(4, 2, __VA_ARGS__); break;             \
    case 5: function(5, 2, __VA_ARGS__); break;             \
    case 6: function(6, 2, __VA_ARGS__); break;             \
    case -5: function(1, 1, __VA_ARGS__); break;            \
    case -4: function(2, 1, __VA_ARGS__); break;            \
    case -3: function(3, 1, __VA_ARGS__); break;            \
    case -2: function(4, 1, __VA_ARGS__); break;            \
    case -1: function(5, 1, __VA_ARGS__); break;            \
    default: function(6, 1, __VA_ARGS__);                   \
  }

static void tile_of(int rows, int64_t columns, const float *const *a, const float *panel, const int64_t *segment,
                    int64_t segments, int64_t length, Vec to[ROWS][2]) {
  BY_SIZE(tile, rows, columns, a, panel, segment, segments, length, to)
}

static void outer_tile_of(int rows, int64_t columns, const float *x, const int64_t *place, const int64_t *behind,
                          const float *block, int64_t n, Vec to[ROWS][2]) {
  BY_SIZE(outer_tile, rows, columns, x, place, behind, block, n, to)
}

INLINE void store_row(float *to, const Vec *sums, int64_t columns) {
  store_some(to, sums[0], columns);
  if (columns > LANES) store_some(to + LANES, sums[1], columns - LANES);
}

INLINE void add_row(float *to, const Vec *sums, int64_t columns) {
  store_some(to, load_some(to, columns) + sums[0], columns);
  if (columns > LANES) store_some(to + LANES, load_some(to + LANES, columns - LANES) + sums[1], columns - LANES);
}

// Some columns of a matrix whose entry (k, j) is at k * down + j * across, as a panel; zeros behind.
static void pack_panel(float *panel, const float *matrix, int64_t depth, int64_t columns, int64_t down,
                       int64_t across) {
  if (across == 1) {
    for (int64_t k = 0; k < depth; k++, panel += COLS, matrix += down) {
      store(panel, load_some(matrix, columns));
      store(panel + LANES, columns > LANES ? load_some(matrix + LANES, columns - LANES) : (Vec){0});
    }
    return;
  }
  // By blocks, so that neither the panel nor a matrix that lies the other way is gone through with long steps.
  for (int64_t from = 0; from < depth; from += BLOCK)
    for (int64_t j = 0; j < COLS; j++)
      for (int64_t k = from; k < least(from + BLOCK, depth); k++)
        panel[k * COLS + j] = j < columns ? matrix[k * down + j * across] : 0;
}

// ---------------------------------------------------------------- what XLA calls

static XLA_FFI_Error *error(XLA_FFI_CallFrame *frame, const char *message, XLA_FFI_Error_Code code) {
  XLA_FFI_Error_Create_Args error = {sizeof error, NULL, message, code};
  return frame->api->XLA_FFI_Error_Create(&error);
}

static XLA_FFI_Error *failed(XLA_FFI_CallFrame *frame, const char *message) {
  return error(frame, message, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
}

static XLA_FFI_Error *refused(XLA_FFI_CallFrame *frame) {
  return error(frame,
               "A kernel of flaxmodels got operands, results or numbers whose count, type or size it does not take; call "
               "it by the functions in flaxmodels.kernels, which check them.",
               XLA_FFI_Error_Code_INVALID_ARGUMENT);
}

// The type of an extension has another name since jax 0.11.
static int told_version(XLA_FFI_CallFrame *frame) {
  __typeof__(frame->extension_start) extension = frame->extension_start;
  if (!extension || extension->type != XLA_FFI_Extension_Metadata) return 0;
  XLA_FFI_Metadata *metadata = ((XLA_FFI_Metadata_Extension *)extension)->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  return 1;
}

static XLA_FFI_Buffer *argument(XLA_FFI_CallFrame *frame, int i) { return frame->args.args[i]; }
static XLA_FFI_Buffer *result(XLA_FFI_CallFrame *frame, int i) { return frame->rets.rets[i]; }

// ---------------------------------------------------------------- checks of a call, before any memory is read

// A number above this is refused, so that sums of a few products of two do not overflow.
#define MOST ((int64_t)1 << 30)

// The product of n sizes; -1 if one is negative or the product does not fit.
static int64_t times(const int64_t *sizes, int64_t n) {
  int64_t product = 1;
  for (int64_t i = 0; i < n; i++)
    if (sizes[i] < 0 || __builtin_mul_overflow(product, sizes[i], &product)) return -1;
  return product;
}

// The type of a buffer and the number of its elements, -1 if no number is right.
typedef struct {
  XLA_FFI_DataType dtype;
  int64_t size;
} Kind;

#define SIZES(...) times((const int64_t[]){__VA_ARGS__}, sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))
#define FLOATS(...) ((Kind){XLA_FFI_DataType_F32, SIZES(__VA_ARGS__)})
#define BYTES(...) ((Kind){XLA_FFI_DataType_U8, SIZES(__VA_ARGS__)})

static int is_kind(const XLA_FFI_Buffer *buffer, Kind kind) {
  return buffer->dtype == kind.dtype && kind.size >= 0 && times(buffer->dims, buffer->rank) == kind.size;
}

// Whether a call has these operands and results, and no others.
static int takes(XLA_FFI_CallFrame *frame, const Kind *arguments, int64_t n, const Kind *results, int64_t m) {
  if (frame->args.size != n || frame->rets.size != m) return 0;
  for (int64_t i = 0; i < n; i++)
    if (frame->args.types[i] != XLA_FFI_ArgType_BUFFER || !is_kind(frame->args.args[i], arguments[i])) return 0;
  for (int64_t i = 0; i < m; i++)
    if (frame->rets.types[i] != XLA_FFI_RetType_BUFFER || !is_kind(frame->rets.rets[i], results[i])) return 0;
  return 1;
}

// A size of an operand, -1 if it has none.
static int64_t size_of(XLA_FFI_CallFrame *frame, int64_t i, int64_t axis) {
  if (i >= frame->args.size || frame->args.types[i] != XLA_FFI_ArgType_BUFFER) return -1;
  return axis < argument(frame, (int)i)->rank ? argument(frame, (int)i)->dims[axis] : -1;
}

// The one attribute, n integers from 0 to MOST; NULL if there is another one, or another number of them.
static const int64_t *numbers(XLA_FFI_CallFrame *frame, int64_t n) {
  if (frame->attrs.size != 1 || frame->attrs.types[0] != XLA_FFI_AttrType_ARRAY) return NULL;
  const XLA_FFI_Array *array = frame->attrs.attrs[0];
  if (array->dtype != XLA_FFI_DataType_S64 || (int64_t)array->size != n) return NULL;
  const int64_t *found = array->data;
  for (int64_t i = 0; i < n; i++)
    if (found[i] < 0 || found[i] > MOST) return NULL;
  return found;
}

static int64_t image_size(const Numbers *g) { return SIZES(g->size[0], g->size[1], g->size[2], g->channels); }
static int64_t places_of(const Numbers *g) { return SIZES(g->places[0], g->places[1], g->places[2]); }
static int64_t taps_in(const Numbers *g) { return SIZES(g->window[0], g->window[1], g->window[2]); }

// How far a window reaches along an axis, and where the last one begins.
static int64_t span_of(const Numbers *g, int axis) { return (g->window[axis] - 1) * g->dilation[axis]; }
static int64_t last_of(const Numbers *g, int axis) { return (g->places[axis] - 1) * g->stride[axis] - g->before[axis]; }

// A list of more taps would not fit on the stack of a thread; native.py knows the same bound.
enum { MOST_TAPS = 4096 };

// The attribute of kernels over windows; NULL if it is none, or if windows of very many taps reach over the edge.
static const Numbers *window_numbers(XLA_FFI_CallFrame *frame) {
  const Numbers *g = (const Numbers *)numbers(frame, sizeof(Numbers) / sizeof(int64_t));
  if (!g || !g->channels || g->relu > 1 || g->pooled > 1) return NULL;
  for (int i = 0; i < 3; i++) {
    if (!g->size[i] || !g->window[i] || !g->stride[i] || !g->dilation[i] || !g->places[i]) return NULL;
    int over = g->before[i] || last_of(g, i) + span_of(g, i) >= g->size[i];
    if (over && (taps_in(g) < 0 || taps_in(g) > MOST_TAPS)) return NULL;
  }
  return g;
}
