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

// Read by native.py.
const int flaxmodels_lanes = LANES;

enum { LARGE_KERNEL = 1 << 16, FEW_ROWS = 32 };

// ---------------------------------------------------------------- convolutions

static int plan(Conv *c, const Numbers *g, int64_t batch) {
  const int64_t *size = g->size, *out = g->places, channels = g->channels, groups = g->groups;
  int64_t wide = g->dilation[2] == 1 && groups == 1, across = wide ? 1 : g->window[2];
  *c = (Conv){.batch = batch, .image = size[0] * size[1] * size[2] * channels, .places = out[0] * out[1] * out[2]};
  c->channels = channels;
  for (int i = 0; i < 2; i++) {
    c->size[i] = size[i + 1], c->along[i] = out[i + 1];
    if (g->pooled) c->near[i] = least(2, out[i + 1]), c->windows[i] = out[i + 1] / c->near[i];
  }
  c->segments = g->window[0] * g->window[1] * across;
  c->length = (wide ? g->window[2] : 1) * channels / groups;
  c->depth = c->segments * c->length;
  c->groups = groups, c->row = g->features, c->features = g->features / groups, c->relu = g->relu;
  c->place = malloc((2 * c->places + c->segments + c->depth) * sizeof(int64_t));
  if (!c->place) return 0;
  c->segment = c->place + c->places, c->seen = c->segment + c->segments, c->behind = c->seen + c->places;
  c->winograd = winograd_suits(c, g);
  const int64_t taps[3] = {g->window[0], g->window[1], across};
  grid(c->place, out, g->stride, size, channels);
  grid(c->segment, taps, g->dilation, size, channels);
  for (int64_t i = 0; i < c->depth; i++) c->behind[i] = c->segment[i / c->length] + i % c->length;
  for (int64_t place = 0; g->pooled && place < c->places; place++) {
    int64_t i = place / c->along[1], j = place % c->along[1], line = i / c->near[0], window = j / c->near[1];
    int inside = line < c->windows[0] && window < c->windows[1];
    c->seen[place] = inside ? 4 * (line * c->windows[1] + window) + i % c->near[0] * 2 + j % c->near[1] : -1;
  }
  return 1;
}

// One panel of features, from one of them on, at some places of all images in a row; `out` has whole rows.
static void forward_panel(const Conv *c, const float *x, const float *panel, int64_t feature, int64_t from, int64_t to,
                          int64_t columns, float *out) {
  Vec bias[2] = {{0}, {0}};
  if (c->bias) memcpy(bias, c->bias + feature, columns * sizeof(float));
  const float *image = x + from / c->places * c->image;
  int64_t place = from % c->places;
  for (int64_t at = from; at < to; at += ROWS) {
    const float *rows[ROWS];
    Vec sums[ROWS][2];
    int n = (int)least(ROWS, to - at), vectors = columns > LANES ? 2 : 1;
    for (int i = 0; i < n; i++) {
      rows[i] = image + c->place[place];
      if (++place == c->places) place = 0, image += c->image;
    }
    tile_of(n, columns, rows, panel, c->segment, c->segments, c->length, sums);
    for (int i = 0; i < n; i++) {
      for (int j = 0; j < vectors; j++) {
        sums[i][j] += bias[j];
        if (c->relu) sums[i][j] = rectified(sums[i][j]);
      }
      store_row(out + (at - from + i) * c->row + feature, sums[i], columns);
    }
  }
}

// Panels from `first` on at some places of all images in a row.
static void forward_places(const Conv *c, int64_t first, int64_t last, int64_t from, int64_t to, float *out) {
  int64_t each = ceil_div(c->features, COLS), channels = c->depth / c->segments;
  for (int64_t panel = first; panel < last; panel++) {
    int64_t group = panel / each, behind = panel % each * COLS;
    forward_panel(c, c->x + group * channels, c->packed + panel * c->depth * COLS, group * c->features + behind, from, to,
                  least(COLS, c->features - behind), out);
  }
}

// Of few places each panel is a unit of its own.
static int64_t panels(const Conv *c) { return c->groups * ceil_div(c->features, COLS); }
static int64_t panels_apart(const Conv *c) { return c->parts < MOST_PARTS ? panels(c) : 1; }

static void forward_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t apart = panels_apart(c), panel = unit % apart * (panels(c) / apart), part = unit / apart;
  int64_t all = c->batch * c->places, first = all * part / c->parts, last = all * (part + 1) / c->parts;
  // A few hundred places at a time: what they see stays in the second cache for all panels.
  for (int64_t from = first; from < last; from += 4 * BLOCK)
    forward_places(c, panel, panel + panels(c) / apart, from, least(from + 4 * BLOCK, last), c->out + from * c->row);
}

