// Convolutions for a CPU, channels last: implicit matrix products, im2col without a copy.
//
// The left matrix of im2col has one row for each output position: the values under the window. One row of the window is
// a contiguous segment of the image, so a matrix row is an offset into the image plus a few segments, and no window is
// copied. The tiles of `tiles.h` read it in place.
//
// Bias, ReLU, max pooling and their gradients are fused into the loops, where the values are in registers or in cache.

#include "conv.h"

#include "winograd.h"

// Read by build.py.
const int flaxmodels_lanes = LANES;

// LARGE_KERNEL: kernels with more elements are split among threads instead of summed in one copy for each part.
// MIN_KERNEL_ROWS: rows of the kernel's gradient that reuse one block of gathered gradients.
enum { LARGE_KERNEL = 1 << 16, MIN_KERNEL_ROWS = 32 };

static int64_t panels_per_group(const Conv *c) { return ceil_div(c->group_features, TILE_COLS); }
static int64_t panel_count(const Conv *c) { return c->groups * panels_per_group(c); }

// The first image of a part of the batch.
static int64_t part_start(const Conv *c, int64_t part) { return first_image(c->batch, part, c->parts); }

// ---------------------------------------------------------------- description of a convolution

static void init_pooling(Conv *c) {
  for (int64_t position = 0; position < c->positions; position++) {
    int64_t i = position / c->output_size[1], j = position % c->output_size[1];
    int64_t line = i / c->pool_window[0], column = j / c->pool_window[1];
    int inside = line < c->pooled_size[0] && column < c->pooled_size[1];
    int64_t tap = i % c->pool_window[0] * 2 + j % c->pool_window[1];
    c->pool_target[position] = inside ? 4 * (line * c->pooled_size[1] + column) + tap : -1;
  }
}

// Returns 0 if memory runs out.
static int init_conv(Conv *c, const WindowAttributes *g, int64_t batch) {
  const int64_t *size = g->image_size, *out = g->output_size, channels = g->channels, groups = g->groups;
  // Without dilation and groups a whole row of the window is contiguous; otherwise a segment is one tap.
  int64_t row_is_contiguous = g->dilation[2] == 1 && groups == 1, taps_in_row = row_is_contiguous ? 1 : g->window[2];
  *c = (Conv){.batch = batch, .groups = groups, .relu = g->relu, .channels = channels, .features = g->features};
  c->image_elements = size[0] * size[1] * size[2] * channels;
  c->positions = out[0] * out[1] * out[2];
  c->group_features = g->features / groups;
  for (int i = 0; i < 2; i++) {
    c->image_size[i] = size[i + 1], c->output_size[i] = out[i + 1];
    if (g->pooled) c->pool_window[i] = min64(2, out[i + 1]), c->pooled_size[i] = out[i + 1] / c->pool_window[i];
  }
  c->segments = g->window[0] * g->window[1] * taps_in_row;
  c->segment_length = (row_is_contiguous ? g->window[2] : 1) * channels / groups;
  c->depth = c->segments * c->segment_length;
  c->position_offset = malloc((2 * c->positions + c->segments + c->depth) * sizeof(int64_t));
  if (!c->position_offset) return 0;
  c->segment_offset = c->position_offset + c->positions;
  c->pool_target = c->segment_offset + c->segments;
  c->value_offset = c->pool_target + c->positions;
  c->use_winograd = winograd_applies(c, g);
  const int64_t segment_grid[3] = {g->window[0], g->window[1], taps_in_row};
  fill_offsets(c->position_offset, out, g->stride, size, channels);
  fill_offsets(c->segment_offset, segment_grid, g->dilation, size, channels);
  for (int64_t i = 0; i < c->depth; i++)
    c->value_offset[i] = c->segment_offset[i / c->segment_length] + i % c->segment_length;
  if (g->pooled) init_pooling(c);
  return 1;
}

// ---------------------------------------------------------------- forward pass

