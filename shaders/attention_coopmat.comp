#version 450
// Attention of many query rows (lib/attention.glsl says what is computed) on cooperative matrices: flash attention, no score
// matrix in memory. A workgroup owns TILE_M rows of a KV head and walks its keys in tiles of TILE_N. TILE_N / 16 subgroups
// of 32 share 16 rows: each scores 16 keys, and then sums its part of the elements of the values. In between, a row's
// scores are TILE_N / 8 neighbours', who weigh them without the others.
// f32 operands are the sum of two halves, high and low, of 21 bits together; of their four products the smallest is left
// out. They are multiplied by a power of two first, so that the largest of a query, of a key and of a tile of values lies
// in [2^14, 2^15), and low ones by 2^11 more: what is 2^27 times smaller than the largest keeps its bits. Weights are two
// halves in any case. Values that are not finite, or further apart, take a way without matrices, and so do queries and keys
// that are not finite: inf times a low half of 0 would be NaN.
// Source: Dao et al. 2022, algorithm 1; Ootomo and Yokota 2022, for the halves.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "attention.glsl"

#define LANES (TILE_M * TILE_N / 8)

layout(local_size_x = LANES) in;

#ifdef Q_F16
const uint kParts = 1;
#else
const uint kParts = 2;
#endif
const uint kPairs = MAX_QUADS / 16u;       // of quads, of a row, that an invocation loads: eight share a row
const uint kRowStep = LANES / 8u;
const uint kOwn = TILE_N / kRowStep;       // rows of a tile that an invocation loads
const uint kOwnQueries = TILE_M / kRowStep;
const uint kRowLanes = TILE_N / 8u;        // invocations that share the scores of a row, eight keys each
const uint kStride = MAX_QUADS / 2u + 1u;  // uvec4 of a row; all strides are odd: eight rows fall into different banks
const uint kScoreStride = TILE_N / 4u + 1u;
const uint kSumStride = MAX_QUADS + 1u;
const uint kSteps = MAX_QUADS / 4u;        // matrices along a row
const uint kAcross = TILE_N / 16u;         // subgroups that share rows
const uint kOwnSteps = (kSteps + kAcross - 1u) / kAcross;
const uint kKeySteps = TILE_N / 16u;
const float kWeightFactor = 16384.0;
const float kLowFactor = 2048.0;
const uint kMostApart = 26u;               // powers of two

// Regions of the shared array: scores, and in place of a row's its weights, high ones first; keys or values, or sums. Queries
// lie there before all of them.
const uint kQuerySize = kParts * TILE_M * kStride;
const uint kScoresEnd = TILE_M * kScoreStride;
const uint kTile = kScoresEnd;
const uint kTileEnd = kTile + kParts * TILE_N * kStride;
const uint kSums = kScoresEnd;
const uint kSumsEnd = kSums + TILE_M * kSumStride;
const uint kEnd = kTileEnd > kSumsEnd ? kTileEnd : kSumsEnd;
const uint kStorage = kEnd > kQuerySize ? kEnd : kQuerySize;

shared uvec4 tile[kStorage];
shared float query_inverse[TILE_M];   // of the factors of queries; NaN of one that is not finite
shared vec4 key_inverse[TILE_N / 4];  // likewise
shared uint odd_keys;                 // of a tile; not 0: one is not finite
// The bits of the largest magnitude of all values of a tile: they order as the numbers do, with inf and NaN above all others.
shared uint value_bits;
shared uint least_bits;  // of four neighbours' largest magnitude, the least in a tile of values that is not 0
shared vec4 part_of_row[TILE_M][kRowLanes / 4];
shared vec4 change_of_row[TILE_M / 4];

#include "coopmat.glsl"

const uint kInfinite = 0x7f800000u;

// The exponent field of the power of two that brings a largest magnitude to [2^14, 2^15), as far as a float can.
uint factor_field(uint bits) {
  return min(268u - min(bits >> 23, 254u), 239u);
}

float factor_of(uint bits) {
  return uintBitsToFloat(factor_field(bits) << 23);
}

// NaN where something is not finite.
float inverse_factor(uint bits) {
  return bits >= kInfinite ? uintBitsToFloat(0x7fc00000u) : uintBitsToFloat((254u - factor_field(bits)) << 23);
}

