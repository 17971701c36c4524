#include "context.h"

#include <chrono>
#include <thread>

namespace zeropoint {
namespace {

constexpr double kAskS = 4e-3;                                // a run that is expected to be shorter is asked for
constexpr double kWorkPerS = 20e9, kDiscreteWorkPerS = 1e12;  // of slow ones, before a run tells

// Never destroyed: drivers may be unloaded before static destructors run.
std::mutex& contexts_mutex = *new std::mutex();
auto& contexts = *new std::map<std::pair<size_t, std::string>, Context*>();  // by device and restrictions

bool shares_memory(VkPhysicalDeviceType type) {
  if (std::getenv("ZEROPOINT_STAGING") != nullptr) return false;  // what a discrete device does, for tests
  return type == VK_PHYSICAL_DEVICE_TYPE_CPU || type == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU;
}

Status find_device(DeviceInfo* chosen) {
  std::vector<DeviceInfo> devices;
  ZP_TRY(list_devices(&devices));
  const DeviceInfo* found = nullptr;
  ZP_TRY(choose_device(devices, std::getenv("ZEROPOINT_DEVICE"), &found));
  *chosen = *found;
  return Status();
}

}  // namespace

Status Context::stages(bool* stages) {
  DeviceInfo chosen;
  ZP_TRY(find_device(&chosen));
  *stages = !shares_memory(chosen.type);
  return Status();
}

Status Context::acquire(Context** context) {
  DeviceInfo chosen;
  ZP_TRY(find_device(&chosen));
  Facts facts = chosen.facts;
  std::string asked;
  ZP_TRY(restrict_facts(&facts, &asked));
  std::lock_guard<std::mutex> lock(contexts_mutex);
  Context*& slot = contexts[{chosen.index, asked}];
  if (slot == nullptr || slot->lost_) {  // delegates may still hold a lost one
    auto opened = std::make_unique<Context>();
    opened->info = chosen;
    opened->facts = facts;
    opened->shares_memory_ = shares_memory(chosen.type);
    ZP_TRY(opened->open().in(chosen.name));
    slot = opened.release();
  }
  *context = slot;
  return Status();
}

Context::~Context() {
  if (device == VK_NULL_HANDLE) return;
  vkDestroyFence(device, fence_, nullptr);
  vkDestroyCommandPool(device, command_pool, nullptr);
  vkDestroyDevice(device, nullptr);
}

Counters Context::total_counters() {
  Counters total;
  std::lock_guard<std::mutex> lock(contexts_mutex);
  for (const auto& [key, context] : contexts) {
    if (context == nullptr) continue;
    std::lock_guard<std::mutex> context_lock(context->mutex);
#define X(name) total.name += context->counters.name;
    ZP_COUNTERS(X)
#undef X
  }
  return total;
}

Status Context::open() {
  Features features;
  features.query(info.handle, info.api);
  float priority = 1.0f;
  VkDeviceQueueCreateInfo queue{
      VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, nullptr, 0, info.queue_family, 1, &priority};
  VkDeviceCreateInfo create{VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, &features.core, 0, 1, &queue, 0, nullptr,
      static_cast<uint32_t>(features.extensions.size()), features.extensions.data()};
  ZP_VK(vkCreateDevice, info.handle, &create, nullptr, &device);
  vkGetDeviceQueue(device, info.queue_family, 0, &queue_);
  VkCommandPoolCreateInfo pool{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO, nullptr, 0, info.queue_family};
  ZP_VK(vkCreateCommandPool, device, &pool, nullptr, &command_pool);
  VkFenceCreateInfo fence{VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
  ZP_VK(vkCreateFence, device, &fence, nullptr, &fence_);
  vkGetPhysicalDeviceMemoryProperties(info.handle, &memory_);
  constexpr VkMemoryPropertyFlags kDirect = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                            VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
  for (uint32_t i = 0; i < memory_.memoryTypeCount; ++i) {
    VkMemoryPropertyFlags flags = memory_.memoryTypes[i].propertyFlags;
    uint64_t heap = memory_.memoryHeaps[memory_.memoryTypes[i].heapIndex].size;
    direct_ = direct_ || (shares_memory_ && (flags & kDirect) == kDirect);
    if ((flags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT) != 0) heap_bytes = std::max(heap_bytes, heap);
  }
  work_per_s = info.type == VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU ? kDiscreteWorkPerS : kWorkPerS;
  load_pipeline_cache();
  return Status();
}

void Context::add_program(const ScratchBytes& needs) {
  ++counters.loads;
  ++counters.programs;
  ScratchBytes& all = scratch_bytes_;
  all = {std::max(all.arena, needs.arena), std::max(all.inputs, needs.inputs), std::max(all.outputs, needs.outputs)};
}

void Context::remove_program() {
  if (--counters.programs > 0) return;
  scratch_bytes_ = {};
  scratch_ = {};
  turns_.reset();
}

Status Context::grow(uint64_t need, MemoryUse use, std::shared_ptr<Buffer>* buffer) {
  need = std::max(need, kSmallestScratch);
  return *buffer != nullptr && (*buffer)->size_bytes >= need ? Status() : create_buffer(need, use, buffer);
}

Status Context::grow(const ScratchBytes& needs, Scratch* scratch) {
  ZP_TRY(grow(needs.arena, MemoryUse::kDevice, &scratch->arena));
  if (scratch->arena->mapped != nullptr) return Status();
  ZP_TRY(grow(needs.inputs, MemoryUse::kInput, &scratch->inputs));
  return grow(needs.outputs, MemoryUse::kHost, &scratch->outputs);
}

Status Context::scratch(Scratch* scratch) {
  ZP_TRY(grow(scratch_bytes_, &scratch_));
  *scratch = scratch_;
  return Status();
}

Status Context::turns(uint64_t count, std::shared_ptr<Buffer>* turns) {
  ZP_TRY(grow(count * kTurnBytes, MemoryUse::kInput, &turns_));
  *turns = turns_;
  return Status();
}

Status Context::begin(VkCommandBuffer* commands) {
  VkCommandBufferAllocateInfo allocate{
      VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO, nullptr, command_pool, VK_COMMAND_BUFFER_LEVEL_PRIMARY, 1};
  ZP_VK(vkAllocateCommandBuffers, device, &allocate, commands);
  VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
  ZP_VK(vkBeginCommandBuffer, *commands, &begin);
  return Status();
}

// A thread that sleeps wakes some 50 us after a discrete device is done, which counts in a short run. Elsewhere the
// processor's time, or its power, is the device's.
void Context::ask_until_done(double expected_s) const {
  if (shares_memory_ || expected_s > kAskS) return;
  auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(2.0 * expected_s);
  while (std::chrono::steady_clock::now() < end && vkGetFenceStatus(device, fence_) == VK_NOT_READY)
    std::this_thread::yield();
}

Status Context::submit_and_wait(
    const VkCommandBuffer* commands, const std::vector<uint32_t>& submits, double expected_s) {
  if (lost_) return Status(Code::kDevice, "the device was lost by an earlier call; load the program again");
  lost_ = true;
  VkResult result = VK_SUCCESS;
  const char* call = "vkQueueSubmit";
  for (size_t i = 0; i < submits.size() && result == VK_SUCCESS; commands += submits[i++]) {
    VkSubmitInfo submit{VK_STRUCTURE_TYPE_SUBMIT_INFO, nullptr, 0, nullptr, nullptr, submits[i], commands, 0, nullptr};
    result = vkQueueSubmit(queue_, 1, &submit, i + 1 < submits.size() ? VK_NULL_HANDLE : fence_);
  }
  if (result == VK_SUCCESS) {
    ask_until_done(expected_s);
    call = "vkWaitForFences";
    result = vkWaitForFences(device, 1, &fence_, VK_TRUE, UINT64_MAX);
  }
  if (result != VK_SUCCESS) vkDeviceWaitIdle(device);  // the work may still read what is freed next
  ZP_TRY(vk_status(call, result));
  ZP_VK(vkResetFences, device, 1, &fence_);
  lost_ = false;
  counters.submits += submits.size();
  return Status();
}

void Context::barrier(VkCommandBuffer commands, bool to_host) {
  constexpr VkPipelineStageFlags kStages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
  constexpr VkAccessFlags kReads = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT;
  constexpr VkAccessFlags kWrites = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  constexpr VkPipelineStageFlags kTo[] = {kStages, VK_PIPELINE_STAGE_HOST_BIT};
  constexpr VkAccessFlags kSeen[] = {kReads | kWrites, VK_ACCESS_HOST_READ_BIT};
  VkMemoryBarrier barrier{VK_STRUCTURE_TYPE_MEMORY_BARRIER, nullptr, kWrites, kSeen[to_host]};
  vkCmdPipelineBarrier(commands, kStages, kTo[to_host], 0, 1, &barrier, 0, nullptr, 0, nullptr);
}

}  // namespace zeropoint
