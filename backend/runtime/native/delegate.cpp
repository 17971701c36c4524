#include "delegate.h"

#include <cmath>

#include "convert.h"
#include "parallel.h"
#include "verify.h"

namespace zeropoint {
namespace {

constexpr double kSliceMs = 50.0;
constexpr uint64_t kSentBytes = 1 << 20;  // of an output that kernels write to the host's memory, at most
constexpr uint64_t kSentBits = 32;        // of its elements: kernels may write smaller ones by atomics

Status read_slice_seconds(double* seconds) {
  const char* text = std::getenv("ZEROPOINT_SLICE_MS");
  char* rest = nullptr;
  double milliseconds = text == nullptr || *text == '\0' ? kSliceMs : std::strtod(text, &rest);
  if (rest != nullptr && (*rest != '\0' || rest == text || !(milliseconds >= 0.0)))
    return bad_argument("ZEROPOINT_SLICE_MS: ", printable(text), "; need milliseconds, or 0: one submit a run");
  *seconds = milliseconds / 1000.0;
  return Status();
}

// About how many multiply-adds a call does, if it is a product of matrices, whichever of its operands are constants:
// the square root of its outputs' elements times its largest input's times its constants' (or its second input's). Most
// other calls do less.
double work_of(const Program& program, const Call& call, const std::vector<int64_t>& symbols) {
  double outputs = 0.0, constants = 0.0, first = 1.0, second = 1.0;
  for (uint32_t slot = 0; slot < call.tensors.size(); ++slot) {
    if (call.tensors[slot] < 0) continue;
    const Tensor& tensor = program.tensors[static_cast<size_t>(call.tensors[slot])];
    auto numel = static_cast<double>(tensor.numel(symbols));
    if (tensor.is_constant())
      constants += numel;
    else if (call.kernel->slots()->Get(slot)->io() == fb::Io::output)
      outputs += numel;
    else
      second = std::max(second, std::min(first, numel)), first = std::max(first, numel);
  }
  return std::sqrt(outputs * first * (constants > 0.0 ? constants : second));
}

}  // namespace

Status Delegate::load(const void* blob, size_t size, const Library& library, const FindConstant& find, uint32_t flags,
    const void* program, const std::string& method, std::shared_ptr<Delegate>* delegate) {
  std::shared_ptr<Delegate> result(new Delegate());
  result->method = method;
  result->flags_ = flags | default_flags;
  ZP_TRY(read_slice_seconds(&result->slice_s_));
  ZP_TRY(decode_program(blob, size, library, &result->program_));
  bool stages = false;
  ZP_TRY(Context::stages(&stages));
  std::vector<Upload> constants;
  ZP_TRY(result->find_constants(find, &constants).in("program"));
  Status opened;
  parallel_for(stages ? 2 : 1, [&](size_t i) {
    if (i == 0) opened = Context::acquire(&result->context_);
    if (i == 1) hash_all(&constants);
  });
  ZP_TRY(std::move(opened));
  ZP_TRY(result->open(library, &constants, program).in("program"));
  *delegate = std::move(result);
  return Status();
}

Delegate::~Delegate() {
  if (context_ == nullptr) return;
  std::lock_guard<std::mutex> lock(context_->mutex);
  recordings_.clear();
  images_.clear();
  for (const auto& state : states_) state->methods.erase(method);
  states_ = kept_ = {};
  buffers_.clear();
  own_ = {};
  if (counted_) context_->remove_program();
}

Status Delegate::open(const Library& library, std::vector<Upload>* constants, const void* program) {
  library_ = &library;
  facts_ = library.ordered(context_->facts);
  if ((flags_ & ZP_KEEP_ALL) != 0) unalias();
  std::lock_guard<std::mutex> lock(context_->mutex);
  ZP_TRY(check_device());
  for (size_t i = 0; i < program_.calls.size(); ++i) {
    const Call& call = program_.calls[i];
    ZP_TRY(find_candidates(program_, call, *context_, &candidates_.emplace_back()).in(call.where(i)));
  }
  const Library* embedded = nullptr;
  if (Library::embedded(&embedded).ok() && &library == embedded) choices_ = context_->read_choices();
  // Fail now, not at the first long prompt: the largest shape must have an algorithm too.
  std::vector<int64_t> maxima;
  for (const Symbol& symbol : program_.symbols)
    maxima.push_back(symbol.is_given() ? symbol.max : symbol.derived(maxima));
  std::vector<Pick> picks;
  ZP_TRY(pick_calls(maxima, &picks));
  if (Status status = load_constants(constants); !status.ok())
    return buffers_.clear(), status;  // no one may share them
  ZP_TRY(create_images());
  ZP_TRY(create_states(program));
  place_tensors();
  if ((flags_ & ZP_KEEP_ALL) != 0) ZP_TRY(context_->grow(needs_, &own_).in("memory of its own"));
  context_->add_program(own_.arena == nullptr ? needs_ : ScratchBytes());
  counted_ = true;
  return Status();
}

// Gives every arena tensor bytes of its own.
void Delegate::unalias() {
  uint64_t end = 0;
  for (Tensor& tensor : program_.tensors) {
    if (!tensor.in_arena()) continue;
    if (&tensor == &program_.tensors[tensor.root]) {
      tensor.offset = end;
      end += align_up(tensor.size_bytes, kArenaAlign);
    }
    tensor.offset = program_.tensors[tensor.root].offset;
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
  if (uint64_t heap = context_->heap_bytes; program_.arena_bytes > heap)
    return fail(Code::kOutOfMemory, "arena of ", program_.arena_bytes, " bytes; ", device, " has ", heap);
  return Status();
}

// A tensor and its aliases lie in one place.
void Delegate::place_tensors() {
  needs_.arena = program_.arena_bytes;
  std::vector<bool> is_read(program_.tensors.size());
  for (const Call& call : program_.calls)
    for (uint32_t slot = 0; slot < call.tensors.size(); ++slot)
      if (call.tensors[slot] >= 0 && call.kernel->slots()->Get(slot)->io() != fb::Io::output)
        is_read[program_.tensors[static_cast<size_t>(call.tensors[slot])].root] = true;
  for (const Tensor& tensor : program_.tensors) places_.push_back({&Scratch::arena, tensor.offset});
  auto reserve = [&](size_t tensor, uint64_t* end) {
    return std::exchange(*end, *end + align_up(program_.tensors[tensor].size_bytes, kArenaAlign));
  };
  auto put_input = [&](size_t tensor) {
    size_t root = program_.tensors[tensor].root;
    if (places_[root].buffer == &Scratch::arena) places_[root] = {&Scratch::inputs, reserve(root, &needs_.inputs)};
  };
  for (const Input& input : program_.inputs)
    if (input.tensor >= 0) put_input(static_cast<size_t>(input.tensor));
  if (program_.faults >= 0) put_input(static_cast<size_t>(program_.faults));
  for (const Output& output : program_.outputs)
    for (size_t tensor : output.tensors) {
      size_t root = program_.tensors[tensor].root;
      const Tensor& base = program_.tensors[root];
      bool is_sent = !is_read[root] && base.size_bytes <= kSentBytes && bits_of(base.dtype) == kSentBits;
      if (places_[root].buffer == &Scratch::arena && is_sent)
        places_[root] = {&Scratch::outputs, reserve(root, &needs_.outputs)};
      else if (places_[root].buffer != &Scratch::outputs && places_[tensor].copy == UINT64_MAX)
        places_[tensor].copy = reserve(tensor, &needs_.outputs);
    }
}

Status Delegate::create_images() {
  images_.resize(program_.tensors.size());
  for (size_t i = 0; i < program_.tensors.size(); ++i) {
    const Tensor& tensor = program_.tensors[i];
    if (tensor.storage != fb::Storage::image) continue;
    ZP_TRY(context_->create_image(tensor.dtype, tensor.max_numel, &images_[i]).in("tensor ", tensor.name));
  }
  return context_->prepare_images(images_);
}

Status Delegate::create_states(const void* program) {
  States fresh;
  for (size_t i = 0; i < program_.tensors.size(); ++i) {
    const Tensor& tensor = program_.tensors[i];
    if (!tensor.is_state() || tensor.root != i) continue;
    bool is_new = false;
    std::shared_ptr<State> state;
    State wanted{program, tensor.shared, {method}, nullptr, buffers_[i]};
    ZP_TRY(context_->state(wanted, std::max(tensor.size_bytes, kSizeAlign), &state, &is_new).in("state ", tensor.name));
    buffers_[i] = state->buffer;
    if (is_new) fresh.push_back(state);
    if (program_.faults >= 0) {
      auto& kept = kept_.emplace_back(std::make_shared<State>(*state));
      ZP_TRY(context_->create_buffer(kept->buffer->size_bytes, MemoryUse::kDevice, &kept->first)
              .in("state ", tensor.name));
    }
    states_.push_back(std::move(state));
  }
  return context_->fill(fresh);
}

Status Delegate::reset() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::lock_guard<std::mutex> context_lock(context_->mutex);
  return context_->fill(states_);
}

// Each once, whatever the number of its tensors.
Status Delegate::find_constants(const FindConstant& find, std::vector<Upload>* constants) const {
  std::map<std::string_view, std::string_view> known;
  for (size_t i = 0; i < program_.tensors.size(); ++i) {
    const Tensor& tensor = program_.tensors[i];
    if (!tensor.is_stored(i)) continue;
    std::string where = cat("tensor ", tensor.name, ": constant ", tensor.constant);
    auto [found, is_first] = known.try_emplace(tensor.constant);
    std::string_view& data = found->second;
    if (is_first) ZP_TRY(find(tensor.constant, &data).in(where));
    if (data.size() < tensor.data_bytes || data.size() > tensor.size_bytes)
      return fail(
          Code::kInvalidProgram, where, ": ", data.size(), " bytes; its dtype and dimensions need ", tensor.data_bytes);
    if (!is_first) continue;
    // Nobody ever compared the sha256 keys of old Programs with the bytes: what they share goes by the bytes, too.
    std::string key = program_.version < 4 ? content_key(data) : tensor.constant;
    constants->push_back({i, data, std::move(key), std::move(where), {}, nullptr});
  }
  return Status();
}

Status Delegate::load_constants(std::vector<Upload>* constants) {
  std::map<std::string_view, std::shared_ptr<Buffer>> known;  // by the Program's keys
  for (Upload& upload : *constants) {
    const Tensor& tensor = program_.tensors[upload.tensor];
    std::shared_ptr<Buffer>& buffer = known[tensor.constant];
    bool is_new = false;
    ZP_TRY(context_->constant(upload.key, tensor.size_bytes, &buffer, &is_new).in(upload.where));
    if (is_new) upload.target = buffer.get();
  }
  buffers_.resize(program_.tensors.size());
  for (size_t i = 0; i < program_.tensors.size(); ++i)
    if (program_.tensors[i].is_stored(i)) buffers_[i] = known[program_.tensors[i].constant];
  return context_->upload(constants);
}

Status Delegate::pick_calls(const std::vector<int64_t>& symbols, std::vector<Pick>* picks) {
  std::vector<std::vector<int64_t>> dims;
  for (const Tensor& tensor : program_.tensors) dims.push_back(values_of(tensor.dims, symbols));
  size_t next = 0;
  auto pick_until = [&](size_t end) -> Status {
    for (; next < end; ++next) {
      const Call& call = program_.calls[next];
      std::vector<SlotShape> shapes;
      for (int32_t tensor : call.tensors) {
        const std::vector<int64_t>& bound = dims[static_cast<size_t>(std::max(tensor, 0))];
        shapes.push_back({bound.data(), static_cast<int>(bound.size()), tensor >= 0});
      }
      Pick& result = picks->emplace_back(Pick{next, {}, {}, {}, {}});
      auto pick_of = [&](const std::vector<Candidate>& candidates) {
        return pick(call, candidates, shapes, symbols, facts_, *context_, &result);
      };
      std::vector<Candidate> chosen;
      if (!choices_.empty()) chosen = find_chosen(choices_, signature(program_, call, symbols), candidates_[next]);
      if (chosen.empty() || !pick_of(chosen).ok()) ZP_TRY(pick_of(candidates_[next]).in(call.where(next)));
      result.work = work_of(program_, call, symbols);
    }
    return Status();
  };
  for (const fb::Alternative& item : program_.alternatives) {
    ZP_TRY(pick_until(item.first()));
    size_t n_before = picks->size(), plain = item.first() + item.fused();
    Status fused = pick_until(plain);
    if (fused.code() == Code::kIncompatible) picks->resize(n_before);
    if (fused.code() != Code::kIncompatible) ZP_TRY(fused);
    next = fused.ok() ? plain + item.plain() : plain;
  }
  return pick_until(program_.calls.size());
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
    return bad_argument(n_outputs, " outputs; the program has ", program_.outputs.size());
  for (size_t i = 0; i < n_outputs; ++i) output_shape(program_.outputs[i], &outputs[i]);
  return Status();
}

Status Delegate::execute(const zp_tensor* inputs, size_t n_inputs, const PlaceOutput& place, bool profile) {
  std::lock_guard<std::mutex> lock(mutex_);
  ZP_TRY(bind_inputs(inputs, n_inputs));
  outputs_.resize(program_.outputs.size());
  bool empty = true;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    output_shape(program_.outputs[i], &outputs_[i]);
    empty = empty && outputs_[i].size_bytes == 0;
    ZP_TRY(place(i, &outputs_[i]));
    if (outputs_[i].data == nullptr && outputs_[i].size_bytes != 0) return bad_argument("output[", i, "]: no memory");
  }
  std::lock_guard<std::mutex> context_lock(context_->mutex);
  ++context_->counters.executes;
  if (empty && states_.empty()) return Status();
  Recording* recording = nullptr;
  ZP_TRY(find_recording(profile || (flags_ & ZP_PROFILE) != 0, &recording));
  last_ = recording;
  ZP_TRY(copy_in(inputs, *recording));
  if (program_.faults >= 0)
    std::memset(host_bytes(recording->scratch, static_cast<size_t>(program_.faults), false), 0, sizeof(Faults));
  if (recording->turn_bytes > 0) std::memset(recording->turns->mapped, 0, recording->turn_bytes);
  ZP_TRY(run(recording));
  ZP_TRY(check_turns(*recording));
  if (recording->queries != VK_NULL_HANDLE) ZP_TRY(read_times(*recording));
  if (program_.faults >= 0) ZP_TRY(read_faults(*recording));
  return copy_out(*recording);
}

