#include "picker.h"

#include <algorithm>
#include <cstring>

namespace zeropoint {
namespace {

struct Bound {
  fb::DType dtype = fb::DType::none;
  fb::Storage storage = fb::Storage::none;

  bool operator==(const Bound& other) const { return dtype == other.dtype && storage == other.storage; }
  std::string text() const {
    return dtype == fb::DType::none ? "none" : cat(fb::EnumNameDType(dtype), ":", fb::EnumNameStorage(storage));
  }
};

Bound of_variant(const fb::Variant& variant, size_t slot) {
  auto index = static_cast<uint32_t>(slot);
  return {variant.dtypes()->Get(index), variant.storages()->Get(index)};
}

std::vector<Bound> bound_tensors(const Program& program, const Call& call) {
  std::vector<Bound> result;
  for (int32_t tensor : call.tensors) {
    const Tensor* bound = tensor < 0 ? nullptr : &program.tensors[static_cast<size_t>(tensor)];
    result.push_back(bound == nullptr ? Bound() : Bound{bound->dtype, bound->storage});
  }
  return result;
}

// Distinct texts, comma-separated.
class List {
 public:
  void add(const std::string& text) {
    if (std::find(items_.begin(), items_.end(), text) == items_.end()) items_.push_back(text);
  }
  bool empty() const { return items_.empty(); }
  std::string text() const {
    std::string result;
    for (const std::string& item : items_) result += cat(result.empty() ? "" : ", ", item);
    return result;
  }

