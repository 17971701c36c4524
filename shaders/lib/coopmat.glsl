// Products of 16 x 16 tiles by a whole subgroup, f16 * f16 added up in f32 (GL_KHR_cooperative_matrix). Operands lie in the
// shared array `tile` of uvec4, eight halves each, rows `stride` uvec4 apart, and are read when they are loaded. Arrays have
// elements of 16 bytes: drivers load from multiples of that alone. Call in uniform flow. Macros, as matrices are no
// parameters; nothing else depends on how a subgroup holds a matrix.
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_clustered : require

#define LEFT_MATRIX coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define RIGHT_MATRIX coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>
#define SUM_MATRIX coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define ZERO_SUM SUM_MATRIX(0.0)
#define EACH_MATRIX [[unroll]]  // before a loop over an array of matrices: at run time drivers index them slowly
#define MATRIX_SUBGROUP gl_SubgroupID
#define MATRIX_LANE gl_SubgroupInvocationID
// What the subgroup has read of shared memory may be written by any of it after this, and what it has written be read.
#define SUBGROUP_BARRIER \
  controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared, gl_SemanticsAcquireRelease)
#define CLUSTER_MAX(value, n) subgroupClusteredMax(value, n)  // over n neighbours of a subgroup

// 16 rows of the left operand, or columns of the right one, from uvec4 `first` on: the reduction goes along a row.
#define LOAD_LEFT(matrix, first, stride) coopMatLoad(matrix, tile, first, stride, gl_CooperativeMatrixLayoutRowMajor)
#define LOAD_RIGHT(matrix, first, stride) coopMatLoad(matrix, tile, first, stride, gl_CooperativeMatrixLayoutColumnMajor)
// The right operand the other way around: the reduction goes from row to row.
#define LOAD_RIGHT_ROWS(matrix, first, stride) coopMatLoad(matrix, tile, first, stride, gl_CooperativeMatrixLayoutRowMajor)
// Two right operands out of one of halves 1024 + low + 16 * high: nibbles with 8 added, low ones in the first, high ones in
// the second. By elements, wherever they lie.
#define LOAD_RIGHT_NIBBLES(low, high, first, stride)                                                           \
  LOAD_RIGHT(low, first, stride);                                                                              \
  [[unroll]] for (uint e = 0; e < low.length(); e += 2) {                                                      \
    uint two = packFloat2x16(f16vec2(low[e], low[e + 1]));                                                     \
    f16vec2 lower = unpackFloat2x16(two & 0x640f640fu) - f16vec2(1032.0);                                      \
    f16vec2 upper = unpackFloat2x16(two & 0x64f064f0u) * f16vec2(0.0625) - f16vec2(72.0);                      \
    low[e] = lower.x;                                                                                          \
    low[e + 1] = lower.y;                                                                                      \
    high[e] = upper.x;                                                                                         \
    high[e + 1] = upper.y;                                                                                     \
  }
// Rows of sums in `tile`, `stride` uvec4 apart.
#define LOAD_SUM(matrix, first, stride) coopMatLoad(matrix, tile, first, stride, gl_CooperativeMatrixLayoutRowMajor)
#define STORE_SUM(matrix, first, stride) coopMatStore(matrix, tile, first, stride, gl_CooperativeMatrixLayoutRowMajor)
// Every row is the 16 values of a shared array of vec4 from `first` on.
#define LOAD_ROWS(matrix, array, first) coopMatLoad(matrix, array, first, 0, gl_CooperativeMatrixLayoutRowMajor)
// Every column is the 16 values of a shared array of vec4 from `first` on.
#define LOAD_COLUMNS(matrix, array, first) coopMatLoad(matrix, array, first, 0, gl_CooperativeMatrixLayoutColumnMajor)
#define MULTIPLY_ADD(left, right, sum) coopMatMulAdd(left, right, sum)
#define ADD(sum, other) sum += other
#define ADD_PRODUCT(sum, a, b) sum += (a) * (b)  // element by element
#define MULTIPLY(sum, other) sum = sum * (other)
#define ADD_SCALED(sum, other, factor) sum += (other) * (factor)  // a float for all elements
