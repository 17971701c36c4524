// Device memory of a Context: buffers, images, shared constants, uploads.
#include <algorithm>
#include <cstring>

#include "context.h"
#include "program.h"

namespace zeropoint {
namespace {

constexpr VkDeviceSize kBlockBytes = 32 << 20;   // constants share blocks of this size
constexpr VkDeviceSize kSharedBytes = 8 << 20;   // and have memory of their own above this one
constexpr VkDeviceSize kUploadBytes = 16 << 20;  // staging of one upload submission
constexpr VkBufferUsageFlags kUsage =
    VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;

VkFormat format_of(fb::DType dtype) {
  switch (dtype) {
    case fb::DType::f32: return VK_FORMAT_R32G32B32A32_SFLOAT;
    case fb::DType::f16: return VK_FORMAT_R16G16B16A16_SFLOAT;
    case fb::DType::i32: return VK_FORMAT_R32G32B32A32_SINT;
    default: return VK_FORMAT_R8G8B8A8_SINT;
  }
}

void before_download(VkCommandBuffer commands) {
  Context::barrier(commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_ACCESS_SHADER_WRITE_BIT,
                   VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_READ_BIT);
}

void after_download(VkCommandBuffer commands) {
  Context::barrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_WRITE_BIT, VK_PIPELINE_STAGE_HOST_BIT,
                   VK_ACCESS_HOST_READ_BIT);
}

}  // namespace

Memory::~Memory() {
  if (handle == VK_NULL_HANDLE) return;
  vkFreeMemory(context->device_, handle, nullptr);
  --context->counters_.device_allocations;
  context->counters_.device_bytes -= size_bytes;
}

Buffer::~Buffer() {
  if (handle != VK_NULL_HANDLE) vkDestroyBuffer(context->device(), handle, nullptr);
}

Image::~Image() {
  if (view != VK_NULL_HANDLE) vkDestroyImageView(context->device(), view, nullptr);
  if (handle != VK_NULL_HANDLE) vkDestroyImage(context->device(), handle, nullptr);
}

bool Context::find_memory_type(uint32_t allowed, MemoryUse use, uint32_t* type) const {
  constexpr VkMemoryPropertyFlags kHost = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  constexpr VkMemoryPropertyFlags kCached = kHost | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
  constexpr VkMemoryPropertyFlags kDevice = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
  VkMemoryPropertyFlags first = use == MemoryUse::kHost ? kCached : direct_ ? kDevice | kCached : kDevice;
  VkMemoryPropertyFlags second = use == MemoryUse::kHost ? kHost : kDevice;
  for (VkMemoryPropertyFlags wanted : {first, second, use == MemoryUse::kHost ? kHost : 0}) {
    for (*type = 0; *type < memory_.memoryTypeCount; ++*type) {
      bool fits = (allowed >> *type & 1) != 0;
      if (fits && (memory_.memoryTypes[*type].propertyFlags & wanted) == wanted) return true;
    }
  }
  return false;
}

Status Context::allocate(const VkMemoryRequirements& needs, MemoryUse use, std::shared_ptr<Memory>* memory) {
  auto result = std::make_shared<Memory>();
  result->context = this;
  if (!find_memory_type(needs.memoryTypeBits, use, &result->type))
    return Status(Code::kOutOfMemory, "the device has no memory type for this");
  uint64_t limit = std::min<uint64_t>(info_.limits.allocation_bytes,
                                      memory_.memoryHeaps[memory_.memoryTypes[result->type].heapIndex].size);
  if (needs.size > limit)
    return fail(Code::kOutOfMemory, needs.size, " bytes; the device allocates at most ", limit, " at once");
  VkMemoryAllocateInfo info{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};
  info.allocationSize = needs.size;
  info.memoryTypeIndex = result->type;
  Status status;
  if (VkResult code = vkAllocateMemory(device_, &info, nullptr, &result->handle); code != VK_SUCCESS)
    return vk_failure("vkAllocateMemory", code).in(cat(needs.size, " bytes"));
  result->size_bytes = needs.size;
  ++counters_.device_allocations;
  counters_.device_bytes += needs.size;
  VkMemoryPropertyFlags flags = memory_.memoryTypes[result->type].propertyFlags;
  bool coherent = (flags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT) != 0;
  if (use == MemoryUse::kHost || (direct_ && coherent)) {
    void* mapped = nullptr;
    ZP_VK(vkMapMemory, device_, result->handle, 0, VK_WHOLE_SIZE, 0, &mapped);
    result->mapped = static_cast<uint8_t*>(mapped);
  }
  *memory = std::move(result);
  return Status();
}

