// LSTM, GRU and the simplest recurrence for a CPU, forward and back through time.
//
// Rows of the batch do not know of each other, so each thread takes some of them through all steps: nobody waits between
// two steps. The recurrent kernel, as panels, stays in the thread's cache; gates are computed on what a product of one
// step has just left there.
//
// Shapes: T steps, B batch, F features, U units, G gates: 4 (i f g o) of an LSTM, 3 (z r g) of a GRU, 1 of the simplest.
// Columns of a gate are padded to whole vectors: WIDE of them.

#include "native.h"

enum Kind { LSTM, GRU, SIMPLE };

typedef struct {
  enum Kind kind;
  int64_t steps, batch, units, features, gates, wide, columns, parts;
  int keep;                            // what the way back needs
  const float *x;                      // [T, B, F], or without features what they contribute [T, B, G U]
  const float *kernel, *recurrent;     // [F, G U], [U, G U]
  const float *given_bias, *given_inner;  // [G U] each; the second is that of a GRU's recurrent products
  const float *first_h, *first_c;      // [B, U]
  const uint8_t *mask;                 // [T, B], NULL if every step counts
  float *bias, *inner_bias;            // the same, padded: [columns] each
  float *panels, *input_panels;        // of the recurrent kernel and, for a GRU, of the kernel
  float *hs, *cs;                      // [T, B, U]; the last c only unless `keep`
  float *factors;                      // LSTM: i f g o, GRU: z r g d [T, B, 4 U]
  const float *d_hs, *d_h, *d_c;       // [T, B, U], [B, U]
  float *d_inner, *d_outer;            // [T, B, G U]: by the recurrent products, and for a GRU by the inputs' products
  float *d_first_h, *d_first_c;        // [B, U]
  float *scratch;                      // `room` for each part
  int64_t room;
} Recurrence;

// ---------------------------------------------------------------- functions of vectors

INLINE Vec clamp(Vec x, float most) {
  const Vec high = (Vec){0} + most, low = (Vec){0} - most;
  return choose(x > high, high, choose(x < low, low, x));  // NaN stays NaN
}

// exp(x) = 2^n exp(r), |r| <= log(2) / 2, by the series of exp.
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
  Bits power = ((Bits)shifted - (Bits)((Vec){0} + magic)) << 23;
  return (Vec)((Bits)p + power);
}

INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

// x P(x^2) / Q(x^2), fitted to tanh by weighted least squares with a relative error of 2e-9 up to 9.
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

// z [rows, columns] = a [rows, depth] times panels.
static void product(const float *a, int64_t stride, int64_t rows, int64_t depth, const float *panels, int64_t columns,
                    float *z) {
  const int64_t zero = 0;
  for (int64_t column = 0; column < columns; column += COLS)
    for (int64_t row = 0, n; row < rows; row += n) {
      const float *each[ROWS];
      Vec sums[ROWS][2];
      n = ceil_div(rows - row, ceil_div(rows - row, ROWS));  // 32 rows are 6 6 5 5 5 5: tiles of few rows wait for sums
      for (int i = 0; i < n; i++) each[i] = a + (row + i) * stride;
      tile_of((int)n, COLS, each, panels + column * depth, &zero, 1, depth, sums);
      for (int i = 0; i < n; i++) store_row(z + (row + i) * columns + column, sums[i], COLS);
    }
}

// Rows from `from` on of one panel: of a kernel [rows, G U], with each gate's columns padded to whole vectors.
static void pack_gates(const Recurrence *r, const float *kernel, int64_t rows, float *panel, int64_t from,
                       int64_t column) {
  for (int64_t half = 0; half < COLS; half += LANES) {
    int64_t gate = (column + half) / r->wide, j = (column + half) % r->wide;
    if (gate >= r->gates) continue;  // the memory is zero
    for (int64_t k = 0; k < rows; k++)
      store(panel + (from + k) * COLS + half, load_some(kernel + (k * r->gates + gate) * r->units + j, r->units - j));
  }
}

// ---------------------------------------------------------------- one row of one step

INLINE int counts(const Recurrence *r, int64_t at) { return !r->mask || r->mask[at]; }

