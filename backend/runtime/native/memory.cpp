// Device memory of a Context: buffers, images, shared constants, uploads.

#include "context.h"
#include "program.h"

namespace zeropoint {
namespace {

constexpr VkDeviceSize kUploadBytes = 16 << 20;  // staging of one upload submission
constexpr VkBufferUsageFlags kUsage =
    VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;

// Of none, f32, f16, i32, i8.
constexpr VkFormat kFormats[] = {VK_FORMAT_UNDEFINED, VK_FORMAT_R32G32B32A32_SFLOAT, VK_FORMAT_R16G16B16A16_SFLOAT,
    VK_FORMAT_R32G32B32A32_SINT, VK_FORMAT_R8G8B8A8_SINT};

void release(Context* context, VkDeviceMemory memory, uint64_t bytes) {
  if (memory == VK_NULL_HANDLE) return;
  vkFreeMemory(context->device, memory, nullptr);
  --context->counters.device_allocations;
  context->counters.device_bytes -= bytes;
}

}  // namespace

Buffer::~Buffer() {
  vkDestroyBuffer(context->device, handle, nullptr);
  release(context, memory, allocated_bytes);
}

Image::~Image() {
  vkDestroyImageView(context->device, view, nullptr);
  vkDestroyImage(context->device, handle, nullptr);
  release(context, memory, allocated_bytes);
}

bool Context::find_memory_type(uint32_t allowed, MemoryUse use, uint32_t* type) const {
  constexpr VkMemoryPropertyFlags kHost = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  constexpr VkMemoryPropertyFlags kDevice = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
  VkMemoryPropertyFlags needed = use == MemoryUse::kHost ? kHost : 0;
  bool cached = use == MemoryUse::kHost || direct_;
  VkMemoryPropertyFlags best = cached ? kHost | VK_MEMORY_PROPERTY_HOST_CACHED_BIT : 0;
  best |= use == MemoryUse::kDevice ? kDevice : 0;
  for (VkMemoryPropertyFlags wanted : {best, needed | (best & kDevice), needed})
    for (*type = 0; *type < memory_.memoryTypeCount; ++*type)
      if ((allowed >> *type & 1) != 0 && (memory_.memoryTypes[*type].propertyFlags & wanted) == wanted) return true;
  return false;
}

Status Context::allocate(const VkMemoryRequirements& needs, MemoryUse use, VkDeviceMemory* memory, uint8_t** mapped) {
  uint32_t type = 0;
  if (!find_memory_type(needs.memoryTypeBits, use, &type)) return fail(Code::kOutOfMemory, "no memory type for this");
  uint64_t heap = memory_.memoryHeaps[memory_.memoryTypes[type].heapIndex].size;
  uint64_t limit = std::min(info.limits.allocation_bytes, heap);
  if (needs.size > limit)
    return fail(Code::kOutOfMemory, needs.size, " bytes; ", info.name, " allocates at most ", limit, " at once");
  VkMemoryAllocateInfo allocate{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, nullptr, needs.size, type};
  ZP_VK(vkAllocateMemory, device, &allocate, nullptr, memory);
  ++counters.device_allocations;
  counters.device_bytes += needs.size;
  bool coherent = (memory_.memoryTypes[type].propertyFlags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT) != 0;
  if (mapped == nullptr || (use == MemoryUse::kDevice && !(direct_ && coherent))) return Status();
  ZP_VK(vkMapMemory, device, *memory, 0, VK_WHOLE_SIZE, 0, reinterpret_cast<void**>(mapped));
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
  result->allocated_bytes = needs.size;
  ZP_TRY(allocate(needs, use, &result->memory, &result->mapped));
  ZP_VK(vkBindBufferMemory, device, result->handle, result->memory, 0);
  *buffer = std::move(result);
  return Status();
}

Status Context::create_image(fb::DType dtype, int64_t numel, std::unique_ptr<Image>* image) {
  auto result = std::make_unique<Image>();
  result->context = this;
  int64_t extent = info.limits.image_extent;
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
  result->allocated_bytes = needs.size;
  ZP_TRY(allocate(needs, MemoryUse::kDevice, &result->memory, nullptr));
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
  if (*is_new) {
    ZP_TRY(create_buffer(size_bytes, MemoryUse::kDevice, buffer));
    known = *buffer;
    return Status();
  }
  ++counters.constants_shared;
  if ((*buffer)->size_bytes == size_bytes) return Status();
  return fail(Code::kInvalidProgram, size_bytes, " bytes; another tensor with this key has ", (*buffer)->size_bytes);
}

Status Context::upload(const std::vector<Upload>& uploads) {
  std::shared_ptr<Buffer> staging;
  std::vector<std::pair<const Buffer*, VkBufferCopy>> copies;
  VkDeviceSize used = 0;
  // Runs the copies gathered so far and makes them visible to every later shader.
  auto flush = [&]() -> Status {
    used = 0;
    if (copies.empty()) return Status();
    return run_once([&](VkCommandBuffer commands) {
      for (const auto& [target, copy] : std::exchange(copies, {}))
        vkCmdCopyBuffer(commands, staging->handle, target->handle, 1, &copy);
      barrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_WRITE_BIT,
          VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_ACCESS_SHADER_READ_BIT);
    });
  };
  for (const auto& [target, data] : uploads) {
    ++counters.constants_uploaded;
    if (target->mapped != nullptr) {
      std::memcpy(target->mapped, data.data(), data.size());
      continue;
    }
    if (staging == nullptr) ZP_TRY(create_buffer(kUploadBytes, MemoryUse::kHost, &staging));
    for (VkDeviceSize done = 0; done < data.size();) {
      if (used == kUploadBytes) ZP_TRY(flush());
      VkDeviceSize part = std::min<VkDeviceSize>(data.size() - done, kUploadBytes - used);
      std::memcpy(staging->mapped + used, data.data() + done, part);
      copies.push_back({target, {used, done, part}});
      done += part;
      used = std::min(kUploadBytes, align_up(used + part, kSizeAlign));
    }
  }
  return flush();
}