// Lines of windows at a time, so that their outputs stay in the first cache, and what those outputs take.
static int64_t lines_of(const Conv *c) { return ceil_div(BLOCK, c->near[0] * c->along[1]); }
static int64_t room_of(const Conv *c) { return lines_of(c) * c->near[0] * c->along[1] * c->row; }

// The largest under the windows of some lines of one image, from its outputs there.
static void pool_lines(const Conv *c, const float *outputs, int64_t image, int64_t line, int64_t n) {
  int64_t to = (image * c->windows[0] + line) * c->windows[1] * c->row;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < c->windows[1]; j++, to += c->row)
      for (int64_t k = 0; k < c->row; k += LANES) {
        const float *from = outputs + (i * c->near[0] * c->along[1] + j * c->near[1]) * c->row + k;
        Vec v[4];
        for (int64_t tap = 0; tap < c->near[0] * c->near[1]; tap++)
          v[tap] = load_some(from + (tap / 2 * c->along[1] + tap % 2) * c->row, c->row - k);
        if (c->near[0] == 2)
          write_largest(c, v, 4, to + k, c->row - k);
        else
          write_largest(c, v, 2, to + k, c->row - k);
      }
}

static void pooled_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  float *outputs = c->gated + unit * room_of(c);
  int64_t all = c->batch * c->windows[0], last = all * (unit + 1) / c->parts, each = c->near[0] * c->along[1];
  for (int64_t at = all * unit / c->parts, n; at < last; at += n) {
    int64_t image = at / c->windows[0], line = at % c->windows[0], from = image * c->places + line * each;
    n = least(lines_of(c), least(c->windows[0] - line, last - at));
    forward_places(c, 0, panels(c), from, from + n * each, outputs);
    pool_lines(c, outputs, image, line, n);
  }
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
    tile_of(n, columns, rows, panel, &zero, 1, c->features, sums);
    for (int i = 0; i < n; i++) add_row(out + c->place[at + i], sums[i], columns);
  }
}

// Some features of the gradients by n outputs of an image, in rows of so many numbers, zeros behind.
static void gather(const Conv *c, float *to, int64_t image, int64_t from, int64_t n, int64_t feature, int64_t columns,
                   int64_t row) {
  int64_t first = c->which ? image * c->windows[0] * c->windows[1] : image * c->places + from, apart = c->row;
  const int64_t *seen = c->seen + from;
  const uint8_t *which = c->which ? c->which + first * apart + feature : NULL;
  const float *dy = c->dy + first * apart + feature, *y = c->y ? c->y + first * apart + feature : NULL;
  for (int64_t k = 0; k < n; k++, to += row)
    for (int64_t j = 0; j < row; j += LANES) {
      int64_t left = columns - j, at = (which ? seen[k] / 4 : k) * apart + j;
      Vec v = {0};
      if (left > 0 && !(which && seen[k] < 0)) {
        v = load_some(dy + at, left);
        if (which) v = choose(taps_at(which + at, left) == (int32_t)(seen[k] % 4), v, (Vec){0});
        if (y) v = passed(v, load_some(y + at, left));
      }
      store_some(to + j, v, row - j);
    }
}

// Gradients by n outputs of an image, in the unit's own memory where not all of them pass.
static const float *gradients(const Conv *c, int64_t unit, int64_t image, int64_t from, int64_t n) {
  if (!c->y && !c->which) return c->dy + (image * c->places + from) * c->row;
  float *to = c->gated + unit * BLOCK * c->row;
  gather(c, to, image, from, n, 0, c->row, c->row);
  return to;
}

static void data_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  const int64_t panels = ceil_div(c->length, COLS), each = c->segments * panels;
  for (int64_t image = first_of(c, unit); image < first_of(c, unit + 1); image++) {
    float *out = c->out + image * c->image;
    memset(out, 0, c->image * sizeof(float));
    for (int64_t from = 0; from < c->places; from += BLOCK) {
      const float *dy = gradients(c, unit, image, from, least(BLOCK, c->places - from));
      for (int64_t panel = 0; panel < c->groups * each; panel++) {
        int64_t group = panel / each, segment = panel % each / panels, behind = panel % panels * COLS;
        data_panel(c, dy + group * c->features, c->packed + panel * c->features * COLS,
                   out + group * c->length + c->segment[segment] + behind, from, least(from + BLOCK, c->places),
                   least(COLS, c->length - behind));
      }
    }
  }
}

