// Sums and maxima over a workgroup of LANES invocations, in one order on every device. Call in uniform flow.
#extension GL_EXT_control_flow_attributes : require

shared float float_scratch[LANES];

#if LANES >= 256
const uint kLastSums = LANES == 256 ? 16u : 32u;
const uint kParts = LANES / kLastSums;
shared float last_sums[kLastSums];
shared float whole_sum;

// Right in invocation 0 alone. The same order as below, halving by halving, but two waits in all.
float first_lane_sum(float value) {
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

// What invocation 0 has, for all.
float first_lane_value(float value) {
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
