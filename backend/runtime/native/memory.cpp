// Device memory of a Context: buffers, images, shared constants, uploads.

#define XXH_INLINE_ALL
#include "memory.h"

#include <xxhash.h>

#include "context.h"
#include "convert.h"
#include "parallel.h"
#include "program.h"

namespace zeropoint {
namespace {

constexpr VkDeviceSize kHalfBytes = 32 << 20;  // of a staging buffer for constants, at most
constexpr VkDeviceSize kPartBytes = 1 << 20;   // that one thread copies there
constexpr size_t kHashBytes = 128 << 10;       // copied while they are in the cache
constexpr VkBufferUsageFlags kUsage =
    VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;

// Of none, f32, f16, i32, i8.
constexpr VkFormat kFormats[] = {VK_FORMAT_UNDEFINED, VK_FORMAT_R32G32B32A32_SFLOAT, VK_FORMAT_R16G16B16A16_SFLOAT,
    VK_FORMAT_R32G32B32A32_SINT, VK_FORMAT_R8G8B8A8_SINT};

std::string text_of(const XXH128_hash_t& hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  return hex(canonical.digest, sizeof(canonical.digest));
}

// The content key of bytes, which are copied while they are at hand. target: null copies nothing.
std::string hash_and_copy(std::string_view data, uint8_t* target) {
  XXH3_state_t hash;
  XXH3_128bits_reset(&hash);
  for (size_t done = 0; done < data.size(); done += kHashBytes) {
    size_t part = std::min(kHashBytes, data.size() - done);
    XXH3_128bits_update(&hash, data.data() + done, part);
    if (target != nullptr) std::memcpy(target + done, data.data() + done, part);
  }
  return text_of(XXH3_128bits_digest(&hash));
}

}  // namespace

std::string content_key(std::string_view data) { return text_of(XXH3_128bits(data.data(), data.size())); }

void hash_all(std::vector<Upload>* uploads) {
  parallel_for(uploads->size(), [&](size_t i) { (*uploads)[i].hash = content_key((*uploads)[i].data); });
}

Memory::~Memory() {
  if (memory == VK_NULL_HANDLE) return;
  vkFreeMemory(context->device, memory, nullptr);
  --context->counters.device_allocations;
  context->counters.device_bytes -= allocated_bytes;
}

Buffer::~Buffer() { vkDestroyBuffer(context->device, handle, nullptr); }

Image::~Image() {
  vkDestroyImageView(context->device, view, nullptr);
  vkDestroyImage(context->device, handle, nullptr);
}

bool Context::find_memory_type(uint32_t allowed, MemoryUse use, uint32_t* type) const {
  constexpr VkMemoryPropertyFlags kHost = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  constexpr VkMemoryPropertyFlags kDevice = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
  VkMemoryPropertyFlags needed = use == MemoryUse::kDevice ? 0 : kHost;
  bool cached = use == MemoryUse::kHost || direct_;
  VkMemoryPropertyFlags best = needed | (cached ? kHost | VK_MEMORY_PROPERTY_HOST_CACHED_BIT : 0);
  best |= use == MemoryUse::kHost ? 0 : kDevice;
  for (VkMemoryPropertyFlags wanted : {best, needed | (best & kDevice), needed})
    for (*type = 0; *type < memory_.memoryTypeCount; ++*type)
      if ((allowed >> *type & 1) != 0 && (memory_.memoryTypes[*type].propertyFlags & wanted) == wanted) return true;
  return false;
}

Status Context::allocate(const VkMemoryRequirements& needs, MemoryUse use, bool map, Memory* memory) {
  uint32_t type = 0;
  if (!find_memory_type(needs.memoryTypeBits, use, &type)) return fail(Code::kOutOfMemory, "no memory type for this");
  uint64_t heap = memory_.memoryHeaps[memory_.memoryTypes[type].heapIndex].size;
  uint64_t limit = std::min(info.allocation_bytes, heap);
  if (needs.size > limit)
    return fail(Code::kOutOfMemory, needs.size, " bytes; ", info.name, " allocates at most ", limit, " at once");
  VkMemoryAllocateInfo allocate{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, nullptr, needs.size, type};
  ZP_VK(vkAllocateMemory, device, &allocate, nullptr, &memory->memory);
  memory->allocated_bytes = needs.size;
  ++counters.device_allocations;
  counters.device_bytes += needs.size;
  bool coherent = (memory_.memoryTypes[type].propertyFlags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT) != 0;
  if (!map || (use == MemoryUse::kDevice && !(direct_ && coherent))) return Status();
  ZP_VK(vkMapMemory, device, memory->memory, 0, VK_WHOLE_SIZE, 0, reinterpret_cast<void**>(&memory->mapped));
  return Status();
}

Status Context::create_buffer(uint64_t size_bytes, MemoryUse use, std::shared_ptr<Buffer>* buffer) {
  if (size_bytes > heap_bytes && use == MemoryUse::kDevice)
    return fail(Code::kOutOfMemory, size_bytes, " bytes; ", info.name, " has ", heap_bytes);
  auto result = std::make_shared<Buffer>();
  result->context = this;
  result->size_bytes = size_bytes;
  VkBufferCreateInfo create{VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, nullptr, 0, size_bytes, kUsage};
  ZP_VK(vkCreateBuffer, device, &create, nullptr, &result->handle);
  VkMemoryRequirements needs{};
  vkGetBufferMemoryRequirements(device, result->handle, &needs);
  Status status = allocate(needs, use, true, result.get());
  // Of some devices the host sees a small part alone.
  bool again = use == MemoryUse::kInput && !status.ok() && result->allocated_bytes == 0;
  if (again) status = allocate(needs, MemoryUse::kHost, true, result.get());
  ZP_TRY(std::move(status));
  ZP_VK(vkBindBufferMemory, device, result->handle, result->memory, 0);
  *buffer = std::move(result);
  return Status();
}

Status Context::create_image(fb::DType dtype, int64_t numel, std::unique_ptr<Image>* image) {
  auto result = std::make_unique<Image>();
  result->context = this;
  int64_t extent = std::max<int64_t>(facts[Fact::max_image_extent], 1);
  int64_t texels = std::max<int64_t>(numel, 1);
  int64_t rows = (texels + extent - 1) / extent;
  if (rows > extent)
    return fail(Code::kIncompatible, "an image of ", texels, " texels; the device holds ", extent, " x ", extent);
  result->width = static_cast<uint32_t>(std::min(texels, extent));
  result->height = static_cast<uint32_t>(rows);
  result->texel_bytes = static_cast<uint32_t>(bits_of(dtype) / 2);  // four components
  VkImageCreateInfo create{VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO, nullptr, 0, VK_IMAGE_TYPE_2D,
      kFormats[static_cast<size_t>(dtype)], {result->width, result->height, 1}, 1, 1, VK_SAMPLE_COUNT_1_BIT,
      VK_IMAGE_TILING_OPTIMAL, VK_IMAGE_USAGE_STORAGE_BIT | VK_IMAGE_USAGE_TRANSFER_SRC_BIT};
  ZP_VK(vkCreateImage, device, &create, nullptr, &result->handle);
  VkMemoryRequirements needs{};
  vkGetImageMemoryRequirements(device, result->handle, &needs);
  ZP_TRY(allocate(needs, MemoryUse::kDevice, false, result.get()));
  ZP_VK(vkBindImageMemory, device, result->handle, result->memory, 0);
  VkImageViewCreateInfo view{VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO, nullptr, 0, result->handle,
      VK_IMAGE_VIEW_TYPE_2D, create.format, {}, {VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1}};
  ZP_VK(vkCreateImageView, device, &view, nullptr, &result->view);
  *image = std::move(result);
  return Status();
}

Status Context::prepare_images(const std::vector<std::unique_ptr<Image>>& images) {
  std::vector<VkImageMemoryBarrier> barriers;
  for (const auto& image : images) {
    if (image == nullptr) continue;
    barriers.push_back({VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER, nullptr, 0,
        VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT, VK_IMAGE_LAYOUT_UNDEFINED, VK_IMAGE_LAYOUT_GENERAL,
        VK_QUEUE_FAMILY_IGNORED, VK_QUEUE_FAMILY_IGNORED, image->handle, {VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1}});
  }
  if (barriers.empty()) return Status();
  return run_once([&](VkCommandBuffer commands) {
    vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 0,
        nullptr, 0, nullptr, static_cast<uint32_t>(barriers.size()), barriers.data());
  });
}

