// Convolutions of 3 x 3 windows side by side with 16 multiplications where 36 are written: Winograd's F(2x2, 3x3).
//
// Of a patch of 4 x 4 values, which four windows see, sums and differences are taken: 16 points. So are points taken of
// the kernel. At each point a matrix product over channels follows, and sums and differences of its 16 results are the
// patch's 2 x 2 outputs. Gradients are the same backwards. Only additions and halves come in, so errors are those of
// plain sums. What is not finite reaches the outputs whose windows see it, but of what is infinite they may be NaN.
//
// Some patches at a time go all the way, in memory of the thread, which stays in its second cache.
//
// A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, 2015.

#include "convolution.h"

enum { SIDE = 4, POINTS = SIDE * SIDE, PATCHES = 24, VALUES = 1 << 16 };

// Points of some patches: by point, patch and channel, and by point, panel, patch and column. A point begins a line
// behind the one before: a power of two apart, all of them would share some lines of the cache.
static _Thread_local float there[VALUES + POINTS * COLS] __attribute__((aligned(64)));
static _Thread_local float back[VALUES + POINTS * COLS] __attribute__((aligned(64)));
static _Thread_local float found[POINTS * PATCHES * COLS] __attribute__((aligned(64)));

// How many patches there are along an axis; where only the largest of neighbours count, none of them is cut.
static int64_t patches_along(const Conv *c, int axis) {
  return c->near[1] ? c->windows[axis] : ceil_div(c->along[axis], 2);
}

static int64_t patches(const Conv *c) { return patches_along(c, 0) * patches_along(c, 1); }

// The rule, measured. Below 32 channels or features the sums cost what the products save; above 256 too few patches
// fit. Patches that reach beyond the image are in vain, as are the kernel's points for few places.
int winograd_suits(const Conv *c, const Numbers *g) {
  const int64_t *window = g->window, *stride = g->stride, *dilation = g->dilation;
  int plane = g->size[0] == 1 && window[0] == 1 && window[1] == 3 && window[2] == 3 && c->groups == 1;
  int beside = stride[1] == 1 && stride[2] == 1 && dilation[1] == 1 && dilation[2] == 1;
  int64_t fewer = least(c->channels, c->row), more = c->channels + c->row - fewer;
  int in_vectors = fewer % LANES == 0 && more % LANES == 0 && fewer >= 32 && more <= 256;
  return plane && beside && in_vectors && 10 * POINTS * patches(c) <= 6 * 9 * c->places && c->batch * c->places >= 512;
}

// Of each unit's own memory for the kernel's gradient there would be too much above this.
int winograd_kernel_suits(const Conv *c) { return c->channels * c->row <= 1 << 14; }

// ---------------------------------------------------------------- sums and differences, along one axis

INLINE void image_points(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s], c = v[2 * s], d = v[3 * s];
  v[0] = a - c, v[s] = b + c, v[2 * s] = c - b, v[3 * s] = b - d;
}

INLINE void image_points_back(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s], c = v[2 * s], d = v[3 * s];
  v[0] = a, v[s] = b - c + d, v[2 * s] = b + c - a, v[3 * s] = -d;
}

INLINE void outputs_of_points(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s], c = v[2 * s], d = v[3 * s];
  v[0] = a + b + c, v[s] = b - c - d;
}

INLINE void points_of_outputs(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s];
  v[s] = a + b, v[2 * s] = a - b, v[3 * s] = -b;
}

INLINE void kernel_points(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s], c = v[2 * s];
  v[s] = 0.5f * (a + b + c), v[2 * s] = 0.5f * (a - b + c), v[3 * s] = c;
}

INLINE void kernel_points_back(Vec *v, int64_t s) {
  Vec b = 0.5f * (v[s] + v[2 * s]), c = 0.5f * (v[s] - v[2 * s]);
  v[0] += b, v[s] = c, v[2 * s] = b + v[3 * s];
}

// Along rows in `down` columns, then along columns in `across` rows of what is found.
#define BOTH_WAYS(function, v, down, across)                                             \
  do {                                                                                   \
    UNROLL for (int column = 0; column < (down); column++) function((v) + column, SIDE); \
    UNROLL for (int row = 0; row < (across); row++) function((v) + SIDE * row, 1);       \
  } while (0)

// ---------------------------------------------------------------- patches

// How far the values of a point are from those of the next.
static int64_t apart(int64_t block, int64_t values) { return block * values + COLS; }

// Where a patch begins: image, row, column; how many of its outputs there are, and of its values two more.
typedef struct {
  int64_t image, row, column;
  int down, across;
} Patch;

// How many patches are done at a time, by what their points take.
static int64_t block_of(int64_t values) { return least(PATCHES, VALUES / POINTS / values / ROWS * ROWS); }

