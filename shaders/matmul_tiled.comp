#version 450
// y[batch, i, j] = sum over k of a[batch, i, k] * b[batch, k, j] + bias[j]; a and b are strided views (a stride of 0
// repeats a batch), y is dense. Products and sums are f32, k ascending.
// A workgroup owns TILE_M x TILE_N of y, an invocation 4 x 4 of them; tiles of TILE_K pass through shared memory.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require

layout(local_size_x = LANES_N, local_size_y = LANES_M) in;
#include "grid.glsl"

layout(constant_id = 0) const int A_ALONG_K = 1;
layout(constant_id = 1) const int B_ALONG_K = 0;

#include "matmul.glsl"

const uint kInvocations = LANES_N * LANES_M;
shared float a_tile[TILE_K][TILE_M + 1];
shared float b_tile[TILE_K][TILE_N + 1];

// Neighbouring invocations read neighbouring elements: along k, or across it.
void load_tiles(Tile tile, uint first_k) {
  uint lane = gl_LocalInvocationIndex;
  [[unroll]] for (uint i = 0; i < TILE_M * TILE_K / kInvocations; ++i) {
    uint e = lane + i * kInvocations;
    uint row = A_ALONG_K != 0 ? e / TILE_K : e % TILE_M;
    uint depth = A_ALONG_K != 0 ? e % TILE_K : e / TILE_M;
    bool inside = tile.row + row < m && first_k + depth < k;
    int at = tile.a + int(tile.row + row) * a_stride_m + int(first_k + depth) * a_stride_k;
    a_tile[depth][row] = inside ? float(a[inside ? at : 0]) : 0.0;
  }
  [[unroll]] for (uint i = 0; i < TILE_N * TILE_K / kInvocations; ++i) {
    uint e = lane + i * kInvocations;
    uint column = B_ALONG_K != 0 ? e / TILE_K : e % TILE_N;
    uint depth = B_ALONG_K != 0 ? e % TILE_K : e / TILE_N;
    bool inside = tile.column + column < n && first_k + depth < k;
    int at = tile.b + int(tile.column + column) * b_stride_n + int(first_k + depth) * b_stride_k;
    b_tile[depth][column] = inside ? float(b[inside ? at : 0]) : 0.0;
  }
}

void main() {
  uint group = group_index();
  Tile tile = tile_of(group, TILE_M, TILE_N);
  bool exists = tile.batch < batches;
  if (!exists) tile = tile_of(0u, TILE_M, TILE_N);
  uvec2 lane = gl_LocalInvocationID.xy;
  float sums[4][4];
  [[unroll]] for (uint i = 0u; i < 4u; ++i) {
    [[unroll]] for (uint j = 0u; j < 4u; ++j) sums[i][j] = 0.0;
  }
  for (uint first_k = 0u; first_k < k; first_k += TILE_K) {
    load_tiles(tile, first_k);
    barrier();
    [[unroll]] for (uint depth = 0u; depth < TILE_K; ++depth) {
      float left[4];
      float right[4];
      [[unroll]] for (uint i = 0u; i < 4u; ++i) {
        left[i] = a_tile[depth][lane.y + i * LANES_M];
        right[i] = b_tile[depth][lane.x + i * LANES_N];
      }
      [[unroll]] for (uint i = 0u; i < 4u; ++i) {
        [[unroll]] for (uint j = 0u; j < 4u; ++j) sums[i][j] += left[i] * right[j];
      }
    }
    barrier();
  }
  [[unroll]] for (uint i = 0u; i < 4u; ++i) {
    [[unroll]] for (uint j = 0u; j < 4u; ++j) {
      uint row = tile.row + lane.y + i * LANES_M;
      uint column = tile.column + lane.x + j * LANES_N;
      if (exists && row < m && column < n) store(tile.batch, row, column, sums[i][j]);
    }
  }
}
