// Winograd convolution F(2x2, 3x3) for a CPU, channels last: 16 multiplications for outputs that otherwise take 36.
//
// A patch of 4 x 4 input values covers the windows of 2 x 2 outputs. Sums and differences of its values are 16 points,
// and the kernel is transformed to 16 points as well. At each point, a matrix product sums over the channels. Sums
// and differences of the 16 results are the 2 x 2 outputs. The gradients use the transposed transforms.
//
// The transforms only add and halve, so rounding errors are those of plain sums. A NaN reaches the outputs whose
// windows contain it; an infinity may turn them into NaN.
//
// A block of patches passes through all stages in thread-local memory that fits the L2 cache.
//
// Reference: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.

#include "winograd.h"

#include "tiles.h"

enum { SIDE = 4, POINTS = SIDE * SIDE, MAX_PATCHES = 24, MAX_POINT_VALUES = 1 << 16 };

// Points of a block of patches. image_points is ordered by point, patch and channel; gradient_points and product_points
// by point, panel, patch and column. A gap of TILE_COLS floats separates two points: at a distance of a power of two
// they would compete for the same cache sets.
static _Thread_local float image_points[MAX_POINT_VALUES + POINTS * TILE_COLS] __attribute__((aligned(64)));
static _Thread_local float gradient_points[MAX_POINT_VALUES + POINTS * TILE_COLS] __attribute__((aligned(64)));
static _Thread_local float product_points[POINTS * MAX_PATCHES * TILE_COLS] __attribute__((aligned(64)));

static int64_t part_start(const Conv *c, int64_t part) { return first_image(c->batch, part, c->parts); }

// The number of patches along an axis. With fused pooling, only complete blocks of 2 x 2 outputs count.
static int64_t patches_along(const Conv *c, int axis) {
  return c->pool_window[1] ? c->pooled_size[axis] : ceil_div(c->output_size[axis], 2);
}

static int64_t patches_per_image(const Conv *c) { return patches_along(c, 0) * patches_along(c, 1); }

// The limits are measured. Below 32 channels or features the transforms cost what the products save; above 256, too few
// patches fit into a block. Patches that reach beyond the image are wasted work, and so is the transform of the kernel
// for few positions.
int winograd_applies(const Conv *c, const WindowAttributes *g) {
  const int64_t *window = g->window, *stride = g->stride, *dilation = g->dilation;
  int is_3x3 = g->image_size[0] == 1 && window[0] == 1 && window[1] == 3 && window[2] == 3 && c->groups == 1;
  int is_dense = stride[1] == 1 && stride[2] == 1 && dilation[1] == 1 && dilation[2] == 1;
  int64_t fewer = min64(c->channels, c->features), more = c->channels + c->features - fewer;
  int fills_vectors = fewer % LANES == 0 && more % LANES == 0 && fewer >= 32 && more <= 256;
  int few_partial_patches = 10 * POINTS * patches_per_image(c) <= 6 * 9 * c->positions;
  return is_3x3 && is_dense && fills_vectors && few_partial_patches && c->batch * c->positions >= 512;
}

// Each part of the batch holds the points of a whole kernel, which takes too much memory for large kernels.
int winograd_applies_to_backward_kernel(const Conv *c) { return c->channels * c->features <= 1 << 14; }

// ---------------------------------------------------------------- transforms along one axis

// Each transform works in place on 4 vectors that are `s` apart. The transposed transforms are for the backward pass.

INLINE void image_transform(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s], c = v[2 * s], d = v[3 * s];
  v[0] = a - c, v[s] = b + c, v[2 * s] = c - b, v[3 * s] = b - d;
}

INLINE void image_transform_transposed(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s], c = v[2 * s], d = v[3 * s];
  v[0] = a, v[s] = b - c + d, v[2 * s] = b + c - a, v[3 * s] = -d;
}

INLINE void output_transform(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s], c = v[2 * s], d = v[3 * s];
  v[0] = a + b + c, v[s] = b - c - d;
}

INLINE void output_transform_transposed(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s];
  v[s] = a + b, v[2 * s] = a - b, v[3 * s] = -b;
}

INLINE void kernel_transform(Vec *v, int64_t s) {
  Vec a = v[0], b = v[s], c = v[2 * s];
  v[s] = 0.5f * (a + b + c), v[2 * s] = 0.5f * (a - b + c), v[3 * s] = c;
}

