// Convolutions for a CPU, channels last: a matrix product whose left matrix need not be made.
//
// Under an output, the values of one row of the window lie side by side in memory, so a row of that matrix is a place in
// the image and a few segments behind it.
//
// A bias, a rectifier and their gradients are done where values are in registers or the cache anyway.
//
// Names: a place is an output's position, as the offset of its window in the image; a segment is a run of values of the
// window that lie side by side, as its offset in the window; depth is the number of values in a window.

#include "convolution.h"

enum { LARGE_KERNEL = 1 << 16 };

// ---------------------------------------------------------------- convolutions

// What the attribute holds: sizes of the image, window, strides, dilation [3 each], channels, features, groups, whether
// outputs are rectified.
static int plan(Conv *c, const int64_t *g, int64_t batch) {
  const int64_t *size = g, *window = g + 3, *stride = g + 6, *dilation = g + 9, channels = g[12];
  int64_t out[3], groups = g[14], wide = dilation[2] == 1 && groups == 1;
  places_along(out, size);
  int64_t across = wide ? 1 : window[2];
  *c = (Conv){.batch = batch, .image = size[0] * size[1] * size[2] * channels, .places = out[0] * out[1] * out[2]};
  c->channels = channels;
  for (int i = 0; i < 2; i++) c->size[i] = size[i + 1], c->along[i] = out[i + 1];
  c->segments = window[0] * window[1] * across;
  c->length = (wide ? window[2] : 1) * channels / groups;
  c->depth = c->segments * c->length;
  c->groups = groups, c->row = g[13], c->features = g[13] / groups, c->relu = g[15];
  c->place = malloc((c->places + c->segments) * sizeof(int64_t));
  if (!c->place) return 0;
  c->segment = c->place + c->places;
  c->winograd = winograd_suits(c, g);
  const int64_t taps[3] = {window[0], window[1], across};
  grid(c->place, out, stride, size, channels);
  grid(c->segment, taps, dilation, size, channels);
  return 1;
}

// One panel of features, from one of them on, at some places of all images in a row.
static void forward_panel(const Conv *c, const float *x, const float *panel, int64_t feature, int64_t from, int64_t to,
                          int64_t columns) {
  float *out = c->out + feature;
  Vec bias[2] = {{0}, {0}};
  if (c->bias) memcpy(bias, c->bias + feature, columns * sizeof(float));
  const float *image = x + from / c->places * c->image;
  int64_t place = from % c->places;
  for (int64_t at = from; at < to; at += ROWS) {
    const float *rows[ROWS];
    Vec sums[ROWS][2];
    int n = (int)least(ROWS, to - at);
    for (int i = 0; i < n; i++) {
      rows[i] = image + c->place[place];
      if (++place == c->places) place = 0, image += c->image;
    }
    tile_of(n, rows, panel, c->segment, c->segments, c->length, sums);
    for (int i = 0; i < n; i++) {
      for (int j = 0; j < 2; j++) {
        sums[i][j] += bias[j];
        if (c->relu) sums[i][j] = rectified(sums[i][j]);
      }
      store_row(out + (at + i) * c->row, sums[i], columns);
    }
  }
}

static void forward_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t panels = ceil_div(c->features, COLS), channels = c->depth / c->segments;
  int64_t first = first_of(c, unit) * c->places, last = first_of(c, unit + 1) * c->places;
  // A few hundred places at a time: what they see stays in the second cache for all panels.
  for (int64_t from = first; from < last; from += 4 * BLOCK)
    for (int64_t group = 0; group < c->groups; group++)
      for (int64_t panel = 0; panel < panels; panel++)
        forward_panel(c, c->x + group * channels, c->packed + (group * panels + panel) * c->depth * COLS,
                      group * c->features + panel * COLS, from, least(from + 4 * BLOCK, last),
                      least(COLS, c->features - panel * COLS));
}

// What some places of one image give to one panel of columns of one segment.
static void data_panel(const Conv *c, const float *dy, const float *panel, float *out, int64_t from, int64_t to,
                       int64_t columns) {
  const int64_t zero = 0;
  for (int64_t at = from; at < to; at += ROWS) {
    const float *rows[ROWS];
    Vec sums[ROWS][2];
    int n = (int)least(ROWS, to - at);
    for (int i = 0; i < n; i++) rows[i] = dy + (at - from + i) * c->row;
    tile_of(n, rows, panel, &zero, 1, c->features, sums);
    for (int i = 0; i < n; i++) add_row(out + c->place[at + i], sums[i], columns);
  }
}

