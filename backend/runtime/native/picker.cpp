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
    return dtype == fb::DType::none ? "none" : std::string(name_of(dtype)) + ":" + name_of(storage);
  }
};

Bound of_variant(const Variant& variant, size_t slot) {
  return {variant.dtypes[slot], variant.storages[slot]};
}

std::vector<Bound> bound_tensors(const Program& program, const Call& call) {
  std::vector<Bound> result;
  for (int32_t tensor : call.tensors) {
    const Tensor* bound = tensor < 0 ? nullptr : &program.tensors[static_cast<size_t>(tensor)];
    result.push_back(bound == nullptr ? Bound() : Bound{bound->dtype, bound->storage});
  }
  return result;
}

void add_unique(const std::string& text, std::vector<std::string>* list) {
  if (std::find(list->begin(), list->end(), text) == list->end()) list->push_back(text);
}

std::string join(const std::vector<std::string>& list) {
  std::string result;
  for (const std::string& text : list) result += (result.empty() ? "" : ", ") + text;
  return result;
}

template <typename Visit>
void for_each_variant(const Kernel& kernel, Visit visit) {
  for (const Algorithm& algorithm : kernel.algorithms) {
    for (const Variant& variant : algorithm.variants) visit(algorithm, variant);
  }
}

// "slot zp: dtype u8; offered i8, i32": a dtype no variant has, then a storage no variant has with that
// dtype, then what is offered beside the other slots as they are bound.
Status no_variant(const Kernel& kernel, const std::vector<Bound>& bound) {
  for (size_t slot = 0; slot < kernel.slots.size(); ++slot) {
    std::vector<std::string> dtypes;
    std::vector<std::string> storages;
    for_each_variant(kernel, [&](const Algorithm&, const Variant& variant) {
      Bound offer = of_variant(variant, slot);
      add_unique(name_of(offer.dtype), &dtypes);
      if (offer.dtype == bound[slot].dtype) add_unique(name_of(offer.storage), &storages);
    });
    const char* name = kernel.slots[slot].name.c_str();
    if (storages.empty()) {
      return fail(Code::kIncompatible, "slot %s: dtype %s; offered %s", name, name_of(bound[slot].dtype),
                  join(dtypes).c_str());
    }
    if (std::find(storages.begin(), storages.end(), name_of(bound[slot].storage)) == storages.end()) {
      return fail(Code::kIncompatible, "slot %s: dtype %s in storage %s; offered %s", name,
                  name_of(bound[slot].dtype), name_of(bound[slot].storage), join(storages).c_str());
    }
  }
  size_t best_matches = 0;
  std::string nearest = "none";
  for (size_t slot = 0; slot < kernel.slots.size(); ++slot) {
    std::vector<std::string> offers;
    for_each_variant(kernel, [&](const Algorithm& algorithm, const Variant& variant) {
      size_t matches = 0;
      for (size_t i = 0; i < bound.size(); ++i) matches += of_variant(variant, i) == bound[i];
      bool others = matches + (of_variant(variant, slot) == bound[slot] ? 0 : 1) == bound.size();
      if (others) add_unique(of_variant(variant, slot).text(), &offers);
      if (matches > best_matches) nearest = variant_key(kernel, algorithm, variant);
      best_matches = std::max(best_matches, matches);
    });
    if (!offers.empty()) {
      return fail(Code::kIncompatible, "slot %s: %s; offered beside the other slots as bound: %s",
                  kernel.slots[slot].name.c_str(), bound[slot].text().c_str(), join(offers).c_str());
    }
  }
  std::string found;
  for (size_t slot = 0; slot < bound.size(); ++slot) {
    found += (slot == 0 ? "" : ",") + kernel.slots[slot].name + "=" + bound[slot].text();
  }
  return fail(Code::kIncompatible, "no variant for [%s]; nearest %s", found.c_str(), nearest.c_str());
}

// Why the device cannot run the variant; empty when it can.
std::string blocked_by(const Algorithm& algorithm, const Variant& variant, const Context& context) {
  for (uint32_t capability : variant.capabilities) {
    bool always = false;
    Fact fact{};
    if (!fact_of_capability(capability, &always, &fact))
      return format("needs SPIR-V capability %u", capability);
    if (!always && context.facts()[fact] == 0) {
      return format("needs %s", kFactNames[static_cast<size_t>(fact)]);
    }
  }
  const Limits& limits = context.info().limits;
  uint64_t invocations = 1;
  for (size_t i = 0; i < 3; ++i) {
    if (algorithm.local_size[i] > limits.workgroup_size[i]) {
      return format("workgroup of %u; the device has at most %u", algorithm.local_size[i],
                    limits.workgroup_size[i]);
    }
    invocations *= algorithm.local_size[i];
  }
  auto most = static_cast<uint64_t>(context.facts()[Fact::max_workgroup_invocations]);
  if (invocations > most) {
    return format("%llu invocations; the device has at most %llu",
                  static_cast<unsigned long long>(invocations), static_cast<unsigned long long>(most));
  }
  if (variant.shared_bytes > context.facts()[Fact::shared_memory_bytes]) {
    return format("%u bytes of shared memory; the device has %lld", variant.shared_bytes,
                  static_cast<long long>(context.facts()[Fact::shared_memory_bytes]));
  }
  if (variant.push_bytes > limits.push_bytes) {
    return format("%u push bytes; the device has %u", variant.push_bytes, limits.push_bytes);
  }
  size_t images = 0;
  for (const fb::Binding& binding : variant.bindings) {
    images += variant.storages[binding.slot()] == fb::Storage::image;
  }
  size_t buffers = variant.bindings.size() - images;
  if (buffers > limits.stage_buffers || images > limits.stage_images) {
    return format("binds %zu buffers and %zu images; the device binds %u and %u", buffers, images,
                  limits.stage_buffers, limits.stage_images);
  }
  return "";
}

