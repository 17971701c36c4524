// The recording half of Delegate: command buffers, one per set of symbol values, and reading device memory
// back.
#include <algorithm>
#include <cstring>

#include "delegate.h"

namespace zeropoint {
namespace {

constexpr size_t kMaxRecordings = 16;
constexpr VkDeviceSize kSmallestRange = 16;  // bound in place of an empty tensor
constexpr VkPipelineStageFlags kStages =
    VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
constexpr VkAccessFlags kWrites = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
constexpr VkAccessFlags kAll = kWrites | VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT;

// Bytes of the arena, or (image >= 0) a whole image.
struct Access {
  int64_t image = -1;
  uint64_t begin = 0;
  uint64_t end = 0;
  bool write = false;

  bool conflicts(const Access& other) const {
    if (!write && !other.write) return false;
    if (image >= 0 || other.image >= 0) return image == other.image;
    return begin < other.end && other.begin < end;
  }
};

}  // namespace

Delegate::Recording::~Recording() {
  if (context == nullptr) return;
  VkDevice device = context->device();
  if (commands != VK_NULL_HANDLE) vkFreeCommandBuffers(device, context->command_pool(), 1, &commands);
  vkDestroyDescriptorPool(device, descriptors, nullptr);
  vkDestroyQueryPool(device, queries, nullptr);
}

// Records one Recording. Barriers are placed where the bytes of a call overlap those of calls since the last
// barrier, so that a forged memory plan cannot cause a race and independent calls overlap.
class Delegate::Recorder {
 public:
  Recorder(Delegate& delegate, Recording* recording)
      : delegate_(delegate),
        program_(delegate.program_),
        context_(*delegate.context_),
        recording_(*recording) {}

  Status run() {
    ZP_TRY(create_descriptors());
    ZP_TRY(context_.begin(&recording_.commands));
    if (recording_.profile) ZP_TRY(create_queries());
    copy_inputs();
    timestamp(0);
    for (size_t i = 0; i < recording_.picks.size(); ++i) {
      if (recording_.profile) flush();
      ZP_TRY(call(i));
      timestamp(i + 1);
    }
    copy_outputs();
    Context::barrier(recording_.commands, kStages, kWrites, VK_PIPELINE_STAGE_HOST_BIT,
                     VK_ACCESS_HOST_READ_BIT);
    ZP_VK(vkEndCommandBuffer, recording_.commands);
    return Status();
  }

 private:
  static bool is_image(const Variant& variant, const fb::Binding& binding) {
    return variant.storages[binding.slot()] == fb::Storage::image;
  }

  Status create_descriptors() {
    uint32_t buffers = 0;
    uint32_t images = 0;
    for (const Pick& pick : recording_.picks) {
      const Variant& variant = *pick.candidate.variant;
      for (const fb::Binding& binding : variant.bindings) ++(is_image(variant, binding) ? images : buffers);
    }
    std::vector<VkDescriptorPoolSize> sizes;
    if (buffers > 0) sizes.push_back({VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, buffers});
    if (images > 0) sizes.push_back({VK_DESCRIPTOR_TYPE_STORAGE_IMAGE, images});
    if (sizes.empty()) return Status();
    VkDescriptorPoolCreateInfo info{VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO};
    info.maxSets = static_cast<uint32_t>(recording_.picks.size());
    info.poolSizeCount = static_cast<uint32_t>(sizes.size());
    info.pPoolSizes = sizes.data();
    ZP_VK(vkCreateDescriptorPool, context_.device(), &info, nullptr, &recording_.descriptors);
    return Status();
  }

  Status create_queries() {
    if (context_.info().limits.timestamp_ns == 0.0f) return Status();
    VkQueryPoolCreateInfo info{VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO};
    info.queryType = VK_QUERY_TYPE_TIMESTAMP;
    info.queryCount = static_cast<uint32_t>(recording_.picks.size() + 1);
    ZP_VK(vkCreateQueryPool, context_.device(), &info, nullptr, &recording_.queries);
    vkCmdResetQueryPool(recording_.commands, recording_.queries, 0, info.queryCount);
    return Status();
  }

