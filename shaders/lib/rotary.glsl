// Rotary embedding of element pairs: y0 = x0 * cos0 - x1 * sin0, y1 = x1 * cos1 + x0 * sin1.
//   half split (interleaved 0): pair p is elements p and p + rotary_dim / 2; interleaved: 2p and 2p + 1
//   tables [rows, rotary_dim / 2], an angle a pair, or [rows, rotary_dim], an angle an element
// Elements from rotary_dim on are copied. `precise`: every kernel that turns keys gives the same bits. Needs bindings `cos_table`, `sin_table` and the push constants
// rotary_dim, interleaved, table_rows, table_width, table_by_position and table_batch.

uint table_row(uint b, uint s) {
  if (table_by_position == 0) return min(b * table_batch + s, table_rows - 1u);
  return uint(clamp(token_place(b, s, table_rows), 0, int(table_rows) - 1));
}

bool is_rotated(uint pair) {
  return 2u * pair < rotary_dim;
}

uvec2 pair_elements(uint pair) {
  if (interleaved != 0 || !is_rotated(pair)) return uvec2(2u * pair, 2u * pair + 1u);
  return uvec2(pair, pair + rotary_dim / 2u);
}

vec2 rotate(uint row, uint pair, vec2 x) {
  if (!is_rotated(pair)) return x;
  uvec2 angles = table_width == rotary_dim ? pair_elements(pair) : uvec2(pair);
  angles += row * table_width;
  precise float first = x.x * float(cos_table[angles.x]) - x.y * float(sin_table[angles.x]);
  precise float second = x.y * float(cos_table[angles.y]) + x.x * float(sin_table[angles.y]);
  return vec2(first, second);
}
