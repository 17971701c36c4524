// One device, opened: queue, memory, pipelines. Shared by every delegate of the process that runs on this
// device.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>

#include "instance.h"
#include "library.h"

namespace zeropoint {

class Context;

// Process-wide counters; monotonic except programs, device_allocations and device_bytes, which count what is
// alive.
// clang-format off
#define ZP_COUNTERS(X) \
  X(programs) X(loads) X(executes) X(recordings) X(submits) X(dispatches_recorded) X(barriers_recorded) X(pipelines) \
  X(device_allocations) X(device_bytes) X(constants_uploaded) X(constants_shared)
// clang-format on
struct Counters {
#define X(name) uint64_t name = 0;
  ZP_COUNTERS(X)
#undef X
};

// Device memory; freed when the last buffer or image bound to it is gone.
struct Memory {
  ~Memory();
  Context* context = nullptr;
  VkDeviceMemory handle = VK_NULL_HANDLE;
  VkDeviceSize size_bytes = 0;
  VkDeviceSize used_bytes = 0;  // by the sub-allocations of a constant block
  uint8_t* mapped = nullptr;    // coherent; null when the host cannot see it
  uint32_t type = 0;
};

struct Buffer {
  ~Buffer();
  Context* context = nullptr;
  VkBuffer handle = VK_NULL_HANDLE;
  VkDeviceSize size_bytes = 0;
  uint8_t* mapped = nullptr;
  std::shared_ptr<Memory> memory;
};

// A storage image in layout GENERAL: element t of the tensor is component x of texel (t % width, t / width).
struct Image {
  ~Image();
  Context* context = nullptr;
  VkImage handle = VK_NULL_HANDLE;
  VkImageView view = VK_NULL_HANDLE;
  uint32_t width = 1;
  uint32_t height = 1;
  uint32_t texel_bytes = 0;
  std::shared_ptr<Memory> memory;
};

struct Pipeline {
  VkDescriptorSetLayout set_layout = VK_NULL_HANDLE;
  VkPipelineLayout layout = VK_NULL_HANDLE;
  VkPipeline handle = VK_NULL_HANDLE;
};

struct Upload {
  const Buffer* target = nullptr;
  const void* data = nullptr;
  size_t size_bytes = 0;
};

enum class MemoryUse { kDevice, kHost };

class Context {
 public:
  // The context for ZEROPOINT_DEVICE and ZEROPOINT_DISABLE; made at the first call, kept until the process
  // ends.
  static Status acquire(Context** context);
  // Sums over all devices opened so far.
  static Counters total_counters();

  // Held by every load, execute and destroy. Guards the queue and all that follows.
  std::mutex mutex;

  const DeviceInfo& info() const { return info_; }
  const Facts& facts() const { return facts_; }
  VkDevice device() const { return device_; }
  VkCommandPool command_pool() const { return command_pool_; }
  // Whether the host reads and writes device buffers in place, without staging.
  bool direct() const { return direct_; }
  uint64_t heap_bytes() const { return heap_bytes_; }
  Counters& counters() { return counters_; }

  Status create_buffer(VkDeviceSize size_bytes, MemoryUse use, std::shared_ptr<Buffer>* buffer);
  Status create_image(fb::DType dtype, int64_t numel, std::unique_ptr<Image>* image);
  // Moves fresh images to layout GENERAL.
  Status prepare_images(const std::vector<std::unique_ptr<Image>>& images);
  // Copies bytes of a buffer, or a whole image, to the host.
  Status download(const Buffer& source, uint64_t offset, uint64_t size_bytes, void* data);
  Status download(const Image& source, std::vector<uint8_t>* texels);

  // The device buffer that holds a constant, shared by content key. *is_new: it must be uploaded.
  Status constant(const std::string& key, VkDeviceSize size_bytes, std::shared_ptr<Buffer>* buffer, bool* is_new);
  Status upload(const std::vector<Upload>& uploads);

  // Scratch shared by all delegates: as large as the largest need of those alive. Buffers handed out earlier
  // stay valid for whoever holds them.
  Status arena(std::shared_ptr<Buffer>* buffer) { return scratch(&arena_, MemoryUse::kDevice, buffer); }
  Status staging(std::shared_ptr<Buffer>* buffer) { return scratch(&staging_, MemoryUse::kHost, buffer); }
  void add_need(uint64_t arena_bytes, uint64_t staging_bytes);
  void remove_need(uint64_t arena_bytes, uint64_t staging_bytes);

  // The pipeline of a variant with these specialization values (one per spec of the algorithm).
  Status pipeline(const Library& library, const fb::Algorithm& algorithm, const fb::Variant& variant,
                  const std::vector<int32_t>& specs, const Pipeline** pipeline);
  // Writes the pipeline cache file when pipelines were made since the last time.
  void save_pipelines();

  Status begin(VkCommandBuffer* commands);
  Status submit_and_wait(VkCommandBuffer commands);
  // Records commands with record(VkCommandBuffer), runs them once and waits.
  template <typename Record>
  Status run_once(Record record) {
    VkCommandBuffer commands = VK_NULL_HANDLE;
    ZP_TRY(begin(&commands));
    record(commands);
    VkResult ended = vkEndCommandBuffer(commands);
    Status status = ended == VK_SUCCESS ? submit_and_wait(commands) : vk_failure("vkEndCommandBuffer", ended);
    vkFreeCommandBuffers(device_, command_pool_, 1, &commands);
    return status;
  }
  static void barrier(VkCommandBuffer commands, VkPipelineStageFlags from, VkAccessFlags written,
                      VkPipelineStageFlags to, VkAccessFlags accessed);

 private:
  struct Scratch {
    std::multiset<uint64_t> needs;
    std::shared_ptr<Buffer> buffer;
  };

  friend struct Memory;

  Status open(const DeviceInfo& info, const Facts& facts);
  Status allocate(const VkMemoryRequirements& needs, MemoryUse use, std::shared_ptr<Memory>* memory);
  bool find_memory_type(uint32_t allowed, MemoryUse use, uint32_t* type) const;
  Status make_buffer(VkDeviceSize size_bytes, std::shared_ptr<Buffer>* buffer, VkMemoryRequirements* needs);
  Status bind(const std::shared_ptr<Memory>& memory, VkDeviceSize offset, Buffer* buffer);
  Status scratch(Scratch* scratch, MemoryUse use, std::shared_ptr<Buffer>* buffer);
  Status create_pipeline(const Library& library, const fb::Algorithm& algorithm, const fb::Variant& variant,
                         const std::vector<int32_t>& specs, Pipeline* pipeline);
  void load_pipeline_cache();
  std::string cache_path() const;

  DeviceInfo info_;
  Facts facts_;
  VkDevice device_ = VK_NULL_HANDLE;
  VkQueue queue_ = VK_NULL_HANDLE;
  VkCommandPool command_pool_ = VK_NULL_HANDLE;
  VkFence fence_ = VK_NULL_HANDLE;
  VkPhysicalDeviceMemoryProperties memory_{};
  uint64_t heap_bytes_ = 0;  // largest device-local heap
  bool direct_ = false;
  bool lost_ = false;  // a submission failed: nothing runs here any more
  Counters counters_;

  Scratch arena_;
  Scratch staging_;
  std::shared_ptr<Memory> block_;  // the constant block being filled
  std::unordered_map<std::string, std::weak_ptr<Buffer>> constants_;
  std::map<std::pair<const fb::Variant*, std::vector<int32_t>>, Pipeline> pipelines_;
  VkPipelineCache pipeline_cache_ = VK_NULL_HANDLE;
  bool pipelines_changed_ = false;
};

}  // namespace zeropoint