// The n patches of the batch from the first one on.
static void lay_out(const Conv *c, Patch *to, int64_t first, int64_t n) {
  int64_t across = patches_along(c, 1), each = patches(c);
  for (int64_t i = first; i < first + n; i++) {
    Patch p = {i / each, 2 * (i % each / across), 2 * (i % across), 0, 0};
    p.down = (int)least(2, c->along[0] - p.row), p.across = (int)least(2, c->along[1] - p.column);
    *to++ = p;
  }
}

// Value (i, j) of a patch where it has one.
#define IF_INSIDE(i, j, more) if ((i) < p->down + (more) && (j) < p->across + (more))

// The points of a patch of the image, the next one `next` behind.
INLINE void read_image(const Conv *c, const Patch *p, int64_t channel, float *to, int64_t next) {
  const float *x = c->x + p->image * c->image + (p->row * c->size[1] + p->column) * c->channels + channel;
  Vec v[POINTS] = {0};
  UNROLL for (int i = 0; i < SIDE; i++)
    UNROLL for (int j = 0; j < SIDE; j++)
      IF_INSIDE(i, j, 2) v[SIDE * i + j] = load(x + (i * c->size[1] + j) * c->channels);
  BOTH_WAYS(image_points, v, SIDE, SIDE);
  UNROLL for (int i = 0; i < POINTS; i++) store(to + i * next, v[i]);
}

// The window of neighbours that a patch's outputs are.
static int64_t window_of(const Conv *c, const Patch *p) {
  return (p->image * c->windows[0] + p->row / 2) * c->windows[1] + p->column / 2;
}

// The points of the gradients by a patch's outputs, and what they add up to.
INLINE Vec read_gradients(const Conv *c, const Patch *p, int64_t feature, float *to, int64_t next) {
  int64_t first = (p->image * c->places + p->row * c->along[1] + p->column) * c->row + feature;
  Vec v[POINTS] = {0}, total = {0};
  if (c->which) {
    int64_t at = window_of(c, p) * c->row + feature;
    Vec dy = load(c->dy + at);
    Bits taps = taps_at(c->which + at, LANES);
    UNROLL for (int k = 0; k < 4; k++) total += v[SIDE * (k / 2) + k % 2] = choose(taps == k, dy, (Vec){0});
  } else {
    UNROLL for (int i = 0; i < 2; i++)
      UNROLL for (int j = 0; j < 2; j++) IF_INSIDE(i, j, 0) {
        int64_t at = first + (i * c->along[1] + j) * c->row;
        Vec dy = load(c->dy + at);
        if (c->y) dy = passed(dy, load(c->y + at));
        total += v[SIDE * i + j] = dy;
      }
  }
  BOTH_WAYS(points_of_outputs, v, 2, SIDE);
  UNROLL for (int i = 0; i < POINTS; i++) store(to + i * next, v[i]);
  return total;
}

// Some columns of what was found at all points of a patch.
INLINE void load_found(Vec *v, const float *from, int64_t block) {
  UNROLL for (int i = 0; i < POINTS; i++) v[i] = load(from + i * block * COLS);
}

INLINE void write_outputs(const Conv *c, const Patch *p, int64_t feature, const float *from, int64_t block) {
  float *to = c->out + (p->image * c->places + p->row * c->along[1] + p->column) * c->row + feature;
  Vec v[POINTS], bias = {0};
  load_found(v, from, block);
  BOTH_WAYS(outputs_of_points, v, SIDE, 2);
  if (c->bias) bias = load(c->bias + feature);
  if (c->found) {
    Vec near[4] = {v[0] + bias, v[1] + bias, v[SIDE] + bias, v[SIDE + 1] + bias};
    write_largest(c, near, 4, window_of(c, p) * c->row + feature, LANES);
    return;
  }
  UNROLL for (int i = 0; i < 2; i++)
    UNROLL for (int j = 0; j < 2; j++) IF_INSIDE(i, j, 0) {
      Vec y = v[SIDE * i + j] + bias;
      store(to + (i * c->along[1] + j) * c->row, c->relu ? rectified(y) : y);
    }
}

INLINE void add_to_image(const Conv *c, const Patch *p, int64_t channel, const float *from, int64_t block) {
  float *to = c->out + p->image * c->image + (p->row * c->size[1] + p->column) * c->channels + channel;
  Vec v[POINTS];
  load_found(v, from, block);
  BOTH_WAYS(image_points_back, v, SIDE, SIDE);
  UNROLL for (int i = 0; i < SIDE; i++)
    UNROLL for (int j = 0; j < SIDE; j++) IF_INSIDE(i, j, 2) {
      float *at = to + (i * c->size[1] + j) * c->channels;
      store(at, load(at) + v[SIDE * i + j]);
    }
}

