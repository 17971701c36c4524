// Integer expressions of the kernel library: guards, grids, specialization and push constants.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "library_generated.h"
#include "status.h"

namespace zeropoint {

inline constexpr int kMaxExprStack = 32;
inline constexpr size_t kMaxExprOps = 1024;

struct Expr {
  std::vector<fb::Op> ops;
  std::string text;
};

// The actual dimensions of the tensor in a slot. Unbound: rank 0, and dim, rows and numel are 0.
struct SlotShape {
  const int64_t* dims = nullptr;
  int rank = 0;
  bool bound = false;
};

struct ExprInputs {
  const SlotShape* slots = nullptr;
  const int64_t* attrs = nullptr;  // 0 where the attribute is real
  const int64_t* facts = nullptr;
};

// Checks operands and stack depth once, so that evaluate() may trust them. attr_is_integer has one entry per
// attribute. Safe on untrusted ops.
Status check_expr(const Expr& expr, size_t n_slots, const std::vector<bool>& attr_is_integer, size_t n_facts);

// Evaluates a checked expression. nullptr on success, otherwise the reason: overflow, division by zero, or a
// dimension the tensor does not have. Does not allocate.
const char* evaluate(const Expr& expr, const ExprInputs& inputs, int64_t* value);

}  // namespace zeropoint
