// Products of 16 x 16 tiles by a whole subgroup, f16 * f16 added up in f32 (GL_KHR_cooperative_matrix). Operands lie in the
// shared array `tile` of uvec4, eight halves each, with the reduction along a row of TILE_STRIDE uvec4. Call in uniform
// flow. Macros, as matrices are no parameters; nothing else depends on how a subgroup holds a matrix.
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require

#define LEFT_MATRIX coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define RIGHT_MATRIX coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>
#define SUM_MATRIX coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define ZERO_SUM SUM_MATRIX(0.0)
#define MATRIX_SUBGROUP gl_SubgroupID

// 16 rows of the left operand, or columns of the right one, from uvec4 `first` on.
#define LOAD_LEFT(matrix, first) coopMatLoad(matrix, tile, first, TILE_STRIDE, gl_CooperativeMatrixLayoutRowMajor)
#define LOAD_RIGHT(matrix, first) coopMatLoad(matrix, tile, first, TILE_STRIDE, gl_CooperativeMatrixLayoutColumnMajor)
// Rows of sums in `tile`, `stride` uvec4 apart.
#define LOAD_SUM(matrix, first, stride) coopMatLoad(matrix, tile, first, stride, gl_CooperativeMatrixLayoutRowMajor)
#define STORE_SUM(matrix, first, stride) coopMatStore(matrix, tile, first, stride, gl_CooperativeMatrixLayoutRowMajor)
// Every row is the 16 values of a shared array from `first` on.
#define LOAD_ROWS(matrix, array, first) coopMatLoad(matrix, array, first, 0, gl_CooperativeMatrixLayoutRowMajor)
#define MULTIPLY_ADD(left, right, sum) coopMatMulAdd(left, right, sum)
#define ADD(sum, other) sum += other
#define ADD_PRODUCT(sum, a, b) sum += (a) * (b)  // element by element
