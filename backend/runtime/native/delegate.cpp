#include "delegate.h"

#include <atomic>
#include <map>

namespace zeropoint {
namespace {

std::string dims_text(const int64_t* dims, int32_t rank) {
  std::string result = "[";
  for (int32_t i = 0; i < rank; ++i) result += cat(i == 0 ? "" : ", ", dims[i]);
  return result + "]";
}

uint64_t product(const zp_tensor& tensor) {
  uint64_t result = 1;
  for (int32_t i = 0; i < tensor.rank; ++i) result *= static_cast<uint64_t>(tensor.dims[i]);
  return result;
}

// Never destroyed, like the devices that programs hold.
std::mutex& delegates_mutex = *new std::mutex();
auto& delegates = *new std::map<uint64_t, std::shared_ptr<Delegate>>();
std::atomic<uint32_t> default_flags{0};

}  // namespace

Status Delegate::load(const void* blob, size_t size, const Library& library, const FindConstant& find, uint32_t flags,
    std::shared_ptr<Delegate>* delegate) {
  std::shared_ptr<Delegate> result(new Delegate());
  result->flags_ = flags | default_flags;
  ZP_TRY(decode_program(blob, size, library, &result->program_));
  ZP_TRY(Context::acquire(&result->context_));
  ZP_TRY(result->open(library, find).in("program"));
  *delegate = std::move(result);
  return Status();
}

Delegate::~Delegate() {
  if (context_ == nullptr) return;
  std::lock_guard<std::mutex> lock(context_->mutex);
  recordings_.clear();
  images_.clear();
  constants_.clear();
  own_arena_.reset();
  if (counted_) context_->remove_program();
}

Status Delegate::open(const Library& library, const FindConstant& find) {
  library_ = &library;
  facts_ = library.ordered(context_->facts);
  if ((flags_ & ZP_KEEP_ALL) != 0) unalias();
  std::lock_guard<std::mutex> lock(context_->mutex);
  ZP_TRY(check_device());
  for (size_t i = 0; i < program_.calls.size(); ++i) {
    const Call& call = program_.calls[i];
    ZP_TRY(find_candidates(program_, call, *context_, &candidates_.emplace_back()).in(call.where(i)));
  }
  // Fail now, not at the first long prompt: the largest shape must have an algorithm too.
  std::vector<int64_t> maxima;
  for (const Symbol& symbol : program_.symbols) maxima.push_back(symbol.max);
  std::vector<Pick> picks;
  ZP_TRY(pick_calls(maxima, &picks));
  ZP_TRY(load_constants(find));
  ZP_TRY(create_images());
  if ((flags_ & ZP_KEEP_ALL) != 0) {
    uint64_t bytes = std::max(program_.arena_bytes, kArenaAlign);
    ZP_TRY(context_->create_buffer(bytes, MemoryUse::kDevice, &own_arena_).in("arena"));
  }
  context_->add_program(own_arena_ == nullptr ? program_.arena_bytes : 0, staging_bytes_);
  counted_ = true;
  return Status();
}

// Gives every arena tensor bytes of its own.
void Delegate::unalias() {
  uint64_t end = 0;
  for (Tensor& tensor : program_.tensors) {
    if (!tensor.in_arena()) continue;
    tensor.offset = end;
    end += align_up(tensor.size_bytes, kArenaAlign);
  }
  program_.arena_bytes = end;
}

Status Delegate::check_device() {
  const std::string& device = context_->info.name;
  auto most = static_cast<uint64_t>(context_->facts[Fact::max_binding_bytes]);
  for (const Tensor& tensor : program_.tensors) {
    if (tensor.storage != fb::Storage::buffer || tensor.size_bytes <= most) continue;
    return fail(Code::kIncompatible, "tensor ", tensor.name, ": ", tensor.size_bytes, " bytes; ", device,
        " binds at most ", most, "; export with smaller pieces");
  }
  uint64_t heap = context_->heap_bytes;
  if (program_.arena_bytes > heap)
    return fail(Code::kOutOfMemory, "arena of ", program_.arena_bytes, " bytes; ", device, " has ", heap);
  staging_offsets_.resize(program_.tensors.size(), UINT64_MAX);
  auto stage = [&](size_t tensor) {
    if (staging_offsets_[tensor] != UINT64_MAX) return;
    staging_offsets_[tensor] = staging_bytes_;
    staging_bytes_ += align_up(program_.tensors[tensor].size_bytes, kArenaAlign);
  };
  for (const Input& input : program_.inputs)
    if (input.tensor >= 0) stage(static_cast<size_t>(input.tensor));
  for (const Output& output : program_.outputs) std::for_each(output.tensors.begin(), output.tensors.end(), stage);
  return Status();
}

Status Delegate::create_images() {
  images_.resize(program_.tensors.size());
  for (size_t i = 0; i < program_.tensors.size(); ++i) {
    const Tensor& tensor = program_.tensors[i];
    if (tensor.storage != fb::Storage::image) continue;
    ZP_TRY(context_->create_image(tensor.dtype, tensor.max_numel, &images_[i]).in("tensor " + tensor.name));
  }
  return context_->prepare_images(images_);
}

Status Delegate::load_constants(const FindConstant& find) {
  std::vector<Upload> uploads;
  constants_.resize(program_.tensors.size());
  for (size_t i = 0; i < program_.tensors.size(); ++i) {
    const Tensor& tensor = program_.tensors[i];
    if (!tensor.is_constant() || tensor.size_bytes == 0) continue;
    std::string where = cat("tensor ", tensor.name, ": constant ", tensor.constant);
    const void* data = nullptr;
    size_t size = 0;
    ZP_TRY(find(tensor.constant, &data, &size).in(where));
    if (size < tensor.data_bytes || size > tensor.size_bytes) {
      return fail(
          Code::kInvalidProgram, where, ": ", size, " bytes; its dtype and dimensions need ", tensor.data_bytes);
    }
    bool is_new = false;
    ZP_TRY(context_->constant(tensor.constant, tensor.size_bytes, &constants_[i], &is_new).in(where));
    if (is_new) uploads.push_back({constants_[i].get(), {static_cast<const char*>(data), size}});
  }
  return context_->upload(uploads).in("constants");
}

Status Delegate::pick_calls(const std::vector<int64_t>& symbols, std::vector<Pick>* picks) {
  std::vector<std::vector<int64_t>> dims(program_.tensors.size());
  for (size_t i = 0; i < dims.size(); ++i)
    for (const Dim& dim : program_.tensors[i].dims) dims[i].push_back(dim.value(symbols));
  for (size_t i = 0; i < program_.calls.size(); ++i) {
    const Call& call = program_.calls[i];
    std::vector<SlotShape> shapes(call.tensors.size());
    for (size_t slot = 0; slot < shapes.size(); ++slot) {
      if (call.tensors[slot] < 0) continue;
      const std::vector<int64_t>& bound = dims[static_cast<size_t>(call.tensors[slot])];
      shapes[slot] = {bound.data(), static_cast<int>(bound.size()), true};
    }
    ZP_TRY(pick(call, candidates_[i], shapes, facts_, *context_, &picks->emplace_back()).in(call.where(i)));
  }
  return Status();
}

Status Delegate::bind_inputs(const zp_tensor* inputs, size_t n_inputs) {
  if (n_inputs != program_.inputs.size())
    return fail(Code::kInvalidArgument, n_inputs, " inputs; the program has ", program_.inputs.size());
  auto wrong = [](size_t i, const auto&... parts) {
    return fail(Code::kInvalidArgument, "input[", i, "]: ", parts...);
  };
  for (size_t i = 0; i < n_inputs; ++i) {
    const Input& input = program_.inputs[i];
    size_t rank = input.tensor < 0 ? 0 : program_.tensors[static_cast<size_t>(input.tensor)].dims.size();
    if (inputs[i].dtype != static_cast<int32_t>(input.host_dtype))
      return wrong(i, "dtype ", fb::EnumNameHostDType(static_cast<fb::HostDType>(inputs[i].dtype)), "; need ",
          fb::EnumNameHostDType(input.host_dtype));
    if (inputs[i].rank < 0 || static_cast<size_t>(inputs[i].rank) != rank)
      return wrong(i, inputs[i].rank, " dimensions; need ", rank);
    bool in_range =
        std::all_of(inputs[i].dims, inputs[i].dims + rank, [](int64_t d) { return 0 <= d && d <= INT32_MAX; });
    if (!in_range) return wrong(i, "a dimension outside [0, 2^31)");
    if (inputs[i].data == nullptr && product(inputs[i]) != 0) return wrong(i, "no data");
  }
  ZP_TRY(bind_symbols(inputs));
  for (size_t i = 0; i < n_inputs; ++i) {
    if (program_.inputs[i].tensor < 0) continue;
    const std::vector<Dim>& dims = program_.tensors[static_cast<size_t>(program_.inputs[i].tensor)].dims;
    int64_t need[kMaxRank] = {};
    for (size_t axis = 0; axis < dims.size(); ++axis) need[axis] = dims[axis].value(symbols_);
    if (std::equal(need, need + dims.size(), inputs[i].dims)) continue;
    int32_t rank = inputs[i].rank;
    return wrong(i, "shape ", dims_text(inputs[i].dims, rank), "; need ", dims_text(need, rank));
  }
  return Status();
}

Status Delegate::bind_symbols(const zp_tensor* inputs) {
  symbols_.resize(program_.symbols.size());
  for (size_t i = 0; i < symbols_.size(); ++i) {
    const SymbolSource& source = program_.sources[i];
    const zp_tensor& input = inputs[source.input];
    int64_t given = source.axis >= 0 ? input.dims[source.axis] : 0;
    if (source.axis < 0) std::memcpy(&given, input.data, sizeof(given));
    int64_t offset = 0;
    bool exact = !__builtin_sub_overflow(given, source.base, &offset) && offset % source.coefficient == 0;
    symbols_[i] = exact ? offset / source.coefficient : -1;
    const Symbol& symbol = program_.symbols[i];
    if (symbols_[i] >= symbol.min && symbols_[i] <= symbol.max) continue;
    return fail(Code::kInvalidArgument, "input[", source.input, "]: ", source.axis < 0 ? "value " : "dimension ", given,
        " gives no ", symbol.name, " in [", symbol.min, ", ", symbol.max, "]");
  }
  return Status();
}

void Delegate::output_shape(const Output& output, zp_tensor* tensor) const {
  const std::vector<Dim>& first = program_.tensors[output.tensors[0]].dims;
  tensor->dtype = static_cast<int32_t>(output.host_dtype);
  tensor->rank = static_cast<int32_t>(first.size());
  for (size_t i = 0; i < first.size(); ++i) tensor->dims[i] = first[i].value(symbols_);
  for (size_t i = 1; i < output.tensors.size(); ++i)
    tensor->dims[first.size() - 1] += program_.tensors[output.tensors[i]].dims.back().value(symbols_);
  tensor->size_bytes = product(*tensor) * host_bytes_of(output.host_dtype);
}

Status Delegate::output_shapes(const zp_tensor* inputs, size_t n_inputs, zp_tensor* outputs, size_t n_outputs) {
  std::lock_guard<std::mutex> lock(mutex_);
  ZP_TRY(bind_inputs(inputs, n_inputs));
  if (n_outputs != program_.outputs.size())
    return fail(Code::kInvalidArgument, n_outputs, " outputs; the program has ", program_.outputs.size());
  for (size_t i = 0; i < n_outputs; ++i) output_shape(program_.outputs[i], &outputs[i]);
  return Status();
}

Status Delegate::execute(const zp_tensor* inputs, size_t n_inputs, PlaceOutput place, void* user, bool profile) {
  std::lock_guard<std::mutex> lock(mutex_);
  ZP_TRY(bind_inputs(inputs, n_inputs));
  outputs_.resize(program_.outputs.size());
  bool empty = true;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    output_shape(program_.outputs[i], &outputs_[i]);
    empty = empty && outputs_[i].size_bytes == 0;
    ZP_TRY(place(user, i, &outputs_[i]));
    if (outputs_[i].data == nullptr && outputs_[i].size_bytes != 0)
      return fail(Code::kInvalidArgument, "output[", i, "]: no memory");
  }
  std::lock_guard<std::mutex> context_lock(context_->mutex);
  ++context_->counters.executes;
  return empty ? Status() : run(inputs, outputs_.data(), profile || (flags_ & ZP_PROFILE) != 0);
}

