#version 450
// y[i, d] = (w[r, d] - w_zp[r, s]) * w_scale[r, s], r = ids[i] - first_row, s the step of d, in f32, for ids in [first_row,
// first_row + the rows of the table); embedding.comp says what the rows of y for other ids become. The table is packed as a
// linear's weight (section 4 of the design): a model whose last linear is its table has it once.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;
#include "elements.glsl"
#include "grid.glsl"

layout(push_constant) uniform Push {
  uint n_elements;
  uint row_length;
  uint group_size;
  uint group_padded;
  uint step;
  int first_row;
  int table_rows;
};

layout(std430, binding = IDS_BINDING) readonly buffer Ids { IDS_TYPE ids[]; };
layout(std430, binding = W_BINDING) readonly buffer W { W_TYPE w[]; };
layout(std430, binding = W_SCALE_BINDING) readonly buffer WScale { W_SCALE_TYPE w_scale[]; };
#ifndef W_ZP_NONE
layout(std430, binding = W_ZP_BINDING) readonly buffer WZp { W_ZP_TYPE w_zp[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

// The code at packed position k.
int code_at(uint k, uint row) {
#ifdef W_I4
  uint word = w[(k >> 5) * uint(table_rows) + row][(k >> 3) & 3u];
  return bitfieldExtract(int(word), int(8u * (k & 3u) + (k & 4u)), 4);
#else
  uint word = w[(k >> 4) * uint(table_rows) + row][(k >> 2) & 3u];
  return bitfieldExtract(int(word), int(8u * (k & 3u)), 8);
#endif
}

void main() {
  uint i = element_index();
  if (i >= n_elements) return;
  int row = ids[i / row_length] - first_row;
  int near = clamp(row, 0, table_rows - 1);
  if (near != row && first_row != 0) return;
  uint d = i % row_length;
  uint k = d / group_size * group_padded + d % group_size;
  uint at = k / step * uint(table_rows) + uint(near);
  int code = code_at(k, uint(near));
#ifndef W_ZP_NONE
  code -= w_zp[at];
#endif
  y[i] = Y_TYPE(float(code) * W_SCALE_AT(at));
}