// What gate `gate` is given: the product, its bias, and what the inputs contribute where that came as it is.
INLINE Vec given(const Recurrence *r, const float *z, int64_t at, int64_t gate, int64_t j, int64_t n) {
  Vec sum = load(z + gate * r->wide + j) + load(r->bias + gate * r->wide + j);
  if (!r->features) sum += load_some(r->x + (at * r->gates + gate) * r->units + j, n);
  return sum;
}

// h and c are the state, renewed; `at` is the step and example as a row of [T, B].
static void lstm_row(const Recurrence *r, int64_t at, const float *z, float *h, float *c) {
  float *factors = r->factors + at * 4 * r->units;
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec i = sigmoid(given(r, z, at, 0, j, n)), f = sigmoid(given(r, z, at, 1, j, n));
    Vec g = hyperbolic_tangent(given(r, z, at, 2, j, n)), o = sigmoid(given(r, z, at, 3, j, n));
    if (counts(r, at)) {
      Vec cell = f * load(c + j) + i * g;
      store(c + j, cell);
      store_some(h + j, o * hyperbolic_tangent(cell), n);
    }
    store_some(r->hs + at * r->units + j, load_some(h + j, n), n);
    if (!r->keep) continue;
    store_some(r->cs + at * r->units + j, load(c + j), n);
    store_some(factors + j, i, n);
    store_some(factors + r->units + j, f, n);
    store_some(factors + 2 * r->units + j, g, n);
    store_some(factors + 3 * r->units + j, o, n);
  }
}

static void gru_row(const Recurrence *r, int64_t at, const float *z, const float *inner, float *h) {
  float *factors = r->factors + at * 4 * r->units;
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec own[3];
    for (int64_t gate = 0; gate < 3; gate++)
      own[gate] = load(inner + gate * r->wide + j) + load(r->inner_bias + gate * r->wide + j);
    Vec update = sigmoid(given(r, z, at, 0, j, n) + own[0]), reset = sigmoid(given(r, z, at, 1, j, n) + own[1]);
    Vec g = hyperbolic_tangent(given(r, z, at, 2, j, n) + reset * own[2]);
    Vec before = load_some(h + j, n);
    if (counts(r, at)) store_some(h + j, update * before + (1.0f - update) * g, n);
    store_some(r->hs + at * r->units + j, load_some(h + j, n), n);
    if (!r->keep) continue;
    store_some(factors + j, update, n);
    store_some(factors + r->units + j, reset, n);
    store_some(factors + 2 * r->units + j, g, n);
    store_some(factors + 3 * r->units + j, own[2], n);
  }
}

static void simple_row(const Recurrence *r, int64_t at, const float *z, float *h) {
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    if (counts(r, at)) store_some(h + j, hyperbolic_tangent(given(r, z, at, 0, j, n)), n);
    store_some(r->hs + at * r->units + j, load_some(h + j, n), n);
  }
}

// dh [U] comes as the gradient of h after the step; what of it goes past the recurrent product is left there.
static void lstm_row_back(const Recurrence *r, int64_t at, const float *c_before, float *dh, float *dc) {
  const float *factors = r->factors + at * 4 * r->units;
  float *dz = r->d_inner + at * 4 * r->units;
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec i = load_some(factors + j, n), f = load_some(factors + r->units + j, n);
    Vec g = load_some(factors + 2 * r->units + j, n), o = load_some(factors + 3 * r->units + j, n);
    Vec cell = hyperbolic_tangent(load_some(r->cs + at * r->units + j, n));
    Vec d_h = load(dh + j), d_c = load(dc + j) + d_h * o * (1.0f - cell * cell);
    store_some(dz + j, d_c * g * i * (1.0f - i), n);
    store_some(dz + r->units + j, d_c * load_some(c_before + j, n) * f * (1.0f - f), n);
    store_some(dz + 2 * r->units + j, d_c * i * (1.0f - g * g), n);
    store_some(dz + 3 * r->units + j, d_h * cell * o * (1.0f - o), n);
    store(dc + j, d_c * f);
    store(dh + j, (Vec){0});
  }
}