Status Delegate::run(const zp_tensor* inputs, const zp_tensor* outputs, bool profile) {
  Recording* recording = nullptr;
  ZP_TRY(find_recording(profile, &recording));
  last_ = recording;
  ZP_TRY(copy_in(inputs, *recording));
  ZP_TRY(context_->submit_and_wait(recording->commands));
  if (recording->queries != VK_NULL_HANDLE) ZP_TRY(read_times(*recording));
  return copy_out(outputs, *recording);
}

// Where the host reads or writes a tensor: in the arena itself, or in the staging buffer.
uint8_t* Delegate::host_bytes(const Recording& recording, size_t tensor) const {
  if (recording.staging != nullptr) return recording.staging->mapped + staging_offsets_[tensor];
  return recording.arena->mapped + program_.tensors[tensor].offset;
}

Status Delegate::copy_in(const zp_tensor* inputs, const Recording& recording) {
  for (size_t i = 0; i < program_.inputs.size(); ++i) {
    const Input& input = program_.inputs[i];
    if (input.tensor < 0) continue;
    auto index = static_cast<size_t>(input.tensor);
    Status status = convert(input.host_dtype, inputs[i].data, host_of(program_.tensors[index].dtype),
        host_bytes(recording, index), product(inputs[i]));
    if (!status.ok()) return status.in(cat("input[", i, "]"));
  }
  return Status();
}