bool is_nan(float value) {
  return (floatBitsToUint(value) & 0x7fffffffu) > kInfinite;
}

uint bits_of(vec4 quad) {
  uvec4 bits = floatBitsToUint(quad) & 0x7fffffffu;
  return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

uvec2 to_halves(vec4 values) {
  return uvec2(packFloat2x16(f16vec2(values.xy)), packFloat2x16(f16vec2(values.zw)));
}

// As many bits as a half has. Compilers take a conversion to a half and back for nothing.
vec4 high_part(vec4 values) {
  return uintBitsToFloat(floatBitsToUint(values) & 0xffffe000u);
}

// Two quads as halves, and what these leave out.
void put_halves(uint at, uint low_at, vec4 first, vec4 second) {
  vec4 first_high = high_part(first);
  vec4 second_high = high_part(second);
  tile[at] = uvec4(to_halves(first_high), to_halves(second_high));
  tile[low_at] = uvec4(to_halves((first - first_high) * kLowFactor), to_halves((second - second_high) * kLowFactor));
}

uint lane() {
  return MATRIX_SUBGROUP * 32u + MATRIX_LANE;
}

uint x_lane() {
  return lane() % 8u;
}

uint y_lane() {
  return lane() / 8u;
}

// The first of two quads that this invocation loads; past the head's end, its last ones once more.
uint quad_of(uint pair) {
  return min(pair * 16u + x_lane() * 2u, QUADS - 2u);
}

KEY_QUAD next_tile[kOwn * kPairs * 2];  // keys or values on their way

void fetch(bool is_values, uint first_key, uint end) {
  [[unroll]] for (uint u = 0; u < kOwn; ++u) {
    uint row = key_row(min(first_key + y_lane() + kRowStep * u, end - 1u));
    [[unroll]] for (uint i = 0; i < kPairs * 2u; ++i) {
      uint quad = quad_of(i / 2u) + i % 2u;
      next_tile[u * kPairs * 2u + i] = is_values ? read_value(row, quad) : read_key(row, quad);
    }
  }
}

void note_values() {
  uint most = 0u;
  uint least = kInfinite;
  [[unroll]] for (uint i = 0; i < kOwn * kPairs * 2u; ++i) {
    uint bits = bits_of(decode(next_tile[i]));
    most = max(most, bits);
    least = min(least, bits == 0u ? kInfinite : bits);
  }
  most = subgroupMax(most);
  least = subgroupMin(least);
  if (subgroupElect()) {
    atomicMax(value_bits, most);
    atomicMin(least_bits, least);
  }
}

void forget_tile() {
  if (gl_LocalInvocationIndex == 0u) {
    value_bits = 0u;
    odd_keys = 0u;
    least_bits = kInfinite;
  }
}

// Whether the matrices cannot have the values of a tile.
bool are_odd(uint most, uint least) {
#ifdef Q_F16
  return most >= kInfinite;
#else
  return most >= kInfinite || (most >> 23) > (least >> 23) + kMostApart;
#endif
}

void put_row(uint u, float factor) {
  [[unroll]] for (uint p = 0; p < kPairs; ++p) {
    uint i = (u * kPairs + p) * 2u;
    uint at = kTile + (y_lane() + kRowStep * u) * kStride + quad_of(p) / 2u;
#ifdef Q_F16
    tile[at] = uvec4(next_tile[i], next_tile[i + 1u]);
#else
    put_halves(at, at + TILE_N * kStride, next_tile[i] * factor, next_tile[i + 1u] * factor);
#endif
  }
}

void put_keys() {
  [[unroll]] for (uint u = 0; u < kOwn; ++u) {
#ifdef Q_F16
    put_row(u, 1.0);
#else
    uint most = 0u;
    [[unroll]] for (uint i = 0; i < kPairs * 2u; ++i) most = max(most, bits_of(next_tile[u * kPairs * 2u + i]));
    most = CLUSTER_MAX(most, 8);
    put_row(u, factor_of(most));
    uint index = y_lane() + kRowStep * u;
    if (x_lane() == 0u) {
      key_inverse[index / 4u][index % 4u] = inverse_factor(most);
      if (most >= kInfinite) odd_keys = 1u;
    }
#endif
  }
}

// The queries of this workgroup, for all of its tiles.
void put_queries(uint first_row, uint rows) {
  QUERY_QUAD quads[kOwnQueries * kPairs * 2];
  [[unroll]] for (uint u = 0; u < kOwnQueries; ++u) {
    uint first = query_quad(min(first_row + y_lane() + kRowStep * u, rows - 1u));
    [[unroll]] for (uint i = 0; i < kPairs * 2u; ++i) quads[u * kPairs * 2u + i] = q[first + quad_of(i / 2u) + i % 2u];
  }
  [[unroll]] for (uint u = 0; u < kOwnQueries; ++u) {
    uint row = y_lane() + kRowStep * u;
#ifndef Q_F16
    uint most = 0u;
    [[unroll]] for (uint i = 0; i < kPairs * 2u; ++i) most = max(most, bits_of(quads[u * kPairs * 2u + i]));
    most = CLUSTER_MAX(most, 8);
    float factor = factor_of(most);
    if (x_lane() == 0u) query_inverse[row] = inverse_factor(most);
#endif
    [[unroll]] for (uint p = 0; p < kPairs; ++p) {
      uint i = (u * kPairs + p) * 2u;
      uint at = row * kStride + quad_of(p) / 2u;
#ifdef Q_F16
      tile[at] = uvec4(quads[i], quads[i + 1u]);
#else
      put_halves(at, at + TILE_M * kStride, quads[i] * factor, quads[i + 1u] * factor);
#endif
    }
  }
}

// scale * q . k as attention_tiled.comp has it, of operands that are not finite.
float plain_score(uint row, uint t) {
  uint first = query_quad(row);
  uint key = key_row(t);
  float sum = 0.0;
  for (uint i = 0; i < QUADS; ++i) sum += dot(decode_query(q[first + i]) * scale, decode(read_key(key, i)));
  return sum;
}

// Weights, which lie in place of the scores, times values that the matrices cannot have.
void put_plain_sums(uint first_key, uint end) {
  for (uint at = gl_LocalInvocationIndex; at < TILE_M * QUADS; at += LANES) {
    uint row = at / QUADS;
    vec4 sum = vec4(0.0);
    for (uint i = 0; i < TILE_N; ++i) {
      float weight = uintBitsToFloat(tile[row * kScoreStride + i / 4u][i % 4u]);
      sum += weight * decode(read_value(key_row(min(first_key + i, end - 1u)), at % QUADS));
    }
    tile[kSums + row * kSumStride + at % QUADS] = floatBitsToUint(sum);
  }
}

// The n-th matrix across that a subgroup sums up.
uint column(uint part, uint n) {
  return n * kAcross + part;
}

void main() {
  uint rows = queries * group;
  uint first_row = (gl_NumWorkGroups.x - 1u - gl_WorkGroupID.x) * TILE_M;  // those that see most keys begin first
  int start = start_position();
  uint begin = key_begin(start, first_row / group);
  uint end = key_end(start, (min(first_row + TILE_M, rows) - 1u) / group);

  uint part = MATRIX_SUBGROUP % kAcross;
  uint down = MATRIX_SUBGROUP / kAcross * 16u;
  uint own_row = lane() / kRowLanes;
  uint own_part = lane() % kRowLanes;
  uint score_at = own_row * kScoreStride + 2u * own_part;
  uint row = min(first_row + own_row, rows - 1u);
  uint my_begin = key_begin(start, row / group);
  uint my_end = key_end(start, row / group);
  uint mask_first = mask_start(row);
  float largest = kHidden;
  float weight_sum = 0.0;

  put_queries(first_row, rows);
  if (begin < end) fetch(false, begin, end);
  forget_tile();
  barrier();
  LEFT_MATRIX left[kParts * kSteps];
  EACH_MATRIX for (uint k = 0; k < kSteps; ++k) {
    if (4u * k < QUADS) {
      LOAD_LEFT(left[kParts * k], down * kStride + 2u * k, kStride);
#ifndef Q_F16
      LOAD_LEFT(left[kParts * k + 1u], (TILE_M + down) * kStride + 2u * k, kStride);
#endif
    }
  }
  barrier();
#ifndef Q_F16
  float of_query = query_inverse[own_row];
#endif
  SUM_MATRIX sums[kOwnSteps];
  EACH_MATRIX for (uint n = 0; n < kOwnSteps; ++n) sums[n] = ZERO_SUM;

  [[dont_unroll]] for (uint first_key = begin; first_key < end; first_key += TILE_N) {
    put_keys();
    barrier();
    fetch(true, first_key, end);
    SUM_MATRIX product = ZERO_SUM;
#ifndef Q_F16
    SUM_MATRIX low_product = ZERO_SUM;
#endif
    EACH_MATRIX for (uint k = 0; k < kSteps; ++k) {
      if (4u * k < QUADS) {
        uint at = kTile + part * (16u * kStride) + 2u * k;
        RIGHT_MATRIX right;
        LOAD_RIGHT(right, at, kStride);
#ifdef Q_F16
        product = MULTIPLY_ADD(left[k], right, product);
#else
        RIGHT_MATRIX low;
        LOAD_RIGHT(low, at + TILE_N * kStride, kStride);
        SUM_MATRIX step_sum = MULTIPLY_ADD(left[2u * k], right, ZERO_SUM);
        low_product = MULTIPLY_ADD(left[2u * k + 1u], right, low_product);
        low_product = MULTIPLY_ADD(left[2u * k], low, low_product);
        ADD(product, step_sum);
#endif
      }
    }
#ifndef Q_F16
    ADD_SCALED(product, low_product, 1.0 / kLowFactor);
#endif
    STORE_SUM(product, down * kScoreStride + part * 4u, kScoreStride);
    note_values();
    barrier();

    vec4 scores[2];
    [[unroll]] for (uint i = 0; i < 2u; ++i) {
      scores[i] = uintBitsToFloat(tile[score_at + i]) * scale;
#ifndef Q_F16
      // At most the largest number, so that a product of 0 stays 0.
      scores[i] *= min(key_inverse[2u * own_part + i] * of_query, vec4(-kHidden));
#endif
    }
    uint first_own = first_key + 8u * own_part;
#ifdef Q_F16
    bool is_odd = false;
    bool goes_singly = soft_cap > 0.0;
#else
    bool is_odd = odd_keys != 0u || is_nan(of_query);
    bool goes_singly = is_odd || soft_cap > 0.0;
#endif
    if (goes_singly) {
      [[unroll]] for (uint i = 0; i < 2u; ++i) tile[score_at + i] = floatBitsToUint(scores[i]);
      [[dont_unroll]] for (uint i = 0; i < 8u; ++i) {
        float score = uintBitsToFloat(tile[score_at + i / 4u][i % 4u]);
        if (is_odd) score = plain_score(row, min(first_own + i, end - 1u));
        score = cap_score(score);
        tile[score_at + i / 4u][i % 4u] = floatBitsToUint(MASKED != 0u ? score : keep_lowest(score));
      }
      [[unroll]] for (uint i = 0; i < 2u; ++i) scores[i] = uintBitsToFloat(tile[score_at + i]);
    } else if (MASKED == 0u) {  // a mask is added first
#ifdef Q_F16
      [[unroll]] for (uint i = 0; i < 8u; ++i) scores[i / 4u][i % 4u] = keep_lowest(scores[i / 4u][i % 4u]);
#else
      [[unroll]] for (uint i = 0; i < 2u; ++i) scores[i] = max(scores[i], vec4(kLowest));
#endif
    }
    if (MASKED != 0u || first_key < my_begin || first_key + TILE_N > my_end) {
      [[unroll]] for (uint i = 0; i < 8u; ++i) {
        uint t = first_own + i;
        bool is_seen = t >= my_begin && t < my_end;
        float score = scores[i / 4u][i % 4u];
        if (MASKED != 0u && is_seen) score = mask_score(score, mask_first, t);
        scores[i / 4u][i % 4u] = is_seen ? score : kHidden;
      }
    }
    float most = kHidden;
    [[unroll]] for (uint i = 0; i < 8u; ++i) most = max(most, scores[i / 4u][i % 4u]);
    float now = max(largest, CLUSTER_MAX(most, kRowLanes));
    SUBGROUP_BARRIER;  // all of the row's scores are read
    uint largest_value = value_bits;
    bool is_plain = are_odd(largest_value, least_bits);
    float change = exp(largest - now);
    largest = now;
    weight_sum *= change;
    float base = now == kHidden ? 0.0 : now;  // while nothing is seen, no score weighs anything
    vec4 weights[2];
    [[unroll]] for (uint i = 0; i < 2u; ++i) {
      weights[i] = exp(scores[i] - base);
      weight_sum += (weights[i].x + weights[i].y) + (weights[i].z + weights[i].w);
    }
    if (own_part == 0u) change_of_row[own_row / 4u][own_row % 4u] = change;
    if (is_plain) {
      tile[score_at] = floatBitsToUint(weights[0]);
      tile[score_at + 1u] = floatBitsToUint(weights[1]);
      barrier();
      put_plain_sums(first_key, end);
    } else {
      uint at = own_row * kScoreStride + own_part;
      put_halves(at, at + TILE_N / 8u, weights[0] * kWeightFactor, weights[1] * kWeightFactor);
      [[unroll]] for (uint u = 0; u < kOwn; ++u) put_row(u, factor_of(largest_value));
    }
#ifdef Q_F16
    float sum_factor = 1.0 / kWeightFactor;
#else
    float sum_factor = inverse_factor(largest_value) * (1.0 / kWeightFactor);
#endif
    barrier();
    if (first_key + TILE_N < end) fetch(false, first_key + TILE_N, end);
    forget_tile();
    SUM_MATRIX changes;
    LOAD_COLUMNS(changes, change_of_row, down / 4u);
    if (is_plain) {
      EACH_MATRIX for (uint n = 0; n < kOwnSteps; ++n) {
        if (4u * column(part, n) < QUADS) {
          SUM_MATRIX added;
          LOAD_SUM(added, kSums + down * kSumStride + 4u * column(part, n), kSumStride);
          MULTIPLY(sums[n], changes);
          ADD(sums[n], added);
        }
      }
    } else {
      LEFT_MATRIX weight[2 * kKeySteps];
      EACH_MATRIX for (uint k = 0; k < kKeySteps; ++k) {
        LOAD_LEFT(weight[2u * k], down * kScoreStride + 2u * k, kScoreStride);
        LOAD_LEFT(weight[2u * k + 1u], down * kScoreStride + TILE_N / 8u + 2u * k, kScoreStride);
      }
      EACH_MATRIX for (uint n = 0; n < kOwnSteps; ++n) {
        if (4u * column(part, n) < QUADS) {
          SUM_MATRIX added = ZERO_SUM;
          SUM_MATRIX low_added = ZERO_SUM;
          EACH_MATRIX for (uint k = 0; k < kKeySteps; ++k) {
            uint at = kTile + k * (16u * kStride) + 2u * column(part, n);
            RIGHT_MATRIX right;
            LOAD_RIGHT_ROWS(right, at, kStride);
            low_added = MULTIPLY_ADD(weight[2u * k + 1u], right, low_added);
#ifndef Q_F16
            RIGHT_MATRIX low;
            LOAD_RIGHT_ROWS(low, at + TILE_N * kStride, kStride);
            low_added = MULTIPLY_ADD(weight[2u * k], low, low_added);
#endif
            added = MULTIPLY_ADD(weight[2u * k], right, added);
          }
          ADD_SCALED(added, low_added, 1.0 / kLowFactor);
          MULTIPLY(sums[n], changes);
          ADD_SCALED(sums[n], added, sum_factor);
        }
      }
    }
    barrier();
  }

  EACH_MATRIX for (uint n = 0; n < kOwnSteps; ++n) {
    if (4u * column(part, n) < QUADS) STORE_SUM(sums[n], kSums + down * kSumStride + 4u * column(part, n), kSumStride);
  }
  part_of_row[own_row][own_part / 4u][own_part % 4u] = weight_sum;
  barrier();
  for (uint at = gl_LocalInvocationIndex; at < TILE_M * QUADS; at += LANES) {
    uint index = at / QUADS;
    float total = 0.0;
    [[unroll]] for (uint i = 0; i < kRowLanes / 4u; ++i) total += dot(part_of_row[index][i], vec4(1.0));
    vec4 sum = uintBitsToFloat(tile[kSums + index * kSumStride + at % QUADS]);
    if (first_row + index < rows) store_row(first_row + index, at % QUADS, sum * row_factor(total));
  }
}
