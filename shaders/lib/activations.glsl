// The activation that OP chooses. Needs math.glsl and the constants OP_*.
float activate(float v) {
  switch (OP) {
    case OP_SILU: return silu(v);
    case OP_GELU: return gelu(v);
    case OP_GELU_TANH: return gelu_tanh(v);
    case OP_RELU: return clamp_low(v, 0.0);
    case OP_SIGMOID: return sigmoid(v);
  }
  return v;
}
