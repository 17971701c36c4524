#version 450
// y[i, d] = (table[r, d] - w_zp[r, d / group_size]) * scale[r, d / group_size], r = ids[i] - first_row, in f32, for ids in
// [first_row, first_row + the rows of table); embedding.comp says what the rows of y for other ids become. Elements are int8, or
// int4 with the lower nibble first; a row of int4 is padded to an even length.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;
#include "elements.glsl"
#include "grid.glsl"

layout(push_constant) uniform Push {
  uint n_elements;
  uint row_length;
  uint row_stride;
  uint group_size;
  uint groups;
  int first_row;
  int table_rows;
};

layout(std430, binding = IDS_BINDING) readonly buffer Ids { IDS_TYPE ids[]; };
layout(std430, binding = TABLE_BINDING) readonly buffer Table { TABLE_TYPE table[]; };
layout(std430, binding = SCALE_BINDING) readonly buffer Scale { SCALE_TYPE scale[]; };
#ifndef W_ZP_NONE
layout(std430, binding = W_ZP_BINDING) readonly buffer WZp { W_ZP_TYPE w_zp[]; };
#endif
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

int code_at(uint i) {
#ifdef TABLE_I4
  return bitfieldExtract(int(table[i >> 3]), int(4u * (i & 7u)), 4);
#else
  return TABLE_AT(i);
#endif
}

void main() {
  uint i = element_index();
  if (i >= n_elements) return;
  int row = ids[i / row_length] - first_row;
  int near = clamp(row, 0, table_rows - 1);
  if (near != row && first_row != 0) return;
  uint d = i % row_length;
  uint group = uint(near) * groups + d / group_size;
  int code = code_at(uint(near) * row_stride + d);
#ifndef W_ZP_NONE
  code -= W_ZP_AT(group);
#endif
  y[i] = Y_TYPE(float(code) * SCALE_AT(group));
}