Status Context::make_buffer(VkDeviceSize size_bytes, std::shared_ptr<Buffer>* buffer, VkMemoryRequirements* needs) {
  auto result = std::make_shared<Buffer>();
  result->context = this;
  result->size_bytes = size_bytes;
  VkBufferCreateInfo info{VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO};
  info.size = size_bytes;
  info.usage = kUsage;
  ZP_VK(vkCreateBuffer, device_, &info, nullptr, &result->handle);
  vkGetBufferMemoryRequirements(device_, result->handle, needs);
  *buffer = std::move(result);
  return Status();
}

Status Context::bind(const std::shared_ptr<Memory>& memory, VkDeviceSize offset, Buffer* buffer) {
  ZP_VK(vkBindBufferMemory, device_, buffer->handle, memory->handle, offset);
  buffer->memory = memory;
  buffer->mapped = memory->mapped == nullptr ? nullptr : memory->mapped + offset;
  return Status();
}

Status Context::create_buffer(VkDeviceSize size_bytes, MemoryUse use, std::shared_ptr<Buffer>* buffer) {
  if (size_bytes > heap_bytes_ && use == MemoryUse::kDevice)
    return fail(Code::kOutOfMemory, size_bytes, " bytes; the device has ", heap_bytes_);
  VkMemoryRequirements needs{};
  std::shared_ptr<Buffer> result;
  ZP_TRY(make_buffer(size_bytes, &result, &needs));
  std::shared_ptr<Memory> memory;
  ZP_TRY(allocate(needs, use, &memory));
  ZP_TRY(bind(memory, 0, result.get()));
  *buffer = std::move(result);
  return Status();
}

Status Context::create_image(fb::DType dtype, int64_t numel, std::unique_ptr<Image>* image) {
  auto result = std::make_unique<Image>();
  result->context = this;
  int64_t extent = info_.limits.image_extent;
  int64_t texels = std::max<int64_t>(numel, 1);
  int64_t rows = (texels + extent - 1) / extent;
  if (rows > extent)
    return fail(Code::kIncompatible, "an image of ", texels, " texels; the device holds ", extent, " x ", extent);
  result->width = static_cast<uint32_t>(std::min(texels, extent));
  result->height = static_cast<uint32_t>(rows);
  result->texel_bytes = static_cast<uint32_t>(bits_of(dtype) / 2);  // four components
  VkImageCreateInfo info{VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO};
  info.imageType = VK_IMAGE_TYPE_2D;
  info.format = format_of(dtype);
  info.extent = {result->width, result->height, 1};
  info.mipLevels = 1;
  info.arrayLayers = 1;
  info.samples = VK_SAMPLE_COUNT_1_BIT;
  info.usage = VK_IMAGE_USAGE_STORAGE_BIT | VK_IMAGE_USAGE_TRANSFER_SRC_BIT;
  ZP_VK(vkCreateImage, device_, &info, nullptr, &result->handle);
  VkMemoryRequirements needs{};
  vkGetImageMemoryRequirements(device_, result->handle, &needs);
  ZP_TRY(allocate(needs, MemoryUse::kDevice, &result->memory));
  ZP_VK(vkBindImageMemory, device_, result->handle, result->memory->handle, 0);
  VkImageViewCreateInfo view{VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO};
  view.image = result->handle;
  view.viewType = VK_IMAGE_VIEW_TYPE_2D;
  view.format = info.format;
  view.subresourceRange = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1};
  ZP_VK(vkCreateImageView, device_, &view, nullptr, &result->view);
  *image = std::move(result);
  return Status();
}

Status Context::prepare_images(const std::vector<std::unique_ptr<Image>>& images) {
  std::vector<VkImageMemoryBarrier> barriers;
  for (const auto& image : images) {
    if (image == nullptr) continue;
    VkImageMemoryBarrier& barrier = barriers.emplace_back();
    barrier = {VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER};
    barrier.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT;
    barrier.oldLayout = VK_IMAGE_LAYOUT_UNDEFINED;
    barrier.newLayout = VK_IMAGE_LAYOUT_GENERAL;
    barrier.srcQueueFamilyIndex = barrier.dstQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED;
    barrier.image = image->handle;
    barrier.subresourceRange = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1};
  }
  if (barriers.empty()) return Status();
  return run_once([&](VkCommandBuffer commands) {
    vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 0,
                         nullptr, 0, nullptr, static_cast<uint32_t>(barriers.size()), barriers.data());
  });
}

