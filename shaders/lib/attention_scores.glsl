// Which keys a query sees, what a score is and how keys lie in memory, for every kernel of attention:
//   score(s, t) = soft_cap(scale * dot(q[s], k[t])) + mask[s, t]      soft_cap(x) = c * tanh(x / c), when c > 0
// Key t of query s is visible when t < keys, t <= start + s (causal), t > start + s - window (window > 0),
//   t < start + queries (filled), and the mask does not hide it (u8: 0; float: -inf).
// Needs binding `mask`, MASKED, the push constants or constants queries, keys, group, mask_key, mask_row, mask_head,
// mask_batch, causal, window, filled, soft_cap and, without PARTIAL_BINDING, nan_rows.

#include "elements.glsl"

const float kHidden = -3.4028235e38;  // score of a key that is not visible; no visible key has it
const float kLowest = -3.4028232e38;

// The workgroup's KV head and batch entry: grid y and z.
uint kv_head() {
  return gl_WorkGroupID.y;
}

uint batch() {
  return gl_WorkGroupID.z;
}

// One past the last key that query s may see, before the mask. A start may be anything: before 0 a query sees less.
uint key_end(int start, uint s) {
  uint end = keys;
  int first = min(start, int(keys));
  if (causal != 0) end = min(end, uint(max(first + int(s) + 1, 0)));
  if (filled != 0) end = min(end, uint(max(first + int(queries), 0)));
  return end;
}

uint key_begin(int start, uint s) {
  return window > 0 ? uint(max(start + int(s) + 1 - window, 0)) : 0u;
}

// Quads as memory holds them. Reading one and decoding it later lets other work go on while it is on its way.
vec4 from_halves(uvec2 words) {
  return vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y));
}

#if defined(K_F16)
#define KEY_QUAD uvec2
vec4 decode(uvec2 words) {
  return from_halves(words);
}
#elif defined(K_I8)
#define KEY_QUAD uint
vec4 decode(uint word) {
  int w = int(word);
  return vec4(bitfieldExtract(w, 0, 8), bitfieldExtract(w, 8, 8), bitfieldExtract(w, 16, 8), bitfieldExtract(w, 24, 8));
}
#else
#define KEY_QUAD vec4
vec4 decode(vec4 values) {
  return values;
}
#endif

// tanh without the overflow and the cancellation that a driver's own may have.
float bounded_tanh(float x) {
  float a = abs(x);
  if (a < 0.25) {
    float z = x * x;
    return x * (1.0 + z * (-0.33333333 + z * (0.13333333 + z * (-0.053968254 + z * 0.021869489))));
  }
  float t = exp(-2.0 * a);
  return sign(x) * ((1.0 - t) / (1.0 + t));
}

// Index in mask of key 0 of a query.
uint mask_start(uint row) {
  return batch() * mask_batch + (kv_head() * group + row % group) * mask_head + row / group * mask_row;
}

float cap_score(float score) {
  return soft_cap > 0.0 ? soft_cap * bounded_tanh(score / soft_cap) : score;
}

// At least kLowest. Drivers make a maximum of a comparison, and lose a NaN by it.
float keep_lowest(float score) {
  bool is_nan_score = (floatBitsToUint(score) & 0x7fffffffu) > 0x7f800000u;
  return score < kLowest && !is_nan_score ? kLowest : score;
}

// What the mask makes of the capped score of key t.
float mask_score(float score, uint mask_first, uint t) {
  if (MASKED != 0u) {
    uint index = mask_first + t * mask_key;
#ifdef MASK_U8
    if (MASK_AT(index) == 0u) return kHidden;
#else
    float added = float(mask[index]);
    if (floatBitsToUint(added) == 0xff800000u) return kHidden;
    score += added;
#endif
  }
  return keep_lowest(score);
}

// The score of key t from dot = scale * q . k; t lies in [key_begin, key_end).
float finish_score(float dot, uint mask_first, uint t) {
  return mask_score(cap_score(dot), mask_first, t);
}

#ifndef PARTIAL_BINDING
// A row that sees no key is 0, as torch's scaled_dot_product_attention gives, or NaN, as its softmax gives.
float row_factor(float weight_sum) {
  if (weight_sum > 0.0) return 1.0 / weight_sum;
  return nan_rows != 0 || weight_sum != weight_sum ? uintBitsToFloat(0x7fc00000u) : 0.0;
}
#endif
