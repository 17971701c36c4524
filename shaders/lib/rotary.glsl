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

// Of a pair: the cosine and the sine that turn its first element, then those of its second.
vec4 pair_angles(uint row, uint pair) {
  if (!is_rotated(pair)) return vec4(0.0);
  uvec2 angles = table_width == rotary_dim ? pair_elements(pair) : uvec2(pair);
  angles += row * table_width;
  return vec4(cos_table[angles.x], sin_table[angles.x], cos_table[angles.y], sin_table[angles.y]);
}

vec2 turned(uint pair, vec2 x, vec4 angles) {
  if (!is_rotated(pair)) return x;
  precise float first = x.x * angles.x - x.y * angles.y;
  precise float second = x.y * angles.z + x.x * angles.w;
  return vec2(first, second);
}

vec2 rotate(uint row, uint pair, vec2 x) {
  return turned(pair, x, pair_angles(row, pair));
}
