// The row that a workgroup owns, quantized while its elements stay in registers: all of a row of usual length is asked for
// at once, as a first read waits long, and read only once. An invocation makes the words of four codes LANES apart, so that
// neighbours read neighbours. Needs row_values.glsl, row_qparams.glsl, quantize.glsl and the constants ROW_LENGTH and
// PACKED_LENGTH; `store_word` is the includer's.

const uint kWords = (PACKED_LENGTH / 4u + LANES - 1u) / LANES;  // of codes that an invocation makes
const uint kKeptWords = 8u;                                     // of them, those whose elements stay in registers
const uint kKeptSquares = 16u;                                  // elements that it squares, likewise

uint kept[kKeptWords][4];  // bits of elements, then of the row's values
float kept_weights[kKeptWords][4];
float kept_squares[kKeptSquares];

// Of codes, the word `at` of the row, which holds those of positions 4 * at and on.
void store_word(uint at, uint word);

bool is_normed() {
  return PROLOGUE == 1u || PROLOGUE == 2u;
}

uint word_index(uint i) {
  return gl_LocalInvocationIndex + i * LANES;
}

// Element of byte j of this invocation's word i; ROW_LENGTH in the padding.
uint element_of(uint i, uint j) {
  return source_index(4u * word_index(i) + j);
}

void load_row(uint start) {
  if (is_normed()) {
    [[unroll]] for (uint i = 0; i < kKeptSquares; ++i) {
      if (i * LANES < ROW_LENGTH) kept_squares[i] = load_x(start + min(word_index(i), ROW_LENGTH - 1u));
    }
  }
  [[unroll]] for (uint i = 0; i < kKeptWords; ++i) {
    if (i >= kWords) break;
    [[unroll]] for (uint j = 0; j < 4u; ++j) {
      uint k = min(element_of(i, j), ROW_LENGTH - 1u);
      kept[i][j] = load_x_bits(start + k);
      kept_weights[i][j] = weight_at(k);
    }
  }
}

// As row_factor.
float kept_factor(uint start) {
  if (!is_normed()) return 1.0;
  float squares = 0.0;
  [[unroll]] for (uint i = 0; i < kKeptSquares; ++i) {
    if (word_index(i) < ROW_LENGTH) squares = add_square(squares, kept_squares[i]);
  }
  for (uint k = word_index(kKeptSquares); k < ROW_LENGTH; k += LANES) squares = add_square(squares, load_x(start + k));
  return inverse_rms(squares, ROW_LENGTH, norm_eps);
}

void put_word(uint i, uint word) {
  if (word_index(i) < PACKED_LENGTH / 4u) store_word(word_index(i), word);
}

// Makes the codes, and gives the row's scale and zero point; load_row comes before. What runs once should be short: its
// instructions are waited for. Call in uniform flow.
void quantize_row(uint start, out float scale_value, out int row_zero_point) {
  float factor = kept_factor(start);
  int lo = 0;
  int hi = 0;
  [[unroll]] for (uint i = 0; i < kKeptWords; ++i) {
    if (i >= kWords) break;
    [[unroll]] for (uint j = 0; j < 4u; ++j) {
      kept[i][j] = value_of(kept[i][j], kept_weights[i][j], factor);
      if (element_of(i, j) < ROW_LENGTH) include_value(kept[i][j], lo, hi);
    }
  }
  for (uint i = kKeptWords; i < kWords; ++i) {
    [[unroll]] for (uint j = 0; j < 4u; ++j) {
      uint k = element_of(i, j);
      if (k < ROW_LENGTH) include_value(row_value_bits(start, k, factor), lo, hi);
    }
  }
  choose_for_row(lo, hi, scale_value, row_zero_point);
  float inverse = exact_div(1.0, scale_value);
  uint done = 0u;
  if (is_easy_scale(scale_value)) {
    [[unroll]] for (uint i = 0; i < kKeptWords; ++i) {
      if (i >= kWords) break;
      uint word = 0u;
      [[unroll]] for (uint j = 0; j < 4u; ++j) {
        int code = element_of(i, j) < ROW_LENGTH ? quantized_easily(kept[i][j], inverse, row_zero_point) : 0;
        word |= (uint(code) & 0xffu) << (8u * j);
      }
      put_word(i, word);
    }
    done = kKeptWords;
  }
  for (uint i = done; i < kWords; ++i) {
    uint word = 0u;
    for (uint j = 0; j < 4u; ++j) {
      uint k = element_of(i, j);
      int code = 0;
      if (k < ROW_LENGTH) code = quantized(row_value_bits(start, k, factor), scale_value, inverse, row_zero_point);
      word |= (uint(code) & 0xffu) << (8u * j);
    }
    put_word(i, word);
  }
}