Status Delegate::copy_out(const zp_tensor* outputs, const Recording& recording) {
  for (size_t i = 0; i < program_.outputs.size(); ++i) {
    const Output& output = program_.outputs[i];
    uint64_t total = product(outputs[i]);
    if (total == 0) continue;
    // One piece is one long row; several lie side by side.
    uint64_t columns = output.tensors.size() == 1 ? total : static_cast<uint64_t>(outputs[i].dims[outputs[i].rank - 1]);
    auto* target = static_cast<uint8_t*>(outputs[i].data);
    for (uint32_t index : output.tensors) {
      const Tensor& tensor = program_.tensors[index];
      const uint8_t* source = host_bytes(recording, index);
      uint64_t width = static_cast<uint64_t>(tensor.numel(symbols_)) / (total / columns);
      uint64_t stride = columns * host_bytes_of(output.host_dtype);
      for (uint64_t row = 0; row < total / columns; ++row) {
        const uint8_t* from = source + row * width * bits_of(tensor.dtype) / 8;
        ZP_TRY(convert(host_of(tensor.dtype), from, output.host_dtype, target + row * stride, width));
      }
      target += width * host_bytes_of(output.host_dtype);
    }
  }
  return Status();
}

Status Delegate::read_tensor(uint32_t index, void* data, uint64_t* size_bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (index >= program_.tensors.size())
    return fail(Code::kInvalidArgument, "tensor ", index, "; the program has ", program_.tensors.size());
  const Tensor& tensor = program_.tensors[index];
  if (!tensor.is_constant() && ((flags_ & ZP_KEEP_ALL) == 0 || last_ == nullptr))
    return fail(Code::kInvalidArgument, "tensor ", tensor.name, ": load with keep_all and execute first");
  uint64_t bytes = tensor.data_bytes;
  if (!tensor.is_constant())
    bytes = (static_cast<uint64_t>(tensor.numel(last_->symbols)) * bits_of(tensor.dtype) + 7) / 8;
  if (*size_bytes < bytes)
    return fail(Code::kInvalidArgument, "tensor ", tensor.name, ": room for ", *size_bytes, " bytes; need ", bytes);
  *size_bytes = bytes;
  if (bytes == 0) return Status();
  std::lock_guard<std::mutex> context_lock(context_->mutex);
  if (images_[index] != nullptr) return context_->read_image(*images_[index], bytes * 8 / bits_of(tensor.dtype), data);
  if (tensor.is_constant()) return context_->read_buffer(*constants_[index], 0, bytes, data);
  return context_->read_buffer(*own_arena_, tensor.offset, bytes, data);
}