static void read_images(const Conv *c, const Patch *p, int64_t n, int64_t block) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = 0; k < c->channels; k += LANES)
      read_image(c, p + i, k, there + i * c->channels + k, apart(block, c->channels));
}

// ---------------------------------------------------------------- products at each point

// ROWS rows behind each other times so many vectors of a panel.
INLINE void product(int vectors, const float *a, const float *panel, int64_t depth, float *to) {
  const float *rows[ROWS];
  const int64_t zero = 0;
  Vec sums[ROWS][2];
  UNROLL for (int i = 0; i < ROWS; i++) rows[i] = a + i * depth;
  tile(ROWS, vectors, rows, panel, &zero, 1, depth, sums);
  UNROLL for (int i = 0; i < ROWS; i++)
    UNROLL for (int j = 0; j < vectors; j++) store(to + i * COLS + j * LANES, sums[i][j]);
}

// `found` of what is `there`: n patches, at all points, times so many columns of a panel of the kernel's points.
static void products(const float *panel, int64_t columns, int64_t depth, int64_t block, int64_t n) {
  for (int64_t point = 0; point < POINTS; point++)
    for (int64_t i = 0; i < n; i += ROWS) {
      const float *a = there + point * apart(block, depth) + i * depth, *right = panel + point * depth * COLS;
      float *to = found + (point * block + i) * COLS;
      if (columns > LANES)
        product(2, a, right, depth, to);
      else
        product(1, a, right, depth, to);
    }
}

static void forward_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t depth = c->channels, block = block_of(depth), all = c->batch * patches(c), last = all * (unit + 1) / c->parts;
  Patch p[PATCHES];
  for (int64_t from = all * unit / c->parts; from < last; from += block) {
    int64_t n = least(block, last - from);
    lay_out(c, p, from, n);
    read_images(c, p, n, block);
    for (int64_t feature = 0; feature < c->row; feature += COLS) {
      products(c->packed + feature * POINTS * depth, c->row - feature, depth, block, n);
      for (int64_t i = 0; i < n; i++)
        for (int64_t j = feature; j < least(feature + COLS, c->row); j += LANES)
          write_outputs(c, p + i, j, found + i * COLS + j - feature, block);
    }
  }
}

static void data_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t depth = c->row, block = block_of(depth), first = first_of(c, unit), last = first_of(c, unit + 1);
  Patch p[PATCHES];
  memset(c->out + first * c->image, 0, (last - first) * c->image * sizeof(float));
  for (int64_t from = first * patches(c); from < last * patches(c); from += block) {
    int64_t n = least(block, last * patches(c) - from);
    lay_out(c, p, from, n);
    for (int64_t i = 0; i < n; i++)
      for (int64_t k = 0; k < depth; k += LANES)
        read_gradients(c, p + i, k, there + i * depth + k, apart(block, depth));
    for (int64_t channel = 0; channel < c->channels; channel += COLS) {
      products(c->packed + channel * POINTS * depth, c->channels - channel, depth, block, n);
      for (int64_t i = 0; i < n; i++)
        for (int64_t j = channel; j < least(channel + COLS, c->channels); j += LANES)
          add_to_image(c, p + i, j, found + i * COLS + j - channel, block);
    }
  }
}

// Each unit sums the points of the kernel's gradient over some images, and the bias's gradient behind them; in rows of
// whole panels.
static int64_t wide(const Conv *c) { return ceil_div(c->row, COLS) * COLS; }
static int64_t own_size(const Conv *c) { return (POINTS * c->channels + 1) * wide(c); }

static const int64_t beside[ROWS] = {0, 1, 2, 3, 4, 5};

// Rows of one panel += what n patches give to them.
INLINE void add_product(int rows, const float *x, const int64_t *place, const float *panel, int64_t n, float *to,
                        int64_t row) {
  Vec sums[ROWS][2];
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < 2; j++) sums[i][j] = load(to + i * row + j * LANES);
  outer_tile(rows, 2, x, place, beside, panel, n, sums);
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < 2; j++) store(to + i * row + j * LANES, sums[i][j]);
}

// All rows of one panel at one point, in tiles of about the same size.
static void add_products(const Conv *c, const float *x, const int64_t *place, const float *panel, int64_t n,
                         float *to) {
  int64_t row = wide(c);
  for (int64_t m = 0, rows; m < c->channels; m += rows, x += rows, to += rows * row) {
    rows = ceil_div(c->channels - m, ceil_div(c->channels - m, ROWS));
    switch (rows) {
      case 4: add_product(4, x, place, panel, n, to, row); break;
      case 5: add_product(5, x, place, panel, n, to, row); break;
      default: add_product(6, x, place, panel, n, to, row);
    }
  }
}

