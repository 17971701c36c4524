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

// Whether a word's elements are four neighbours from a multiple of four on.
bool is_in_quads(uint start) {
#ifdef UP_BINDING
  start |= up_start;
#endif
  return GROUP_SIZE == GROUP_PADDED && ROW_LENGTH % 4u == 0u && start % 4u == 0u;
}

// Whether byte j of this invocation's word i stands for an element: of its last word, one look does for all four.
bool has_value(uint i, uint j) {
  if (GROUP_SIZE != GROUP_PADDED || ROW_LENGTH != PACKED_LENGTH) return element_of(i, j) < ROW_LENGTH;
  return (i + 1u) * LANES <= PACKED_LENGTH / 4u || word_index(i) < PACKED_LENGTH / 4u;
}

void load_row(uint start) {
  if (is_normed()) {
    [[unroll]] for (uint i = 0; i < kKeptSquares; ++i) {
      if (i * LANES < ROW_LENGTH) kept_squares[i] = load_x(start + min(word_index(i), ROW_LENGTH - 1u));
    }
  }
  if (is_in_quads(start)) {
    [[unroll]] for (uint i = 0; i < kKeptWords; ++i) {
      if (i >= kWords) break;
      uint quad = min(word_index(i), ROW_LENGTH / 4u - 1u);
      uvec4 bits = quad_bits(x[start / 4u + quad]);
      vec4 weights = weight_quad(quad);
      [[unroll]] for (uint j = 0; j < 4u; ++j) {
        kept[i][j] = bits[j];
        kept_weights[i][j] = weights[j];
      }
    }
    return;
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
  if ((i + 1u) * LANES <= PACKED_LENGTH / 4u || word_index(i) < PACKED_LENGTH / 4u) store_word(word_index(i), word);
}

// Makes the codes, and gives the row's scale and zero point; load_row comes before. What runs once should be short: its
// instructions are waited for. Call in uniform flow.
void quantize_row(uint start, out float scale_value, out int row_zero_point) {
  float factor = kept_factor(start);
  Extremes extremes = no_extremes();
  [[unroll]] for (uint i = 0; i < kKeptWords; ++i) {
    if (i >= kWords) break;
    [[unroll]] for (uint j = 0; j < 4u; ++j) {
      kept[i][j] = value_of(kept[i][j], kept_weights[i][j], factor);
      if (has_value(i, j)) include_value(kept[i][j], extremes);
    }
  }
  for (uint i = kKeptWords; i < kWords; ++i) {
    [[unroll]] for (uint j = 0; j < 4u; ++j) {
      uint k = element_of(i, j);
      if (k < ROW_LENGTH) include_value(row_value_bits(start, k, factor), extremes);
    }
  }
  float inverse;
  choose_for_row(extremes, scale_value, row_zero_point, inverse);
  uint done = 0u;
  if (is_easy_scale(scale_value)) {
    [[unroll]] for (uint i = 0; i < kKeptWords; ++i) {
      if (i >= kWords) break;
      uint word = 0u;
      [[unroll]] for (uint j = 0; j < 4u; ++j) {
        int code = has_value(i, j) ? quantized_easily(kept[i][j], inverse, row_zero_point) : 0;
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