  void timestamp(size_t index) {
    if (recording_.queries == VK_NULL_HANDLE) return;
    vkCmdWriteTimestamp(recording_.commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, recording_.queries,
                        static_cast<uint32_t>(index));
  }

  static Access access_of(const Tensor& tensor, size_t index, bool write) {
    if (tensor.storage == fb::Storage::image) return {static_cast<int64_t>(index), 0, 0, write};
    return {-1, tensor.offset, tensor.offset + tensor.size_bytes, write};
  }

  void flush() {
    if (pending_.empty()) return;
    Context::barrier(recording_.commands, kStages, kWrites, kStages, kAll);
    ++context_.counters().barriers_recorded;
    pending_.clear();
  }

  void depend(const std::vector<Access>& accesses) {
    for (const Access& mine : accesses) {
      bool conflict = std::any_of(pending_.begin(), pending_.end(),
                                  [&](const Access& other) { return mine.conflicts(other); });
      if (!conflict) continue;
      flush();
      break;
    }
    pending_.insert(pending_.end(), accesses.begin(), accesses.end());
  }

  // Copies between the arena and the staging buffer, the actual bytes of one tensor.
  void copy(size_t index, bool to_arena) {
    const Tensor& tensor = program_.tensors[index];
    auto elements = static_cast<uint64_t>(delegate_.numel(tensor));
    uint64_t bytes = elements * static_cast<uint64_t>(bits_of(tensor.dtype)) / 8;
    if (bytes == 0) return;
    depend({access_of(tensor, index, to_arena)});
    VkBufferCopy region{delegate_.staging_offsets_[index], tensor.offset, bytes};
    if (!to_arena) std::swap(region.srcOffset, region.dstOffset);
    VkBuffer source = to_arena ? recording_.staging->handle : recording_.arena->handle;
    VkBuffer target = to_arena ? recording_.arena->handle : recording_.staging->handle;
    vkCmdCopyBuffer(recording_.commands, source, target, 1, &region);
  }

  void copy_inputs() {
    if (recording_.staging == nullptr) return;
    for (const Input& input : program_.inputs) {
      if (input.tensor >= 0) copy(static_cast<size_t>(input.tensor), true);
    }
  }

  void copy_outputs() {
    if (recording_.staging == nullptr) return;
    std::vector<bool> done(program_.tensors.size());
    for (const Output& output : program_.outputs) {
      for (uint32_t tensor : output.tensors) {
        if (!done[tensor]) copy(tensor, false);
        done[tensor] = true;
      }
    }
  }

  Status call(size_t index) {
    const Call& call = program_.calls[index];
    const Pick& pick = recording_.picks[index];
    if (pick.grid[0] == 0 || pick.grid[1] == 0 || pick.grid[2] == 0) return Status();
    std::vector<Access> accesses;
    for (size_t slot = 0; slot < call.tensors.size(); ++slot) {
      if (call.tensors[slot] < 0) continue;
      auto tensor = static_cast<size_t>(call.tensors[slot]);
      if (program_.tensors[tensor].memory == fb::Memory::constant) continue;
      accesses.push_back(access_of(program_.tensors[tensor], tensor, call.kernel->slots[slot].is_output));
    }
    depend(accesses);
    const Variant& variant = *pick.candidate.variant;
    const Pipeline* pipeline = nullptr;
    ZP_TRY(context_.pipeline(*pick.candidate.algorithm, variant, pick.specs, &pipeline)
               .in(format("call[%zu] %s", index,
                          variant_key(*call.kernel, *pick.candidate.algorithm, variant).c_str())));
    vkCmdBindPipeline(recording_.commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline->handle);
    if (!variant.bindings.empty()) ZP_TRY(bind(call, variant, *pipeline));
    if (variant.push_bytes > 0) {
      vkCmdPushConstants(recording_.commands, pipeline->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                         (variant.push_bytes + 3) / 4 * 4, pick.push);
    }
    vkCmdDispatch(recording_.commands, pick.grid[0], pick.grid[1], pick.grid[2]);
    ++context_.counters().dispatches_recorded;
    return Status();
  }

