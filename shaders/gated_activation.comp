#version 450
// y = f(gate) * up with f chosen by OP: silu (SwiGLU), gelu (GeGLU), gelu_tanh, relu, sigmoid. y is dense in rows of
// row_length; gate and up may be columns of one wider tensor. f32 arithmetic.
#extension GL_GOOGLE_include_directive : require
#include "exact.glsl"
#include "double_float.glsl"
#include "math.glsl"

layout(local_size_x = LANES) in;
#include "grid.glsl"

layout(constant_id = 0) const uint OP = 0;

layout(push_constant) uniform Push {
  uint n_elements;
  uint row_length;
  uint gate_offset;
  uint gate_row_stride;
  uint up_offset;
  uint up_row_stride;
};

layout(std430, binding = GATE_BINDING) readonly buffer Gate { GATE_TYPE gate[]; };
layout(std430, binding = UP_BINDING) readonly buffer Up { UP_TYPE up[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "activations.glsl"

void main() {
  uint i = element_index();
  if (i >= n_elements) return;
  uint row = i / row_length;
  uint k = i % row_length;
  float g = float(gate[gate_offset + row * gate_row_stride + k]);
  y[i] = Y_TYPE(activate(g) * float(up[up_offset + row * up_row_stride + k]));
}