// Computes one panel of features, starting at `feature`, for output positions [from, to) counted over all images.
// Each row of `out` holds all features; the first row is position `from`.
static void forward_panel(const Conv *c, const float *x, const float *panel, int64_t feature, int64_t from, int64_t to,
                          int64_t columns, float *out) {
  Vec bias[2] = {{0}, {0}};
  if (c->bias) memcpy(bias, c->bias + feature, columns * sizeof(float));
  const float *image = x + from / c->positions * c->image_elements;
  int64_t position = from % c->positions;
  for (int64_t at = from; at < to; at += TILE_ROWS) {
    const float *rows[TILE_ROWS];
    Vec sums[TILE_ROWS][2];
    int n = (int)min64(TILE_ROWS, to - at), vectors = columns > LANES ? 2 : 1;
    for (int i = 0; i < n; i++) {
      rows[i] = image + c->position_offset[position];
      if (++position == c->positions) position = 0, image += c->image_elements;
    }
    multiply_tile(n, columns, rows, panel, c->segment_offset, c->segments, c->segment_length, sums);
    for (int i = 0; i < n; i++) {
      for (int j = 0; j < vectors; j++) {
        sums[i][j] += bias[j];
        if (c->relu) sums[i][j] = apply_relu(sums[i][j]);
      }
      store_row(out + (at - from + i) * c->features + feature, sums[i], columns);
    }
  }
}

// Computes panels [first, last) for output positions [from, to).
static void forward_positions(const Conv *c, int64_t first, int64_t last, int64_t from, int64_t to, float *out) {
  int64_t group_channels = c->channels / c->groups;
  for (int64_t panel = first; panel < last; panel++) {
    int64_t group = panel / panels_per_group(c), column = panel % panels_per_group(c) * TILE_COLS;
    forward_panel(c, c->x + group * group_channels, c->packed + panel * c->depth * TILE_COLS,
                  group * c->group_features + column, from, to, min64(TILE_COLS, c->group_features - column), out);
  }
}

// With few positions, each panel is a separate unit of work.
static int64_t panel_units(const Conv *c) { return c->parts < MAX_PARTS ? panel_count(c) : 1; }

static void forward_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t panels = panel_count(c) / panel_units(c), panel = unit % panel_units(c) * panels;
  int64_t part = unit / panel_units(c), all = c->batch * c->positions;
  int64_t first = all * part / c->parts, last = all * (part + 1) / c->parts;
  // A few hundred positions at a time: the values under their windows stay in the L2 cache for all panels.
  for (int64_t from = first; from < last; from += 4 * BLOCK)
    forward_positions(c, panel, panel + panels, from, min64(from + 4 * BLOCK, last), c->out + from * c->features);
}

// Lines of pooled outputs that are computed together, so that their outputs before pooling stay in the L1 cache, and
// the size of those outputs.
static int64_t pooled_lines(const Conv *c) { return ceil_div(BLOCK, c->pool_window[0] * c->output_size[1]); }
static int64_t pool_scratch_size(const Conv *c) {
  return pooled_lines(c) * c->pool_window[0] * c->output_size[1] * c->features;
}

// Pools n lines of one image, starting at pooled line `line`; `outputs` holds the outputs of those lines.
static void pool_lines(const Conv *c, const float *outputs, int64_t image, int64_t line, int64_t n) {
  int64_t to = (image * c->pooled_size[0] + line) * c->pooled_size[1] * c->features;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < c->pooled_size[1]; j++, to += c->features)
      for (int64_t k = 0; k < c->features; k += LANES) {
        int64_t position = i * c->pool_window[0] * c->output_size[1] + j * c->pool_window[1];
        const float *from = outputs + position * c->features + k;
        Vec v[4];
        for (int64_t tap = 0; tap < c->pool_window[0] * c->pool_window[1]; tap++)
          v[tap] = load_n(from + (tap / 2 * c->output_size[1] + tap % 2) * c->features, c->features - k);
        if (c->pool_window[0] == 2)
          write_maximum(c, v, 4, to + k, c->features - k);
        else
          write_maximum(c, v, 2, to + k, c->features - k);
      }
}