// Where the host writes a tensor before a run, or reads it after that.
uint8_t* Delegate::host_bytes(const Scratch& scratch, size_t tensor, bool after) const {
  size_t root = program_.tensors[tensor].root;
  if (scratch.inputs == nullptr) return scratch.arena->mapped + program_.tensors[root].offset;
  if (after && places_[tensor].copy != UINT64_MAX) return scratch.outputs->mapped + places_[tensor].copy;
  return (scratch.*places_[root].buffer)->mapped + places_[root].offset;
}

Status Delegate::copy_in(const zp_tensor* inputs, const Recording& recording) {
  for (size_t i = 0; i < program_.inputs.size(); ++i) {
    const Input& input = program_.inputs[i];
    if (input.tensor < 0) continue;
    auto index = static_cast<size_t>(input.tensor);
    fb::HostDType stored = host_of(program_.tensors[index].dtype);
    uint8_t* target = host_bytes(recording.scratch, index, false);
    ZP_TRY(convert(input.host_dtype, inputs[i].data, stored, target, product(inputs[i])).in("input[", i, "]"));
  }
  return Status();
}

// A turn that never came: what the run computed is worth nothing, states included, which others may share.
Status Delegate::check_turns(const Recording& recording) {
  uint32_t stuck = 0;
  if (recording.turn_bytes > 0) std::memcpy(&stuck, recording.turns->mapped, sizeof(stuck));
  if (stuck == 0) return Status();
  context_->give_up();
  return fail(Code::kDevice, context_->info.name, ": a dispatch waited in vain for the one before it; set ",
      "ZEROPOINT_DISABLE=ordered_starts and load the program again");
}