Status Context::constant(const std::string& key, uint64_t size_bytes, std::shared_ptr<Buffer>* buffer, bool* is_new) {
  std::weak_ptr<Buffer>& known = constants_[key];
  *buffer = known.lock();
  *is_new = *buffer == nullptr;
  counters.constants_shared += !*is_new;  // equal bytes have one size, and other bytes do not pass upload()
  if (*is_new) ZP_TRY(create_buffer(size_bytes, MemoryUse::kDevice, buffer));
  known = *buffer;
  return Status();
}

Status Context::state(const State& wanted, uint64_t size_bytes, std::shared_ptr<State>* state, bool* is_new) {
  auto expired = [](const std::weak_ptr<State>& known) { return known.expired(); };
  states_.erase(std::remove_if(states_.begin(), states_.end(), expired), states_.end());
  *is_new = false;
  for (const std::weak_ptr<State>& weak : states_) {
    std::shared_ptr<State> known = weak.lock();
    if (wanted.program == nullptr || known->program != wanted.program || known->key != wanted.key) continue;
    if (wanted.key.empty() || known->methods.count(*wanted.methods.begin()) != 0) continue;
    if (known->buffer->size_bytes != size_bytes || known->first != wanted.first)
      return fail(Code::kInvalidProgram, size_bytes, " bytes; another method has ", known->buffer->size_bytes,
          " bytes, or other first contents");
    known->methods.insert(*wanted.methods.begin());
    *state = std::move(known);
    return Status();
  }
  auto fresh = std::make_shared<State>(wanted);
  ZP_TRY(create_buffer(size_bytes, MemoryUse::kDevice, &fresh->buffer));
  states_.push_back(fresh);
  *state = std::move(fresh);
  *is_new = true;
  return Status();
}