static void pooled_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  float *outputs = c->scratch + unit * pool_scratch_size(c);
  int64_t all = c->batch * c->pooled_size[0], last = all * (unit + 1) / c->parts;
  int64_t positions_per_line = c->pool_window[0] * c->output_size[1];
  for (int64_t at = all * unit / c->parts, n; at < last; at += n) {
    int64_t image = at / c->pooled_size[0], line = at % c->pooled_size[0];
    int64_t from = image * c->positions + line * positions_per_line;
    n = min64(pooled_lines(c), min64(c->pooled_size[0] - line, last - at));
    forward_positions(c, 0, panel_count(c), from, from + n * positions_per_line, outputs);
    pool_lines(c, outputs, image, line, n);
  }
}

static void pack_forward(void *arguments, int64_t panel) {
  const Conv *c = arguments;
  int64_t column = panel % panels_per_group(c) * TILE_COLS;
  pack_panel(c->packed + panel * c->depth * TILE_COLS,
             c->kernel + panel / panels_per_group(c) * c->group_features + column, c->depth,
             min64(TILE_COLS, c->group_features - column), c->features, 1);
}

static int forward(XLA_FFI_CallFrame *frame, Conv *c) {
  c->packed = alloc_panel(panel_count(c) * c->depth * TILE_COLS);
  if (c->argmax_out) c->scratch = malloc(c->parts * pool_scratch_size(c) * sizeof(float));
  if (!c->packed || (c->argmax_out && !c->scratch)) return 0;
  return parallel_for(frame, pack_forward, c, panel_count(c)) &&
         (c->argmax_out ? parallel_for(frame, pooled_unit, c, c->parts)
                        : parallel_for(frame, forward_unit, c, c->parts * panel_units(c)));
}

// ---------------------------------------------------------------- gradients of the outputs

// Gathers gradients of n positions of one image, starting at `from`: `columns` features, starting at `feature`, as rows
// of `row_length` floats padded with zeros. Applies the gradients of max pooling and ReLU.
static void gather_gradients(const Conv *c, float *to, int64_t image, int64_t from, int64_t n, int64_t feature,
                             int64_t columns, int64_t row_length) {
  int64_t first = c->argmax ? image * c->pooled_size[0] * c->pooled_size[1] : image * c->positions + from;
  int64_t offset = first * c->features + feature;
  const int64_t *pool_target = c->pool_target + from;
  const uint8_t *argmax = c->argmax ? c->argmax + offset : NULL;
  const float *dy = c->dy + offset, *y = c->y ? c->y + offset : NULL;
  for (int64_t k = 0; k < n; k++, to += row_length)
    for (int64_t j = 0; j < row_length; j += LANES) {
      int64_t left = columns - j, at = (argmax ? pool_target[k] / 4 : k) * c->features + j;
      Vec v = {0};
      if (left > 0 && !(argmax && pool_target[k] < 0)) {
        v = load_n(dy + at, left);
        if (argmax) v = blend(load_argmax(argmax + at, left) == (int32_t)(pool_target[k] % 4), v, (Vec){0});
        if (y) v = gate_by_relu(v, load_n(y + at, left));
      }
      store_n(to + j, v, row_length - j);
    }
}

// Returns the gradients of n positions of one image: in place if all of them pass, otherwise gathered in scratch
// memory.
static const float *gradients(const Conv *c, int64_t part, int64_t image, int64_t from, int64_t n) {
  if (!c->y && !c->argmax) return c->dy + (image * c->positions + from) * c->features;
  float *to = c->scratch + part * BLOCK * c->features;
  gather_gradients(c, to, image, from, n, 0, c->features, c->features);
  return to;
}

// ---------------------------------------------------------------- backward pass with respect to the input

// Panels of the transposed kernel: for each group and segment, columns are values of the segment.
static int64_t panels_per_segment(const Conv *c) { return ceil_div(c->segment_length, TILE_COLS); }

// Adds the contribution of positions [from, to) of one image to one panel of columns of one segment: a product of
// gradients and the transposed kernel, scattered to the image.
static void backward_input_panel(const Conv *c, const float *dy, const float *panel, float *out, int64_t from,
                                 int64_t to, int64_t columns) {
  const int64_t zero = 0;
  for (int64_t at = from; at < to; at += TILE_ROWS) {
    const float *rows[TILE_ROWS];
    Vec sums[TILE_ROWS][2];
    int n = (int)min64(TILE_ROWS, to - at);
    for (int i = 0; i < n; i++) rows[i] = dy + (at - from + i) * c->features;
    multiply_tile(n, columns, rows, panel, &zero, 1, c->group_features, sums);
    for (int i = 0; i < n; i++) add_row(out + c->position_offset[at + i], sums[i], columns);
  }
}