 private:
  std::vector<std::string> items_;
};

template <typename Visit>
void for_each_variant(const fb::Kernel& kernel, Visit visit) {
  for (const fb::Algorithm* algorithm : *kernel.algorithms())
    for (const fb::Variant* variant : *algorithm->variants()) visit(*algorithm, *variant);
}

// "slot zp: dtype u8; offered i8, i32": a dtype that no variant has, then a storage that no variant has with that
// dtype, then what is offered beside the other slots as they are bound.
Status no_variant(const fb::Kernel& kernel, const std::vector<Bound>& bound) {
  auto name = [&](size_t slot) { return cat("slot ", view(kernel.slots()->Get(static_cast<uint32_t>(slot))->name())); };
  std::string found;
  for (size_t slot = 0; slot < bound.size(); ++slot) {
    List dtypes;
    List storages;
    for_each_variant(kernel, [&](const fb::Algorithm&, const fb::Variant& variant) {
      Bound offer = of_variant(variant, slot);
      dtypes.add(fb::EnumNameDType(offer.dtype));
      if (offer.dtype == bound[slot].dtype) storages.add(fb::EnumNameStorage(offer.storage));
    });
    std::string dtype = fb::EnumNameDType(bound[slot].dtype);
    std::string storage = fb::EnumNameStorage(bound[slot].storage);
    if (storages.empty()) return fail(Code::kIncompatible, name(slot), ": dtype ", dtype, "; offered ", dtypes.text());
    if (storages.text().find(storage) == std::string::npos) {
      return fail(Code::kIncompatible, name(slot), ": dtype ", dtype, " in storage ", storage, "; offered ",
                  storages.text());
    }
    found += cat(slot == 0 ? "" : ", ", name(slot), " ", bound[slot].text());
  }
  size_t best_matches = 0;
  std::string nearest = "none";
  for (size_t slot = 0; slot < bound.size(); ++slot) {
    List offers;
    for_each_variant(kernel, [&](const fb::Algorithm& algorithm, const fb::Variant& variant) {
      size_t matches = 0;
      for (size_t i = 0; i < bound.size(); ++i) matches += of_variant(variant, i) == bound[i];
      bool differs = !(of_variant(variant, slot) == bound[slot]);
      if (differs && matches + 1 == bound.size()) offers.add(of_variant(variant, slot).text());
      if (matches > best_matches) nearest = variant_key(kernel, algorithm, variant);
      best_matches = std::max(best_matches, matches);
    });
    if (offers.empty()) continue;
    return fail(Code::kIncompatible, name(slot), ": ", bound[slot].text(),
                "; offered beside the other slots as bound: ", offers.text());
  }
  return fail(Code::kIncompatible, "no variant for ", found, "; nearest ", nearest);
}

// Why the device cannot run the variant; empty when it can.
std::string blocked_by(const fb::Algorithm& algorithm, const fb::Variant& variant, const Context& context) {
  for (uint32_t capability : *variant.capabilities()) {
    bool always = false;
    Fact fact{};
    if (!fact_of_capability(capability, &always, &fact)) return cat("needs SPIR-V capability ", capability);
    if (!always && context.facts()[fact] == 0) return cat("needs ", kFactNames[static_cast<size_t>(fact)]);
  }
  const Limits& limits = context.info().limits;
  auto above = [](const char* what, int64_t found, int64_t most) {
    return found <= most ? std::string() : cat("needs ", found, " ", what, " (the device has ", most, ")");
  };
  int64_t images = 0;
  for (const fb::Binding* binding : *variant.bindings())
    images += of_variant(variant, binding->slot()).storage == fb::Storage::image;
  const auto& local = *algorithm.local_size();
  int64_t invocations = int64_t{local.Get(0)} * local.Get(1) * local.Get(2);
  for (const std::string& reason :
       {above("invocations in x", local.Get(0), limits.workgroup_size[0]),
        above("invocations in y", local.Get(1), limits.workgroup_size[1]),
        above("invocations in z", local.Get(2), limits.workgroup_size[2]),
        above("invocations", invocations, context.facts()[Fact::max_workgroup_invocations]),
        above("shared bytes", variant.shared_bytes(), context.facts()[Fact::shared_memory_bytes]),
        above("push bytes", variant.push_bytes(), limits.push_bytes), above("images", images, limits.stage_images),
        above("buffers", variant.bindings()->size() - images, limits.stage_buffers)}) {
    if (!reason.empty()) return reason;
  }
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

// Fills the grid. *fits is false when the device cannot dispatch it.
Status fill_grid(const fb::Algorithm& algorithm, const ExprInputs& inputs, const Context& context, Pick* pick,
                 bool* fits) {
  static constexpr Fact kMost[] = {Fact::max_workgroup_count_x, Fact::max_workgroup_count_y,
                                   Fact::max_workgroup_count_z};
  *fits = true;
  for (uint32_t i = 0; i < 3; ++i) {
    int32_t value = 0;
    ZP_TRY(int32_value(*algorithm.grid()->Get(i), inputs, "grid", &value));
    if (value < 0) return fail(Code::kInvalidProgram, "grid = ", view(algorithm.grid()->Get(i)->text()), ": ", value);
    *fits = *fits && value <= context.facts()[kMost[i]];
    pick->grid[i] = static_cast<uint32_t>(value);
  }
  return Status();
}

Status fill_constants(const Call& call, const fb::Algorithm& algorithm, const ExprInputs& inputs, Pick* pick) {
  pick->specs.clear();
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

Status find_candidates(const Program& program, const Call& call, const Context& context,
                       std::vector<Candidate>* candidates) {
  std::vector<Bound> bound = bound_tensors(program, call);
  List blocks;
  for_each_variant(*call.kernel, [&](const fb::Algorithm& algorithm, const fb::Variant& variant) {
    for (size_t slot = 0; slot < bound.size(); ++slot)
      if (!(of_variant(variant, slot) == bound[slot])) return;
    std::string block = blocked_by(algorithm, variant, context);
    if (block.empty()) candidates->push_back({&algorithm, &variant});
    if (!block.empty()) blocks.add(cat(view(algorithm.name()), " ", block));
  });
  if (!candidates->empty()) return Status();
  if (blocks.empty()) return no_variant(*call.kernel, bound);
  return fail(Code::kIncompatible, context.info().name, " cannot run it: ", blocks.text());
}

Status pick(const Call& call, const std::vector<Candidate>& candidates, const std::vector<SlotShape>& shapes,
            const std::vector<int64_t>& facts, const Context& context, Pick* result) {
  ExprInputs inputs{shapes.data(), call.integer_attrs.data(), facts.data()};
  List reasons;
  for (const Candidate& candidate : candidates) {
    const fb::Algorithm& algorithm = *candidate.algorithm;
    std::string name(view(algorithm.name()));
    int32_t holds = 1;
    if (algorithm.when() != nullptr) ZP_TRY(int32_value(*algorithm.when(), inputs, "when", &holds).in(name));
    if (holds == 0) {
      reasons.add(cat(name, " needs ", view(algorithm.when()->text())));
      continue;
    }
    bool fits = true;
    ZP_TRY(fill_grid(algorithm, inputs, context, result, &fits).in(name));
    result->candidate = candidate;
    if (fits) return fill_constants(call, algorithm, inputs, result).in(name);
    const uint32_t* grid = result->grid;
    reasons.add(cat(name, ": grid ", grid[0], " x ", grid[1], " x ", grid[2], " is too large for the device"));
  }
  return fail(Code::kIncompatible, "no algorithm for this shape on this device: ", reasons.text());
}

}  // namespace zeropoint
