// LSTM, GRU and simple RNN for a CPU: scans over time, forward and backward.
//
// Rows of the batch are independent, so each thread takes some rows through all time steps and never waits for others.
// The recurrent kernel, packed into panels, stays in the thread's cache. The gates are computed on the products of a
// step while these are in cache.
//
// Shapes: T steps, B batch, F features, U units, G gates: 4 (i f g o) for an LSTM, 3 (z r g) for a GRU, 1 for a simple
// RNN. The U columns of a gate are padded to whole vectors.

#include "threads.h"
#include "tiles.h"

typedef struct {
  int64_t cell_type;  // LSTM, GRU or SIMPLE
  int64_t steps, batch, units, features, gate_count, keep_residuals;
  int64_t parts;           // pieces of the batch
  int64_t padded_units;    // units in whole vectors
  int64_t padded_columns;  // columns of the product of a step, in whole panels

  // Operands of the forward pass. If there are no features, x is the inputs' contribution to the gates [T, B, G U].
  const float *x;                          // [T, B, F]
  const float *kernel, *recurrent_kernel;  // [F, G U], [U, G U]
  const float *bias, *recurrent_bias;      // [G U]; only a GRU has the second one
  const float *initial_h, *initial_c;      // [B, U]
  const uint8_t *mask;                     // [T, B]; NULL if all steps are valid

  // Results of the forward pass, operands of the backward pass.
  float *hs, *cs;  // [T, B, U]; only the last c [B, U] unless `keep_residuals`
  float *gates;    // LSTM: i f g o, GRU: z r g and the recurrent product of g [T, B, 4 U]

  // Gradients.
  const float *d_hs, *d_h, *d_c;      // [T, B, U], [B, U]
  float *d_recurrent, *d_input;       // [T, B, G U] of the recurrent products; for a GRU also of the inputs' products
  float *d_initial_h, *d_initial_c;   // [B, U]

  // Work memory.
  float *panels, *input_panels;                // recurrent kernel below the inputs' kernel; a GRU packs them separately
  float *padded_bias, *padded_recurrent_bias;  // [padded_columns]
  float *scratch;                              // `scratch_size` for each part
  int64_t scratch_size;
} Recurrence;

// ---------------------------------------------------------------- activation functions

INLINE Vec clamp(Vec x, float most) {
  const Vec high = (Vec){0} + most, low = (Vec){0} - most;
  return blend(x > high, high, blend(x < low, low, x));  // NaN stays NaN
}

// exp(x) = 2^n exp(r), |r| <= log(2) / 2, by the Taylor series of exp.
INLINE Vec exponential(Vec x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  x = clamp(x, 87.0f);
  Vec shifted = x * 1.44269504f + magic;
  Vec n = shifted - magic;
  Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Vec p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  IntVec power = ((IntVec)shifted - (IntVec)((Vec){0} + magic)) << 23;
  return (Vec)((IntVec)p + power);
}

INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

// x P(x^2) / Q(x^2), fitted to tanh by weighted least squares with a relative error of 2e-9 for |x| up to 9.
INLINE Vec hyperbolic_tangent(Vec x) {
  x = clamp(x, 9.0f);
  Vec s = x * x;
  Vec p = s * -1.224497672e-11f + 3.064080830e-08f;
  p = p * s + 2.803060023e-05f;
  p = p * s + 3.869473107e-03f;
  p = p * s + 1.368082873e-01f;
  p = p * s + 9.999999987e-01f;
  Vec q = s * 1.288985236e-06f + 3.940651590e-04f;
  q = q * s + 2.725002935e-02f;
  q = q * s + 4.701416083e-01f;
  q = q * s + 1.0f;
  return clamp(x * p / q, 1.0f);
}

// ---------------------------------------------------------------- products of one step

// A GRU needs its inputs' products and its recurrent products separately. The other cells multiply [x, h] at once; this
// is the number of input columns in that matrix.
static int64_t joined_features(const Recurrence *r) { return r->cell_type == GRU ? 0 : r->features; }

