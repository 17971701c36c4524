// lib/coopmat.glsl without cooperative matrices, for devices that have none: every 32 invocations hold a matrix of sums,
// eight elements each; of a left operand each holds a row, and a right one is a place in `tile`.

struct Row {
  float values[16];
};

struct Operand {
  uint first;
  uint stride;
  bool by_rows;  // the reduction goes from row to row
  uint nibble;   // the bit in the half 1024 + low + 16 * high where a nibble lies, plus 8; 16: the half itself
};

struct Sum {
  float values[8];
};

#define LEFT_MATRIX Row
#define RIGHT_MATRIX Operand
#define SUM_MATRIX Sum
#define ZERO_SUM Sum(float[8](0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
#define EACH_MATRIX  // a software device takes long to compile what is unrolled
#define MATRIX_SUBGROUP (gl_LocalInvocationIndex / 32u)
#define MATRIX_LANE (gl_LocalInvocationIndex % 32u)
#define SUBGROUP_BARRIER barrier()
#define CLUSTER_MAX(value, n) cluster_max(value, n)

shared uint neighbours[LANES];

uint cluster_max(uint value, uint n) {
  neighbours[gl_LocalInvocationIndex] = value;
  barrier();
  uint most = value;
  for (uint i = 0; i < n; ++i) most = max(most, neighbours[gl_LocalInvocationIndex / n * n + i]);
  barrier();
  return most;
}

float cluster_max(float value, uint n) {
  neighbours[gl_LocalInvocationIndex] = floatBitsToUint(value);
  barrier();
  float most = value;
  for (uint i = 0; i < n; ++i) most = max(most, uintBitsToFloat(neighbours[gl_LocalInvocationIndex / n * n + i]));
  barrier();
  return most;
}

uint matrix_row() {
  return gl_LocalInvocationIndex % 32u / 2u;
}

uint matrix_column(uint i) {
  return gl_LocalInvocationIndex % 2u * 8u + i;
}

float operand(Operand matrix, uint index, uint k) {
  uint row = matrix.by_rows ? k : index;
  uint column = matrix.by_rows ? index : k;
  uint two = tile[matrix.first + row * matrix.stride + column / 8u][column % 8u / 2u];
  if (matrix.nibble < 16u) return float(two >> (column % 2u * 16u + matrix.nibble) & 15u) - 8.0;
  return unpackHalf2x16(two)[column % 2u];
}

Sum multiply_add(Row left, Operand right, Sum sum) {
  for (uint i = 0; i < 8u; ++i) {
    for (uint k = 0; k < 16u; ++k) sum.values[i] += left.values[k] * operand(right, matrix_column(i), k);
  }
  return sum;
}

#define LOAD_LEFT(matrix, place, stride) \
  for (uint e = 0; e < 16u; ++e) matrix.values[e] = operand(Operand(place, stride, false, 16u), matrix_row(), e)
#define LOAD_RIGHT(matrix, place, stride) matrix = Operand(place, stride, false, 16u)
#define LOAD_RIGHT_NIBBLES(low, high, place, stride)                                                          \
  low = Operand(place, stride, false, 0u);                                                                    \
  high = Operand(place, stride, false, 4u)
#define LOAD_RIGHT_ROWS(matrix, place, stride) matrix = Operand(place, stride, true, 16u)
#define LOAD_SUM(matrix, place, stride)                                                                       \
  for (uint e = 0; e < 8u; ++e) {                                                                             \
    uint c = matrix_column(e);                                                                                \
    matrix.values[e] = uintBitsToFloat(tile[(place) + matrix_row() * (stride) + c / 4u][c % 4u]);             \
  }
#define STORE_SUM(matrix, place, stride)                                                                      \
  for (uint e = 0; e < 8u; ++e) {                                                                             \
    uint c = matrix_column(e);                                                                                \
    tile[(place) + matrix_row() * (stride) + c / 4u][c % 4u] = floatBitsToUint(matrix.values[e]);             \
  }
#define LOAD_ROWS(matrix, array, place) \
  for (uint e = 0; e < 8u; ++e) matrix.values[e] = array[(place) + matrix_column(e) / 4u][matrix_column(e) % 4u]
#define LOAD_COLUMNS(matrix, array, place) \
  for (uint e = 0; e < 8u; ++e) matrix.values[e] = array[(place) + matrix_row() / 4u][matrix_row() % 4u]
#define MULTIPLY_ADD(left, right, sum) multiply_add(left, right, sum)
#define ADD(sum, other) \
  for (uint e = 0; e < 8u; ++e) sum.values[e] += other.values[e]
#define ADD_PRODUCT(sum, a, b) \
  for (uint e = 0; e < 8u; ++e) sum.values[e] += a.values[e] * b.values[e]
#define MULTIPLY(sum, other) \
  for (uint e = 0; e < 8u; ++e) sum.values[e] *= other.values[e]
#define ADD_SCALED(sum, other, factor) \
  for (uint e = 0; e < 8u; ++e) sum.values[e] += other.values[e] * (factor)
