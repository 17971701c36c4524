#version 450
// y[i] = row ids[i] - first_row of table, for ids in [first_row, first_row + the rows of table). A vocabulary cut into several
// tables is one call a table: the first one (first_row 0) writes all of y, with the nearest row for ids outside it, so that
// no row keeps what the memory held before; the others write the rows of their own ids.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(push_constant) uniform Push {
  uint n_elements;
  uint row_length;
  int first_row;
  int table_rows;
};

layout(std430, binding = IDS_BINDING) readonly buffer Ids { IDS_TYPE ids[]; };
layout(std430, binding = TABLE_BINDING) readonly buffer Table { TABLE_TYPE table[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

void main() {
  uint i = element_index();
  if (i >= n_elements) return;
  int row = ids[i / row_length] - first_row;
  int near = clamp(row, 0, table_rows - 1);
  if (near != row && first_row != 0) return;
  y[i] = Y_TYPE(float(table[uint(near) * row_length + i % row_length]));
}