static void backward_input_unit(void *arguments, int64_t part) {
  const Conv *c = arguments;
  const int64_t panels = panels_per_segment(c), group_panels = c->segments * panels;
  for (int64_t image = part_start(c, part); image < part_start(c, part + 1); image++) {
    float *out = c->out + image * c->image_elements;
    memset(out, 0, c->image_elements * sizeof(float));
    for (int64_t from = 0; from < c->positions; from += BLOCK) {
      const float *dy = gradients(c, part, image, from, min64(BLOCK, c->positions - from));
      for (int64_t panel = 0; panel < c->groups * group_panels; panel++) {
        int64_t group = panel / group_panels, segment = panel % group_panels / panels;
        int64_t column = panel % panels * TILE_COLS;
        backward_input_panel(c, dy + group * c->group_features, c->packed + panel * c->group_features * TILE_COLS,
                             out + group * c->segment_length + c->segment_offset[segment] + column, from,
                             min64(from + BLOCK, c->positions), min64(TILE_COLS, c->segment_length - column));
      }
    }
  }
}

static void pack_backward_input(void *arguments, int64_t panel) {
  const Conv *c = arguments;
  int64_t panels = panels_per_segment(c), group_panels = c->segments * panels, column = panel % panels * TILE_COLS;
  int64_t row = panel % group_panels / panels * c->segment_length + column;
  pack_panel(c->packed + panel * c->group_features * TILE_COLS,
             c->kernel + row * c->features + panel / group_panels * c->group_features, c->group_features,
             min64(TILE_COLS, c->segment_length - column), 1, c->features);
}

static int backward_input(XLA_FFI_CallFrame *frame, Conv *c) {
  int64_t panels = c->groups * c->segments * panels_per_segment(c);
  c->packed = alloc_panel(panels * c->group_features * TILE_COLS);
  int is_gated = c->y || c->argmax;
  if (is_gated) c->scratch = malloc(c->parts * BLOCK * c->features * sizeof(float));
  if (!c->packed || (is_gated && !c->scratch)) return 0;
  return parallel_for(frame, pack_backward_input, c, panels) &&
         parallel_for(frame, backward_input_unit, c, c->parts);
}

// ---------------------------------------------------------------- backward pass with respect to the kernel

// Adds the gradient of one panel of features, for segments [segment, end) of its group, over images [image, last).
// Each row of `out` holds all features. The bias's gradient is computed together with the first segment.
static void backward_kernel_panel(const Conv *c, int64_t image, int64_t last, int64_t segment, int64_t end,
                                  int64_t panel, float *out, float *d_bias) {
  int64_t group = panel / panels_per_group(c), column = panel % panels_per_group(c) * TILE_COLS;
  int64_t feature = group * c->group_features + column, columns = min64(TILE_COLS, c->group_features - column);
  float block[BLOCK * TILE_COLS] __attribute__((aligned(64)));
  for (; image < last; image++) {
    const float *x = c->x + image * c->image_elements + (c->groups > 1 ? group * c->segment_length : 0);
    for (int64_t at = 0; at < c->positions; at += BLOCK) {
      int64_t n = min64(BLOCK, c->positions - at);
      gather_gradients(c, block, image, at, n, feature, columns, TILE_COLS);
      if (d_bias && segment == 0) {
        Vec sums[2] = {{0}, {0}};
        for (int64_t k = 0; k < n; k++)
          for (int j = 0; j < 2; j++) sums[j] += load(block + k * TILE_COLS + j * LANES);
        add_row(d_bias + feature, sums, columns);
      }
      for (int64_t m = segment * c->segment_length, rows; m < end * c->segment_length; m += rows) {
        Vec sums[TILE_ROWS][2] = {0};
        rows = min64(TILE_ROWS, end * c->segment_length - m);
        add_outer_products((int)rows, columns, x, c->position_offset + at, c->value_offset + m, block, n, sums);
        for (int64_t i = 0; i < rows; i++) add_row(out + (m + i) * c->features + feature, sums[i], columns);
      }
    }
  }
}