INLINE void kernel_transform_transposed(Vec *v, int64_t s) {
  Vec b = 0.5f * (v[s] + v[2 * s]), c = 0.5f * (v[s] - v[2 * s]);
  v[0] += b, v[s] = c, v[2 * s] = b + v[3 * s];
}

// Transforms `columns` columns, then `rows` rows of the result.
#define TRANSFORM_2D(transform, v, columns, rows)                            \
  do {                                                                       \
    UNROLL for (int j_ = 0; j_ < (columns); j_++) transform((v) + j_, SIDE); \
    UNROLL for (int i_ = 0; i_ < (rows); i_++) transform((v) + SIDE * i_, 1); \
  } while (0)

// ---------------------------------------------------------------- patches

// The distance between two points of the same patch and channel, for a block of patches with `values` values at each
// point.
static int64_t point_stride(int64_t block, int64_t values) { return block * values + TILE_COLS; }

// The image of a patch, the first row and column of its outputs, and how many rows and columns of outputs it has. The
// patch itself has two more values along each axis.
typedef struct {
  int64_t image, row, column;
  int rows, columns;
} Patch;

// The number of patches whose points fit into the thread-local memory: whole tiles of rows.
static int64_t patches_per_block(int64_t values) {
  return min64(MAX_PATCHES, MAX_POINT_VALUES / POINTS / values / TILE_ROWS * TILE_ROWS);
}

// Writes n patches, counted over all images, starting with the first one.
static void locate_patches(const Conv *c, Patch *to, int64_t first, int64_t n) {
  int64_t across = patches_along(c, 1), per_image = patches_per_image(c);
  for (int64_t i = first; i < first + n; i++) {
    Patch p = {i / per_image, 2 * (i % per_image / across), 2 * (i % across), 0, 0};
    p.rows = (int)min64(2, c->output_size[0] - p.row), p.columns = (int)min64(2, c->output_size[1] - p.column);
    *to++ = p;
  }
}

// Whether value (i, j) of patch p is inside the outputs or the image; `margin` is 0 for outputs and 2 for values of the
// image.
#define IF_INSIDE(i, j, margin) if ((i) < p->rows + (margin) && (j) < p->columns + (margin))

// The start of a patch in the image and in the outputs.
static int64_t image_offset(const Conv *c, const Patch *p) {
  return p->image * c->image_elements + (p->row * c->image_size[1] + p->column) * c->channels;
}
static int64_t output_offset(const Conv *c, const Patch *p) {
  return (p->image * c->positions + p->row * c->output_size[1] + p->column) * c->features;
}
// With fused pooling, the 2 x 2 outputs of a patch give one pooled output.
static int64_t pooled_offset(const Conv *c, const Patch *p) {
  return ((p->image * c->pooled_size[0] + p->row / 2) * c->pooled_size[1] + p->column / 2) * c->features;
}

// Writes the points of a patch of the image, `stride` apart, for LANES channels.
INLINE void transform_image(const Conv *c, const Patch *p, int64_t channel, float *to, int64_t stride) {
  const float *x = c->x + image_offset(c, p) + channel;
  Vec v[POINTS] = {0};
  UNROLL for (int i = 0; i < SIDE; i++)
    UNROLL for (int j = 0; j < SIDE; j++)
      IF_INSIDE(i, j, 2) v[SIDE * i + j] = load(x + (i * c->image_size[1] + j) * c->channels);
  TRANSFORM_2D(image_transform, v, SIDE, SIDE);
  UNROLL for (int i = 0; i < POINTS; i++) store(to + i * stride, v[i]);
}

static void transform_images(const Conv *c, const Patch *p, int64_t n, int64_t block) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = 0; k < c->channels; k += LANES)
      transform_image(c, p + i, k, image_points + i * c->channels + k, point_stride(block, c->channels));
}

// Writes the points of the gradients of a patch's outputs and returns the sum of these gradients.
INLINE Vec transform_gradients(const Conv *c, const Patch *p, int64_t feature, float *to, int64_t stride) {
  Vec v[POINTS] = {0}, total = {0};
  if (c->argmax) {
    int64_t at = pooled_offset(c, p) + feature;
    Vec dy = load(c->dy + at);
    IntVec argmax = load_argmax(c->argmax + at, LANES);
    UNROLL for (int k = 0; k < 4; k++) total += v[SIDE * (k / 2) + k % 2] = blend(argmax == k, dy, (Vec){0});
  } else {
    UNROLL for (int i = 0; i < 2; i++)
      UNROLL for (int j = 0; j < 2; j++) IF_INSIDE(i, j, 0) {
        int64_t at = output_offset(c, p) + feature + (i * c->output_size[1] + j) * c->features;
        Vec dy = load(c->dy + at);
        if (c->y) dy = gate_by_relu(dy, load(c->y + at));
        total += v[SIDE * i + j] = dy;
      }
  }
  TRANSFORM_2D(output_transform_transposed, v, 2, SIDE);
  UNROLL for (int i = 0; i < POINTS; i++) store(to + i * stride, v[i]);
  return total;
}

