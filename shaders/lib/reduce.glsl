// Sums and maxima over a workgroup of LANES invocations, in one order on every device. Call in uniform flow.
// With SUBGROUPS, and the constant SUBGROUP, subgroups do all that comes after the first wait, where they are whole.
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUPS
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#endif

shared float float_scratch[LANES];

#ifdef SUBGROUPS
// A driver may run a workgroup in subgroups smaller than the size that it tells. More than 32 gain nothing.
bool has_whole_subgroups() {
  return LANES / SUBGROUP <= 32u && gl_SubgroupSize == SUBGROUP && gl_NumSubgroups * SUBGROUP == LANES;
}

// Whether this invocation works on what concerns the whole workgroup. Of many subgroups one does: it is soon done, and the
// others would take its time.
bool is_worker() {
  return LANES <= 512 || gl_SubgroupID == 0u;
}

// Right in the workers. Halving by halving, as below: first of SUBGROUP lanes' values, then within a subgroup.
float subgroups_sum(float value) {
  float_scratch[gl_LocalInvocationIndex] = value;
  barrier();
  if (!is_worker()) return 0.0;
  float values[32];
  [[unroll]] for (uint i = 0; i < 32u; ++i) {
    if (i >= LANES / SUBGROUP) break;
    values[i] = float_scratch[gl_SubgroupInvocationID + SUBGROUP * i];
  }
  [[unroll]] for (uint width = 16u; width > 0u; width >>= 1) {
    if (2u * width > LANES / SUBGROUP) continue;
    [[unroll]] for (uint i = 0; i < width; ++i) values[i] += values[i + width];
  }
  float sum = values[0];
  [[unroll]] for (uint width = 64u; width > 0u; width >>= 1) {
    if (width < SUBGROUP) sum += subgroupShuffleXor(sum, width);
  }
  return sum;
}
#endif

#if LANES >= 256
const uint kLastSums = LANES == 256 ? 16u : 32u;
const uint kParts = LANES / kLastSums;
shared float last_sums[kLastSums];
shared float whole_sum;

// Right in invocation 0 alone, or with whole subgroups in the workers. The same order as below, but two waits in all.
float first_lane_sum(float value) {
#ifdef SUBGROUPS
  if (has_whole_subgroups()) return subgroups_sum(value);
#endif
  uint lane = gl_LocalInvocationIndex;
  float_scratch[lane] = value;
  barrier();
  if (lane < kLastSums) {
    float values[kParts];
    [[unroll]] for (uint i = 0; i < kParts; ++i) values[i] = float_scratch[lane + kLastSums * i];
    [[unroll]] for (uint width = kParts / 2u; width > 0u; width >>= 1) {
      [[unroll]] for (uint i = 0; i < width; ++i) values[i] += values[i + width];
    }
    last_sums[lane] = values[0];
  }
  barrier();
  if (lane > 0u) return 0.0;
  float values[kLastSums];
  [[unroll]] for (uint i = 0; i < kLastSums; ++i) values[i] = last_sums[i];
  [[unroll]] for (uint width = kLastSums / 2u; width > 0u; width >>= 1) {
    [[unroll]] for (uint i = 0; i < width; ++i) values[i] += values[i + width];
  }
  return values[0];
}

// What those have, for all.
float first_lane_value(float value) {
#ifdef SUBGROUPS
  if (has_whole_subgroups()) {
    if (LANES <= 512) return value;
    if (is_worker() && subgroupElect()) whole_sum = value;
    barrier();
    return whole_sum;
  }
#endif
  if (gl_LocalInvocationIndex == 0u) whole_sum = value;
  barrier();
  return whole_sum;
}
#else
// Right in every invocation.
float first_lane_sum(float value) {
  uint lane = gl_LocalInvocationIndex;
  barrier();  // an earlier result may still be read
  float_scratch[lane] = value;
  barrier();
  for (uint width = LANES / 2; width > 0; width >>= 1) {
    if (lane < width) float_scratch[lane] += float_scratch[lane + width];
    barrier();
  }
  return float_scratch[0];
}

float first_lane_value(float value) {
  return value;
}

// NaN is no maximum. Only here: above, a sum that follows would not wait until all have read it.
float workgroup_max(float value) {
  uint lane = gl_LocalInvocationIndex;
  barrier();
  float_scratch[lane] = value;
  barrier();
  for (uint width = LANES / 2; width > 0; width >>= 1) {
    if (lane < width && float_scratch[lane + width] > float_scratch[lane]) {
      float_scratch[lane] = float_scratch[lane + width];
    }
    barrier();
  }
  return float_scratch[0];
}
#endif

float workgroup_sum(float value) {
  return first_lane_value(first_lane_sum(value));
}
