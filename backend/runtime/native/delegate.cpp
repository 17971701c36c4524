#include "delegate.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>

#include "convert.h"
#include "verify.h"

namespace zeropoint {
namespace {

uint64_t align(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

fb::HostDType host_dtype(const zp_tensor& tensor) { return static_cast<fb::HostDType>(tensor.dtype); }

const char* dtype_name(int32_t dtype) {
  bool known = dtype >= 0 && dtype <= static_cast<int32_t>(fb::HostDType::MAX);
  return known ? fb::EnumNameHostDType(static_cast<fb::HostDType>(dtype)) : "unknown";
}

std::string dims_text(const int64_t* dims, int rank) {
  std::string result = "[";
  for (int i = 0; i < rank; ++i)
    result += format("%s%lld", i == 0 ? "" : ", ", static_cast<long long>(dims[i]));
  return result + "]";
}

int64_t product(const zp_tensor& tensor) {
  int64_t result = 1;
  for (int i = 0; i < tensor.rank; ++i) result *= tensor.dims[i];
  return result;
}

// Whether the tensor has the program's rank and, for the symbols' values, its dimensions.
bool same_shape(const Tensor& tensor, const zp_tensor& host, const std::vector<int64_t>& symbols) {
  if (static_cast<size_t>(host.rank) != tensor.dims.size()) return false;
  for (size_t i = 0; i < tensor.dims.size(); ++i) {
    if (tensor.dims[i].value(symbols) != host.dims[i]) return false;
  }
  return true;
}

struct Delegates {
  std::mutex mutex;
  std::map<uint64_t, std::shared_ptr<Delegate>> by_id;
  uint64_t next = 1;
  std::atomic<uint32_t> flags{0};
};

Delegates& delegates() {
  static auto* instance = new Delegates();
  return *instance;
}

}  // namespace

Status Delegate::load(const void* blob, size_t size, const Library& library, const FindConstant& find,
                      uint32_t flags, std::shared_ptr<Delegate>* delegate) {
  std::shared_ptr<Delegate> result(new Delegate());
  result->flags_ = flags | default_flags();
  ZP_TRY(decode_program(blob, size, library, &result->program_));
  ZP_TRY(result->open(find).in("program"));
  *delegate = std::move(result);
  return Status();
}

Delegate::~Delegate() {
  if (context_ == nullptr) return;
  std::lock_guard<std::mutex> lock(context_->mutex);
  if (needs_added_) {
    context_->remove_need(own_arena_ == nullptr ? program_.arena_bytes : 0, staging_bytes_);
    --context_->counters().programs;
  }
  recordings_.clear();
  images_.clear();
  constants_.clear();
  own_arena_.reset();
}

Status Delegate::open(const FindConstant& find) {
  ZP_TRY(Context::acquire(&context_));
  if ((flags_ & ZP_KEEP_ALL) != 0) unalias();
  std::lock_guard<std::mutex> lock(context_->mutex);
  ZP_TRY(check_device());
  for (size_t i = 0; i < program_.calls.size(); ++i) {
    const Call& call = program_.calls[i];
    candidates_.emplace_back();
    ZP_TRY(find_candidates(program_, call, *context_, &candidates_.back())
               .in(format("call[%zu] %s", i, call.kernel->name.c_str())));
  }
  // Fail now, not at the first long prompt: the largest shape must have an algorithm too.
  std::vector<int64_t> maxima;
  for (const Symbol& symbol : program_.symbols) maxima.push_back(symbol.max);
  std::vector<Pick> picks;
  ZP_TRY(pick_calls(maxima, &picks));
  ZP_TRY(load_constants(find));
  std::vector<const Image*> fresh;
  images_.resize(program_.tensors.size());
  for (size_t i = 0; i < program_.tensors.size(); ++i) {
    const Tensor& tensor = program_.tensors[i];
    if (tensor.storage != fb::Storage::image) continue;
    ZP_TRY(context_->create_image(tensor.dtype, tensor.max_numel, &images_[i]).in("tensor " + tensor.name));
    fresh.push_back(images_[i].get());
  }
  ZP_TRY(context_->prepare_images(fresh));
  if ((flags_ & ZP_KEEP_ALL) != 0) {
    ZP_TRY(context_
               ->create_buffer(std::max<uint64_t>(program_.arena_bytes, kArenaAlign), MemoryUse::kDevice,
                               &own_arena_)
               .in("arena"));
  }
  context_->add_need(own_arena_ == nullptr ? program_.arena_bytes : 0, staging_bytes_);
  needs_added_ = true;
  ++context_->counters().programs;
  ++context_->counters().loads;
  return Status();
}

// Gives every arena tensor bytes of its own.
void Delegate::unalias() {
  uint64_t end = 0;
  for (Tensor& tensor : program_.tensors) {
    if (!tensor.in_arena()) continue;
    tensor.offset = end;
    end = align(end + tensor.size_bytes, kArenaAlign);
  }
  program_.arena_bytes = end;
}

Status Delegate::check_device() {
  auto most = static_cast<uint64_t>(context_->facts()[Fact::max_binding_bytes]);
  for (const Tensor& tensor : program_.tensors) {
    if (tensor.storage == fb::Storage::buffer && tensor.size_bytes > most) {
      return fail(Code::kIncompatible,
                  "tensor %s: %llu bytes; %s binds at most %llu; export with smaller pieces",
                  tensor.name.c_str(), static_cast<unsigned long long>(tensor.size_bytes),
                  context_->info().name.c_str(), static_cast<unsigned long long>(most));
    }
  }
  if (program_.arena_bytes > context_->heap_bytes()) {
    return fail(Code::kOutOfMemory, "arena of %llu bytes; %s has %llu",
                static_cast<unsigned long long>(program_.arena_bytes), context_->info().name.c_str(),
                static_cast<unsigned long long>(context_->heap_bytes()));
  }
  staging_offsets_.resize(program_.tensors.size());
  auto stage = [&](size_t tensor) {
    staging_offsets_[tensor] = staging_bytes_;
    staging_bytes_ += align(program_.tensors[tensor].size_bytes, kArenaAlign);
  };
  if (context_->direct()) return Status();
  for (const Input& input : program_.inputs) {
    if (input.tensor >= 0) stage(static_cast<size_t>(input.tensor));
  }
  std::vector<bool> staged(program_.tensors.size());
  for (const Output& output : program_.outputs) {
    for (uint32_t tensor : output.tensors) {
      if (!staged[tensor]) stage(tensor);
      staged[tensor] = true;
    }
  }
  return Status();
}

Status Delegate::load_constants(const FindConstant& find) {
  std::vector<Upload> uploads;
  constants_.resize(program_.tensors.size());
  for (size_t i = 0; i < program_.tensors.size(); ++i) {
    const Tensor& tensor = program_.tensors[i];
    if (tensor.memory != fb::Memory::constant || tensor.size_bytes == 0) continue;
    std::string where = "tensor " + tensor.name + ": constant " + tensor.constant;
    const void* data = nullptr;
    size_t size = 0;
    ZP_TRY(find(tensor.constant, &data, &size).in(where));
    if (size < tensor.data_bytes || size > tensor.size_bytes) {
      return fail(Code::kInvalidProgram, "%s: %zu bytes of data; its dtype and dimensions need %llu",
                  where.c_str(), size, static_cast<unsigned long long>(tensor.data_bytes));
    }
    bool is_new = false;
    ZP_TRY(context_->constant(tensor.constant, tensor.size_bytes, &constants_[i], &is_new).in(where));
    if (is_new) uploads.push_back({constants_[i].get(), data, size});
  }
  return context_->upload(uploads).in("constants");
}

Status Delegate::pick_calls(const std::vector<int64_t>& symbols, std::vector<Pick>* picks) {
  std::vector<std::vector<int64_t>> dims(program_.tensors.size());
  for (size_t i = 0; i < dims.size(); ++i) {
    for (const Dim& dim : program_.tensors[i].dims) dims[i].push_back(dim.value(symbols));
  }
  for (size_t i = 0; i < program_.calls.size(); ++i) {
    const Call& call = program_.calls[i];
    std::vector<SlotShape> shapes;
    for (int32_t tensor : call.tensors) {
      const std::vector<int64_t>* bound = tensor < 0 ? nullptr : &dims[static_cast<size_t>(tensor)];
      shapes.push_back(bound == nullptr ? SlotShape() : SlotShape{bound->data(), int(bound->size()), true});
    }
    picks->emplace_back();
    ZP_TRY(pick(call, candidates_[i], shapes, *context_, &picks->back())
               .in(format("call[%zu] %s", i, call.kernel->name.c_str())));
  }
  return Status();
}

Status Delegate::bind_inputs(const zp_tensor* inputs, size_t n_inputs) {
  if (n_inputs != program_.inputs.size()) {
    return fail(Code::kInvalidArgument, "%zu inputs; the program has %zu", n_inputs, program_.inputs.size());
  }
  for (size_t i = 0; i < n_inputs; ++i) {
    const Input& input = program_.inputs[i];
    size_t rank = input.tensor < 0 ? 0 : program_.tensors[static_cast<size_t>(input.tensor)].dims.size();
    if (inputs[i].dtype != static_cast<int32_t>(input.host_dtype)) {
      return fail(Code::kInvalidArgument, "input[%zu]: dtype %s; need %s", i, dtype_name(inputs[i].dtype),
                  fb::EnumNameHostDType(input.host_dtype));
    }
    if (inputs[i].rank < 0 || static_cast<size_t>(inputs[i].rank) != rank) {
      return fail(Code::kInvalidArgument, "input[%zu]: %d dimensions; need %zu", i, inputs[i].rank, rank);
    }
    for (size_t axis = 0; axis < rank; ++axis) {
      if (inputs[i].dims[axis] >= 0 && inputs[i].dims[axis] <= INT32_MAX) continue;
      return fail(Code::kInvalidArgument, "input[%zu]: shape %s; need dimensions in [0, 2^31)", i,
                  dims_text(inputs[i].dims, inputs[i].rank).c_str());
    }
  }
  ZP_TRY(bind_symbols(inputs));
  for (size_t i = 0; i < n_inputs; ++i) {
    if (program_.inputs[i].tensor < 0) continue;
    const Tensor& tensor = program_.tensors[static_cast<size_t>(program_.inputs[i].tensor)];
    if (same_shape(tensor, inputs[i], symbols_)) continue;
    int64_t need[kMaxRank];
    for (size_t axis = 0; axis < tensor.dims.size(); ++axis) need[axis] = tensor.dims[axis].value(symbols_);
    return fail(Code::kInvalidArgument, "input[%zu]: shape %s; need %s", i,
                dims_text(inputs[i].dims, inputs[i].rank).c_str(), dims_text(need, inputs[i].rank).c_str());
  }
  return Status();
}

Status Delegate::bind_symbols(const zp_tensor* inputs) {
  symbols_.resize(program_.symbols.size());
  for (size_t i = 0; i < symbols_.size(); ++i) {
    const SymbolSource& source = program_.sources[i];
    const zp_tensor& input = inputs[source.input];
    int64_t given = 0;
    if (source.axis >= 0) given = input.dims[source.axis];
    if (source.axis < 0 && input.data != nullptr) std::memcpy(&given, input.data, sizeof(given));
    int64_t offset = 0;
    bool exact = !__builtin_sub_overflow(given, source.base, &offset) && offset % source.coefficient == 0;
    int64_t value = exact ? offset / source.coefficient : -1;
    const Symbol& symbol = program_.symbols[i];
    if (value < symbol.min || value > symbol.max) {
      return fail(Code::kInvalidArgument, "input[%u]: %s %lld gives no %s in [%lld, %lld]", source.input,
                  source.axis < 0 ? "value" : "dimension", static_cast<long long>(given), symbol.name.c_str(),
                  static_cast<long long>(symbol.min), static_cast<long long>(symbol.max));
    }
    symbols_[i] = value;
  }
  return Status();
}

int64_t Delegate::numel(const Tensor& tensor) const {
  int64_t result = 1;
  for (const Dim& dim : tensor.dims) result *= dim.value(symbols_);
  return result;
}

void Delegate::output_shape(const Output& output, zp_tensor* tensor) const {
  const Tensor& first = program_.tensors[output.tensors[0]];
  tensor->dtype = static_cast<int32_t>(output.host_dtype);
  tensor->rank = static_cast<int32_t>(first.dims.size());
  for (size_t i = 0; i < first.dims.size(); ++i) tensor->dims[i] = first.dims[i].value(symbols_);
  for (size_t i = 1; i < output.tensors.size(); ++i) {
    tensor->dims[first.dims.size() - 1] += program_.tensors[output.tensors[i]].dims.back().value(symbols_);
  }
  tensor->size_bytes =
      static_cast<uint64_t>(product(*tensor)) * static_cast<uint64_t>(host_bytes_of(output.host_dtype));
}

Status Delegate::output_shapes(const zp_tensor* inputs, size_t n_inputs, zp_tensor* outputs,
                               size_t n_outputs) {
  std::lock_guard<std::mutex> lock(mutex_);
  ZP_TRY(bind_inputs(inputs, n_inputs));
  if (n_outputs != program_.outputs.size()) {
    return fail(Code::kInvalidArgument, "%zu outputs; the program has %zu", n_outputs,
                program_.outputs.size());
  }
  for (size_t i = 0; i < n_outputs; ++i) output_shape(program_.outputs[i], &outputs[i]);
  return Status();
}

Status Delegate::execute(const zp_tensor* inputs, size_t n_inputs, PlaceOutput place, void* user,
                         bool profile) {
  std::lock_guard<std::mutex> lock(mutex_);
  ZP_TRY(bind_inputs(inputs, n_inputs));
  outputs_.resize(program_.outputs.size());
  bool empty = true;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    output_shape(program_.outputs[i], &outputs_[i]);
    empty = empty && outputs_[i].size_bytes == 0;
    ZP_TRY(place(user, i, &outputs_[i]));
    if (outputs_[i].data == nullptr && outputs_[i].size_bytes != 0) {
      return fail(Code::kInvalidArgument, "output[%zu]: no memory", i);
    }
  }
  for (size_t i = 0; i < n_inputs; ++i) {
    if (inputs[i].data == nullptr && product(inputs[i]) != 0) {
      return fail(Code::kInvalidArgument, "input[%zu]: no data", i);
    }
  }
  std::lock_guard<std::mutex> context_lock(context_->mutex);
  ++context_->counters().executes;
  return empty ? Status() : run(inputs, outputs_.data(), profile || (flags_ & ZP_PROFILE) != 0);
}

Status Delegate::run(const zp_tensor* inputs, const zp_tensor* outputs, bool profile) {
  Recording* recording = nullptr;
  ZP_TRY(find_recording(profile, &recording));
  last_ = recording;
  ZP_TRY(copy_in(inputs, *recording));
  ZP_TRY(context_->submit_and_wait(recording->commands));
  if (recording->queries != VK_NULL_HANDLE) ZP_TRY(read_times(*recording));
  copy_out(outputs, *recording);
  return Status();
}

Status Delegate::copy_in(const zp_tensor* inputs, const Recording& recording) {
  for (size_t i = 0; i < program_.inputs.size(); ++i) {
    if (program_.inputs[i].tensor < 0) continue;
    auto index = static_cast<size_t>(program_.inputs[i].tensor);
    const Tensor& tensor = program_.tensors[index];
    uint8_t* target = recording.staging != nullptr ? recording.staging->mapped + staging_offsets_[index]
                                                   : recording.arena->mapped + tensor.offset;
    ZP_TRY(to_device(host_dtype(inputs[i]), inputs[i].data, tensor.dtype, target,
                     static_cast<size_t>(product(inputs[i])))
               .in(format("input[%zu]", i)));
  }
  return Status();
}

void Delegate::copy_out(const zp_tensor* outputs, const Recording& recording) {
  for (size_t i = 0; i < program_.outputs.size(); ++i) {
    const zp_tensor& host = outputs[i];
    const std::vector<uint32_t>& pieces = program_.outputs[i].tensors;
    if (host.size_bytes == 0) continue;
    auto host_bytes = static_cast<size_t>(host_bytes_of(host_dtype(host)));
    auto total = static_cast<size_t>(product(host));
    size_t columns = pieces.size() == 1 ? total : static_cast<size_t>(host.dims[host.rank - 1]);
    size_t rows = total / columns;
    size_t first_column = 0;
    for (uint32_t index : pieces) {
      const Tensor& tensor = program_.tensors[index];
      const uint8_t* source = recording.staging != nullptr
                                  ? recording.staging->mapped + staging_offsets_[index]
                                  : recording.arena->mapped + tensor.offset;
      size_t width = pieces.size() == 1 ? total : static_cast<size_t>(tensor.dims.back().value(symbols_));
      size_t device_bytes = static_cast<size_t>(bits_of(tensor.dtype)) / 8;
      for (size_t row = 0; row < rows; ++row) {
        auto* target = static_cast<uint8_t*>(host.data) + (row * columns + first_column) * host_bytes;
        to_host(tensor.dtype, source + row * width * device_bytes, host_dtype(host), target, width);
      }
      first_column += width;
    }
  }
}

std::vector<std::pair<uint64_t, uint64_t>> Delegate::call_times() {
  std::lock_guard<std::mutex> lock(mutex_);
  return times_;
}

std::string Delegate::describe() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string result = "{\"inputs\":[";
  for (const Input& input : program_.inputs) {
    result += format("%s\"%s\"", &input == program_.inputs.data() ? "" : ",",
                     fb::EnumNameHostDType(input.host_dtype));
  }
  result += "],\"outputs\":[";
  for (const Output& output : program_.outputs) {
    result += format("%s\"%s\"", &output == program_.outputs.data() ? "" : ",",
                     fb::EnumNameHostDType(output.host_dtype));
  }
  result += "],\"tensors\":[";
  for (const Tensor& tensor : program_.tensors) {
    std::vector<int64_t> dims;
    for (const Dim& dim : tensor.dims) dims.push_back(last_ == nullptr ? -1 : dim.value(last_->symbols));
    result += format(
        "%s{\"name\":%s,\"dtype\":\"%s\",\"storage\":\"%s\",\"memory\":\"%s\",\"dims\":%s,"
        "\"size_bytes\":%llu}",
        &tensor == program_.tensors.data() ? "" : ",", json_string(tensor.name).c_str(),
        name_of(tensor.dtype), name_of(tensor.storage), fb::EnumNameMemory(tensor.memory),
        dims_text(dims.data(), int(dims.size())).c_str(), static_cast<unsigned long long>(tensor.data_bytes));
  }
  return result + "]}";
}

