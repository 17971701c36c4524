// Attention of a few rows of one KV head over a span of keys: reading the cache is the work. Keys are walked in tiles of
// TILE_N: scores by teams of kTeam lanes a key, softmax in shared memory, then lanes over the head's quads and teams over
// the keys; the teams' sums are added in a fixed order. Keys and values are read once for all rows, in whole cache
// lines, many at a time: one read waits longer than a tile computes.
// Needs attention_scores.glsl and its needs; ROWS, rows that there are; key_row(t), the place of key t's row; its quads
// as memory holds them, read_key(row, quad) and read_value; what they mean, decode_key(loaded, t, quad) and decode_value.
// The caller fills `query` with the rows times scale, clears the rows, and waits at a barrier.

const uint kTeam = 8u;                       // lanes that share a key's dot product
const uint kKeys = LANES / kTeam;            // keys scored at once
const uint kPasses = TILE_N / kKeys;
const uint kLanesPerRow = LANES / MAX_ROWS;  // lanes that share a row's softmax
const uint kBatch = 8u;                      // values that an invocation loads at once
const uint kStride = kTeam + 1u;             // keeps the reads of `team_sums` in different banks
const uint kTeamSums = MAX_ROWS * kKeys * kStride;

shared vec4 query[MAX_ROWS * MAX_QUADS];  // later the teams' sums of one row
shared float weights[MAX_ROWS * TILE_N];  // scores, then weights
shared float team_sums[kTeamSums];
shared float row_largest[MAX_ROWS];
shared float row_change[MAX_ROWS];  // factor of the sums so far
shared float row_weight[MAX_ROWS];

void clear_rows() {
  if (gl_LocalInvocationIndex < MAX_ROWS) {
    row_largest[gl_LocalInvocationIndex] = kHidden;
    row_weight[gl_LocalInvocationIndex] = 0.0;
  }
}

// weights[r][n] = score of key tile + n, kHidden from `end` on.
void score_tile(int start, uint first_row, uint tile, uint end) {
  uint lane = gl_LocalInvocationIndex % kTeam;
  uint team = gl_LocalInvocationIndex / kTeam;
  float products[kPasses][MAX_ROWS];
  uint keys_of[kPasses];
  [[unroll]] for (uint pass = 0; pass < kPasses; ++pass) {
    keys_of[pass] = key_row(min(tile + pass * kKeys + team, end - 1u));
    [[unroll]] for (uint r = 0; r < ROWS; ++r) products[pass][r] = 0.0;
  }
  [[unroll]] for (uint first = 0; first < QUADS; first += kTeam) {
    uint i = min(first + lane, QUADS - 1u);
    float inside = first + lane < QUADS ? 1.0 : 0.0;
    KEY_QUAD values[kPasses];
    [[unroll]] for (uint pass = 0; pass < kPasses; ++pass) values[pass] = read_key(keys_of[pass], i);
    [[unroll]] for (uint r = 0; r < ROWS; ++r) {
      vec4 own = query[r * QUADS + i] * inside;
      [[unroll]] for (uint pass = 0; pass < kPasses; ++pass) {
        products[pass][r] += dot(own, decode_key(values[pass], min(tile + pass * kKeys + team, end - 1u), i));
      }
    }
  }
  uint row = gl_LocalInvocationIndex / kKeys;
  uint column = gl_LocalInvocationIndex % kKeys;
  uint query_row = min(first_row + row, queries * group - 1u);
  uint my_begin = key_begin(start, query_row / group);
  uint my_end = min(key_end(start, query_row / group), end);
  uint mask_first = mask_start(query_row);
  [[unroll]] for (uint pass = 0; pass < kPasses; ++pass) {
    [[unroll]] for (uint r = 0; r < ROWS; ++r) team_sums[(r * kKeys + team) * kStride + lane] = products[pass][r];
    barrier();
    if (row < ROWS) {
      float sum = 0.0;
      [[unroll]] for (uint i = 0; i < kTeam; ++i) sum += team_sums[(row * kKeys + column) * kStride + i];
      uint t = tile + pass * kKeys + column;
      bool inside = t >= my_begin && t < my_end;
#ifdef K_I8
      sum *= key_scale(key_row(min(t, end - 1u)));
#endif
      weights[row * TILE_N + pass * kKeys + column] = inside ? finish_score(sum, mask_first, t) : kHidden;
    }
    barrier();
  }
}