std::vector<std::pair<uint64_t, uint64_t>> Delegate::call_times() {
  std::lock_guard<std::mutex> lock(mutex_);
  return times_;
}

std::string Delegate::describe() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string inputs;
  std::string outputs;
  std::string tensors;
  auto host = [](const auto& item) { return cat(",\"", fb::EnumNameHostDType(item.host_dtype), "\""); };
  for (const Input& input : program_.inputs) inputs += host(input);
  for (const Output& output : program_.outputs) outputs += host(output);
  for (const Tensor& tensor : program_.tensors) {
    std::vector<int64_t> dims;
    for (const Dim& dim : tensor.dims) dims.push_back(last_ == nullptr ? -1 : dim.value(last_->symbols));
    tensors += cat(",{\"name\":", json_string(tensor.name), ",\"dtype\":\"", fb::EnumNameDType(tensor.dtype),
        "\",\"storage\":\"", fb::EnumNameStorage(tensor.storage), "\",\"memory\":\"", fb::EnumNameMemory(tensor.memory),
        "\",\"dims\":", dims_text(dims.data(), static_cast<int32_t>(dims.size())),
        ",\"size_bytes\":", tensor.data_bytes, "}");
  }
  return cat("{\"device\":", json_string(context_->info.name), ",\"inputs\":", json_list(inputs),
      ",\"outputs\":", json_list(outputs), ",\"tensors\":", json_list(tensors), "}");
}