// out [rows, columns] = left [rows, depth] times panels.
static void multiply_panels(const float *left, int64_t rows, int64_t depth, const float *panels, int64_t columns,
                            float *out) {
  const int64_t zero = 0;
  for (int64_t column = 0; column < columns; column += TILE_COLS)
    for (int64_t row = 0, n; row < rows; row += n) {
      const float *tile_rows[TILE_ROWS];
      Vec sums[TILE_ROWS][2];
      // Tiles have about equal height: 32 rows give 6 6 5 5 5 5. A tile with few rows has too few independent sums to hide
      // latency.
      n = ceil_div(rows - row, ceil_div(rows - row, TILE_ROWS));
      for (int i = 0; i < n; i++) tile_rows[i] = left + (row + i) * depth;
      multiply_tile((int)n, TILE_COLS, tile_rows, panels + column * depth, &zero, 1, depth, sums);
      for (int i = 0; i < n; i++) store_row(out + (row + i) * columns + column, sums[i], TILE_COLS);
    }
}

// Packs a kernel [rows, G U] into rows of one panel, from `first_row` on, with each gate's columns padded to whole
// vectors. The padding is not written: the memory is zero.
static void pack_gates(const Recurrence *r, const float *kernel, int64_t rows, float *panel, int64_t first_row,
                       int64_t column) {
  for (int64_t half = 0; half < TILE_COLS; half += LANES) {
    int64_t gate = (column + half) / r->padded_units, j = (column + half) % r->padded_units;
    if (gate >= r->gate_count) continue;
    for (int64_t k = 0; k < rows; k++)
      store(panel + (first_row + k) * TILE_COLS + half,
            load_n(kernel + (k * r->gate_count + gate) * r->units + j, r->units - j));
  }
}

// ---------------------------------------------------------------- one row of one step
//
// `at` is the index of a step and an example: the row of [T, B].

INLINE int is_valid_step(const Recurrence *r, int64_t at) { return !r->mask || r->mask[at]; }

// The input of a gate's activation: the product, its bias, and the inputs' contribution if the caller has computed it.
INLINE Vec gate_input(const Recurrence *r, const float *products, int64_t at, int64_t gate, int64_t j, int64_t n) {
  Vec sum = load(products + gate * r->padded_units + j) + load(r->padded_bias + gate * r->padded_units + j);
  if (!r->features) sum += load_n(r->x + (at * r->gate_count + gate) * r->units + j, n);
  return sum;
}

// Updates the states h and c in place.
static void lstm_row(const Recurrence *r, int64_t at, const float *products, float *h, float *c) {
  float *gates = r->gates + at * 4 * r->units;
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec i = sigmoid(gate_input(r, products, at, 0, j, n)), f = sigmoid(gate_input(r, products, at, 1, j, n));
    Vec g = hyperbolic_tangent(gate_input(r, products, at, 2, j, n)), o = sigmoid(gate_input(r, products, at, 3, j, n));
    if (is_valid_step(r, at)) {
      Vec cell = f * load(c + j) + i * g;
      store(c + j, cell);
      store_n(h + j, o * hyperbolic_tangent(cell), n);
    }
    store_n(r->hs + at * r->units + j, load_n(h + j, n), n);
    if (!r->keep_residuals) continue;
    store_n(r->cs + at * r->units + j, load(c + j), n);
    store_n(gates + j, i, n);
    store_n(gates + r->units + j, f, n);
    store_n(gates + 2 * r->units + j, g, n);
    store_n(gates + 3 * r->units + j, o, n);
  }
}

static void gru_row(const Recurrence *r, int64_t at, const float *products, const float *recurrent_products, float *h) {
  float *gates = r->gates + at * 4 * r->units;
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec recurrent[3];
    for (int64_t gate = 0; gate < 3; gate++)
      recurrent[gate] = load(recurrent_products + gate * r->padded_units + j) +
                        load(r->padded_recurrent_bias + gate * r->padded_units + j);
    Vec update = sigmoid(gate_input(r, products, at, 0, j, n) + recurrent[0]);
    Vec reset = sigmoid(gate_input(r, products, at, 1, j, n) + recurrent[1]);
    Vec g = hyperbolic_tangent(gate_input(r, products, at, 2, j, n) + reset * recurrent[2]);
    Vec previous = load_n(h + j, n);
    if (is_valid_step(r, at)) store_n(h + j, update * previous + (1.0f - update) * g, n);
    store_n(r->hs + at * r->units + j, load_n(h + j, n), n);
    if (!r->keep_residuals) continue;
    store_n(gates + j, update, n);
    store_n(gates + r->units + j, reset, n);
    store_n(gates + 2 * r->units + j, g, n);
    store_n(gates + 3 * r->units + j, recurrent[2], n);
  }
}