// Loads LANES columns of the products at all points of a patch.
INLINE void load_products(Vec *v, const float *from, int64_t block) {
  UNROLL for (int i = 0; i < POINTS; i++) v[i] = load(from + i * block * TILE_COLS);
}

INLINE void write_outputs(const Conv *c, const Patch *p, int64_t feature, const float *products, int64_t block) {
  float *to = c->out + output_offset(c, p) + feature;
  Vec v[POINTS], bias = {0};
  load_products(v, products, block);
  TRANSFORM_2D(output_transform, v, SIDE, 2);
  if (c->bias) bias = load(c->bias + feature);
  if (c->argmax_out) {
    Vec neighbors[4] = {v[0] + bias, v[1] + bias, v[SIDE] + bias, v[SIDE + 1] + bias};
    write_maximum(c, neighbors, 4, pooled_offset(c, p) + feature, LANES);
    return;
  }
  UNROLL for (int i = 0; i < 2; i++)
    UNROLL for (int j = 0; j < 2; j++) IF_INSIDE(i, j, 0) {
      Vec y = v[SIDE * i + j] + bias;
      store(to + (i * c->output_size[1] + j) * c->features, c->relu ? apply_relu(y) : y);
    }
}

// Adds the gradients of a patch's values to the gradient of the image.
INLINE void add_to_image(const Conv *c, const Patch *p, int64_t channel, const float *products, int64_t block) {
  float *to = c->out + image_offset(c, p) + channel;
  Vec v[POINTS];
  load_products(v, products, block);
  TRANSFORM_2D(image_transform_transposed, v, SIDE, SIDE);
  UNROLL for (int i = 0; i < SIDE; i++)
    UNROLL for (int j = 0; j < SIDE; j++) IF_INSIDE(i, j, 2) {
      float *at = to + (i * c->image_size[1] + j) * c->channels;
      store(at, load(at) + v[SIDE * i + j]);
    }
}

// ---------------------------------------------------------------- products at each point

// TILE_ROWS contiguous rows times one or two vectors of a panel.
INLINE void multiply_rows(int vectors, const float *left, const float *panel, int64_t depth, float *to) {
  const float *rows[TILE_ROWS];
  const int64_t zero = 0;
  Vec sums[TILE_ROWS][2];
  UNROLL for (int i = 0; i < TILE_ROWS; i++) rows[i] = left + i * depth;
  multiply_tile_const(TILE_ROWS, vectors, rows, panel, &zero, 1, depth, sums);
  UNROLL for (int i = 0; i < TILE_ROWS; i++)
    UNROLL for (int j = 0; j < vectors; j++) store(to + i * TILE_COLS + j * LANES, sums[i][j]);
}

// product_points = image_points of n patches times a panel of `columns` columns of the kernel's points, at all points.
static void multiply_points(const float *panel, int64_t columns, int64_t depth, int64_t block, int64_t n) {
  for (int64_t point = 0; point < POINTS; point++)
    for (int64_t i = 0; i < n; i += TILE_ROWS) {
      const float *left = image_points + point * point_stride(block, depth) + i * depth;
      const float *right = panel + point * depth * TILE_COLS;
      float *to = product_points + (point * block + i) * TILE_COLS;
      if (columns > LANES)
        multiply_rows(2, left, right, depth, to);
      else
        multiply_rows(1, left, right, depth, to);
    }
}

// The points of the kernel for one channel and LANES features.
INLINE void transform_kernel(const Conv *c, int64_t channel, int64_t feature, Vec *v) {
  for (int i = 0; i < 9; i++)
    v[i / 3 * SIDE + i % 3] = load(c->kernel + (i * c->channels + channel) * c->features + feature);
  TRANSFORM_2D(kernel_transform, v, 3, SIDE);
}

// The number of features in whole panels.
static int64_t padded_features(const Conv *c) { return ceil_div(c->features, TILE_COLS) * TILE_COLS; }

