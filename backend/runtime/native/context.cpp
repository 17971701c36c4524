#include "context.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace zeropoint {
namespace {

constexpr uint64_t kSmallestScratch = 256;

struct Registry {
  std::mutex mutex;
  std::map<std::pair<size_t, std::string>, std::unique_ptr<Context>> contexts;
  std::vector<std::unique_ptr<Context>> lost;
};

// Never destroyed: drivers may be unloaded before static destructors run.
Registry& registry() {
  static auto* instance = new Registry();
  return *instance;
}

}  // namespace

Status Context::acquire(Context** context) {
  std::vector<DeviceInfo> devices;
  ZP_TRY(list_devices(&devices));
  const DeviceInfo* chosen = nullptr;
  ZP_TRY(choose_device(devices, std::getenv("ZEROPOINT_DEVICE"), &chosen));
  const char* disabled = std::getenv("ZEROPOINT_DISABLE");
  Facts facts = chosen->facts;
  ZP_TRY(disable_facts(disabled, &facts));
  Registry& all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  std::unique_ptr<Context>& slot = all.contexts[{chosen->index, disabled == nullptr ? "" : disabled}];
  if (slot != nullptr && slot->lost_) all.lost.push_back(std::move(slot));
  if (slot == nullptr) {
    auto opened = std::make_unique<Context>();
    ZP_TRY(opened->open(*chosen, facts).in(chosen->name));
    slot = std::move(opened);
  }
  *context = slot.get();
  return Status();
}

Counters Context::total_counters() {
  Counters total;
  Registry& all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  for (const auto& entry : all.contexts) {
    if (entry.second == nullptr) continue;
    std::lock_guard<std::mutex> context_lock(entry.second->mutex);
#define X(name) total.name += entry.second->counters_.name;
    ZP_COUNTERS(X)
#undef X
  }
  return total;
}

Status Context::open(const DeviceInfo& info, const Facts& facts) {
  info_ = info;
  facts_ = facts;
  Features features;
  features.query(info.handle, info.api);
  float priority = 1.0f;
  VkDeviceQueueCreateInfo queue{VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO};
  queue.queueFamilyIndex = info.queue_family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  VkDeviceCreateInfo create{VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO};
  create.pNext = &features.core;
  create.queueCreateInfoCount = 1;
  create.pQueueCreateInfos = &queue;
  create.enabledExtensionCount = static_cast<uint32_t>(features.extensions.size());
  create.ppEnabledExtensionNames = features.extensions.data();
  ZP_VK(vkCreateDevice, info.handle, &create, nullptr, &device_);
  vkGetDeviceQueue(device_, info.queue_family, 0, &queue_);
  VkCommandPoolCreateInfo pool{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
  pool.queueFamilyIndex = info.queue_family;
  ZP_VK(vkCreateCommandPool, device_, &pool, nullptr, &command_pool_);
  VkFenceCreateInfo fence{VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
  ZP_VK(vkCreateFence, device_, &fence, nullptr, &fence_);
  vkGetPhysicalDeviceMemoryProperties(info.handle, &memory_);
  for (uint32_t i = 0; i < memory_.memoryHeapCount; ++i) {
    const VkMemoryHeap& heap = memory_.memoryHeaps[i];
    if ((heap.flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) != 0) heap_bytes_ = std::max(heap_bytes_, heap.size);
  }
  bool shared_memory = info.type == VK_PHYSICAL_DEVICE_TYPE_CPU || info.type == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU;
  constexpr VkMemoryPropertyFlags kDirect = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                            VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
  for (uint32_t i = 0; i < memory_.memoryTypeCount; ++i)
    if (shared_memory && (memory_.memoryTypes[i].propertyFlags & kDirect) == kDirect) direct_ = true;
  load_pipeline_cache();
  return Status();
}

void Context::add_need(uint64_t arena_bytes, uint64_t staging_bytes) {
  arena_.needs.insert(arena_bytes);
  staging_.needs.insert(staging_bytes);
}

void Context::remove_need(uint64_t arena_bytes, uint64_t staging_bytes) {
  for (auto [scratch, bytes] : {std::pair(&arena_, arena_bytes), std::pair(&staging_, staging_bytes)}) {
    auto found = scratch->needs.find(bytes);
    if (found != scratch->needs.end()) scratch->needs.erase(found);
    if (scratch->needs.empty()) scratch->buffer.reset();
  }
}

Status Context::scratch(Scratch* scratch, MemoryUse use, std::shared_ptr<Buffer>* buffer) {
  uint64_t need = std::max<uint64_t>(scratch->needs.empty() ? 0 : *scratch->needs.rbegin(), kSmallestScratch);
  if (scratch->buffer == nullptr || scratch->buffer->size_bytes < need) {
    scratch->buffer.reset();
    ZP_TRY(create_buffer(need, use, &scratch->buffer).in("scratch memory"));
  }
  *buffer = scratch->buffer;
  return Status();
}

Status Context::begin(VkCommandBuffer* commands) {
  VkCommandBufferAllocateInfo allocate{VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
  allocate.commandPool = command_pool_;
  allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  allocate.commandBufferCount = 1;
  ZP_VK(vkAllocateCommandBuffers, device_, &allocate, commands);
  VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
  ZP_VK(vkBeginCommandBuffer, *commands, &begin);
  return Status();
}

Status Context::submit_and_wait(VkCommandBuffer commands) {
  if (lost_) return Status(Code::kDevice, "the device was lost by an earlier call; load the program again");
  VkSubmitInfo submit{VK_STRUCTURE_TYPE_SUBMIT_INFO};
  submit.commandBufferCount = 1;
  submit.pCommandBuffers = &commands;
  lost_ = true;
  ZP_VK(vkQueueSubmit, queue_, 1, &submit, fence_);
  ZP_VK(vkWaitForFences, device_, 1, &fence_, VK_TRUE, UINT64_MAX);
  ZP_VK(vkResetFences, device_, 1, &fence_);
  lost_ = false;
  ++counters_.submits;
  return Status();
}

void Context::barrier(VkCommandBuffer commands, VkPipelineStageFlags from, VkAccessFlags written,
                      VkPipelineStageFlags to, VkAccessFlags accessed) {
  VkMemoryBarrier barrier{VK_STRUCTURE_TYPE_MEMORY_BARRIER};
  barrier.srcAccessMask = written;
  barrier.dstAccessMask = accessed;
  vkCmdPipelineBarrier(commands, from, to, 0, 1, &barrier, 0, nullptr, 0, nullptr);
}

}  // namespace zeropoint