static void gru_row_back(const Recurrence *r, int64_t at, const float *h_before, float *dh) {
  const float *factors = r->factors + at * 4 * r->units;
  float *inner = r->d_inner + at * 3 * r->units, *outer = r->d_outer + at * 3 * r->units;
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec z = load_some(factors + j, n), reset = load_some(factors + r->units + j, n);
    Vec g = load_some(factors + 2 * r->units + j, n), d = load_some(factors + 3 * r->units + j, n);
    Vec d_h = load(dh + j), d_g = d_h * (1.0f - z) * (1.0f - g * g);
    Vec d_z = d_h * (load_some(h_before + j, n) - g) * z * (1.0f - z), d_r = d_g * d * reset * (1.0f - reset);
    store_some(inner + j, d_z, n);
    store_some(outer + j, d_z, n);
    store_some(inner + r->units + j, d_r, n);
    store_some(outer + r->units + j, d_r, n);
    store_some(inner + 2 * r->units + j, d_g * reset, n);
    store_some(outer + 2 * r->units + j, d_g, n);
    store(dh + j, d_h * z);
  }
}

static void simple_row_back(const Recurrence *r, int64_t at, float *dh) {
  for (int64_t j = 0; j < r->units; j += LANES) {
    int64_t n = r->units - j;
    Vec h = load_some(r->hs + at * r->units + j, n);
    store_some(r->d_inner + at * r->units + j, load(dh + j) * (1.0f - h * h), n);
    store(dh + j, (Vec){0});
  }
}

// ---------------------------------------------------------------- some rows through all steps

static int64_t first_row(const Recurrence *r, int64_t part) { return r->batch * part / r->parts; }

static int64_t most_rows(const Recurrence *r) { return ceil_div(r->batch, r->parts); }

static void forward(void *arguments, int64_t unit) {
  const Recurrence *r = arguments;
  int64_t first = first_row(r, unit), rows = first_row(r, unit + 1) - first, units = r->units;
  // The rows of the left matrix are the inputs and h side by side; a GRU's products are kept apart.
  int64_t ahead = r->kind == GRU ? 0 : r->features, depth = ahead + units;
  float *left = r->scratch + unit * r->room, *z = left + rows * depth, *inner = z + rows * r->columns;
  float *c = inner + rows * r->columns;
  for (int64_t i = 0; i < rows; i++) {
    memcpy(left + i * depth + ahead, r->first_h + (first + i) * units, units * sizeof(float));
    if (r->kind == LSTM) memcpy(c + i * r->wide, r->first_c + (first + i) * units, units * sizeof(float));
  }
  for (int64_t t = 0; t < r->steps; t++) {
    int64_t at = t * r->batch + first;
    for (int64_t i = 0; i < rows && ahead; i++)
      memcpy(left + i * depth, r->x + (at + i) * ahead, ahead * sizeof(float));
    product(left, depth, rows, depth, r->panels, r->columns, r->kind == GRU ? inner : z);
    if (r->kind == GRU && r->features)
      product(r->x + at * r->features, r->features, rows, r->features, r->input_panels, r->columns, z);
    for (int64_t i = 0; i < rows; i++) {
      float *row = z + i * r->columns, *h = left + i * depth + ahead;
      if (r->kind == LSTM) lstm_row(r, at + i, row, h, c + i * r->wide);
      if (r->kind == GRU) gru_row(r, at + i, row, inner + i * r->columns, h);
      if (r->kind == SIMPLE) simple_row(r, at + i, row, h);
    }
  }
  for (int64_t i = 0; i < rows && r->kind == LSTM && !r->keep; i++)
    memcpy(r->cs + (first + i) * units, c + i * r->wide, units * sizeof(float));
}