// One panel of features of the kernel's gradient, for some segments of its group, from some images; `out` has whole rows.
// With the first segment, the bias's gradient, too.
static void kernel_panel(const Conv *c, int64_t image, int64_t last, int64_t segment, int64_t end, int64_t panel,
                         float *out, float *d_bias) {
  int64_t panels = ceil_div(c->features, COLS), group = panel / panels, behind = panel % panels * COLS;
  int64_t column = group * c->features + behind, columns = least(COLS, c->features - behind);
  float block[BLOCK * COLS] __attribute__((aligned(64)));
  for (; image < last; image++) {
    const float *x = c->x + image * c->image + (c->groups > 1 ? group * c->length : 0);
    for (int64_t at = 0; at < c->places; at += BLOCK) {
      int64_t n = least(BLOCK, c->places - at);
      gather(c, block, image, at, n, column, columns, COLS);
      if (d_bias && segment == 0) {
        Vec sums[2] = {{0}, {0}};
        for (int64_t k = 0; k < n; k++)
          for (int j = 0; j < 2; j++) sums[j] += load(block + k * COLS + j * LANES);
        add_row(d_bias + column, sums, columns);
      }
      for (int64_t m = segment * c->length, rows; m < end * c->length; m += rows) {
        Vec sums[ROWS][2] = {0};
        rows = least(ROWS, end * c->length - m);
        outer_tile_of((int)rows, columns, x, c->place + at, c->behind + m, block, n, sums);
        for (int64_t i = 0; i < rows; i++) add_row(out + (m + i) * c->row + column, sums[i], columns);
      }
    }
  }
}

// Small kernels: each unit sums some images into a kernel of its own, and they are added in order afterwards.
static void kernel_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  float *own = c->packed + unit * (c->depth + 1) * c->row;
  float *d_bias = c->d_bias ? own + c->depth * c->row : NULL;
  // Short segments together, so that gradients are gathered for some rows of the kernel at a time.
  int64_t at_once = ceil_div(FEW_ROWS, c->length);
  memset(own, 0, (c->depth + 1) * c->row * sizeof(float));
  for (int64_t image = first_of(c, unit); image < first_of(c, unit + 1); image++)
    for (int64_t panel = 0; panel < c->groups * ceil_div(c->features, COLS); panel++)
      for (int64_t s = 0; s < c->segments; s += at_once)
        kernel_panel(c, image, image + 1, s, least(s + at_once, c->segments), panel, own, d_bias);
}

// Large kernels: each unit has a part of the kernel to itself; the memory is zero.
static void large_kernel_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t segment = unit % c->segments;
  kernel_panel(c, 0, c->batch, segment, segment + 1, unit / c->segments, c->out, c->d_bias);
}

// ---------------------------------------------------------------- kernels in panels, and units

static void pack_forward(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t each = ceil_div(c->features, COLS), behind = unit % each * COLS;
  pack_panel(c->packed + unit * c->depth * COLS, c->kernel + unit / each * c->features + behind, c->depth,
             least(COLS, c->features - behind), c->row, 1);
}

static int forward(XLA_FFI_CallFrame *frame, Conv *c) {
  c->packed = room(panels(c) * c->depth * COLS);
  if (c->found) c->gated = malloc(c->parts * room_of(c) * sizeof(float));
  if (!c->packed || (c->found && !c->gated)) return 0;
  return in_parallel(frame, pack_forward, c, panels(c)) &&
         (c->found ? in_parallel(frame, pooled_unit, c, c->parts)
                   : in_parallel(frame, forward_unit, c, c->parts * panels_apart(c)));
}

static void pack_data(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t panels = ceil_div(c->length, COLS), each = c->segments * panels, behind = unit % panels * COLS;
  int64_t row = unit % each / panels * c->length + behind;
  pack_panel(c->packed + unit * c->features * COLS, c->kernel + row * c->row + unit / each * c->features, c->features,
             least(COLS, c->length - behind), 1, c->row);
}

