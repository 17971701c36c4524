// Rows of x, and reductions over a workgroup that owns one row. Needs push constants x_offset, x_inner_rows,
// x_outer_stride, x_inner_stride, and LANES.

// First element of a row: rows lie in x in two levels, so that heads of a slice need no copy.
uint row_start(uint row) {
  uint inner = uint(x_inner_rows);
  return uint(x_offset + int(row / inner) * x_outer_stride + int(row % inner) * x_inner_stride);
}