static void kernel_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t channels = c->channels, row = wide(c), last = first_of(c, unit + 1) * patches(c);
  int64_t block = block_of(row > channels ? row : channels), place[PATCHES];
  Patch p[PATCHES];
  float *own = c->packed + unit * own_size(c), *d_bias = own + POINTS * channels * row;
  memset(own, 0, own_size(c) * sizeof(float));
  for (int64_t i = 0; i < block; i++) place[i] = i * channels;
  for (int64_t from = first_of(c, unit) * patches(c); from < last; from += block) {
    int64_t n = least(block, last - from);
    lay_out(c, p, from, n);
    read_images(c, p, n, block);
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < c->row; j += LANES) {
        float *to = back + (j / COLS * block + i) * COLS + j % COLS;
        store(d_bias + j, load(d_bias + j) + read_gradients(c, p + i, j, to, apart(block, row)));
      }
    for (int64_t point = 0; point < POINTS; point++)
      for (int64_t j = 0; j < row; j += COLS)
        add_products(c, there + point * apart(block, channels), place, back + point * apart(block, row) + j * block, n,
                     own + point * channels * row + j);
  }
}

// One channel's rows of the kernel's gradient: what the units found, added in order.
static void kernel_row(void *arguments, int64_t channel) {
  const Conv *c = arguments;
  for (int64_t j = 0; j < c->row; j += LANES) {
    Vec v[POINTS] = {0};
    for (int64_t part = 0; part < c->parts; part++) {
      const float *own = c->packed + part * own_size(c) + channel * wide(c) + j;
      UNROLL for (int i = 0; i < POINTS; i++) v[i] += load(own + i * c->channels * wide(c));
    }
    BOTH_WAYS(kernel_points_back, v, SIDE, 3);
    for (int i = 0; i < 9; i++) store(c->out + (i * c->channels + channel) * c->row + j, v[i / 3 * SIDE + i % 3]);
  }
}

// ---------------------------------------------------------------- what convolution.c calls

// The points of the kernel for one channel and some features.
INLINE void read_kernel(const Conv *c, int64_t channel, int64_t feature, Vec *v) {
  for (int i = 0; i < 9; i++)
    v[i / 3 * SIDE + i % 3] = load(c->kernel + (i * c->channels + channel) * c->row + feature);
  BOTH_WAYS(kernel_points, v, 3, SIDE);
}

// Points of the kernel for one channel, in panels of features, channels as depth.
static void pack_forward(void *arguments, int64_t channel) {
  const Conv *c = arguments;
  for (int64_t j = 0; j < c->row; j += LANES) {
    Vec v[POINTS];
    float *to = c->packed + (j / COLS * POINTS * c->channels + channel) * COLS + j % COLS;
    read_kernel(c, channel, j, v);
    for (int i = 0; i < POINTS; i++) store(to + i * c->channels * COLS, v[i]);
  }
}

// One panel of channels, features as depth.
static void pack_data(void *arguments, int64_t panel) {
  const Conv *c = arguments;
  for (int64_t channel = panel * COLS; channel < least((panel + 1) * COLS, c->channels); channel++)
    for (int64_t k = 0; k < c->row; k += LANES) {
      Vec v[POINTS];
      float *to = c->packed + (panel * POINTS * c->row + k) * COLS + channel % COLS;
      read_kernel(c, channel, k, v);
      for (int i = 0; i < POINTS; i++)
        for (int lane = 0; lane < LANES; lane++) to[(i * c->row + lane) * COLS] = v[i][lane];
    }
}

int winograd(XLA_FFI_CallFrame *frame, Conv *c) {
  c->packed = room(wide(c) * POINTS * c->channels);
  return c->packed && in_parallel(frame, pack_forward, c, c->channels) && in_parallel(frame, forward_unit, c, c->parts);
}

int winograd_data(XLA_FFI_CallFrame *frame, Conv *c) {
  int64_t panels = ceil_div(c->channels, COLS);
  c->packed = room(panels * COLS * POINTS * c->row);
  return c->packed && in_parallel(frame, pack_data, c, panels) && in_parallel(frame, data_unit, c, c->parts);
}

int winograd_kernel(XLA_FFI_CallFrame *frame, Conv *c) {
  c->packed = malloc(c->parts * own_size(c) * sizeof(float));
  if (!c->packed || !in_parallel(frame, kernel_unit, c, c->parts)) return 0;
  if (c->d_bias) add_parts(c->d_bias, c->packed + POINTS * c->channels * wide(c), c->parts, own_size(c), c->row);
  return in_parallel(frame, kernel_row, c, c->channels);
}