static void simple_row(const Recurrence *r, int64_t at, const float *products, float *h) {
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    if (is_valid_step(r, at)) store_n(h + j, hyperbolic_tangent(gate_input(r, products, at, 0, j, n)), n);
    store_n(r->hs + at * r->units + j, load_n(h + j, n), n);
  }
}

// The backward functions of one row. On entry, dh is the gradient with respect to h after the step. On return, it is
// the part of the gradient with respect to the previous h that bypasses the recurrent product.
static void lstm_row_backward(const Recurrence *r, int64_t at, const float *previous_c, float *dh, float *dc) {
  const float *gates = r->gates + at * 4 * r->units;
  float *dz = r->d_recurrent + at * 4 * r->units;
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec i = load_n(gates + j, n), f = load_n(gates + r->units + j, n);
    Vec g = load_n(gates + 2 * r->units + j, n), o = load_n(gates + 3 * r->units + j, n);
    Vec cell = hyperbolic_tangent(load_n(r->cs + at * r->units + j, n));
    Vec d_h = load(dh + j), d_c = load(dc + j) + d_h * o * (1.0f - cell * cell);
    store_n(dz + j, d_c * g * i * (1.0f - i), n);
    store_n(dz + r->units + j, d_c * load_n(previous_c + j, n) * f * (1.0f - f), n);
    store_n(dz + 2 * r->units + j, d_c * i * (1.0f - g * g), n);
    store_n(dz + 3 * r->units + j, d_h * cell * o * (1.0f - o), n);
    store(dc + j, d_c * f);
    store(dh + j, (Vec){0});
  }
}

static void gru_row_backward(const Recurrence *r, int64_t at, const float *previous_h, float *dh) {
  const float *gates = r->gates + at * 4 * r->units;
  float *d_recurrent = r->d_recurrent + at * 3 * r->units, *d_input = r->d_input + at * 3 * r->units;
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec z = load_n(gates + j, n), reset = load_n(gates + r->units + j, n);
    Vec g = load_n(gates + 2 * r->units + j, n), recurrent = load_n(gates + 3 * r->units + j, n);
    Vec d_h = load(dh + j), d_g = d_h * (1.0f - z) * (1.0f - g * g);
    Vec d_z = d_h * (load_n(previous_h + j, n) - g) * z * (1.0f - z), d_r = d_g * recurrent * reset * (1.0f - reset);
    store_n(d_recurrent + j, d_z, n);
    store_n(d_input + j, d_z, n);
    store_n(d_recurrent + r->units + j, d_r, n);
    store_n(d_input + r->units + j, d_r, n);
    store_n(d_recurrent + 2 * r->units + j, d_g * reset, n);
    store_n(d_input + 2 * r->units + j, d_g, n);
    store(dh + j, d_h * z);
  }
}

static void simple_row_backward(const Recurrence *r, int64_t at, float *dh) {
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec h = load_n(r->hs + at * r->units + j, n);
    store_n(r->d_recurrent + at * r->units + j, load(dh + j) * (1.0f - h * h), n);
    store(dh + j, (Vec){0});
  }
}

// ---------------------------------------------------------------- some rows of the batch through all steps

static int64_t first_row(const Recurrence *r, int64_t part) { return first_image(r->batch, part, r->parts); }

static int64_t max_rows(const Recurrence *r) { return ceil_div(r->batch, r->parts); }