Status Context::fill(const States& states) {
  if (states.empty()) return Status();
  return run_once([&](VkCommandBuffer commands) {
    barrier(commands);
    for (const auto& state : states) {
      VkBufferCopy all{0, 0, state->buffer->size_bytes};
      if (state->first == nullptr) vkCmdFillBuffer(commands, state->buffer->handle, 0, VK_WHOLE_SIZE, 0);
      if (state->first != nullptr) vkCmdCopyBuffer(commands, state->first->handle, state->buffer->handle, 1, &all);
    }
  });
}

Status Context::upload(std::vector<Upload>* uploads) {
  parallel_for(uploads->size(), [&](size_t i) {
    Upload& upload = (*uploads)[i];
    uint8_t* mapped = upload.target == nullptr ? nullptr : upload.target->mapped;
    if (upload.hash.empty() || mapped != nullptr) upload.hash = hash_and_copy(upload.data, mapped);
  });
  VkDeviceSize to_stage = 0;
  for (const Upload& upload : *uploads) {
    if (upload.hash != upload.key)
      return fail(
          Code::kInvalidProgram, upload.where, ": its bytes have the hash ", upload.hash, "; the file is damaged");
    counters.constants_uploaded += upload.target != nullptr;
    if (upload.is_staged()) to_stage += align_up(upload.data.size(), kSizeAlign);
  }
  return to_stage == 0 ? Status() : upload_staged(*uploads, to_stage);
}

// Those that the host cannot write in place, half of a staging buffer at a time: it fills one half while the device
// copies the other one.
Status Context::upload_staged(const std::vector<Upload>& uploads, VkDeviceSize size_bytes) {
  struct Part {
    const char* from;
    VkBuffer to;
    VkBufferCopy region;  // of the staging buffer
  };
  std::shared_ptr<Buffer> staging;
  ZP_TRY(create_buffer(std::min(size_bytes, 2 * kHalfBytes), MemoryUse::kHost, &staging));
  std::vector<Part> next, filled;
  VkDeviceSize start = 0, used = 0;  // of the half that is filled next
  auto fill = [&](size_t i) {
    std::memcpy(staging->mapped + next[i].region.srcOffset, next[i].from, next[i].region.size);
  };
  auto copy = [&](VkCommandBuffer commands) {
    for (const Part& part : filled) vkCmdCopyBuffer(commands, staging->handle, part.to, 1, &part.region);
    barrier(commands);  // every later shader sees them
  };
  auto flush = [&]() -> Status {
    Status copied;
    parallel_for(2, [&](size_t i) {
      if (i == 0 && !filled.empty()) copied = run_once(copy);
      if (i == 1) parallel_for(next.size(), fill);
    });
    filled = std::exchange(next, {});
    start = kHalfBytes - start;
    used = 0;
    return copied;
  };
  for (const Upload& upload : uploads) {
    for (VkDeviceSize done = 0; upload.is_staged() && done < upload.data.size();) {
      if (used == kHalfBytes) ZP_TRY(flush());
      VkDeviceSize size = std::min({upload.data.size() - done, kHalfBytes - used, kPartBytes});
      next.push_back({upload.data.data() + done, upload.target->handle, {start + used, done, size}});
      done += size;
      used = std::min(kHalfBytes, align_up(used + size, kSizeAlign));
    }
  }
  ZP_TRY(flush());
  return flush();
}

// Runs copy(commands, buffer) into a host buffer, and gathers the first `part` bytes of each of n strides of it.
template <typename Copy>
Status Context::download(uint64_t size_bytes, Copy copy, uint64_t n, uint64_t stride, uint64_t part, void* data) {
  std::shared_ptr<Buffer> target;
  ZP_TRY(create_buffer(size_bytes, MemoryUse::kHost, &target));
  ZP_TRY(run_once([&](VkCommandBuffer commands) {
    barrier(commands);
    copy(commands, target->handle);
    barrier(commands, true);
  }));
  for (uint64_t i = 0; i < n; ++i)
    std::memcpy(static_cast<uint8_t*>(data) + i * part, target->mapped + i * stride, part);
  return Status();
}

Status Context::read_buffer(const VkDescriptorBufferInfo& source, uint64_t size_bytes, void* data) {
  VkBufferCopy region{source.offset, 0, size_bytes};
  auto copy = [&](VkCommandBuffer commands, VkBuffer target) {
    vkCmdCopyBuffer(commands, source.buffer, target, 1, &region);
  };
  return download(size_bytes, copy, 1, size_bytes, size_bytes, data);
}

Status Context::read_image(const Image& source, uint64_t n_elements, void* data) {
  VkBufferImageCopy region{0, 0, 0, {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1}, {}, {source.width, source.height, 1}};
  auto copy = [&](VkCommandBuffer commands, VkBuffer target) {
    vkCmdCopyImageToBuffer(commands, source.handle, VK_IMAGE_LAYOUT_GENERAL, target, 1, &region);
  };
  uint64_t texel = source.texel_bytes;
  return download(texel * source.width * source.height, copy, n_elements, texel, texel / 4, data);
}

}  // namespace zeropoint