std::string Delegate::picks() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string result;
  for (size_t i = 0; last_ != nullptr && i < last_->picks.size(); ++i) {
    const Call& call = program_.calls[i];
    const Pick& pick = last_->picks[i];
    const fb::Algorithm& algorithm = *pick.candidate.algorithm;
    std::string specs;
    for (uint32_t s = 0; s < pick.specs.size(); ++s)
      specs += cat(s == 0 ? "" : ",", json_string(view(algorithm.specs()->Get(s)->name())), ":", pick.specs[s]);
    int64_t grid[] = {pick.grid[0], pick.grid[1], pick.grid[2]};
    bool timed = last_->queries != VK_NULL_HANDLE && i < times_.size();
    result += cat(",{\"call\":", i, ",\"name\":", json_string(call.name),
        ",\"kernel\":", json_string(view(call.kernel->name())), ",\"algorithm\":", json_string(view(algorithm.name())),
        ",\"key\":", json_string(variant_key(*call.kernel, algorithm, *pick.candidate.variant)),
        ",\"grid\":", dims_text(grid, 3), ",\"specs\":{", specs,
        "},\"time_ns\":", timed ? std::to_string(times_[i].second - times_[i].first) : "null", "}");
  }
  return json_list(result);
}

uint64_t register_delegate(const std::shared_ptr<Delegate>& delegate) {
  static uint64_t last_id = 0;
  std::lock_guard<std::mutex> lock(delegates_mutex);
  delegates[++last_id] = delegate;
  return last_id;
}

std::map<uint64_t, std::shared_ptr<Delegate>> live_delegates() {
  std::lock_guard<std::mutex> lock(delegates_mutex);
  return delegates;
}

std::shared_ptr<Delegate> find_delegate(uint64_t id, bool forget) {
  std::lock_guard<std::mutex> lock(delegates_mutex);
  auto found = delegates.find(id);
  std::shared_ptr<Delegate> result = found == delegates.end() ? nullptr : found->second;
  if (forget) delegates.erase(id);
  return result;
}

void set_default_flags(uint32_t flags) { default_flags = flags; }

}  // namespace zeropoint