static void forward_unit(void *arguments, int64_t part) {
  const Recurrence *r = arguments;
  int64_t first = first_row(r, part), rows = first_row(r, part + 1) - first, units = r->units;
  int64_t inputs = joined_features(r), depth = inputs + units;
  // Rows of the left matrix are [x, h], or h alone.
  float *left = r->scratch + part * r->scratch_size, *products = left + rows * depth;
  float *recurrent_products = products + rows * r->padded_columns, *c = recurrent_products + rows * r->padded_columns;
  for (int64_t i = 0; i < rows; i++) {
    memcpy(left + i * depth + inputs, r->initial_h + (first + i) * units, units * sizeof(float));
    if (r->cell_type == LSTM)
      memcpy(c + i * r->padded_units, r->initial_c + (first + i) * units, units * sizeof(float));
  }
  for (int64_t t = 0; t < r->steps; t++) {
    int64_t at = t * r->batch + first;
    for (int64_t i = 0; i < rows && inputs; i++)
      memcpy(left + i * depth, r->x + (at + i) * inputs, inputs * sizeof(float));
    multiply_panels(left, rows, depth, r->panels, r->padded_columns,
                    r->cell_type == GRU ? recurrent_products : products);
    if (r->cell_type == GRU && r->features)
      multiply_panels(r->x + at * r->features, rows, r->features, r->input_panels, r->padded_columns, products);
    for (int64_t i = 0; i < rows; i++) {
      float *row = products + i * r->padded_columns, *h = left + i * depth + inputs;
      if (r->cell_type == LSTM) lstm_row(r, at + i, row, h, c + i * r->padded_units);
      if (r->cell_type == GRU) gru_row(r, at + i, row, recurrent_products + i * r->padded_columns, h);
      if (r->cell_type == SIMPLE) simple_row(r, at + i, row, h);
    }
  }
  for (int64_t i = 0; i < rows && r->cell_type == LSTM && !r->keep_residuals; i++)
    memcpy(r->cs + (first + i) * units, c + i * r->padded_units, units * sizeof(float));
}

static void backward_unit(void *arguments, int64_t part) {
  const Recurrence *r = arguments;
  int64_t first = first_row(r, part), rows = first_row(r, part + 1) - first, units = r->units;
  int64_t columns = r->padded_columns, size = rows * columns, depth = r->gate_count * units;
  float *dh = r->scratch + part * r->scratch_size, *dc = dh + size, *through_product = dc + size;
  for (int64_t i = 0; i < rows; i++) {
    memcpy(dh + i * columns, r->d_h + (first + i) * units, units * sizeof(float));
    if (r->cell_type == LSTM) memcpy(dc + i * columns, r->d_c + (first + i) * units, units * sizeof(float));
  }
  for (int64_t t = r->steps - 1; t >= 0; t--) {
    int64_t at = t * r->batch + first, previous = at - r->batch;
    for (int64_t i = 0; i < rows; i++) {
      float *row = dh + i * columns;
      for (int64_t j = 0; j < units; j++) row[j] += r->d_hs[(at + i) * units + j];
      if (!is_valid_step(r, at + i)) {
        memset(r->d_recurrent + (at + i) * depth, 0, depth * sizeof(float));
        if (r->cell_type == GRU) memset(r->d_input + (at + i) * depth, 0, depth * sizeof(float));
      } else if (r->cell_type == LSTM) {
        const float *c = t ? r->cs + (previous + i) * units : r->initial_c + (first + i) * units;
        lstm_row_backward(r, at + i, c, row, dc + i * columns);
      } else if (r->cell_type == GRU) {
        gru_row_backward(r, at + i, t ? r->hs + (previous + i) * units : r->initial_h + (first + i) * units, row);
      } else {
        simple_row_backward(r, at + i, row);
      }
    }
    multiply_panels(r->d_recurrent + at * depth, rows, depth, r->panels, columns, through_product);
    for (int64_t j = 0; j < size; j++) dh[j] += through_product[j];
  }
  for (int64_t i = 0; i < rows; i++) {
    memcpy(r->d_initial_h + (first + i) * units, dh + i * columns, units * sizeof(float));
    if (r->cell_type == LSTM)
      memcpy(r->d_initial_c + (first + i) * units, dc + i * columns, units * sizeof(float));
  }
}

// ---------------------------------------------------------------- entry points

// The attributes and the sizes of a call; `units` is 0 if they are invalid. `sequence` is the position of an operand
// [T, B, ...], `mask` the position of the mask.
static Recurrence init_recurrence(XLA_FFI_CallFrame *frame, int sequence, int mask) {
  const RecurrenceAttributes *a = attributes_of(frame);
  const int64_t gate_counts[] = {[LSTM] = 4, [GRU] = 3, [SIMPLE] = 1};
  int64_t steps = axis_size(frame, sequence, 0), batch = axis_size(frame, sequence, 1);
  if (a->cell_type > SIMPLE || a->keep_residuals > 1 || steps < 1 || batch < 1) return (Recurrence){0};
  Recurrence r = {.cell_type = a->cell_type, .units = a->units, .features = a->features};
  r.steps = steps, r.batch = batch;
  r.keep_residuals = a->keep_residuals, r.gate_count = gate_counts[a->cell_type];
  r.mask = axis_size(frame, mask, 0) ? operand(frame, mask)->data : NULL;
  r.padded_units = ceil_div(r.units, LANES) * LANES;
  r.parts = min64(thread_count(frame), ceil_div(r.batch, TILE_ROWS));
  return r;
}

