#include "expr.h"

namespace zeropoint {
namespace {

using fb::OpCode;

// Operands that an opcode takes from the stack; it leaves one value.
int arity(OpCode code) {
  if (code <= OpCode::fact) return 0;
  if (code == OpCode::logical_not) return 1;
  return code == OpCode::select ? 3 : 2;
}

const char* divide(OpCode code, int64_t a, int64_t b, int64_t* value) {
  if (b == 0) return "division by zero";
  if (a == INT64_MIN && b == -1) return "64-bit overflow";
  int64_t remainder = a % b;
  bool same_sign = (remainder < 0) == (b < 0);
  *value = a / b;
  if (code == OpCode::mod) *value = remainder == 0 || same_sign ? remainder : remainder + b;
  if (code == OpCode::div && remainder != 0 && !same_sign) --*value;
  if (code == OpCode::ceil_div && remainder != 0 && same_sign) ++*value;
  return nullptr;
}

const char* binary(OpCode code, int64_t a, int64_t b, int64_t* value) {
  bool overflow = false;
  switch (code) {
    case OpCode::add: overflow = __builtin_add_overflow(a, b, value); break;
    case OpCode::sub: overflow = __builtin_sub_overflow(a, b, value); break;
    case OpCode::mul: overflow = __builtin_mul_overflow(a, b, value); break;
    case OpCode::minimum: *value = std::min(a, b); break;
    case OpCode::maximum: *value = std::max(a, b); break;
    case OpCode::eq: *value = a == b; break;
    case OpCode::ne: *value = a != b; break;
    case OpCode::lt: *value = a < b; break;
    case OpCode::le: *value = a <= b; break;
    case OpCode::gt: *value = a > b; break;
    case OpCode::ge: *value = a >= b; break;
    case OpCode::logical_and: *value = a != 0 && b != 0; break;
    case OpCode::logical_or: *value = a != 0 || b != 0; break;
    default: return divide(code, a, b, value);
  }
  return overflow ? "64-bit overflow" : nullptr;
}

const char* leaf(const fb::Op& op, const ExprInputs& inputs, int64_t* value) {
  switch (op.code()) {
    case OpCode::push: *value = op.value(); return nullptr;
    case OpCode::attr: *value = inputs.attrs[op.arg()]; return nullptr;
    case OpCode::fact: *value = inputs.facts[op.arg()]; return nullptr;
    default: break;
  }
  const SlotShape& slot = inputs.slots[op.arg()];
  *value = slot.bound;
  if (op.code() == OpCode::present || !slot.bound) return nullptr;
  if (op.code() == OpCode::dim) {
    int64_t axis = op.value() < 0 ? op.value() + slot.rank : op.value();
    if (axis < 0 || axis >= slot.rank) return "a dimension that the tensor does not have";
    *value = slot.dims[axis];
    return nullptr;
  }
  for (int i = 0; i < slot.rank - (op.code() == OpCode::rows ? 1 : 0); ++i)
    if (__builtin_mul_overflow(*value, slot.dims[i], value)) return "64-bit overflow";
  return nullptr;
}

}  // namespace

Status check_expr(const Ops* ops, size_t n_slots, const std::vector<bool>& attr_is_integer, size_t n_facts) {
  if (ops == nullptr || ops->size() == 0) return fail(Code::kInvalidProgram, "no operations");
  if (!aligned(ops)) return fail(Code::kInvalidProgram, "operations at an address that is no multiple of 8");
  int depth = 0;
  for (uint32_t i = 0; i < ops->size(); ++i) {
    const fb::Op& op = *ops->Get(i);
    OpCode code = op.code();
    auto wrong = [&](auto... parts) { return fail(Code::kInvalidProgram, "op[", i, "]: ", parts...); };
    if (code > OpCode::MAX) return wrong("opcode ", code, "; at most ", OpCode::MAX);
    size_t limit = code == OpCode::attr ? attr_is_integer.size() : code == OpCode::fact ? n_facts : n_slots;
    if (code != OpCode::push && code <= OpCode::fact && op.arg() >= limit)
      return wrong("operand ", op.arg(), "; below ", limit);
    if (code == OpCode::attr && !attr_is_integer[op.arg()])
      return wrong("attribute ", op.arg(), " is real; integers only");
    depth -= arity(code);
    if (depth < 0) return wrong("takes from an empty stack");
    if (++depth > kMaxExprStack) return wrong("stack above ", kMaxExprStack);
  }
  return depth == 1 ? Status() : fail(Code::kInvalidProgram, "leaves ", depth, " values; need 1");
}

const char* evaluate(const Ops& ops, const ExprInputs& inputs, int64_t* value) {
  int64_t stack[kMaxExprStack + 1];
  int depth = 0;
  for (const fb::Op* op : ops) {
    int taken = arity(op->code());
    int64_t* top = stack + depth - taken;
    const char* reason = nullptr;
    if (taken == 0) reason = leaf(*op, inputs, top);
    if (taken == 1) *top = *top == 0;
    if (taken == 2) reason = binary(op->code(), top[0], top[1], top);
    if (taken == 3) *top = top[0] != 0 ? top[1] : top[2];
    if (reason != nullptr) return reason;
    depth += 1 - taken;
  }
  *value = stack[0];
  return nullptr;
}

}  // namespace zeropoint
