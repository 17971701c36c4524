// Operands of a batched matrix product and where a workgroup's tile lies.

layout(push_constant) uniform Push {
  uint m;
  uint n;
  uint k;
  uint batches;
  uint batch1;
  int a_offset;
  int a_batch_stride0;
  int a_batch_stride1;
  int a_stride_m;
  int a_stride_k;
  int b_offset;
  int b_batch_stride0;
  int b_batch_stride1;
  int b_stride_k;
  int b_stride_n;
};

layout(std430, binding = A_BINDING) readonly buffer A { A_TYPE a[]; };
layout(std430, binding = B_BINDING) readonly buffer B { B_TYPE b[]; };
#ifndef BIAS_NONE
layout(std430, binding = BIAS_BINDING) readonly buffer Bias { BIAS_TYPE bias[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

struct Tile {
  uint batch;
  uint row;     // of y
  uint column;
  int a;        // element 0, 0 of this batch
  int b;
};

// Tiles of tile_m x tile_n: columns run fastest, then rows, then batches.
Tile tile_of(uint group, uint tile_m, uint tile_n) {
  uint across = (n + tile_n - 1u) / tile_n;
  uint down = (m + tile_m - 1u) / tile_m;
  Tile tile;
  tile.column = group % across * tile_n;
  tile.row = group / across % down * tile_m;
  tile.batch = group / (across * down);
  int outer = int(tile.batch / batch1);
  int inner = int(tile.batch % batch1);
  tile.a = a_offset + outer * a_batch_stride0 + inner * a_batch_stride1;
  tile.b = b_offset + outer * b_batch_stride0 + inner * b_batch_stride1;
  return tile;
}

void store(uint batch, uint row, uint column, float value) {
#ifndef BIAS_NONE
  value += float(bias[column]);
#endif
  y[(batch * m + row) * n + column] = Y_TYPE(value);
}