// Packs panels, then runs the scan, with memory for the panels, the biases and each part. All memory starts as zero.
static XLA_FFI_Error *run(XLA_FFI_CallFrame *frame, const char *kernel_name, Recurrence *r, int64_t panels, Work *pack,
                          Work *work) {
  r->scratch_size = ceil_div(r->scratch_size, TILE_COLS) * TILE_COLS;
  int64_t all = panels + r->parts * r->scratch_size;
  r->panels = alloc_panel(all);
  if (!r->panels) return out_of_memory(frame, kernel_name);
  memset(r->panels, 0, all * sizeof(float));
  r->scratch = r->panels + panels;
  r->input_panels = r->panels + r->padded_columns * (joined_features(r) + r->units);
  r->padded_bias = r->input_panels + r->padded_columns * r->features;
  r->padded_recurrent_bias = r->padded_bias + r->padded_columns;
  int done = parallel_for(frame, pack, r, r->padded_columns / TILE_COLS) && parallel_for(frame, work, r, r->parts);
  free(r->panels);
  return done ? NULL : out_of_memory(frame, kernel_name);
}

static void pack_forward(void *arguments, int64_t panel) {
  const Recurrence *r = arguments;
  int64_t inputs = joined_features(r), depth = inputs + r->units, column = panel * TILE_COLS;
  float *input_panel = inputs ? r->panels + column * depth : r->input_panels + column * r->features;
  pack_gates(r, r->kernel, r->features, input_panel, 0, column);
  pack_gates(r, r->recurrent_kernel, r->units, r->panels + column * depth, inputs, column);
  for (int64_t half = 0; half < TILE_COLS; half += LANES) {
    int64_t gate = (column + half) / r->padded_units, j = (column + half) % r->padded_units, from = gate * r->units + j;
    if (gate >= r->gate_count) continue;
    store(r->padded_bias + column + half, load_n(r->bias + from, r->units - j));
    if (r->cell_type == GRU)
      store(r->padded_recurrent_bias + column + half, load_n(r->recurrent_bias + from, r->units - j));
  }
}

// The backward pass multiplies by the transposed recurrent kernel.
static void pack_backward(void *arguments, int64_t panel) {
  const Recurrence *r = arguments;
  int64_t depth = r->gate_count * r->units, column = panel * TILE_COLS;
  pack_panel(r->panels + column * depth, r->recurrent_kernel + column * depth, depth,
             min64(TILE_COLS, r->units - column), 1, depth);
}

KERNEL(recurrence) {
  Recurrence r = init_recurrence(frame, RECURRENCE_X, RECURRENCE_MASK);
  const int64_t is_lstm = r.cell_type == LSTM, is_gru = r.cell_type == GRU, rows = PRODUCT(r.steps, r.batch);
  const int64_t columns = r.gate_count * r.units;
  const Expected operands[] = {
      [RECURRENCE_X] = FLOATS(rows, r.features ? r.features : columns),
      [RECURRENCE_KERNEL] = FLOATS(r.features, columns),
      [RECURRENCE_BIAS] = FLOATS(columns),
      [RECURRENCE_RECURRENT_KERNEL] = FLOATS(r.units, columns),
      [RECURRENCE_RECURRENT_BIAS] = FLOATS(is_gru, columns),
      [RECURRENCE_H] = FLOATS(r.batch, r.units),
      [RECURRENCE_C] = FLOATS(is_lstm, r.batch, r.units),
      [RECURRENCE_MASK] = BYTES(r.mask ? rows : 0),
  };
  const Expected results[] = {
      [RECURRENCE_HS] = FLOATS(rows, r.units),
      [RECURRENCE_CS] = FLOATS(is_lstm, r.keep_residuals ? rows : r.batch, r.units),
      [RECURRENCE_GATES] = FLOATS(r.keep_residuals && r.cell_type != SIMPLE, rows, 4, r.units),
  };
  if (!r.units || !sizes_match(frame, operands, results)) return size_mismatch(frame, kernel_name);
  r.padded_columns = ceil_div(r.gate_count * r.padded_units, TILE_COLS) * TILE_COLS;
  r.x = operand(frame, RECURRENCE_X)->data;
  r.kernel = operand(frame, RECURRENCE_KERNEL)->data;
  r.bias = operand(frame, RECURRENCE_BIAS)->data;
  r.recurrent_kernel = operand(frame, RECURRENCE_RECURRENT_KERNEL)->data;
  r.recurrent_bias = operand(frame, RECURRENCE_RECURRENT_BIAS)->data;
  r.initial_h = operand(frame, RECURRENCE_H)->data;
  r.initial_c = operand(frame, RECURRENCE_C)->data;
  r.hs = result(frame, RECURRENCE_HS)->data;
  r.cs = result(frame, RECURRENCE_CS)->data;
  r.gates = result(frame, RECURRENCE_GATES)->data;
  r.scratch_size = max_rows(&r) * (r.features + r.units + 2 * r.padded_columns + r.padded_units);
  int64_t panels = r.padded_columns * (2 * r.features + r.units + 2);
  return run(frame, kernel_name, &r, panels, pack_forward, forward_unit);
}