// Gradients by some outputs, in the unit's own memory where not all of them pass.
static const float *gradients(const Conv *c, int64_t unit, int64_t from, int64_t n) {
  if (!c->y) return c->dy + from;
  float *to = c->gated + unit * BLOCK * c->row;
  for (int64_t i = 0; i < n; i += LANES) {
    const float *dy = c->dy + from + i, *y = c->y + from + i;
    store_some(to + i, passed(load_some(dy, n - i), load_some(y, n - i)), n - i);
  }
  return to;
}

static void data_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  const int64_t panels = ceil_div(c->length, COLS), each = c->segments * panels;
  for (int64_t image = first_of(c, unit); image < first_of(c, unit + 1); image++) {
    float *out = c->out + image * c->image;
    memset(out, 0, c->image * sizeof(float));
    for (int64_t from = 0; from < c->places; from += BLOCK) {
      const float *dy = gradients(c, unit, (image * c->places + from) * c->row, least(BLOCK, c->places - from) * c->row);
      for (int64_t panel = 0; panel < c->groups * each; panel++) {
        int64_t group = panel / each, segment = panel % each / panels, behind = panel % panels * COLS;
        data_panel(c, dy + group * c->features, c->packed + panel * c->features * COLS,
                   out + group * c->length + c->segment[segment] + behind, from, least(from + BLOCK, c->places),
                   least(COLS, c->length - behind));
      }
    }
  }
}

// One panel of features of the gradients by some places' outputs, zeros behind.
static void gather(const Conv *c, float *block, int64_t from, int64_t n, int64_t columns) {
  for (int64_t k = 0; k < n; k++, from += c->row)
    for (int64_t j = 0; j < COLS; j += LANES) {
      Vec dy = {0};
      if (j < columns) dy = load_some(c->dy + from + j, columns - j);
      if (j < columns && c->y) dy = passed(dy, load_some(c->y + from + j, columns - j));
      store(block + k * COLS + j, dy);
    }
}

// One panel of features of one segment of one group of the kernel's gradient, from some images; `out` has whole rows.
// With the first segment, the bias's gradient, too.
static void kernel_panel(const Conv *c, int64_t image, int64_t last, int64_t segment, int64_t panel, float *out,
                         float *d_bias) {
  int64_t panels = ceil_div(c->features, COLS), group = panel / panels, behind = panel % panels * COLS;
  int64_t column = group * c->features + behind, columns = least(COLS, c->features - behind);
  float block[BLOCK * COLS] __attribute__((aligned(64)));
  out += segment * c->length * c->row + column;
  for (; image < last; image++) {
    const float *x = c->x + image * c->image + (c->groups > 1 ? group * c->length : 0) + c->segment[segment];
    int64_t first = image * c->places * c->row + column;
    for (int64_t at = 0; at < c->places; at += BLOCK) {
      int64_t n = least(BLOCK, c->places - at);
      gather(c, block, first + at * c->row, n, columns);
      if (d_bias && segment == 0) {
        Vec sums[2] = {{0}, {0}};
        for (int64_t k = 0; k < n; k++)
          for (int j = 0; j < 2; j++) sums[j] += load(block + k * COLS + j * LANES);
        add_row(d_bias + column, sums, columns);
      }
      for (int64_t m = 0; m < c->length; m += ROWS) {
        Vec sums[ROWS][2] = {0};
        int rows = (int)least(ROWS, c->length - m);
        outer_tile_of(rows, x + m, c->place + at, block, n, sums);
        for (int i = 0; i < rows; i++) add_row(out + (m + i) * c->row, sums[i], columns);
      }
    }
  }
}

// Small kernels: each unit sums some images into a kernel of its own, and they are added in order afterwards.
static void kernel_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  float *own = c->packed + unit * (c->depth + 1) * c->row;
  float *d_bias = c->d_bias ? own + c->depth * c->row : NULL;
  memset(own, 0, (c->depth + 1) * c->row * sizeof(float));
  for (int64_t image = first_of(c, unit); image < first_of(c, unit + 1); image++)
    for (int64_t panel = 0; panel < c->groups * ceil_div(c->features, COLS); panel++)
      for (int64_t s = 0; s < c->segments; s++) kernel_panel(c, image, image + 1, s, panel, own, d_bias);
}

// Large kernels: each unit has a part of the kernel to itself; the memory is zero.
static void large_kernel_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  kernel_panel(c, 0, c->batch, unit % c->segments, unit / c->segments, c->out, c->d_bias);
}

// ---------------------------------------------------------------- kernels in panels, and units

static int forward(XLA_FFI_CallFrame *frame, Conv *c) {
  int64_t panels = ceil_div(c->features, COLS);
  c->packed = zeros(c->groups * panels * c->depth * COLS);
  for (int64_t p = 0; c->packed && p < c->groups * panels; p++) {
    int64_t behind = p % panels * COLS;
    pack_panel(c->packed + p * c->depth * COLS, c->kernel + p / panels * c->features + behind, c->depth,
               least(COLS, c->features - behind), c->row, 1);
  }
  return c->packed && in_parallel(frame, forward_unit, c, c->parts);
}