static int data(XLA_FFI_CallFrame *frame, Conv *c) {
  int64_t panels = c->groups * c->segments * ceil_div(c->length, COLS);
  c->packed = room(panels * c->features * COLS);
  int gated = c->y || c->which;
  if (gated) c->gated = malloc(c->parts * BLOCK * c->row * sizeof(float));
  if (!c->packed || (gated && !c->gated)) return 0;
  return in_parallel(frame, pack_data, c, panels) && in_parallel(frame, data_unit, c, c->parts);
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

static const void *if_given(XLA_FFI_CallFrame *frame, int i) {
  return i < frame->args.size ? argument(frame, i)->data : NULL;
}

// What decides where gradients pass: outputs that were rectified, or which neighbours were the largest.
static void gate(Conv *c, const void *by) {
  if (c->near[1])
    c->which = by;
  else
    c->y = by;
}

// The numbers and, by position, what a convolution has to do with; `numbers` is NULL if they are none.
typedef struct {
  const Numbers *numbers;
  int64_t batch;
  Kind image, kernel, outputs, gate, bias;
} Call;

static Call call_of(XLA_FFI_CallFrame *frame) {
  const Numbers *g = window_numbers(frame);
  Call call = {.batch = size_of(frame, 0, 0)};
  if (!g || call.batch < 1 || !g->groups || !g->features || g->channels % g->groups || g->features % g->groups) return call;
  for (int i = 0; i < 3; i++)
    if (g->before[i] || last_of(g, i) + span_of(g, i) >= g->size[i]) return call;
  // Two neighbours along the last axis and, unless it has one place, along the one before.
  if (g->pooled && (g->places[0] > 1 || g->places[2] < 2)) return call;
  int64_t down = g->places[1] > 1 ? g->places[1] / 2 : 1, places = g->pooled ? down * (g->places[2] / 2) : places_of(g);
  call.image = FLOATS(call.batch, image_size(g)), call.kernel = FLOATS(taps_in(g), g->channels / g->groups, g->features);
  call.outputs = FLOATS(call.batch, places, g->features), call.bias = FLOATS(g->features);
  call.gate = g->pooled ? BYTES(call.batch, places, g->features) : call.outputs;
  call.numbers = g;
  return call;
}

// y [B, places, F] of x [B, image], kernel [depth, F] and, if there is one, bias [F]; or the largest of neighbours
// [B, windows, F] and which they are.
XLA_FFI_Error *flaxmodels_conv(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  Call call = call_of(frame);
  const Kind given[] = {call.image, call.kernel, call.bias}, made[] = {call.outputs, call.gate};
  int biased = frame->args.size > 2, pooled = call.numbers && call.numbers->pooled;
  if (!call.numbers || !takes(frame, given, 2 + biased, made, 1 + pooled)) return refused(frame);
  Conv c;
  if (!plan(&c, call.numbers, call.batch)) return failed(frame, "no memory for a convolution");
  c.x = argument(frame, 0)->data, c.kernel = argument(frame, 1)->data, c.out = result(frame, 0)->data;
  c.bias = if_given(frame, 2);
  c.found = frame->rets.size > 1 ? result(frame, 1)->data : NULL;
  c.parts = least(ceil_div(c.batch * c.places, BLOCK), 2 * MOST_PARTS);  // of few images, too, some for each thread
  return ended(frame, &c, c.winograd ? winograd(frame, &c) : forward(frame, &c));
}

// dx [B, image] of dy [B, places, F], kernel [depth, F] and, where outputs were rectified, y [B, places, F]; where the
// largest of neighbours was kept, of dy [B, windows, F] and which they were.
XLA_FFI_Error *flaxmodels_conv_data(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  Call call = call_of(frame);
  const Kind given[] = {call.outputs, call.kernel, call.gate};
  int gated = frame->args.size > 2 || (call.numbers && call.numbers->pooled);
  if (!call.numbers || !takes(frame, given, 2 + gated, &call.image, 1)) return refused(frame);
  Conv c;
  if (!plan(&c, call.numbers, call.batch)) return failed(frame, "no memory for a convolution");
  c.dy = argument(frame, 0)->data, c.kernel = argument(frame, 1)->data, c.out = result(frame, 0)->data;
  gate(&c, if_given(frame, 2));
  c.parts = least(c.batch, 2 * MOST_PARTS);
  return ended(frame, &c, c.winograd ? winograd_data(frame, &c) : data(frame, &c));
}

// The gradients by kernel [depth, F] and, if asked for, by bias [F], of x [B, image], dy and what decides where it
// passes, as above.
XLA_FFI_Error *flaxmodels_conv_kernel(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  Call call = call_of(frame);
  const Kind given[] = {call.image, call.outputs, call.gate}, made[] = {call.kernel, call.bias};
  int gated = frame->args.size > 2 || (call.numbers && call.numbers->pooled), biased = frame->rets.size > 1;
  if (!call.numbers || !takes(frame, given, 2 + gated, made, 1 + biased)) return refused(frame);
  Conv c;
  if (!plan(&c, call.numbers, call.batch)) return failed(frame, "no memory for a convolution");
  c.x = argument(frame, 0)->data, c.dy = argument(frame, 1)->data;
  gate(&c, if_given(frame, 2));
  c.out = result(frame, 0)->data, c.d_bias = frame->rets.size > 1 ? result(frame, 1)->data : NULL;
  c.parts = least(c.batch, MOST_PARTS);
  if (c.winograd && winograd_kernel_suits(&c)) return ended(frame, &c, winograd_kernel(frame, &c));
  int large = c.depth * c.row > LARGE_KERNEL;
  return ended(frame, &c, large ? large_kernel_gradient(frame, &c) : kernel_gradient(frame, &c));
}