KERNEL(recurrence_backward) {
  Recurrence r = init_recurrence(frame, RECURRENCE_BACKWARD_HS, RECURRENCE_BACKWARD_MASK);
  const int64_t is_lstm = r.cell_type == LSTM, rows = PRODUCT(r.steps, r.batch), columns = r.gate_count * r.units;
  const Expected state = FLOATS(r.batch, r.units), cell = FLOATS(is_lstm, r.batch, r.units);
  const Expected operands[] = {
      [RECURRENCE_BACKWARD_GATES] = FLOATS(r.cell_type != SIMPLE, rows, 4, r.units),
      [RECURRENCE_BACKWARD_HS] = FLOATS(rows, r.units),
      [RECURRENCE_BACKWARD_CS] = FLOATS(is_lstm, rows, r.units),
      [RECURRENCE_BACKWARD_H] = state,
      [RECURRENCE_BACKWARD_C] = cell,
      [RECURRENCE_BACKWARD_D_HS] = FLOATS(rows, r.units),
      [RECURRENCE_BACKWARD_D_H] = state,
      [RECURRENCE_BACKWARD_D_C] = cell,
      [RECURRENCE_BACKWARD_RECURRENT_KERNEL] = FLOATS(r.units, columns),
      [RECURRENCE_BACKWARD_MASK] = BYTES(r.mask ? rows : 0),
  };
  const Expected results[] = {
      [RECURRENCE_BACKWARD_D_RECURRENT] = FLOATS(rows, columns),
      [RECURRENCE_BACKWARD_D_INPUT] = FLOATS(r.cell_type == GRU, rows, columns),
      [RECURRENCE_BACKWARD_D_INITIAL_H] = state,
      [RECURRENCE_BACKWARD_D_INITIAL_C] = cell,
  };
  if (!r.units || !sizes_match(frame, operands, results)) return size_mismatch(frame, kernel_name);
  r.padded_columns = ceil_div(r.units, TILE_COLS) * TILE_COLS;
  r.gates = operand(frame, RECURRENCE_BACKWARD_GATES)->data;
  r.hs = operand(frame, RECURRENCE_BACKWARD_HS)->data;
  r.cs = operand(frame, RECURRENCE_BACKWARD_CS)->data;
  r.initial_h = operand(frame, RECURRENCE_BACKWARD_H)->data;
  r.initial_c = operand(frame, RECURRENCE_BACKWARD_C)->data;
  r.d_hs = operand(frame, RECURRENCE_BACKWARD_D_HS)->data;
  r.d_h = operand(frame, RECURRENCE_BACKWARD_D_H)->data;
  r.d_c = operand(frame, RECURRENCE_BACKWARD_D_C)->data;
  r.recurrent_kernel = operand(frame, RECURRENCE_BACKWARD_RECURRENT_KERNEL)->data;
  r.d_recurrent = result(frame, RECURRENCE_BACKWARD_D_RECURRENT)->data;
  r.d_input = result(frame, RECURRENCE_BACKWARD_D_INPUT)->data;
  r.d_initial_h = result(frame, RECURRENCE_BACKWARD_D_INITIAL_H)->data;
  r.d_initial_c = result(frame, RECURRENCE_BACKWARD_D_INITIAL_C)->data;
  r.scratch_size = max_rows(&r) * 3 * r.padded_columns;
  return run(frame, kernel_name, &r, r.padded_columns * r.gate_count * r.units, pack_backward, backward_unit);
}