// Small kernels: each part of the batch sums into a copy of the kernel, and the copies are added in order afterwards.
static void backward_kernel_unit(void *arguments, int64_t part) {
  const Conv *c = arguments;
  float *partial = c->packed + part * (c->depth + 1) * c->features;
  float *d_bias = c->d_bias ? partial + c->depth * c->features : NULL;
  // Short segments are grouped, so that gathered gradients are reused for enough rows of the kernel.
  int64_t step = ceil_div(MIN_KERNEL_ROWS, c->segment_length);
  memset(partial, 0, (c->depth + 1) * c->features * sizeof(float));
  for (int64_t image = part_start(c, part); image < part_start(c, part + 1); image++)
    for (int64_t panel = 0; panel < panel_count(c); panel++)
      for (int64_t s = 0; s < c->segments; s += step)
        backward_kernel_panel(c, image, image + 1, s, min64(s + step, c->segments), panel, partial, d_bias);
}

// Large kernels: each unit computes one segment of one panel over the whole batch. The output must be zero on entry.
static void backward_large_kernel_unit(void *arguments, int64_t unit) {
  const Conv *c = arguments;
  int64_t segment = unit % c->segments;
  backward_kernel_panel(c, 0, c->batch, segment, segment + 1, unit / c->segments, c->out, c->d_bias);
}

static int backward_large_kernel(XLA_FFI_CallFrame *frame, Conv *c) {
  memset(c->out, 0, c->depth * c->features * sizeof(float));
  if (c->d_bias) memset(c->d_bias, 0, c->features * sizeof(float));
  return parallel_for(frame, backward_large_kernel_unit, c, c->segments * panel_count(c));
}

static int backward_kernel(XLA_FFI_CallFrame *frame, Conv *c) {
  int64_t size = c->depth * c->features, stride = size + c->features;
  c->packed = malloc(c->parts * stride * sizeof(float));
  if (!c->packed || !parallel_for(frame, backward_kernel_unit, c, c->parts)) return 0;
  sum_parts(c->out, c->packed, c->parts, stride, size);
  if (c->d_bias) sum_parts(c->d_bias, c->packed + size, c->parts, stride, c->features);
  return 1;
}

// ---------------------------------------------------------------- entry points

// The sizes of the arrays of a call; `geometry` is NULL if the attributes are invalid.
typedef struct {
  const WindowAttributes *geometry;
  int64_t batch;
  Expected image, kernel, outputs, gate, bias;
} Sizes;

static Sizes sizes_of(XLA_FFI_CallFrame *frame) {
  const WindowAttributes *g = window_attributes(frame);
  Sizes sizes = {.batch = axis_size(frame, 0, 0)};
  if (!g || sizes.batch < 1 || !g->groups || !g->features) return sizes;
  if (g->channels % g->groups || g->features % g->groups) return sizes;
  // Windows must stay inside the image: the caller pads it.
  for (int i = 0; i < 3; i++)
    if (g->pad_before[i] || last_window_start(g, i) + window_span(g, i) >= g->image_size[i]) return sizes;
  // Fused pooling needs two neighbors along the last axis and at most two spatial axes.
  if (g->pooled && (g->output_size[0] > 1 || g->output_size[2] < 2)) return sizes;
  int64_t lines = g->output_size[1] > 1 ? g->output_size[1] / 2 : 1;
  int64_t positions = g->pooled ? lines * (g->output_size[2] / 2) : output_positions(g);
  sizes.geometry = g;
  sizes.image = FLOATS(sizes.batch, image_elements(g));
  sizes.kernel = FLOATS(window_taps(g), g->channels / g->groups, g->features);
  sizes.outputs = FLOATS(sizes.batch, positions, g->features);
  sizes.bias = FLOATS(g->features);
  sizes.gate = g->pooled ? BYTES(sizes.batch, positions, g->features) : sizes.outputs;
  return sizes;
}

