#version 450
// Attention of many query rows (lib/attention.glsl says what is computed): flash attention, no score matrix in memory.
// A workgroup owns TILE_M rows of a KV head and walks its keys in tiles of TILE_N; heads are cut into chunks of 8
// quads, so that one chunk of the queries and one of the keys (or values) are in shared memory at a time.
// 64 invocations as 8 x 8: invocation (y, x) scores rows y * R .. of keys 4x .. 4x + 3, and then sums the same rows
// of values for quad x of every chunk. SLICES such groups share the tiles of keys by turns, as 64 invocations a workgroup
// leave a large device idle; their sums are added up in order. Source: Dao et al. 2022, algorithm 1.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "attention.glsl"

layout(local_size_x = 64 * SLICES) in;

const uint kChunk = 8u;                   // quads
const uint kRows = TILE_M / 8u;           // rows of an invocation
const uint kStride = kChunk + 1u;         // keeps eight keys' reads in different banks
const uint kChunks = MAX_QUADS / kChunk;

const uint kQuery = TILE_M * kChunk;
const uint kTile = TILE_N * kStride;
const uint kWeights = TILE_M * (TILE_N / 4);
const uint kParts = TILE_M * 8u;

// Of each slice, one part after the other.
shared vec4 query[SLICES * kQuery];
shared vec4 tile_quads[SLICES * kTile];  // keys in the order that slot_of gives, or values
shared vec4 weights[SLICES * kWeights];
shared float part_largest[SLICES * kParts];

uint slice() {
  return SLICES == 1 ? 0u : gl_LocalInvocationIndex / 64u;
}

// Invocation x scores keys 4x + j, and reads shared row 8j + x.
uint slot_of(uint n) {
  return n % 4u * 8u + n / 4u;
}

// What the next chunk needs, on its way from memory while this one is computed.
uint query_rows[kRows];  // quad 0 of the rows that this invocation loads: y + 8u
QUERY_QUAD next_query[kRows];
KEY_QUAD next_tile[TILE_N / 8];
#ifdef K_I8
float next_scale[TILE_N / 8];
#endif

void fetch_scores(uint tile, uint end, uint chunk, uint y_lane, uint x) {
  uint quad = min(chunk * kChunk + x, QUADS - 1u);
  [[unroll]] for (uint u = 0; u < kRows; ++u) next_query[u] = q[query_rows[u] + quad];
  [[unroll]] for (uint u = 0; u < TILE_N / 8; ++u) {
    uint key = key_row(min(tile + y_lane + 8u * u, end - 1u));
    next_tile[u] = read_key(key, quad);
#ifdef K_I8
    next_scale[u] = key_scale(key);
#endif
  }
}

void fetch_values(uint tile, uint end, uint chunk, uint y_lane, uint x) {
  uint quad = min(chunk * kChunk + x, QUADS - 1u);
  [[unroll]] for (uint u = 0; u < TILE_N / 8; ++u) {
    uint key = key_row(min(tile + y_lane + 8u * u, end - 1u));
    next_tile[u] = read_value(key, quad);
#ifdef K_I8
    next_scale[u] = value_scale(key);
#endif
  }
}

vec4 next_quad(uint u) {
#ifdef K_I8
  return decode(next_tile[u]) * next_scale[u];
#else
  return decode(next_tile[u]);
#endif
}

// Quads past the head's end are zero in the queries, and not stored.
void put_scores(uint chunk, uint y_lane, uint x) {
  float factor = chunk * kChunk + x < QUADS ? scale : 0.0;
  barrier();
  [[unroll]] for (uint u = 0; u < kRows; ++u) {
    query[slice() * kQuery + (y_lane + 8u * u) * kChunk + x] = decode_query(next_query[u]) * factor;
  }
  [[unroll]] for (uint u = 0; u < TILE_N / 8; ++u) {
    tile_quads[slice() * kTile + slot_of(y_lane + 8u * u) * kStride + x] = next_quad(u);
  }
  barrier();
}

void put_values(uint y_lane, uint x) {
  barrier();
  [[unroll]] for (uint u = 0; u < TILE_N / 8; ++u) {
    tile_quads[slice() * kTile + (y_lane + 8u * u) * kStride + x] = next_quad(u);
  }
  barrier();
}

