// What a program is and what its last run picked, as JSON.

#include "delegate.h"

namespace zeropoint {

std::string Delegate::describe() {
  std::lock_guard<std::mutex> lock(mutex_);
  auto host = [](const auto& item) { return cat("\"", fb::EnumNameHostDType(item.host_dtype), "\""); };
  auto described = [&](const Tensor& tensor) {
    std::vector<int64_t> dims(tensor.dims.size(), -1);
    if (last_ != nullptr) dims = values_of(tensor.dims, last_->symbols);
    return cat("{\"name\":", json_string(tensor.name), ",\"dtype\":\"", fb::EnumNameDType(tensor.dtype),
        "\",\"storage\":\"", fb::EnumNameStorage(tensor.storage), "\",\"memory\":\"", fb::EnumNameMemory(tensor.memory),
        "\",\"dims\":", dims_text(dims), ",\"size_bytes\":", tensor.data_bytes, "}");
  };
  return cat("{\"device\":", json_string(context_->info.name), ",\"inputs\":", json_list(program_.inputs, host),
      ",\"outputs\":", json_list(program_.outputs, host), ",\"tensors\":", json_list(program_.tensors, described),
      ",\"symbols\":", last_ == nullptr ? "null" : dims_text(last_->symbols),
      ",\"choices\":", json_string(context_->choices_path()),
      ",\"n_choices\":", choices_.empty() ? 0 : std::count(choices_.begin(), choices_.end(), '\n') - 1, "}");
}

std::string Delegate::picks() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (last_ == nullptr) return "[]";
  return json_list(last_->picks, [&](const Pick& pick) {
    auto i = static_cast<size_t>(&pick - last_->picks.data());
    const Call& call = program_.calls[pick.call];
    const fb::Algorithm& algorithm = *pick.candidate.algorithm;
    std::string specs;
    for (uint32_t s = 0; s < pick.specs.size(); ++s)
      specs += cat(s == 0 ? "" : ",", json_string(view(algorithm.specs()->Get(s)->name())), ":", pick.specs[s]);
    bool timed = last_->queries != VK_NULL_HANDLE && i < times_.size();
    std::string ns = timed ? std::to_string(std::get<2>(times_[i]) - std::get<1>(times_[i])) : "null";
    auto name = [](const Candidate& candidate) { return json_string(view(candidate.algorithm->name())); };
    return cat("{\"call\":", pick.call, ",\"name\":", json_string(call.name),
        ",\"kernel\":", json_string(view(call.kernel->name())), ",\"algorithm\":", json_string(view(algorithm.name())),
        ",\"key\":", json_string(variant_key(*call.kernel, algorithm, *pick.candidate.variant)),
        ",\"grid\":", dims_text({pick.grid, pick.grid + 3}), ",\"specs\":{", specs, "},\"time_ns\":", ns,
        ",\"signature\":", json_string(signature(program_, call, last_->symbols)),
        ",\"candidates\":", json_list(candidates_[pick.call], name), "}");
  });
}

}  // namespace zeropoint