static void backward(void *arguments, int64_t unit) {
  const Recurrence *r = arguments;
  int64_t first = first_row(r, unit), rows = first_row(r, unit + 1) - first, units = r->units;
  int64_t size = rows * r->columns, depth = r->gates * units;
  float *dh = r->scratch + unit * r->room, *dc = dh + size, *through = dc + size;
  for (int64_t i = 0; i < rows; i++) {
    memcpy(dh + i * r->columns, r->d_h + (first + i) * units, units * sizeof(float));
    if (r->kind == LSTM) memcpy(dc + i * r->columns, r->d_c + (first + i) * units, units * sizeof(float));
  }
  for (int64_t t = r->steps - 1; t >= 0; t--) {
    int64_t at = t * r->batch + first, before = at - r->batch;
    for (int64_t i = 0; i < rows; i++) {
      float *row = dh + i * r->columns;
      for (int64_t j = 0; j < units; j++) row[j] += r->d_hs[(at + i) * units + j];
      if (!counts(r, at + i)) {
        memset(r->d_inner + (at + i) * depth, 0, depth * sizeof(float));
        if (r->kind == GRU) memset(r->d_outer + (at + i) * depth, 0, depth * sizeof(float));
      } else if (r->kind == LSTM) {
        lstm_row_back(r, at + i, t ? r->cs + (before + i) * units : r->first_c + (first + i) * units, row,
                      dc + i * r->columns);
      } else if (r->kind == GRU) {
        gru_row_back(r, at + i, t ? r->hs + (before + i) * units : r->first_h + (first + i) * units, row);
      } else {
        simple_row_back(r, at + i, row);
      }
    }
    product(r->d_inner + at * depth, depth, rows, depth, r->panels, r->columns, through);
    for (int64_t j = 0; j < size; j++) dh[j] += through[j];
  }
  for (int64_t i = 0; i < rows; i++) {
    memcpy(r->d_first_h + (first + i) * units, dh + i * r->columns, units * sizeof(float));
    if (r->kind == LSTM) memcpy(r->d_first_c + (first + i) * units, dc + i * r->columns, units * sizeof(float));
  }
}

// ---------------------------------------------------------------- what XLA calls

static float *array(XLA_FFI_CallFrame *frame, int i) { return argument(frame, i)->data; }
static float *made(XLA_FFI_CallFrame *frame, int i) { return result(frame, i)->data; }

// What both directions are told: kind, units, features, whether to keep what the way back needs. `units` is 0 if the
// numbers are none, or there are no steps or examples; operands `sequence` and `mask` are for each step and example.
static Recurrence told(XLA_FFI_CallFrame *frame, int sequence, int mask) {
  const int64_t *n = numbers(frame, 4), gates[] = {4, 3, 1};
  int64_t steps = size_of(frame, sequence, 0), batch = size_of(frame, sequence, 1);
  if (!n || n[0] > SIMPLE || n[3] > 1 || steps < 1 || batch < 1 || size_of(frame, mask, 0) < 0) return (Recurrence){0};
  Recurrence r = {.kind = n[0], .units = n[1], .features = n[2], .keep = n[3], .gates = gates[n[0]]};
  r.steps = steps, r.batch = batch;
  r.mask = size_of(frame, mask, 0) ? argument(frame, mask)->data : NULL;
  r.wide = ceil_div(r.units, LANES) * LANES;
  r.parts = least(threads_of(frame), ceil_div(r.batch, ROWS));
  return r;
}

// Packs panels, then does the work, with memory for the panels and for each part, all of it zero at first.
static XLA_FFI_Error *run(XLA_FFI_CallFrame *frame, Recurrence *r, int64_t panels, Work *pack, Work *work) {
  r->room = ceil_div(r->room, COLS) * COLS;
  int64_t all = panels + r->parts * r->room;
  r->panels = room(all);
  if (!r->panels) return failed(frame, "no memory for a recurrence");
  memset(r->panels, 0, all * sizeof(float));
  r->scratch = r->panels + panels;
  int64_t ahead = r->kind == GRU ? 0 : r->features;
  r->input_panels = r->panels + r->columns * (ahead + r->units);
  r->bias = r->input_panels + r->columns * r->features, r->inner_bias = r->bias + r->columns;
  int done = in_parallel(frame, pack, r, r->columns / COLS) && in_parallel(frame, work, r, r->parts);
  free(r->panels);
  return done ? NULL : failed(frame, "no memory for a recurrence");
}

