#version 450
// The product of matmul_tiled.comp for up to MAX_ROWS rows of a. A workgroup owns COLUMNS columns of y; its K_LANES slices
// of k are added in a fixed order. K_LANES = 32 reads b along k, K_LANES = 4 across it.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x = 32, local_size_y = 4) in;
#include "grid.glsl"

layout(constant_id = 0) const uint ROWS = 1;

#include "matmul.glsl"

shared float partial[MAX_ROWS][K_LANES][COLUMNS];

void main() {
  uint group = group_index();
  uint slice = K_LANES == 32 ? gl_LocalInvocationID.x : gl_LocalInvocationID.y;
  uint lane = K_LANES == 32 ? gl_LocalInvocationID.y : gl_LocalInvocationID.x;
  Tile tile = tile_of(group, MAX_ROWS, COLUMNS);
  uint column = tile.column + lane;
  bool exists = tile.batch < batches && column < n;
  float sums[MAX_ROWS];
  [[unroll]] for (uint r = 0u; r < ROWS; ++r) sums[r] = 0.0;
  for (uint depth = slice; exists && depth < k; depth += K_LANES) {
    float right = float(b[tile.b + int(column) * b_stride_n + int(depth) * b_stride_k]);
    [[unroll]] for (uint r = 0u; r < ROWS; ++r) {
      sums[r] += float(a[tile.a + int(r) * a_stride_m + int(depth) * a_stride_k]) * right;
    }
  }
  [[unroll]] for (uint r = 0u; r < ROWS; ++r) partial[r][slice][lane] = sums[r];
  barrier();
  for (uint width = K_LANES / 2u; width > 0u; width >>= 1) {
    if (slice < width) {
      [[unroll]] for (uint r = 0u; r < ROWS; ++r) partial[r][slice][lane] += partial[r][slice + width][lane];
    }
    barrier();
  }
  if (!exists || slice != 0u) return;
  [[unroll]] for (uint r = 0u; r < ROWS; ++r) store(tile.batch, r, column, partial[r][0][lane]);
}
