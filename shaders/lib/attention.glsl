// What every attention kernel shares: the inputs, which keys a query sees, and what a score is.
//   score(s, t) = soft_cap(scale * dot(q[s], k[t])) + mask[s, t]      soft_cap(x) = c * tanh(x / c), when c > 0
// A query head h of KV head h / group; lengths in quads (4 elements of a head); key t of query s is visible when
//   t < keys, t <= start + s (causal), t > start + s - window (window > 0), t < start + queries (filled),
//   and the mask does not hide it (u8: 0; float: -inf); start = position[batch].
// i8 keys and values hold round(x / scale) with one scale a token and head.

layout(constant_id = 0) const uint QUADS = 16;
layout(constant_id = 1) const uint MASKED = 0;

layout(push_constant) uniform Push {
  uint queries;
  uint keys;
  uint group;
  uint q_first;
  uint q_row;
  uint q_head;
  uint q_batch;
  uint k_first;
  uint v_first;
  uint k_row;
  uint k_head;
  uint k_batch;
  uint mask_key;
  uint mask_row;
  uint mask_head;
  uint mask_batch;
  uint position_batch;
  int causal;
  int window;
  int filled;
  float scale;
  float soft_cap;
#ifdef PARTIAL_BINDING
  uint splits;
#else
  uint y_row;
  uint y_head;
  uint y_batch;
  int nan_rows;
#endif
};

layout(std430, binding = Q_BINDING) readonly buffer Q { Q_TYPE q[]; };
layout(std430, binding = K_BINDING) readonly buffer K { K_TYPE k[]; };
layout(std430, binding = V_BINDING) readonly buffer V { V_TYPE v[]; };
#ifdef K_I8
layout(std430, binding = K_SCALE_BINDING) readonly buffer KScale { K_SCALE_TYPE k_scale[]; };
layout(std430, binding = V_SCALE_BINDING) readonly buffer VScale { V_SCALE_TYPE v_scale[]; };
#endif
layout(std430, binding = MASK_BINDING) readonly buffer Mask { MASK_TYPE mask[]; };
layout(std430, binding = POSITION_BINDING) readonly buffer Position { POSITION_TYPE position[]; };
#ifdef PARTIAL_BINDING
layout(std430, binding = PARTIAL_BINDING) writeonly buffer Partial { PARTIAL_TYPE partial[]; };
layout(std430, binding = STATS_BINDING) writeonly buffer Stats { STATS_TYPE stats[]; };
#else
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };
#endif

const float kHidden = -3.4028235e38;  // score of a key that is not visible; no visible key has it
const float kLowest = -3.4028232e38;

// The workgroup's KV head and batch entry: grid y and z.
uint kv_head() {
  return gl_WorkGroupID.y;
}

uint batch() {
  return gl_WorkGroupID.z;
}

int start_position() {
  return max(position[batch() * position_batch], 0);
}

// One past the last key that query s may see, before the mask.
uint key_end(int start, uint s) {
  uint end = keys;
  if (causal != 0) end = min(end, uint(start) + s + 1u);
  if (filled != 0) end = min(end, uint(start) + queries);
  return end;
}

uint key_begin(int start, uint s) {
  return window > 0 ? uint(max(start + int(s) + 1 - window, 0)) : 0u;
}

// Quad of element 0 of row `row` of this KV head: row s * group + g is query s of head kv_head * group + g.
uint query_quad(uint row) {
  return q_first + batch() * q_batch + (kv_head() * group + row % group) * q_head + row / group * q_row;
}

uint key_row(uint t) {
  return batch() * k_batch + kv_head() * k_head + t * k_row;
}

// Quads as memory holds them. Reading one and decoding it later lets other work go on while it is on its way.
vec4 from_halves(uvec2 words) {
  return vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y));
}

#ifdef Q_F16
#define QUERY_QUAD uvec2
vec4 decode_query(uvec2 words) {
  return from_halves(words);
}
#else
#define QUERY_QUAD vec4
vec4 decode_query(vec4 values) {
  return values;
}
#endif

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

KEY_QUAD read_key(uint row, uint quad) {
  return k[k_first + row + quad];
}

KEY_QUAD read_value(uint row, uint quad) {
  return v[v_first + row + quad];
}

#ifdef K_I8
// Quantized tensors are dense: a row of QUADS words for each scale.
float key_scale(uint row) {
  return k_scale[row / QUADS];
}

float value_scale(uint row) {
  return v_scale[row / QUADS];
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

// The score of key t from dot = scale * q . k; t lies in [key_begin, key_end).
float finish_score(float dot, uint mask_first, uint t) {
  float score = dot;
  if (soft_cap > 0.0) score = soft_cap * bounded_tanh(score / soft_cap);
  if (MASKED != 0u) {
    uint index = mask_first + t * mask_key;
#ifdef MASK_U8
    if (((mask[index >> 2] >> ((index & 3u) * 8u)) & 0xffu) == 0u) return kHidden;
#else
    float added = float(mask[index]);
    if (floatBitsToUint(added) == 0xff800000u) return kHidden;
    score += added;
#endif
  }
  return score < kLowest ? kLowest : score;
}

#ifdef PARTIAL_BINDING
// Row of stats, and of QUADS quads in partial, of a split.
uint partial_row(uint split, uint row) {
  return ((batch() * gl_NumWorkGroups.y + kv_head()) * splits + split) * (queries * group) + row;
}

void store_sum(uint partial_index, uint quad, vec4 sum) {
  partial[partial_index * QUADS + quad] = sum;
}

// Keys [begin, end) of a split: the visible ones of all rows, in equal parts of a multiple of SPLIT_STEP keys.
uvec2 split_keys(int start, uint split) {
  uint first = key_begin(start, 0u);
  uint last = max(key_end(start, queries - 1u), first);
  uint part = ((last - first + splits - 1u) / splits + SPLIT_STEP - 1u) / SPLIT_STEP * SPLIT_STEP;
  uint begin = min(first + split * part, last);
  return uvec2(begin, min(begin + part, last));
}
#else
// A row that sees no key is 0, as torch's scaled_dot_product_attention gives, or NaN, as its softmax gives.
float row_factor(float weight_sum) {
  if (weight_sum > 0.0) return 1.0 / weight_sum;
  return nan_rows != 0 || weight_sum != weight_sum ? uintBitsToFloat(0x7fc00000u) : 0.0;
}

void store_row(uint row, uint quad, vec4 value) {
  uint index = batch() * y_batch + (kv_head() * group + row % group) * y_head + row / group * y_row + quad;
  y[index] = Y_TYPE(value);
}
#endif
