#include "picker.h"

#include <set>

namespace zeropoint {
namespace {

using Bound = std::pair<fb::DType, fb::Storage>;

std::string text_of(const Bound& bound) {
  auto [dtype, storage] = bound;
  return dtype == fb::DType::none ? "none" : cat(fb::EnumNameDType(dtype), ":", fb::EnumNameStorage(storage));
}

Bound of_variant(const fb::Variant& variant, size_t slot) {
  auto index = static_cast<uint32_t>(slot);
  return {variant.dtypes()->Get(index), variant.storages()->Get(index)};
}

using Texts = std::set<std::string>;

template <typename Visit> void for_each_variant(const fb::Kernel& kernel, Visit visit) {
  for (const fb::Algorithm* algorithm : *kernel.algorithms())
    for (const fb::Variant* variant : *algorithm->variants()) visit(*algorithm, *variant);
}

// "slot zp: dtype u8; offered i8, i32": a dtype that no variant has, or what is offered beside the other slots as they
// are bound.
Status no_variant(const fb::Kernel& kernel, const std::vector<Bound>& bound) {
  auto wrong = [&](size_t slot, const auto&... parts) {
    std::string_view name = view(kernel.slots()->Get(static_cast<uint32_t>(slot))->name());
    return fail(Code::kIncompatible, "slot ", name, ": ", parts...);
  };
  for (size_t slot = 0; slot < bound.size(); ++slot) {
    Texts dtypes;
    for_each_variant(kernel, [&](const fb::Algorithm&, const fb::Variant& variant) {
      dtypes.insert(fb::EnumNameDType(of_variant(variant, slot).first));
    });
    std::string dtype = fb::EnumNameDType(bound[slot].first);
    if (dtypes.count(dtype) == 0) return wrong(slot, "dtype ", dtype, "; offered ", join(dtypes));
  }
  std::string found;
  for (size_t slot = 0; slot < bound.size(); ++slot) {
    Texts offers;
    for_each_variant(kernel, [&](const fb::Algorithm&, const fb::Variant& variant) {
      size_t matches = 0;
      for (size_t i = 0; i < bound.size(); ++i) matches += i != slot && of_variant(variant, i) == bound[i];
      if (matches + 1 == bound.size()) offers.insert(text_of(of_variant(variant, slot)));
    });
    std::string text = text_of(bound[slot]);
    if (!offers.empty()) return wrong(slot, text, "; offered beside the other slots as bound: ", join(offers));
    found += cat(slot == 0 ? "" : ",", view(kernel.slots()->Get(static_cast<uint32_t>(slot))->name()), "=", text);
  }
  return fail(Code::kIncompatible, "no variant for [", found, "]");
}

// Why the device cannot run the variant; empty when it can.
std::string blocked_by(const fb::Algorithm& algorithm, const fb::Variant& variant, const Context& context) {
  for (uint32_t capability : *variant.capabilities()) {
    std::string reason = missing_capability(capability, context.facts);
    if (!reason.empty()) return reason;
  }
  int64_t images = std::count_if(variant.bindings()->begin(), variant.bindings()->end(),
      [&](const fb::Binding* found) { return of_variant(variant, found->slot()).second == fb::Storage::image; });
  const auto& local = *algorithm.local_size();
  const std::tuple<const char*, int64_t, Fact> needs[] = {
      {"invocations in x", local.Get(0), Fact::max_workgroup_size_x},
      {"invocations in y", local.Get(1), Fact::max_workgroup_size_y},
      {"invocations in z", local.Get(2), Fact::max_workgroup_size_z},
      {"invocations", int64_t{local.Get(0)} * local.Get(1) * local.Get(2), Fact::max_workgroup_invocations},
      {"shared bytes", variant.shared_bytes(), Fact::shared_memory_bytes},
      {"push bytes", variant.push_bytes(), Fact::max_push_bytes}, {"images", images, Fact::max_stage_images},
      {"buffers", variant.bindings()->size() - images + (algorithm.ahead() != nullptr ? 1 : 0),
          Fact::max_stage_buffers}};
  for (const auto& [what, found, limit] : needs)
    if (int64_t most = context.facts[limit]; found > most)
      return cat("needs ", found, " ", what, " (the device has ", most, ")");
  return "";
}

// The value of an expression, which must fit 32 bits, signed.
Status int32_value(const fb::Expr& expr, const ExprInputs& inputs, const std::string& what, int32_t* value) {
  int64_t wide = 0;
  const char* reason = evaluate(*expr.ops(), inputs, &wide);
  if (reason == nullptr && (wide < INT32_MIN || wide > INT32_MAX)) reason = "does not fit 32 bits";
  *value = static_cast<int32_t>(wide);
  return reason == nullptr ? Status() : fail(Code::kInvalidProgram, what, " = ", view(expr.text()), ": ", reason);
}

// *fits is false when the device cannot dispatch the grid.
Status fill(const Call& call, const ExprInputs& inputs, const Context& context, Pick* pick, bool* fits) {
  const fb::Algorithm& algorithm = *pick->candidate.algorithm;
  *fits = true;
  for (uint32_t i = 0; i < 3; ++i) {
    int32_t value = 0;
    const fb::Expr& expr = *algorithm.grid()->Get(i);
    ZP_TRY(int32_value(expr, inputs, "grid", &value));
    if (value < 0) return fail(Code::kInvalidProgram, "grid = ", view(expr.text()), ": ", value, "; need at least 0");
    *fits = *fits && value <= context.facts.values[static_cast<size_t>(Fact::max_workgroup_count_x) + i];
    pick->grid[i] = static_cast<uint32_t>(value);
  }
  for (const fb::Spec* spec : *algorithm.specs())
    ZP_TRY(int32_value(*spec->value(), inputs, cat("spec ", view(spec->name())), &pick->specs.emplace_back()));
  for (const fb::Push* push : *algorithm.push()) {
    int32_t value = 0;
    bool integer = push->kind() == fb::ValueKind::integer;
    if (integer) ZP_TRY(int32_value(*push->value(), inputs, cat("push ", view(push->name())), &value));
    if (!integer) std::memcpy(&value, &call.real_attrs[push->attr()], sizeof(value));
    std::memcpy(pick->push + push->offset(), &value, sizeof(value));
  }
  return Status();
}

}  // namespace

Status find_candidates(
    const Program& program, const Call& call, const Context& context, std::vector<Candidate>* candidates) {
  std::vector<Bound> bound(call.tensors.size());
  for (size_t slot = 0; slot < bound.size(); ++slot) {
    if (call.tensors[slot] < 0) continue;
    const Tensor& tensor = program.tensors[static_cast<size_t>(call.tensors[slot])];
    bound[slot] = {tensor.dtype, tensor.storage};
  }
  Texts blocks;
  for_each_variant(*call.kernel, [&](const fb::Algorithm& algorithm, const fb::Variant& variant) {
    for (size_t slot = 0; slot < bound.size(); ++slot)
      if (of_variant(variant, slot) != bound[slot]) return;
    std::string block = blocked_by(algorithm, variant, context);
    if (block.empty()) candidates->push_back({&algorithm, &variant});
    if (!block.empty()) blocks.insert(cat(view(algorithm.name()), " ", block));
  });
  if (candidates->empty() && blocks.empty()) return no_variant(*call.kernel, bound);
  if (call.fused || !candidates->empty()) return Status();
  return fail(Code::kIncompatible, context.info.name, " cannot run it: ", join(blocks));
}

std::string signature(const Program& program, const Call& call, const std::vector<int64_t>& symbols) {
  std::string result(view(call.kernel->name()));
  for (uint32_t i = 0; i < call.integer_attrs.size(); ++i) {
    const fb::AttrDecl& attr = *call.kernel->attrs()->Get(i);
    if (attr.kind() == fb::ValueKind::integer) result += cat(" ", view(attr.name()), "=", call.integer_attrs[i]);
  }
  for (uint32_t slot = 0; slot < call.tensors.size(); ++slot) {
    if (call.tensors[slot] < 0) continue;
    const Tensor& tensor = program.tensors[static_cast<size_t>(call.tensors[slot])];
    std::vector<int64_t> dims = values_of(tensor.dims, symbols);
    for (size_t i = 0; i < dims.size(); ++i) {
      int64_t power = 1;
      while (power < dims[i]) power *= 2;
      if (!tensor.dims[i].terms.empty() && dims[i] > 0) dims[i] = power;
    }
    std::string bound = text_of({tensor.dtype, tensor.storage});
    result += cat(" ", view(call.kernel->slots()->Get(slot)->name()), "=", bound, "[", join(dims, AsIs(), ","), "]");
  }
  return result;
}

std::vector<Candidate> find_chosen(
    std::string_view choices, const std::string& signature, const std::vector<Candidate>& candidates) {
  std::string before = cat("\n", signature, " -> ");
  size_t at = choices.find(before);
  if (at == choices.npos) return {};
  std::string_view rest = choices.substr(at + before.size());  // a line without an end is cut, and no name
  for (const Candidate& candidate : candidates)
    if (std::string name = cat(view(candidate.algorithm->name()), "\n"); rest.substr(0, name.size()) == name)
      return {candidate};
  return {};
}

Status pick(const Call& call, const std::vector<Candidate>& candidates, const std::vector<SlotShape>& shapes,
    const std::vector<int64_t>& symbols, const std::vector<int64_t>& facts, const Context& context, Pick* result) {
  std::vector<int64_t> attrs = call.integer_attrs;
  for (const auto& [index, value] : call.symbolic_attrs) attrs[index] = value.value(symbols);
  ExprInputs inputs{shapes.data(), attrs.data(), facts.data()};
  Texts reasons;
  for (const Candidate& candidate : candidates) {
    const fb::Algorithm& algorithm = *candidate.algorithm;
    std::string name(view(algorithm.name()));
    int32_t holds = 1;
    if (algorithm.when() != nullptr) ZP_TRY(int32_value(*algorithm.when(), inputs, "when", &holds).in(name));
    if (holds == 0) {
      reasons.insert(cat(name, " needs ", view(algorithm.when()->text())));
      continue;
    }
    bool fits = false;
    *result = Pick{result->call, candidate, {}, {}, {}};
    ZP_TRY(fill(call, inputs, context, result, &fits).in(name));
    if (fits) return Status();
    const uint32_t* grid = result->grid;
    reasons.insert(cat(name, ": grid ", grid[0], " x ", grid[1], " x ", grid[2], " is too large for the device"));
  }
  return fail(Code::kIncompatible, "no algorithm for this shape on this device: ", join(reasons));
}

}  // namespace zeropoint
