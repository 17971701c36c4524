// Sums and maxima over a workgroup of LANES invocations, in one order on every device. Call in uniform flow.

shared float float_scratch[LANES];

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