static int data(XLA_FFI_CallFrame *frame, Conv *c) {
  int64_t panels = ceil_div(c->length, COLS), each = c->segments * panels;
  c->packed = zeros(c->groups * each * c->features * COLS);
  c->gated = c->y ? malloc(c->parts * BLOCK * c->row * sizeof(float)) : NULL;
  if (!c->packed || (c->y && !c->gated)) return 0;
  for (int64_t p = 0; p < c->groups * each; p++) {
    int64_t behind = p % panels * COLS, row = p % each / panels * c->length + behind;
    pack_panel(c->packed + p * c->features * COLS, c->kernel + row * c->row + p / each * c->features, c->features,
               least(COLS, c->length - behind), 1, c->row);
  }
  return in_parallel(frame, data_unit, c, c->parts);
}

static int large_kernel_gradient(XLA_FFI_CallFrame *frame, Conv *c) {
  memset(c->out, 0, c->depth * c->row * sizeof(float));
  if (c->d_bias) memset(c->d_bias, 0, c->row * sizeof(float));
  return in_parallel(frame, large_kernel_unit, c, c->segments * c->groups * ceil_div(c->features, COLS));
}

static int kernel_gradient(XLA_FFI_CallFrame *frame, Conv *c) {
  int64_t size = c->depth * c->row, own = size + c->row;
  c->packed = malloc(c->parts * own * sizeof(float));
  if (!c->packed || !in_parallel(frame, kernel_unit, c, c->parts)) return 0;
  add_parts(c->out, c->packed, c->parts, own, size);
  if (c->d_bias) add_parts(c->d_bias, c->packed + size, c->parts, own, c->row);
  return 1;
}

// ---------------------------------------------------------------- what XLA calls

static XLA_FFI_Error *ended(XLA_FFI_CallFrame *frame, Conv *c, int done) {
  free(c->place);
  free(c->packed);
  free(c->gated);
  return done ? NULL : failed(frame, "no memory for a convolution");
}

static const float *if_given(XLA_FFI_CallFrame *frame, int i) {
  return i < frame->args.size ? argument(frame, i)->data : NULL;
}

// y [B, places, F] of x [B, image], kernel [depth, F] and, if there is one, bias [F].
XLA_FFI_Error *flaxmodels_conv(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  Conv c;
  if (!plan(&c, numbers(frame), argument(frame, 0)->dims[0])) return failed(frame, "no memory for a convolution");
  c.x = argument(frame, 0)->data, c.kernel = argument(frame, 1)->data, c.out = result(frame, 0)->data;
  c.bias = if_given(frame, 2);
  c.parts = least(c.batch, 2 * MOST_PARTS);
  return ended(frame, &c, c.winograd ? winograd(frame, &c) : forward(frame, &c));
}

// dx [B, image] of dy [B, places, F], kernel [depth, F] and, where outputs were rectified, y [B, places, F].
XLA_FFI_Error *flaxmodels_conv_data(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  Conv c;
  if (!plan(&c, numbers(frame), argument(frame, 0)->dims[0])) return failed(frame, "no memory for a convolution");
  c.dy = argument(frame, 0)->data, c.kernel = argument(frame, 1)->data, c.out = result(frame, 0)->data;
  c.y = if_given(frame, 2);
  c.parts = least(c.batch, 2 * MOST_PARTS);
  return ended(frame, &c, c.winograd ? winograd_data(frame, &c) : data(frame, &c));
}

// The gradients by kernel [depth, F] and, if asked for, by bias [F], of x [B, image], dy [B, places, F] and, where
// outputs were rectified, y [B, places, F].
XLA_FFI_Error *flaxmodels_conv_kernel(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  Conv c;
  if (!plan(&c, numbers(frame), argument(frame, 0)->dims[0])) return failed(frame, "no memory for a convolution");
  c.x = argument(frame, 0)->data, c.dy = argument(frame, 1)->data, c.y = if_given(frame, 2);
  c.out = result(frame, 0)->data, c.d_bias = frame->rets.size > 1 ? result(frame, 1)->data : NULL;
  c.parts = least(c.batch, MOST_PARTS);
  if (c.winograd && winograd_kernel_suits(&c)) return ended(frame, &c, winograd_kernel(frame, &c));
  int large = c.depth * c.row > LARGE_KERNEL;
  return ended(frame, &c, large ? large_kernel_gradient(frame, &c) : kernel_gradient(frame, &c));
}