// An index that was computed on the device and lies outside: the first one that a call has reported. States are again
// what they were before the run.
Status Delegate::read_faults(const Recording& recording) {
  Faults found{};
  std::memcpy(&found, host_bytes(recording.scratch, static_cast<size_t>(program_.faults), true), sizeof(found));
  if (found.call == 0) return Status();
  ZP_TRY(context_->fill(kept_));
  auto index = static_cast<size_t>(found.call - 1);
  return bad_argument("call[", index, "] ", index < program_.calls.size() ? program_.calls[index].name : "",
      ": element ", found.element, ", computed on the device, is ", found.value, "; need ", found.min, " to ",
      found.max);
}

Status Delegate::copy_out(const Recording& recording) {
  for (size_t i = 0; i < program_.outputs.size(); ++i) {
    const Output& output = program_.outputs[i];
    uint64_t total = product(outputs_[i]);
    if (total == 0) continue;
    // One piece is one long row; several lie side by side.
    uint64_t columns =
        output.tensors.size() == 1 ? total : static_cast<uint64_t>(outputs_[i].dims[outputs_[i].rank - 1]);
    auto* target = static_cast<uint8_t*>(outputs_[i].data);
    for (uint32_t index : output.tensors) {
      const Tensor& tensor = program_.tensors[index];
      const uint8_t* source = host_bytes(recording.scratch, index, true);
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
    return bad_argument("tensor ", index, "; the program has ", program_.tensors.size());
  const Tensor& tensor = program_.tensors[index];
  bool is_fixed = tensor.memory != fb::Memory::arena && tensor.root == index;
  if (!is_fixed && (last_ == nullptr || (own_.arena == nullptr && !tensor.is_state())))
    return bad_argument("tensor ", tensor.name, ": load with keep_all and execute first");
  uint64_t bytes = tensor.data_bytes;
  if (!is_fixed) bytes = (static_cast<uint64_t>(tensor.numel(last_->symbols)) * bits_of(tensor.dtype) + 7) / 8;
  if (*size_bytes < bytes)
    return bad_argument("tensor ", tensor.name, ": room for ", *size_bytes, " bytes; need ", bytes);
  *size_bytes = bytes;
  if (bytes == 0) return Status();
  std::lock_guard<std::mutex> context_lock(context_->mutex);
  if (images_[index] != nullptr) return context_->read_image(*images_[index], bytes * 8 / bits_of(tensor.dtype), data);
  return context_->read_buffer(buffer_of(index, own_), bytes, data);
}

// Where a tensor that is no image lies.
VkDescriptorBufferInfo Delegate::buffer_of(size_t index, const Scratch& scratch) const {
  const Tensor& tensor = program_.tensors[index];
  if (tensor.size_bytes == 0) return {scratch.arena->handle, 0, kSizeAlign};  // a binding cannot be empty
  if (tensor.memory != fb::Memory::arena) return {buffers_[tensor.root]->handle, 0, tensor.size_bytes};
  const Place& place = places_[tensor.root];
  if (scratch.inputs == nullptr) return {scratch.arena->handle, tensor.offset, tensor.size_bytes};
  return {(scratch.*place.buffer)->handle, place.offset, tensor.size_bytes};
}

std::vector<CallTime> Delegate::call_times() {
  std::lock_guard<std::mutex> lock(mutex_);
  return times_;
}

}  // namespace zeropoint