void main() {
  uint x = gl_LocalInvocationIndex % 8u;
  uint y_lane = gl_LocalInvocationIndex / 8u % 8u;
  uint y_rows = y_lane * kRows;  // first of this invocation's rows in the tile
  uint rows = queries * group;
  uint first_row = gl_WorkGroupID.x * TILE_M;
  int start = start_position();
  uint begin = key_begin(start, first_row / group);
  uint end = key_end(start, (min(first_row + TILE_M, rows) - 1u) / group);
  float largest[kRows];
  float weight_sum[kRows];
  vec4 sums[kChunks][kRows];
  [[unroll]] for (uint r = 0; r < kRows; ++r) {
    largest[r] = kHidden;
    weight_sum[r] = 0.0;
    [[unroll]] for (uint c = 0; c < kChunks; ++c) sums[c][r] = vec4(0.0);
    query_rows[r] = query_quad(min(first_row + y_lane + 8u * r, rows - 1u));
  }
  uint chunks = (QUADS + kChunk - 1u) / kChunk;
  if (begin < end) fetch_scores(begin + slice() * TILE_N, end, 0u, y_lane, x);

  for (uint turn = begin; turn < end; turn += SLICES * TILE_N) {
    uint tile = turn + slice() * TILE_N;  // perhaps past the end: nothing is visible there
    vec4 scores[kRows];
    [[unroll]] for (uint r = 0; r < kRows; ++r) scores[r] = vec4(0.0);
    for (uint chunk = 0; chunk < chunks; ++chunk) {
      put_scores(chunk, y_lane, x);
      if (chunk + 1u < chunks) {
        fetch_scores(tile, end, chunk + 1u, y_lane, x);
      } else {
        fetch_values(tile, end, 0u, y_lane, x);
      }
      [[unroll]] for (uint i = 0; i < kChunk; ++i) {
        vec4 keys4[4];
        [[unroll]] for (uint j = 0; j < 4u; ++j) keys4[j] = tile_quads[slice() * kTile + (j * 8u + x) * kStride + i];
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
          vec4 q4 = query[slice() * kQuery + (y_rows + r) * kChunk + i];
          [[unroll]] for (uint j = 0; j < 4u; ++j) scores[r][j] += dot(q4, keys4[j]);
        }
      }
    }

    [[unroll]] for (uint r = 0; r < kRows; ++r) {
      uint row = min(first_row + y_rows + r, rows - 1u);
      uint my_begin = key_begin(start, row / group);
      uint my_end = key_end(start, row / group);
      uint mask_first = mask_start(row);
      [[unroll]] for (uint j = 0; j < 4u; ++j) {
        uint t = tile + 4u * x + j;
        scores[r][j] = t >= my_begin && t < my_end ? finish_score(scores[r][j], mask_first, t) : kHidden;
      }
      vec4 four = scores[r];
      part_largest[slice() * kParts + (y_rows + r) * 8u + x] = max(max(four.x, four.y), max(four.z, four.w));
    }
    barrier();
    float change[kRows];
    [[unroll]] for (uint r = 0; r < kRows; ++r) {
      float now = largest[r];
      [[unroll]] for (uint i = 0; i < 8u; ++i) now = max(now, part_largest[slice() * kParts + (y_rows + r) * 8u + i]);
      change[r] = exp(largest[r] - now);
      largest[r] = now;
      vec4 four;
      [[unroll]] for (uint j = 0; j < 4u; ++j) four[j] = scores[r][j] == kHidden ? 0.0 : exp(scores[r][j] - now);
      weight_sum[r] = weight_sum[r] * change[r] + ((four.x + four.y) + (four.z + four.w));
      weights[slice() * kWeights + (y_rows + r) * (TILE_N / 4) + x] = four;
    }

    [[unroll]] for (uint c = 0; c < kChunks; ++c) {
      if (c < chunks) {
        put_values(y_lane, x);
        if (c + 1u < chunks) {
          fetch_values(tile, end, c + 1u, y_lane, x);
        } else if (turn + SLICES * TILE_N < end) {
          fetch_scores(tile + SLICES * TILE_N, end, 0u, y_lane, x);
        }
        [[unroll]] for (uint r = 0; r < kRows; ++r) sums[c][r] *= change[r];
        [[unroll]] for (uint i = 0; i < TILE_N / 4; ++i) {
          vec4 values[4];
          [[unroll]] for (uint j = 0; j < 4u; ++j) values[j] = tile_quads[slice() * kTile + (4u * i + j) * kStride + x];
          [[unroll]] for (uint r = 0; r < kRows; ++r) {
            vec4 four = weights[slice() * kWeights + (y_rows + r) * (TILE_N / 4) + i];
            sums[c][r] += (four.x * values[0] + four.y * values[1]) + (four.z * values[2] + four.w * values[3]);
          }
        }
      }
    }
  }

#if SLICES > 1
  // All slices' sums as if they had the same largest score.
  barrier();
  if (x == 0u) {
    [[unroll]] for (uint r = 0; r < kRows; ++r) part_largest[slice() * TILE_M + y_rows + r] = largest[r];
  }
  barrier();
  [[unroll]] for (uint r = 0; r < kRows; ++r) {
    float now = kHidden;
    [[unroll]] for (uint s = 0; s < SLICES; ++s) now = max(now, part_largest[s * TILE_M + y_rows + r]);
    float change = exp(largest[r] - now);
    weight_sum[r] *= change;
    [[unroll]] for (uint c = 0; c < kChunks; ++c) sums[c][r] *= change;
  }
#endif
  barrier();
  [[unroll]] for (uint r = 0; r < kRows; ++r) {
    part_largest[slice() * kParts + (y_rows + r) * 8u + x] = weight_sum[r];
  }
#if SLICES > 1
  // Chunk by chunk through `query`, which has a chunk's place for every slice.
  [[unroll]] for (uint c = 0; c < kChunks; ++c) {
    [[unroll]] for (uint r = 0; r < kRows; ++r) query[slice() * kQuery + (y_rows + r) * kChunk + x] = sums[c][r];
    barrier();
    if (slice() == 0u) {
      [[unroll]] for (uint s = 1; s < SLICES; ++s) {
        [[unroll]] for (uint r = 0; r < kRows; ++r) sums[c][r] += query[s * kQuery + (y_rows + r) * kChunk + x];
      }
    }
    barrier();
  }
  if (slice() > 0u) return;
#else
  barrier();
#endif
  [[unroll]] for (uint r = 0; r < kRows; ++r) {
    uint row = first_row + y_rows + r;
    float total = 0.0;
    [[unroll]] for (uint s = 0; s < SLICES; ++s) {
      [[unroll]] for (uint i = 0; i < 8u; ++i) total += part_largest[s * kParts + (y_rows + r) * 8u + i];
    }
    float row_scale = row_factor(total);
    [[unroll]] for (uint c = 0; c < kChunks; ++c) {
      uint quad = c * kChunk + x;
      if (row < rows && quad < QUADS) store_row(row, quad, sums[c][r] * row_scale);
    }
  }
}