// Runs copy(commands, buffer) into a host buffer and hands its bytes to use(bytes).
template <typename Copy, typename Use> Status Context::download(uint64_t size_bytes, Copy copy, Use use) {
  std::shared_ptr<Buffer> target;
  ZP_TRY(create_buffer(size_bytes, MemoryUse::kHost, &target));
  ZP_TRY(run_once([&](VkCommandBuffer commands) {
    barrier(commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_ACCESS_SHADER_WRITE_BIT, VK_PIPELINE_STAGE_TRANSFER_BIT,
        VK_ACCESS_TRANSFER_READ_BIT);
    copy(commands, target->handle);
    barrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_WRITE_BIT, VK_PIPELINE_STAGE_HOST_BIT,
        VK_ACCESS_HOST_READ_BIT);
  }));
  use(target->mapped);
  return Status();
}

Status Context::read_buffer(const Buffer& source, uint64_t offset, uint64_t size_bytes, void* data) {
  VkBufferCopy region{offset, 0, size_bytes};
  return download(
      size_bytes,
      [&](VkCommandBuffer commands, VkBuffer target) { vkCmdCopyBuffer(commands, source.handle, target, 1, &region); },
      [&](const uint8_t* bytes) { std::memcpy(data, bytes, size_bytes); });
}

Status Context::read_image(const Image& source, uint64_t n_elements, void* data) {
  uint64_t element = source.texel_bytes / 4;
  VkBufferImageCopy region{0, 0, 0, {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1}, {}, {source.width, source.height, 1}};
  return download(
      uint64_t{source.width} * source.height * source.texel_bytes,
      [&](VkCommandBuffer commands, VkBuffer target) {
        vkCmdCopyImageToBuffer(commands, source.handle, VK_IMAGE_LAYOUT_GENERAL, target, 1, &region);
      },
      [&](const uint8_t* texels) {
        auto* out = static_cast<uint8_t*>(data);
        for (uint64_t i = 0; i < n_elements; ++i)
          std::memcpy(out + i * element, texels + i * source.texel_bytes, element);
      });
}

}  // namespace zeropoint
