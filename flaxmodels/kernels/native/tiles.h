// Register-blocked matrix products (Goto and van de Geijn, 2008): a tile of TILE_ROWS x TILE_COLS sums stays in
// registers.
//
// The right matrix is packed into panels of TILE_COLS columns, so that it is read in order. The left matrix is never
// copied: a row of it is a list of segments, runs of values that are contiguous in memory.
//
// The sums are a local array, because sums behind a pointer would be stored at each step instead of held in registers.

#pragma once

#include <stdlib.h>

#include "simd.h"

// BLOCK is the number of output positions, or of matrix rows, that are processed together so that they stay in cache.
enum { TILE_ROWS = 6, TILE_COLS = 2 * LANES, BLOCK = 128 };

// Returns memory for n floats that is aligned to a cache line, or NULL. Some extra floats follow, so that a partly
// filled panel can be read as a whole one.
static inline float *alloc_panel(int64_t n) {
  return aligned_alloc(64, (ceil_div(n, TILE_COLS) * TILE_COLS + TILE_COLS) * sizeof(float));
}

// out[i] = left row i times a panel. Left row i consists of the segments at left[i] + segment_offset[s], each of
// `length` values. `rows` and `vectors` (1 or 2 vectors of the panel's columns) are constants at each call.
INLINE void multiply_tile_const(int rows, int vectors, const float *const *left, const float *panel,
                                const int64_t *segment_offset, int64_t segments, int64_t length,
                                Vec out[TILE_ROWS][2]) {
  Vec sums[TILE_ROWS][2] = {0};
  for (int64_t s = 0; s < segments; s++) {
    const float *p[TILE_ROWS];
    UNROLL for (int i = 0; i < rows; i++) p[i] = left[i] + segment_offset[s];
    for (int64_t k = 0; k < length; k++, panel += TILE_COLS) {
      Vec v[2];
      UNROLL for (int j = 0; j < vectors; j++) v[j] = load(panel + j * LANES);
      UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++) sums[i][j] += p[i][k] * v[j];
    }
  }
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < vectors; j++) out[i][j] = sums[i][j];
}

// out[i] += the sum over n positions k of x[position_offset[k] + value_offset[i]] times row k of the block: outer
// products of columns of the left matrix and rows of a block with TILE_COLS columns. `rows` and `vectors` are constants
// at each call.
INLINE void add_outer_products_const(int rows, int vectors, const float *x, const int64_t *position_offset,
                                     const int64_t *value_offset, const float *block, int64_t n,
                                     Vec out[TILE_ROWS][2]) {
  Vec sums[TILE_ROWS][2];
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < vectors; j++) sums[i][j] = out[i][j];
  for (int64_t k = 0; k < n; k++, block += TILE_COLS) {
    const float *values = x + position_offset[k];
    Vec v[2];
    UNROLL for (int j = 0; j < vectors; j++) v[j] = load(block + j * LANES);
    UNROLL for (int i = 0; i < rows; i++)
      UNROLL for (int j = 0; j < vectors; j++) sums[i][j] += values[value_offset[i]] * v[j];
  }
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < vectors; j++) out[i][j] = sums[i][j];
}

// Calls a function whose first arguments, rows and vectors, are compile-time constants in each case.
#define CALL_WITH_CONST_SIZE(function, rows, columns, ...)      \
  switch ((columns) > LANES ? (rows) : (rows) - TILE_ROWS) {    \
    case 1: function(1, 2, __VA_ARGS__); break;                 \
    case 2: function(2, 2, __VA_ARGS__); break;                 \
    case 3: function(3, 2, __VA_ARGS__); break;                 \
    case 4: function(4, 2, __VA_ARGS__); break;                 \
    case 5: function(5, 2, __VA_ARGS__); break;                 \
    case 6: function(6, 2, __VA_ARGS__); break;                 \
    case -5: function(1, 1, __VA_ARGS__); break;                \
    case -4: function(2, 1, __VA_ARGS__); break;                \
    case -3: function(3, 1, __VA_ARGS__); break;                \
    case -2: function(4, 1, __VA_ARGS__); break;                \
    case -1: function(5, 1, __VA_ARGS__); break;                \
    default: function(6, 1, __VA_ARGS__);                       \
  }

static inline void multiply_tile(int rows, int64_t columns, const float *const *left, const float *panel,
                                 const int64_t *segment_offset, int64_t segments, int64_t length,
                                 Vec out[TILE_ROWS][2]) {
  CALL_WITH_CONST_SIZE(multiply_tile_const, rows, columns, left, panel, segment_offset, segments, length, out)
}

static inline void add_outer_products(int rows, int64_t columns, const float *x, const int64_t *position_offset,
                                      const int64_t *value_offset, const float *block, int64_t n,
                                      Vec out[TILE_ROWS][2]) {
  CALL_WITH_CONST_SIZE(add_outer_products_const, rows, columns, x, position_offset, value_offset, block, n, out)
}

// One row of a tile; a panel at the end of the matrix has fewer than TILE_COLS columns.
INLINE void store_row(float *to, const Vec *sums, int64_t columns) {
  store_n(to, sums[0], columns);
  if (columns > LANES) store_n(to + LANES, sums[1], columns - LANES);
}

INLINE void add_row(float *to, const Vec *sums, int64_t columns) {
  store_n(to, load_n(to, columns) + sums[0], columns);
  if (columns > LANES) store_n(to + LANES, load_n(to + LANES, columns - LANES) + sums[1], columns - LANES);
}

// Packs some columns of a matrix as a panel, padded with zeros. Entry (k, j) is at matrix[k * row_stride + j *
// col_stride].
static inline void pack_panel(float *panel, const float *matrix, int64_t depth, int64_t columns, int64_t row_stride,
                              int64_t col_stride) {
  if (col_stride == 1) {
    for (int64_t k = 0; k < depth; k++, panel += TILE_COLS, matrix += row_stride) {
      store(panel, load_n(matrix, columns));
      store(panel + LANES, columns > LANES ? load_n(matrix + LANES, columns - LANES) : (Vec){0});
    }
    return;
  }
  // A transposed matrix is packed by blocks, so that neither side is traversed with long strides.
  for (int64_t from = 0; from < depth; from += BLOCK)
    for (int64_t j = 0; j < TILE_COLS; j++)
      for (int64_t k = from; k < min64(from + BLOCK, depth); k++)
        panel[k * TILE_COLS + j] = j < columns ? matrix[k * row_stride + j * col_stride] : 0;
}
