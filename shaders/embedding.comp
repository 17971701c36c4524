#version 450
// y[i] = row ids[i] - first_row of table, for ids in [first_row, first_row + the rows of table); the rows of y for other ids keep
// their bytes, so that a vocabulary cut into several tables is one call a table.
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
  if (row < 0 || row >= table_rows) return;
  y[i] = Y_TYPE(float(table[uint(row) * row_length + i % row_length]));
}