// ---------------------------------------------------------------- forward pass

// Packs the points of the kernel for one channel; panels have features as columns and channels as depth.
static void pack_forward(void *arguments, int64_t channel) {
  const Conv *c = arguments;
  for (int64_t j = 0; j < c->features; j += LANES) {
    Vec v[POINTS];
    float *to = c->packed + (j / TILE_COLS * POINTS * c->channels + channel) * TILE_COLS + j % TILE_COLS;
    transform_kernel(c, channel, j, v);
    for (int i = 0; i < POINTS; i++) store(to + i * c->channels * TILE_COLS, v[i]);
  }
}

static void forward_unit(void *arguments, int64_t part) {
  const Conv *c = arguments;
  int64_t depth = c->channels, block = patches_per_block(depth);
  int64_t all = c->batch * patches_per_image(c), last = all * (part + 1) / c->parts;
  Patch p[MAX_PATCHES];
  for (int64_t from = all * part / c->parts; from < last; from += block) {
    int64_t n = min64(block, last - from);
    locate_patches(c, p, from, n);
    transform_images(c, p, n, block);
    for (int64_t feature = 0; feature < c->features; feature += TILE_COLS) {
      multiply_points(c->packed + feature * POINTS * depth, c->features - feature, depth, block, n);
      for (int64_t i = 0; i < n; i++)
        for (int64_t j = feature; j < min64(feature + TILE_COLS, c->features); j += LANES)
          write_outputs(c, p + i, j, product_points + i * TILE_COLS + j - feature, block);
    }
  }
}

int winograd_forward(XLA_FFI_CallFrame *frame, Conv *c) {
  c->packed = alloc_panel(padded_features(c) * POINTS * c->channels);
  return c->packed && parallel_for(frame, pack_forward, c, c->channels) &&
         parallel_for(frame, forward_unit, c, c->parts);
}

// ---------------------------------------------------------------- backward pass with respect to the input

// Packs the points of the kernel for one panel; panels have channels as columns and features as depth.
static void pack_backward_input(void *arguments, int64_t panel) {
  const Conv *c = arguments;
  for (int64_t channel = panel * TILE_COLS; channel < min64((panel + 1) * TILE_COLS, c->channels); channel++)
    for (int64_t k = 0; k < c->features; k += LANES) {
      Vec v[POINTS];
      float *to = c->packed + (panel * POINTS * c->features + k) * TILE_COLS + channel % TILE_COLS;
      transform_kernel(c, channel, k, v);
      for (int i = 0; i < POINTS; i++)
        for (int lane = 0; lane < LANES; lane++) to[(i * c->features + lane) * TILE_COLS] = v[i][lane];
    }
}

static void backward_input_unit(void *arguments, int64_t part) {
  const Conv *c = arguments;
  int64_t depth = c->features, block = patches_per_block(depth), per_image = patches_per_image(c);
  int64_t first = part_start(c, part), last = part_start(c, part + 1);
  Patch p[MAX_PATCHES];
  memset(c->out + first * c->image_elements, 0, (last - first) * c->image_elements * sizeof(float));
  for (int64_t from = first * per_image; from < last * per_image; from += block) {
    int64_t n = min64(block, last * per_image - from);
    locate_patches(c, p, from, n);
    for (int64_t i = 0; i < n; i++)
      for (int64_t k = 0; k < depth; k += LANES)
        transform_gradients(c, p + i, k, image_points + i * depth + k, point_stride(block, depth));
    for (int64_t channel = 0; channel < c->channels; channel += TILE_COLS) {
      multiply_points(c->packed + channel * POINTS * depth, c->channels - channel, depth, block, n);
      for (int64_t i = 0; i < n; i++)
        for (int64_t j = channel; j < min64(channel + TILE_COLS, c->channels); j += LANES)
          add_to_image(c, p + i, j, product_points + i * TILE_COLS + j - channel, block);
    }
  }
}

int winograd_backward_input(XLA_FFI_CallFrame *frame, Conv *c) {
  int64_t panels = ceil_div(c->channels, TILE_COLS);
  c->packed = alloc_panel(panels * TILE_COLS * POINTS * c->features);
  return c->packed && parallel_for(frame, pack_backward_input, c, panels) &&
         parallel_for(frame, backward_input_unit, c, c->parts);
}

// ---------------------------------------------------------------- backward pass with respect to the kernel