  Status bind(const Call& call, const Variant& variant, const Pipeline& pipeline) {
    VkDescriptorSetAllocateInfo info{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO};
    info.descriptorPool = recording_.descriptors;
    info.descriptorSetCount = 1;
    info.pSetLayouts = &pipeline.set_layout;
    VkDescriptorSet set = VK_NULL_HANDLE;
    ZP_VK(vkAllocateDescriptorSets, context_.device(), &info, &set);
    size_t count = variant.bindings.size();
    std::vector<VkDescriptorBufferInfo> buffers(count);
    std::vector<VkDescriptorImageInfo> images(count);
    std::vector<VkWriteDescriptorSet> writes(count);
    for (size_t i = 0; i < count; ++i) {
      const fb::Binding& binding = variant.bindings[i];
      auto index = static_cast<size_t>(call.tensors[binding.slot()]);
      writes[i] = {VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET};
      writes[i].dstSet = set;
      writes[i].dstBinding = binding.binding();
      writes[i].descriptorCount = 1;
      if (is_image(variant, binding)) {
        images[i] = {VK_NULL_HANDLE, delegate_.images_[index]->view, VK_IMAGE_LAYOUT_GENERAL};
        writes[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_IMAGE;
        writes[i].pImageInfo = &images[i];
      } else {
        buffers[i] = buffer_of(index);
        writes[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
        writes[i].pBufferInfo = &buffers[i];
      }
    }
    vkUpdateDescriptorSets(context_.device(), static_cast<uint32_t>(count), writes.data(), 0, nullptr);
    vkCmdBindDescriptorSets(recording_.commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.layout, 0, 1, &set,
                            0, nullptr);
    return Status();
  }

  VkDescriptorBufferInfo buffer_of(size_t index) const {
    const Tensor& tensor = program_.tensors[index];
    if (tensor.size_bytes == 0) return {recording_.arena->handle, 0, kSmallestRange};
    if (tensor.memory == fb::Memory::constant)
      return {delegate_.constants_[index]->handle, 0, tensor.size_bytes};
    return {recording_.arena->handle, tensor.offset, tensor.size_bytes};
  }

  Delegate& delegate_;
  const Program& program_;
  Context& context_;
  Recording& recording_;
  std::vector<Access> pending_;  // since the last barrier
};

Status Delegate::find_recording(bool profile, Recording** result) {
  for (const auto& recording : recordings_) {
    if (recording->profile != profile || recording->symbols != symbols_) continue;
    recording->last_used = ++clock_;
    *result = recording.get();
    return Status();
  }
  auto fresh = std::make_unique<Recording>();
  fresh->context = context_;
  fresh->symbols = symbols_;
  fresh->profile = profile;
  fresh->last_used = ++clock_;
  ZP_TRY(record(fresh.get()));
  if (recordings_.size() == kMaxRecordings) {
    auto oldest = std::min_element(recordings_.begin(), recordings_.end(),
                                   [](const auto& a, const auto& b) { return a->last_used < b->last_used; });
    if (last_ == oldest->get()) last_ = nullptr;
    recordings_.erase(oldest);
  }
  *result = fresh.get();
  recordings_.push_back(std::move(fresh));
  return Status();
}

Status Delegate::record(Recording* recording) {
  ZP_TRY(pick_calls(symbols_, &recording->picks));
  recording->arena = own_arena_;
  if (own_arena_ == nullptr) ZP_TRY(context_->arena(&recording->arena));
  if (recording->arena->mapped == nullptr) ZP_TRY(context_->staging(&recording->staging));
  ZP_TRY(Recorder(*this, recording).run());
  ++context_->counters().recordings;
  context_->save_pipelines();
  return Status();
}

Status Delegate::read_times(const Recording& recording) {
  size_t n_calls = recording.picks.size();
  ticks_.resize(n_calls + 1);
  ZP_VK(vkGetQueryPoolResults, context_->device(), recording.queries, 0, static_cast<uint32_t>(n_calls + 1),
        ticks_.size() * sizeof(uint64_t), ticks_.data(), sizeof(uint64_t),
        VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
  times_.resize(n_calls);
  auto since_start = [&](size_t i) {
    double ticks = ticks_[i] > ticks_[0] ? static_cast<double>(ticks_[i] - ticks_[0]) : 0.0;
    return static_cast<uint64_t>(ticks * static_cast<double>(context_->info().limits.timestamp_ns));
  };
  for (size_t i = 0; i < n_calls; ++i)
    times_[i] = {since_start(i), std::max(since_start(i), since_start(i + 1))};
  return Status();
}

Status Delegate::read_tensor(uint32_t index, void* data, uint64_t* size_bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (index >= program_.tensors.size()) {
    return fail(Code::kInvalidArgument, "tensor %u; the program has %zu", index, program_.tensors.size());
  }
  const Tensor& tensor = program_.tensors[index];
  bool is_constant = tensor.memory == fb::Memory::constant;
  if (!is_constant && ((flags_ & ZP_KEEP_ALL) == 0 || last_ == nullptr)) {
    return fail(Code::kInvalidArgument, "tensor %s: load with keep_all and execute first",
                tensor.name.c_str());
  }
  uint64_t bytes = tensor.data_bytes;
  if (!is_constant) {
    uint64_t elements = 1;
    for (const Dim& dim : tensor.dims) elements *= static_cast<uint64_t>(dim.value(last_->symbols));
    bytes = (elements * static_cast<uint64_t>(bits_of(tensor.dtype)) + 7) / 8;
  }
  if (*size_bytes < bytes) {
    return fail(Code::kInvalidArgument, "tensor %s: room for %llu bytes; need %llu", tensor.name.c_str(),
                static_cast<unsigned long long>(*size_bytes), static_cast<unsigned long long>(bytes));
  }
  *size_bytes = bytes;
  if (bytes == 0) return Status();
  std::lock_guard<std::mutex> context_lock(context_->mutex);
  const Image* image = images_[index].get();
  if (image != nullptr)
    return read_image(*image, static_cast<size_t>(bits_of(tensor.dtype) / 8), bytes, data);
  const Buffer& source = is_constant ? *constants_[index] : *own_arena_;
  uint64_t offset = is_constant ? 0 : tensor.offset;
  if (source.mapped != nullptr) {
    std::memcpy(data, source.mapped + offset, bytes);
    return Status();
  }
  std::shared_ptr<Buffer> target;
  ZP_TRY(context_->create_buffer(bytes, MemoryUse::kHost, &target));
  VkCommandBuffer commands = VK_NULL_HANDLE;
  ZP_TRY(context_->begin(&commands));
  Context::barrier(commands, kStages, kWrites, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_READ_BIT);
  VkBufferCopy region{offset, 0, bytes};
  vkCmdCopyBuffer(commands, source.handle, target->handle, 1, &region);
  Context::barrier(commands, kStages, kWrites, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
  ZP_TRY(context_->run_once(commands));
  std::memcpy(data, target->mapped, bytes);
  return Status();
}

Status Delegate::read_image(const Image& image, size_t element_bytes, size_t bytes, void* data) {
  std::shared_ptr<Buffer> target;
  ZP_TRY(context_->create_buffer(VkDeviceSize{image.width} * image.height * image.texel_bytes,
                                 MemoryUse::kHost, &target));
  VkCommandBuffer commands = VK_NULL_HANDLE;
  ZP_TRY(context_->begin(&commands));
  Context::barrier(commands, kStages, kWrites, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_READ_BIT);
  VkBufferImageCopy region{};
  region.imageSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1};
  region.imageExtent = {image.width, image.height, 1};
  vkCmdCopyImageToBuffer(commands, image.handle, VK_IMAGE_LAYOUT_GENERAL, target->handle, 1, &region);
  Context::barrier(commands, kStages, kWrites, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
  ZP_TRY(context_->run_once(commands));
  auto* out = static_cast<uint8_t*>(data);
  for (size_t i = 0; i < bytes / element_bytes; ++i) {
    std::memcpy(out + i * element_bytes, target->mapped + i * image.texel_bytes, element_bytes);
  }
  return Status();
}

}  // namespace zeropoint
