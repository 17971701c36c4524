// Expressions of a kernel library: guards, grids, specialization and push constants.
#pragma once

#include "library_generated.h"
#include "status.h"

namespace zeropoint {

using Ops = flatbuffers::Vector<const fb::Op*>;

inline constexpr int kMaxExprStack = 32;

// The actual dimensions of the tensor in a slot. Unbound: dim, rows and numel are 0.
struct SlotShape {
  const int64_t* dims = nullptr;
  int rank = 0;
  bool bound = false;
};

struct ExprInputs {
  const SlotShape* slots = nullptr;
  const int64_t* attrs = nullptr;  // 0 where the attribute is real
  const int64_t* facts = nullptr;  // in the library's order
};

// Whether structs of a vector lie where they may be read: flatbuffers' verifier does not look.
template <typename T> bool aligned(const T* v) { return !v || reinterpret_cast<uintptr_t>(v->Data()) % 8 == 0; }

// Checks operands and stack depth once, so that evaluate() may trust them. Safe on untrusted operations.
Status check_expr(const Ops* ops, size_t n_slots, const std::vector<bool>& attr_is_integer, size_t n_facts);

// Evaluates a checked expression. nullptr, or the reason: overflow, division by zero, or a dimension that the tensor
// does not have. Does not allocate.
const char* evaluate(const Ops& ops, const ExprInputs& inputs, int64_t* value);

}  // namespace zeropoint
