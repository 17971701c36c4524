#version 450
// y = rotary embedding of every head of x (lib/rotary.glsl gives the equation), in f32.
// A workgroup owns one head of one token: grid (heads, tokens, batch). Sources: Su et al. 2021; the two pairings are
// those of Llama's and of Hugging Face's code.
#extension GL_GOOGLE_include_directive : require

layout(local_size_x = LANES) in;

layout(constant_id = 0) const uint HEAD_DIM = 64;

layout(push_constant) uniform Push {
  uint x_first;
  uint x_row;
  uint x_head;
  uint x_batch;
  uint y_row;
  uint y_head;
  uint y_batch;
  uint rotary_dim;
  int interleaved;
  uint table_rows;
  uint table_width;
  int table_by_position;
  uint table_batch;
  uint position_batch;
  uint position_row;
  uint position_step;
};

layout(std430, binding = X_BINDING) readonly buffer X { X_TYPE x[]; };
layout(std430, binding = COS_TABLE_BINDING) readonly buffer Cos { COS_TABLE_TYPE cos_table[]; };
layout(std430, binding = SIN_TABLE_BINDING) readonly buffer Sin { SIN_TABLE_TYPE sin_table[]; };
layout(std430, binding = POSITION_BINDING) readonly buffer Position { POSITION_TYPE position[]; };
layout(std430, binding = Y_BINDING) writeonly buffer Y { Y_TYPE y[]; };

#include "positions.glsl"
#include "rotary.glsl"

void main() {
  uint head = gl_WorkGroupID.x;
  uint s = gl_WorkGroupID.y;
  uint b = gl_WorkGroupID.z;
  uint from = x_first + b * x_batch + s * x_row + head * x_head;
  uint to = b * y_batch + s * y_row + head * y_head;
  uint row = table_row(b, s);
  for (uint pair = gl_LocalInvocationIndex; pair < HEAD_DIM / 2u; pair += LANES) {
    uvec2 elements = pair_elements(pair);
    vec2 turned = rotate(row, pair, vec2(float(x[from + elements.x]), float(x[from + elements.y])));
    y[to + elements.x] = Y_TYPE(turned.x);
    y[to + elements.y] = Y_TYPE(turned.y);
  }
}