// One expression of a call, with its name in the error. The value must fit 32 bits, signed.
Status int32_value(const Expr& expr, const ExprInputs& inputs, const char* kind, const std::string& name,
                   int32_t* value) {
  int64_t wide = 0;
  const char* reason = evaluate(expr, inputs, &wide);
  if (reason == nullptr && (wide < INT32_MIN || wide > INT32_MAX)) reason = "does not fit 32 bits";
  *value = static_cast<int32_t>(wide);
  if (reason == nullptr) return Status();
  return fail(Code::kInvalidProgram, "%s %s = %s: %s", kind, name.c_str(), expr.text.c_str(), reason);
}

// Fills the grid. *fits is false when the device cannot dispatch it.
Status fill_grid(const Algorithm& algorithm, const ExprInputs& inputs, const Context& context, Pick* pick,
                 bool* fits) {
  static constexpr Fact kMost[] = {Fact::max_workgroup_count_x, Fact::max_workgroup_count_y,
                                   Fact::max_workgroup_count_z};
  static const std::string kAxes[] = {"x", "y", "z"};
  *fits = true;
  for (size_t i = 0; i < 3; ++i) {
    int32_t value = 0;
    ZP_TRY(int32_value(algorithm.grid[i], inputs, "grid", kAxes[i], &value));
    if (value < 0) {
      return fail(Code::kInvalidProgram, "grid %s = %s: %d; need at least 0", kAxes[i].c_str(),
                  algorithm.grid[i].text.c_str(), value);
    }
    *fits = *fits && value <= context.facts()[kMost[i]];
    pick->grid[i] = static_cast<uint32_t>(value);
  }
  return Status();
}

Status fill_constants(const Call& call, const Algorithm& algorithm, const ExprInputs& inputs, Pick* pick) {
  pick->specs.clear();
  for (const Spec& spec : algorithm.specs) {
    int32_t value = 0;
    ZP_TRY(int32_value(spec.value, inputs, "specialization constant", spec.name, &value));
    pick->specs.push_back(value);
  }
  for (const Push& push : algorithm.push) {
    int32_t value = 0;
    if (push.is_integer) ZP_TRY(int32_value(push.value, inputs, "push constant", push.name, &value));
    if (!push.is_integer) std::memcpy(&value, &call.real_attrs[push.attr], sizeof(value));
    std::memcpy(pick->push + push.offset, &value, sizeof(value));
  }
  return Status();
}

}  // namespace

Status find_candidates(const Program& program, const Call& call, const Context& context,
                       std::vector<Candidate>* candidates) {
  std::vector<Bound> bound = bound_tensors(program, call);
  std::vector<std::string> blocks;
  for_each_variant(*call.kernel, [&](const Algorithm& algorithm, const Variant& variant) {
    for (size_t slot = 0; slot < bound.size(); ++slot) {
      if (!(of_variant(variant, slot) == bound[slot])) return;
    }
    std::string block = blocked_by(algorithm, variant, context);
    if (block.empty()) candidates->push_back({&algorithm, &variant});
    if (!block.empty()) add_unique(algorithm.name + " " + block, &blocks);
  });
  if (!candidates->empty()) return Status();
  if (blocks.empty()) return no_variant(*call.kernel, bound);
  return fail(Code::kIncompatible, "%s cannot run it: %s", context.info().name.c_str(), join(blocks).c_str());
}

Status pick(const Call& call, const std::vector<Candidate>& candidates, const std::vector<SlotShape>& shapes,
            const Context& context, Pick* result) {
  ExprInputs inputs{shapes.data(), call.integer_attrs.data(), context.facts().values.data()};
  std::string reasons;
  for (const Candidate& candidate : candidates) {
    const Algorithm& algorithm = *candidate.algorithm;
    int64_t holds = 1;
    if (!algorithm.when.ops.empty()) {
      const char* reason = evaluate(algorithm.when, inputs, &holds);
      if (reason != nullptr) {
        return fail(Code::kInvalidProgram, "%s: when %s: %s", algorithm.name.c_str(),
                    algorithm.when.text.c_str(), reason);
      }
    }
    bool fits = true;
    if (holds != 0) {
      ZP_TRY(fill_grid(algorithm, inputs, context, result, &fits).in(algorithm.name));
      if (fits) {
        result->candidate = candidate;
        return fill_constants(call, algorithm, inputs, result).in(algorithm.name);
      }
    }
    reasons += (reasons.empty() ? "" : "; ") + algorithm.name + ": " +
               (holds == 0 ? "needs " + algorithm.when.text
                           : format("grid %u x %u x %u is too large for the device", result->grid[0],
                                    result->grid[1], result->grid[2]));
  }
  return fail(Code::kIncompatible, "no algorithm for this shape on this device: %s", reasons.c_str());
}

}  // namespace zeropoint