static void pack_forward(void *arguments, int64_t unit) {
  const Recurrence *r = arguments;
  int64_t ahead = r->kind == GRU ? 0 : r->features, depth = ahead + r->units, column = unit * COLS;
  pack_gates(r, r->kernel, r->features, ahead ? r->panels + column * depth : r->input_panels + column * r->features, 0,
             column);
  pack_gates(r, r->recurrent, r->units, r->panels + column * depth, ahead, column);
  for (int64_t half = 0; half < COLS; half += LANES) {
    int64_t gate = (column + half) / r->wide, j = (column + half) % r->wide, from = gate * r->units + j;
    if (gate >= r->gates) continue;
    store(r->bias + column + half, load_some(r->given_bias + from, r->units - j));
    if (r->kind == GRU) store(r->inner_bias + column + half, load_some(r->given_inner + from, r->units - j));
  }
}

static void pack_backward(void *arguments, int64_t unit) {
  const Recurrence *r = arguments;
  int64_t depth = r->gates * r->units, column = unit * COLS;
  pack_panel(r->panels + column * depth, r->recurrent + column * depth, depth, least(COLS, r->units - column), 1, depth);
}

// hs, cs, factors of x, kernel, bias, recurrent kernel, its bias, h, c, mask.
XLA_FFI_Error *flaxmodels_recurrence(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  Recurrence r = told(frame, 0, 7);
  const int64_t lstm = r.kind == LSTM, gru = r.kind == GRU, all = SIZES(r.steps, r.batch), each = r.gates * r.units;
  const Kind given[] = {
      FLOATS(all, r.features ? r.features : each), FLOATS(r.features, each), FLOATS(each), FLOATS(r.units, each),
      FLOATS(gru, each), FLOATS(r.batch, r.units), FLOATS(lstm, r.batch, r.units), BYTES(r.mask ? all : 0)};
  const Kind made_of[] = {FLOATS(all, r.units), FLOATS(lstm, r.keep ? all : r.batch, r.units),
                          FLOATS(r.keep && r.kind != SIMPLE, all, 4, r.units)};
  if (!r.units || !takes(frame, given, 8, made_of, 3)) return refused(frame);
  r.columns = ceil_div(r.gates * r.wide, COLS) * COLS;
  r.x = array(frame, 0), r.kernel = array(frame, 1), r.given_bias = array(frame, 2);
  r.recurrent = array(frame, 3), r.given_inner = array(frame, 4);
  r.first_h = array(frame, 5), r.first_c = array(frame, 6);
  r.hs = made(frame, 0), r.cs = made(frame, 1), r.factors = made(frame, 2);
  r.room = most_rows(&r) * (r.features + r.units + 2 * r.columns + r.wide);
  return run(frame, &r, r.columns * (2 * r.features + r.units + 2), pack_forward, forward);
}

// d_inner, d_outer, dh, dc before the first step, of factors, hs, cs, h, c, d_hs, dh, dc, recurrent kernel, mask.
XLA_FFI_Error *flaxmodels_recurrence_back(XLA_FFI_CallFrame *frame) {
  if (told_version(frame)) return NULL;
  Recurrence r = told(frame, 1, 9);
  const int64_t lstm = r.kind == LSTM, all = SIZES(r.steps, r.batch), each = r.gates * r.units;
  const Kind state = FLOATS(r.batch, r.units), cell = FLOATS(lstm, r.batch, r.units), sequence = FLOATS(all, r.units);
  const Kind given[] = {FLOATS(r.kind != SIMPLE, all, 4, r.units), sequence, FLOATS(lstm, all, r.units), state, cell,
                        sequence, state, cell, FLOATS(r.units, each), BYTES(r.mask ? all : 0)};
  const Kind made_of[] = {FLOATS(all, each), FLOATS(r.kind == GRU, all, each), state, cell};
  if (!r.units || !takes(frame, given, 10, made_of, 4)) return refused(frame);
  r.columns = ceil_div(r.units, COLS) * COLS;
  r.factors = array(frame, 0), r.hs = array(frame, 1), r.cs = array(frame, 2);
  r.first_h = array(frame, 3), r.first_c = array(frame, 4);
  r.d_hs = array(frame, 5), r.d_h = array(frame, 6), r.d_c = array(frame, 7), r.recurrent = array(frame, 8);
  r.d_inner = made(frame, 0), r.d_outer = made(frame, 1), r.d_first_h = made(frame, 2), r.d_first_c = made(frame, 3);
  r.room = most_rows(&r) * 3 * r.columns;
  return run(frame, &r, r.columns * r.gates * r.units, pack_backward, backward);
}