std::string Delegate::picks() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string result = "[";
  for (size_t i = 0; last_ != nullptr && i < last_->picks.size(); ++i) {
    const Call& call = program_.calls[i];
    const Pick& pick = last_->picks[i];
    const Algorithm& algorithm = *pick.candidate.algorithm;
    std::string specs;
    for (size_t s = 0; s < pick.specs.size(); ++s) {
      specs +=
          format("%s%s:%d", s == 0 ? "" : ",", json_string(algorithm.specs[s].name).c_str(), pick.specs[s]);
    }
    std::string time = times_.size() == program_.calls.size() && last_->profile
                           ? std::to_string(times_[i].second - times_[i].first)
                           : "null";
    result += format(
        "%s{\"call\":%zu,\"name\":%s,\"kernel\":%s,\"algorithm\":%s,\"key\":%s,"
        "\"grid\":[%u,%u,%u],\"specs\":{%s},\"time_ns\":%s}",
        i == 0 ? "" : ",", i, json_string(call.name).c_str(), json_string(call.kernel->name).c_str(),
        json_string(algorithm.name).c_str(),
        json_string(variant_key(*call.kernel, algorithm, *pick.candidate.variant)).c_str(), pick.grid[0],
        pick.grid[1], pick.grid[2], specs.c_str(), time.c_str());
  }
  return result + "]";
}

uint64_t register_delegate(const std::shared_ptr<Delegate>& delegate) {
  std::lock_guard<std::mutex> lock(delegates().mutex);
  uint64_t id = delegates().next++;
  delegates().by_id[id] = delegate;
  return id;
}

std::shared_ptr<Delegate> find_delegate(uint64_t id) {
  std::lock_guard<std::mutex> lock(delegates().mutex);
  auto found = delegates().by_id.find(id);
  return found == delegates().by_id.end() ? nullptr : found->second;
}

std::vector<std::pair<uint64_t, std::shared_ptr<Delegate>>> live_delegates() {
  std::lock_guard<std::mutex> lock(delegates().mutex);
  return {delegates().by_id.begin(), delegates().by_id.end()};
}

std::shared_ptr<Delegate> forget_delegate(uint64_t id) {
  std::lock_guard<std::mutex> lock(delegates().mutex);
  auto found = delegates().by_id.find(id);
  if (found == delegates().by_id.end()) return nullptr;
  std::shared_ptr<Delegate> result = std::move(found->second);
  delegates().by_id.erase(found);
  return result;
}

uint32_t default_flags() { return delegates().flags; }
void set_default_flags(uint32_t flags) { delegates().flags = flags; }

}  // namespace zeropoint