// Turns a tile's scores into weights; row_change scales what was summed before it.
void weigh_tile(uint tile, uint end) {
  uint row = gl_LocalInvocationIndex / kLanesPerRow;
  uint lane = gl_LocalInvocationIndex % kLanesPerRow;
  float largest = kHidden;
  [[unroll]] for (uint n = 0; n < TILE_N; n += kLanesPerRow) largest = max(largest, weights[row * TILE_N + n + lane]);
  team_sums[row * kLanesPerRow + lane] = largest;
  barrier();
  float before = row_largest[row];
  largest = before;
  [[unroll]] for (uint i = 0; i < kLanesPerRow; ++i) largest = max(largest, team_sums[row * kLanesPerRow + i]);
  barrier();
  float sum = 0.0;
  [[unroll]] for (uint n = 0; n < TILE_N; n += kLanesPerRow) {
    uint index = row * TILE_N + n + lane;
    float weight = weights[index] == kHidden ? 0.0 : exp(weights[index] - largest);
    sum += weight;
#ifdef K_I8
    weight *= value_scale(key_row(min(tile + n + lane, end - 1u)));
#endif
    weights[index] = weight;
  }
  team_sums[row * kLanesPerRow + lane] = sum;
  barrier();
  if (lane == 0u) {
    float change = exp(before - largest);
    float weight = row_weight[row] * change;
    [[unroll]] for (uint i = 0; i < kLanesPerRow; ++i) weight += team_sums[row * kLanesPerRow + i];
    row_largest[row] = largest;
    row_change[row] = change;
    row_weight[row] = weight;
  }
  barrier();
}

// Quad `quad` of keys tile + first, tile + first + teams, ...; past the last key, of the last.
void load_values(uint tile, uint end, uint first, uint teams, uint quad, out KEY_QUAD values[kBatch]) {
  [[unroll]] for (uint i = 0; i < kBatch; ++i) {
    values[i] = read_value(key_row(min(tile + first + i * teams, end - 1u)), min(quad, QUADS - 1u));
  }
}

// Invocations that lie side by side over the quads of a value, and this one's quad (from QUADS on it has none).
uint value_width() {
  return QUADS <= 8u ? 8u : QUADS <= 16u ? 16u : QUADS <= 32u ? 32u : 64u;
}

uint value_quad() {
  return gl_LocalInvocationIndex % value_width();
}

// sums[r] = this invocation's part of row r's weighted values, over the keys of a span.
void attend(int start, uint first_row, uvec2 span, out vec4 sums[MAX_ROWS]) {
  [[unroll]] for (uint r = 0; r < ROWS; ++r) sums[r] = vec4(0.0);
  uint quad = value_quad();
  uint team = gl_LocalInvocationIndex / value_width();
  uint teams = LANES / value_width();
  for (uint tile = span.x; tile < span.y; tile += TILE_N) {
    KEY_QUAD values[kBatch];  // on their way while the scores are made
    load_values(tile, span.y, team, teams, quad, values);
    score_tile(start, first_row, tile, span.y);
    weigh_tile(tile, span.y);
    [[unroll]] for (uint r = 0; r < ROWS; ++r) sums[r] *= row_change[r];
    for (uint first = team;; ) {
      [[unroll]] for (uint i = 0; i < kBatch; ++i) {
        uint n = min(first + i * teams, TILE_N - 1u);
        float once = first + i * teams < TILE_N ? 1.0 : 0.0;
        vec4 value = decode_value(values[i], min(tile + first + i * teams, span.y - 1u), min(quad, QUADS - 1u));
        [[unroll]] for (uint r = 0; r < ROWS; ++r) sums[r] += (once * weights[r * TILE_N + n]) * value;
      }
      first += kBatch * teams;
      if (first >= TILE_N) break;
      load_values(tile, span.y, first, teams, quad, values);
    }
    barrier();
  }
}

// The teams' sums of a row, in the invocations below QUADS; call in uniform flow.
vec4 sum_teams(vec4 own) {
  barrier();
  query[gl_LocalInvocationIndex] = own;
  barrier();
  vec4 sum = vec4(0.0);
  if (gl_LocalInvocationIndex < QUADS) {
    for (uint i = 0; i < LANES / value_width(); ++i) sum += query[i * value_width() + gl_LocalInvocationIndex];
  }
  return sum;
}