Status Context::constant(const std::string& key, VkDeviceSize size_bytes, std::shared_ptr<Buffer>* buffer,
                         bool* is_new) {
  std::weak_ptr<Buffer>& known = constants_[key];
  *buffer = known.lock();
  *is_new = *buffer == nullptr;
  if (!*is_new) {
    ++counters_.constants_shared;
    if ((*buffer)->size_bytes == size_bytes) return Status();
    return fail(Code::kInvalidProgram, size_bytes, " bytes; another tensor with this key has ", (*buffer)->size_bytes);
  }
  if (size_bytes > kSharedBytes) {
    ZP_TRY(create_buffer(size_bytes, MemoryUse::kDevice, buffer));
    known = *buffer;
    return Status();
  }
  VkMemoryRequirements needs{};
  ZP_TRY(make_buffer(size_bytes, buffer, &needs));
  VkDeviceSize start = block_ == nullptr ? 0 : align_up(block_->used_bytes, needs.alignment);
  if (block_ == nullptr || start > block_->size_bytes || needs.size > block_->size_bytes - start ||
      (needs.memoryTypeBits >> block_->type & 1) == 0) {
    VkMemoryRequirements block = needs;
    block.size = kBlockBytes;
    ZP_TRY(allocate(block, MemoryUse::kDevice, &block_));
    start = 0;
  }
  block_->used_bytes = start + needs.size;
  ZP_TRY(bind(block_, start, buffer->get()));
  known = *buffer;
  return Status();
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
  for (const Upload& upload : uploads) {
    ++counters_.constants_uploaded;
    const auto* data = static_cast<const uint8_t*>(upload.data);
    if (upload.target->mapped != nullptr) {
      std::memcpy(upload.target->mapped, data, upload.size_bytes);
      continue;
    }
    if (staging == nullptr) ZP_TRY(create_buffer(kUploadBytes, MemoryUse::kHost, &staging));
    for (VkDeviceSize done = 0; done < upload.size_bytes;) {
      if (used == kUploadBytes) ZP_TRY(flush());
      VkDeviceSize part = std::min<VkDeviceSize>(upload.size_bytes - done, kUploadBytes - used);
      std::memcpy(staging->mapped + used, data + done, part);
      copies.push_back({upload.target, {used, done, part}});
      done += part;
      used = std::min(kUploadBytes, align_up(used + part, kSizeAlign));
    }
  }
  return flush();
}

Status Context::download(const Buffer& source, uint64_t offset, uint64_t size_bytes, void* data) {
  if (source.mapped != nullptr) {
    std::memcpy(data, source.mapped + offset, size_bytes);
    return Status();
  }
  std::shared_ptr<Buffer> target;
  ZP_TRY(create_buffer(size_bytes, MemoryUse::kHost, &target));
  ZP_TRY(run_once([&](VkCommandBuffer commands) {
    before_download(commands);
    VkBufferCopy region{offset, 0, size_bytes};
    vkCmdCopyBuffer(commands, source.handle, target->handle, 1, &region);
    after_download(commands);
  }));
  std::memcpy(data, target->mapped, size_bytes);
  return Status();
}

Status Context::download(const Image& source, std::vector<uint8_t>* texels) {
  std::shared_ptr<Buffer> target;
  texels->resize(size_t{source.width} * source.height * source.texel_bytes);
  ZP_TRY(create_buffer(texels->size(), MemoryUse::kHost, &target));
  ZP_TRY(run_once([&](VkCommandBuffer commands) {
    before_download(commands);
    VkBufferImageCopy region{};
    region.imageSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1};
    region.imageExtent = {source.width, source.height, 1};
    vkCmdCopyImageToBuffer(commands, source.handle, VK_IMAGE_LAYOUT_GENERAL, target->handle, 1, &region);
    after_download(commands);
  }));
  std::memcpy(texels->data(), target->mapped, texels->size());
  return Status();
}

}  // namespace zeropoint
