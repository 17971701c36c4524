// Sums and maxima over a workgroup of LANES invocations, in one order on every device. Call in uniform flow.
#extension GL_EXT_control_flow_attributes : require

shared float float_scratch[LANES];

#if LANES == 256
shared float sixteen_sums[16];

// Halving a row of 16 until one is left.
float halved_sum(float values[16]) {
  [[unroll]] for (uint width = 8u; width > 0u; width >>= 1) {
    [[unroll]] for (uint i = 0; i < 8u; ++i) {
      if (i < width) values[i] += values[i + width];
    }
  }
  return values[0];
}

// The same order as below, halving by halving, but four of them a wait.
float workgroup_sum(float value) {
  uint lane = gl_LocalInvocationIndex;
  barrier();  // an earlier result may still be read
  float_scratch[lane] = value;
  barrier();
  float values[16];
  if (lane < 16u) {
    [[unroll]] for (uint i = 0; i < 16u; ++i) values[i] = float_scratch[lane + 16u * i];
    sixteen_sums[lane] = halved_sum(values);
  }
  barrier();
  [[unroll]] for (uint i = 0; i < 16u; ++i) values[i] = sixteen_sums[i];
  return halved_sum(values);
}
#else
float workgroup_sum(float value) {
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
#endif

// NaN is no maximum.
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
