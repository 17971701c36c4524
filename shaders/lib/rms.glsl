// The factor of an RMS norm, the same in every kernel that has one. Needs reduce.glsl. Call in uniform flow.

// No fused multiply-add, which one shader might have and another not.
float add_square(float sum, float value) {
  precise float square = value * value;
  precise float result = sum + square;
  return result;
}

// 1 / sqrt(mean + eps), from every lane's sum of squares of its elements.
float inverse_rms(float squares, uint length, float eps_value) {
  return first_lane_value(1.0 / sqrt(first_lane_sum(squares) / float(length) + eps_value));
}
