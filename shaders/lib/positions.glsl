// Where a token goes: from the device tensor `position` and, for rotary tables, by position or by token.
// Needs binding `position` and the push constants position_batch, position_row and position_step.

// Absolute position of token s of batch entry b. Modes of the attribute position_mode: 0 position[0] + s, 1 position[s],
// 2 position[b] + s, 3 position[b, s].
int token_position(uint b, uint s) {
  return position[b * position_batch + s * position_row] + int(s * position_step);
}

// The same among `count` places: a negative position counts from the end, as an index does in PyTorch. Where it names no
// place the result lies outside [0, count).
int token_place(uint b, uint s, uint count) {
  int place = token_position(b, s);
  return place < 0 ? place + int(count) : place;
}
