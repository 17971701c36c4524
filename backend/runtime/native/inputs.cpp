// The first half of a run: a Delegate's inputs against what its Program says of them, and the symbols' values.

#include "delegate.h"

namespace zeropoint {
namespace {

template <typename T> int64_t read_as(const zp_tensor& input, int64_t element) {
  T result{};
  std::memcpy(&result, static_cast<const T*>(input.data) + element, sizeof(result));
  return result;
}

int64_t integer_of(const zp_tensor& input, int64_t element = 0) {
  switch (static_cast<fb::HostDType>(input.dtype)) {
    case fb::HostDType::i64: return read_as<int64_t>(input, element);
    case fb::HostDType::i32: return read_as<int32_t>(input, element);
    case fb::HostDType::i8: return read_as<int8_t>(input, element);
    default: return read_as<uint8_t>(input, element);
  }
}

}  // namespace

Status Delegate::bind_inputs(const zp_tensor* inputs, size_t n_inputs) {
  if (n_inputs != program_.inputs.size())
    return bad_argument(n_inputs, " inputs; the program has ", program_.inputs.size());
  auto wrong = [](size_t i, const auto&... parts) { return bad_argument("input[", i, "]: ", parts...); };
  for (size_t i = 0; i < n_inputs; ++i) {
    const Input& input = program_.inputs[i];
    size_t rank = input.dims.size();
    if (inputs[i].dtype != static_cast<int32_t>(input.host_dtype))
      return wrong(i, "dtype ", fb::EnumNameHostDType(static_cast<fb::HostDType>(inputs[i].dtype)), "; need ",
          fb::EnumNameHostDType(input.host_dtype));
    if (inputs[i].rank < 0 || static_cast<size_t>(inputs[i].rank) != rank)
      return wrong(i, inputs[i].rank, " dimensions; need ", rank);
    bool outside = std::any_of(inputs[i].dims, inputs[i].dims + rank, [](int64_t d) { return d < 0 || d > INT32_MAX; });
    if (outside) return wrong(i, "a dimension outside [0, 2^31)");
    if (inputs[i].data == nullptr && product(inputs[i]) != 0) return wrong(i, "no data");
  }
  ZP_TRY(bind_symbols(inputs));
  for (size_t i = 0; i < n_inputs; ++i) {
    const Input& input = program_.inputs[i];
    int64_t integer = input.symbol < 0 ? 0 : symbols_[static_cast<size_t>(input.symbol)];
    if (input.symbol >= 0 && integer_of(inputs[i]) != integer)
      return wrong(i, "value ", integer_of(inputs[i]), "; need ", integer);
    std::vector<int64_t> given(inputs[i].dims, inputs[i].dims + inputs[i].rank);
    std::vector<int64_t> needed = values_of(input.dims, symbols_);
    if (given != needed) return wrong(i, "shape ", dims_text(given), "; need ", dims_text(needed));
  }
  return check_indices(inputs);
}

// Indices among the inputs, before anything runs.
Status Delegate::check_indices(const zp_tensor* inputs) const {
  for (const Check& check : program_.checks) {
    const zp_tensor& input = inputs[check.input];
    const Input& given = program_.inputs[check.input];
    const std::string& name = given.symbol < 0 ? program_.tensors[static_cast<size_t>(given.tensor)].name
                                               : program_.symbols[static_cast<size_t>(given.symbol)].name;
    auto wrong = [&](const auto&... parts) { return bad_argument("input[", check.input, "] ", name, ": ", parts...); };
    auto n_elements = static_cast<int64_t>(product(input));
    int64_t sizes[kMaxRank], strides[kMaxRank], n = 1, offset = check.offset.value(symbols_);
    for (size_t i = 0; i < check.sizes.size(); ++i) {
      sizes[i] = check.sizes[i].value(symbols_);
      strides[i] = check.strides[i].value(symbols_);
      n = std::min<int64_t>(n * sizes[i], INT32_MAX);
    }
    if (n == 0) continue;
    int64_t first = offset, last = offset;
    bool inside = n <= n_elements;  // or a forged check could take for ever
    for (size_t i = 0; inside && i < check.sizes.size(); ++i) {
      (strides[i] < 0 ? first : last) += (sizes[i] - 1) * strides[i];
      inside = first >= 0 && last < n_elements;
    }
    if (!inside || first < 0 || last >= n_elements) return wrong("a check of elements that it does not have");
    int64_t min = check.min.value(symbols_), max = check.max.value(symbols_);
    for (int64_t i = 0; i < n; ++i) {
      int64_t element = offset, rest = i;
      for (size_t axis = check.sizes.size(); axis-- > 0; rest /= sizes[axis])
        element += rest % sizes[axis] * strides[axis];
      int64_t value = integer_of(input, element);
      if (value < min || value > max)
        return wrong("element ", element, " is ", value, "; ", check.what, " are ", min, " to ", max);
    }
  }
  return Status();
}

Status Delegate::bind_symbols(const zp_tensor* inputs) {
  symbols_.assign(program_.symbols.size(), -1);
  for (size_t i = 0; i < program_.inputs.size(); ++i) {
    const Input& input = program_.inputs[i];
    if (input.symbol >= 0)
      ZP_TRY(bind_symbol(i, "value ", integer_of(inputs[i]), 0, {1, static_cast<uint32_t>(input.symbol)}));
    for (size_t axis = 0; axis < input.dims.size(); ++axis) {
      const Dim& dim = input.dims[axis];
      if (dim.terms.size() == 1) ZP_TRY(bind_symbol(i, "dimension ", inputs[i].dims[axis], dim.base, dim.terms[0]));
    }
  }
  for (size_t i = 0; i < symbols_.size(); ++i)
    if (!program_.symbols[i].is_given()) symbols_[i] = program_.symbols[i].derived(symbols_);
  return Status();
}

// The symbol's value when base + coefficient * symbol is what is given, unless an input before this one told it.
Status Delegate::bind_symbol(size_t input, const char* what, int64_t given, int64_t base, const Term& term) {
  auto [coefficient, index] = term;
  const Symbol& symbol = program_.symbols[index];
  if (!symbol.is_given() || symbols_[index] >= 0) return Status();
  int64_t offset = 0;
  bool exact = !__builtin_sub_overflow(given, base, &offset) && offset % coefficient == 0;
  symbols_[index] = exact ? offset / coefficient : -1;
  if (symbols_[index] >= symbol.min && symbols_[index] <= symbol.max) return Status();
  return bad_argument(
      "input[", input, "]: ", what, given, " gives no ", symbol.name, " in [", symbol.min, ", ", symbol.max, "]");
}

}  // namespace zeropoint