static void set_gate(Conv *c, const void *gate) {
  if (c->pool_window[1])
    c->argmax = gate;
  else
    c->y = gate;
}

static XLA_FFI_Error *finish(XLA_FFI_CallFrame *frame, Conv *c, const char *kernel_name, int done) {
  free(c->position_offset);
  free(c->packed);
  free(c->scratch);
  return done ? NULL : out_of_memory(frame, kernel_name);
}

// With fused pooling the results are the pooled outputs and argmax, otherwise only the outputs.
KERNEL(conv) {
  Sizes s = sizes_of(frame);
  if (!s.geometry || frame->rets.size != 1 + s.geometry->pooled ||
      !sizes_match(frame, (Expected[]){s.image, s.kernel, s.bias}, (Expected[]){s.outputs, s.gate}))
    return size_mismatch(frame, kernel_name);
  Conv c;
  if (!init_conv(&c, s.geometry, s.batch)) return out_of_memory(frame, kernel_name);
  c.x = operand(frame, CONV_X)->data, c.kernel = operand(frame, CONV_KERNEL)->data;
  c.bias = optional_operand(frame, CONV_BIAS);
  c.out = result(frame, CONV_Y)->data, c.argmax_out = optional_result(frame, CONV_ARGMAX);
  // Twice as many parts as elsewhere, so that small batches keep all threads busy.
  c.parts = min64(ceil_div(c.batch * c.positions, BLOCK), 2 * MAX_PARTS);
  return finish(frame, &c, kernel_name, c.use_winograd ? winograd_forward(frame, &c) : forward(frame, &c));
}

// With fused pooling the gate is required and holds the argmax; without pooling it is optional and holds the outputs
// after ReLU.
KERNEL(conv_backward_input) {
  Sizes s = sizes_of(frame);
  if (!s.geometry || (s.geometry->pooled && frame->args.size < 3) ||
      !sizes_match(frame, (Expected[]){s.outputs, s.kernel, s.gate}, &s.image))
    return size_mismatch(frame, kernel_name);
  Conv c;
  if (!init_conv(&c, s.geometry, s.batch)) return out_of_memory(frame, kernel_name);
  c.dy = operand(frame, CONV_BACKWARD_INPUT_Y)->data, c.kernel = operand(frame, CONV_BACKWARD_INPUT_KERNEL)->data;
  set_gate(&c, optional_operand(frame, CONV_BACKWARD_INPUT_GATE));
  c.out = result(frame, CONV_BACKWARD_INPUT_X)->data;
  c.parts = min64(c.batch, 2 * MAX_PARTS);
  int done = c.use_winograd ? winograd_backward_input(frame, &c) : backward_input(frame, &c);
  return finish(frame, &c, kernel_name, done);
}

KERNEL(conv_backward_kernel) {
  Sizes s = sizes_of(frame);
  if (!s.geometry || (s.geometry->pooled && frame->args.size < 3) ||
      !sizes_match(frame, (Expected[]){s.image, s.outputs, s.gate}, (Expected[]){s.kernel, s.bias}))
    return size_mismatch(frame, kernel_name);
  Conv c;
  if (!init_conv(&c, s.geometry, s.batch)) return out_of_memory(frame, kernel_name);
  c.x = operand(frame, CONV_BACKWARD_KERNEL_X)->data, c.dy = operand(frame, CONV_BACKWARD_KERNEL_Y)->data;
  set_gate(&c, optional_operand(frame, CONV_BACKWARD_KERNEL_GATE));
  c.out = result(frame, CONV_BACKWARD_KERNEL_KERNEL)->data;
  c.d_bias = optional_result(frame, CONV_BACKWARD_KERNEL_BIAS);
  c.parts = min64(c.batch, MAX_PARTS);
  if (c.use_winograd && winograd_applies_to_backward_kernel(&c))
    return finish(frame, &c, kernel_name, winograd_backward_kernel(frame, &c));
  int is_large = c.depth * c.features > LARGE_KERNEL;
  return finish(frame, &c, kernel_name, is_large ? backward_large_kernel(frame, &c) : backward_kernel(frame, &c));
}