// Each part of the batch sums the points of the kernel's gradient [points, channels, padded features], followed by the
// gradient of the bias.
static int64_t partial_size(const Conv *c) { return (POINTS * c->channels + 1) * padded_features(c); }

// Adds to a tile of the kernel's points: columns of the image's points times rows of the gradients' points. `rows` is a
// constant at each call.
INLINE void add_product(int rows, const float *x, const int64_t *patch_offset, const float *panel, int64_t n, float *to,
                        int64_t row_length) {
  const int64_t channel_offset[TILE_ROWS] = {0, 1, 2, 3, 4, 5};
  Vec sums[TILE_ROWS][2];
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < 2; j++) sums[i][j] = load(to + i * row_length + j * LANES);
  add_outer_products_const(rows, 2, x, patch_offset, channel_offset, panel, n, sums);
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < 2; j++) store(to + i * row_length + j * LANES, sums[i][j]);
}

// Adds the products of all channels and one panel at one point, in tiles of about equal height.
static void add_products(const Conv *c, const float *x, const int64_t *patch_offset, const float *panel, int64_t n,
                         float *to) {
  int64_t row_length = padded_features(c);
  for (int64_t m = 0, rows; m < c->channels; m += rows, x += rows, to += rows * row_length) {
    rows = ceil_div(c->channels - m, ceil_div(c->channels - m, TILE_ROWS));
    switch (rows) {
      case 4: add_product(4, x, patch_offset, panel, n, to, row_length); break;
      case 5: add_product(5, x, patch_offset, panel, n, to, row_length); break;
      default: add_product(6, x, patch_offset, panel, n, to, row_length);
    }
  }
}

static void backward_kernel_unit(void *arguments, int64_t part) {
  const Conv *c = arguments;
  int64_t channels = c->channels, features = padded_features(c), per_image = patches_per_image(c);
  int64_t last = part_start(c, part + 1) * per_image;
  int64_t block = patches_per_block(features > channels ? features : channels), patch_offset[MAX_PATCHES];
  Patch p[MAX_PATCHES];
  float *d_points = c->packed + part * partial_size(c), *d_bias = d_points + POINTS * channels * features;
  memset(d_points, 0, partial_size(c) * sizeof(float));
  for (int64_t i = 0; i < block; i++) patch_offset[i] = i * channels;
  for (int64_t from = part_start(c, part) * per_image; from < last; from += block) {
    int64_t n = min64(block, last - from);
    locate_patches(c, p, from, n);
    transform_images(c, p, n, block);
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < c->features; j += LANES) {
        float *to = gradient_points + (j / TILE_COLS * block + i) * TILE_COLS + j % TILE_COLS;
        store(d_bias + j, load(d_bias + j) + transform_gradients(c, p + i, j, to, point_stride(block, features)));
      }
    for (int64_t point = 0; point < POINTS; point++) {
      const float *x = image_points + point * point_stride(block, channels);
      const float *dy = gradient_points + point * point_stride(block, features);
      for (int64_t j = 0; j < features; j += TILE_COLS)
        add_products(c, x, patch_offset, dy + j * block, n, d_points + point * channels * features + j);
    }
  }
}

// Adds the partial sums of one channel in order and transforms the points to the gradient of the kernel.
static void finish_kernel_channel(void *arguments, int64_t channel) {
  const Conv *c = arguments;
  for (int64_t j = 0; j < c->features; j += LANES) {
    Vec v[POINTS] = {0};
    for (int64_t part = 0; part < c->parts; part++) {
      const float *d_points = c->packed + part * partial_size(c) + channel * padded_features(c) + j;
      UNROLL for (int i = 0; i < POINTS; i++) v[i] += load(d_points + i * c->channels * padded_features(c));
    }
    TRANSFORM_2D(kernel_transform_transposed, v, SIDE, 3);
    for (int i = 0; i < 9; i++)
      store(c->out + (i * c->channels + channel) * c->features + j, v[i / 3 * SIDE + i % 3]);
  }
}

int winograd_backward_kernel(XLA_FFI_CallFrame *frame, Conv *c) {
  c->packed = malloc(c->parts * partial_size(c) * sizeof(float));
  if (!c->packed || !parallel_for(frame, backward_kernel_unit, c, c->parts)) return 0;
  const float *d_bias = c->packed + POINTS * c->channels * padded_features(c);
  if (c->d_bias) sum_parts(c->d_bias, d_bias, c->parts, partial_size(c), c->features);
  return parallel_for(frame, finish_kernel_channel, c, c->channels);
}
