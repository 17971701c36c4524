// One device, opened: queue, memory, pipelines. Shared by every delegate of the process that runs on this
// device.
#pragma once

#include <map>
#include <unordered_map>

#include "instance.h"
#include "library.h"
#include "memory.h"

namespace zeropoint {

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

struct Pipeline {
  ~Pipeline();
  Context* context = nullptr;
  VkDescriptorSetLayout set_layout = VK_NULL_HANDLE;
  VkPipelineLayout layout = VK_NULL_HANDLE;
  VkPipeline handle = VK_NULL_HANDLE;
};

// What a pipeline is made of: a value for each spec of the algorithm. Without a variant: of nothing.
struct PipelineSource {
  const fb::Algorithm* algorithm = nullptr;
  const fb::Variant* variant = nullptr;
  std::vector<int32_t> specs;
};

VkDescriptorType descriptor_type(const fb::Variant& variant, const fb::Binding& binding);

inline constexpr uint64_t kSmallestScratch = 256;
inline constexpr uint64_t kTurnBytes = 256;  // as shaders/lib/turns.glsl; an offset of a binding

class Context {
 public:
  ~Context();  // of one whose open() failed: the others stay until the process ends
  // The context for ZEROPOINT_DEVICE and ZEROPOINT_DISABLE; made at the first call, kept until the process ends.
  static Status acquire(Context** context);
  // Whether that one has a memory of its own, into which constants are copied in a second pass over them.
  static Status stages(bool* stages);
  // Sums over all devices opened so far.
  static Counters total_counters();

  // Constant once opened.
  DeviceInfo info;
  Facts facts;  // after ZEROPOINT_DISABLE
  VkDevice device = VK_NULL_HANDLE;
  VkCommandPool command_pool = VK_NULL_HANDLE;
  uint64_t heap_bytes = 0;  // largest device-local heap

  // Held by every load, execute and destroy. Guards the queue and all that follows.
  std::mutex mutex;
  Counters counters;
  double work_per_s = 0.0;  // of the last run that tells, or a guess: Pick::work

  Status create_buffer(uint64_t size_bytes, MemoryUse use, std::shared_ptr<Buffer>* buffer);
  Status create_image(fb::DType dtype, int64_t numel, std::unique_ptr<Image>* image);
  // Moves fresh images to layout GENERAL.
  Status prepare_images(const std::vector<std::unique_ptr<Image>>& images);
  // Copies bytes of a buffer, or the first component of an image's texels, to the host.
  Status read_buffer(const VkDescriptorBufferInfo& source, uint64_t size_bytes, void* data);
  Status read_image(const Image& source, uint64_t n_elements, void* data);

  // The device buffer that holds a constant, shared by content key. *is_new: it must be uploaded. The caller proves
  // that the key is that of its own bytes before it lets go of the mutex, by upload(), or drops the buffer.
  Status constant(const std::string& key, uint64_t size_bytes, std::shared_ptr<Buffer>* buffer, bool* is_new);
  // Refuses bytes that their key is not the hash of.
  Status upload(std::vector<Upload>* uploads);

  // The state that a method of a program shares with its other methods. A method that asks again while it holds it, and
  // a null program, get one of their own. *is_new: it must be filled.
  Status state(const State& wanted, uint64_t size_bytes, std::shared_ptr<State>* state, bool* is_new);
  // Gives states their first contents.
  Status fill(const States& states);

  // Scratch shared by all delegates, as large as the largest need since the first of those alive was loaded. Buffers
  // handed out earlier stay valid for whoever holds them.
  Status scratch(Scratch* scratch);
  // Makes what is missing or too small.
  Status grow(const ScratchBytes& needs, Scratch* scratch);
  // Counts of so many turns, which the host clears.
  Status turns(uint64_t count, std::shared_ptr<Buffer>* turns);
  void add_program(const ScratchBytes& needs);
  void remove_program();

  // A pipeline for each source, null without a variant. Those that nobody has made are made side by side, on all of the
  // host's cores. Those that nobody holds are kept for the next load, up to a number. *failed: the source that an error
  // is about.
  Status pipelines(const Library& library, const std::vector<PipelineSource>& sources,
      std::vector<std::shared_ptr<Pipeline>>* result, size_t* failed);
  // Writes the pipeline cache file when pipelines were made since the last time.
  void save_pipelines();

  // Where `zeropoint tune` puts the algorithms that it found to be faster; empty without a cache.
  std::string choices_path() const { return cache_path(".choices"); }
  // That file's text, a line for each choice (find_chosen) after the first; empty when there is none of ours.
  std::string read_choices() const;

  Status begin(VkCommandBuffer* commands);
  // The next n command buffers for each n of submits, one after the other without a pause. expected_s: what they take,
  // where that is known.
  Status submit_and_wait(
      const VkCommandBuffer* commands, const std::vector<uint32_t>& submits, double expected_s = 0.0);
  // After a run that has left states in disorder: nothing runs here any more.
  void give_up() { lost_ = true; }
  // Records commands with record(VkCommandBuffer), runs them once and waits.
  template <typename Record> Status run_once(Record record) {
    VkCommandBuffer commands = VK_NULL_HANDLE;
    Status status = begin(&commands);
    if (status.ok()) record(commands);
    if (status.ok()) status = vk_status("vkEndCommandBuffer", vkEndCommandBuffer(commands));
    if (status.ok()) status = submit_and_wait(&commands, {1});
    vkFreeCommandBuffers(device, command_pool, 1, &commands);
    return status;
  }
  // What was written on the device so far becomes visible to all that follows on it, or to the host.
  static void barrier(VkCommandBuffer commands, bool to_host = false);

 private:
  Status open();
  void ask_until_done(double expected_s) const;
  Status grow(uint64_t need, MemoryUse use, std::shared_ptr<Buffer>* buffer);
  Status allocate(const VkMemoryRequirements& needs, MemoryUse use, bool map, Memory* memory);
  bool find_memory_type(uint32_t allowed, MemoryUse use, uint32_t* type) const;
  Status create_pipeline(const Library& library, const PipelineSource& source, Pipeline* pipeline) const;
  Status upload_staged(const std::vector<Upload>& uploads, VkDeviceSize size_bytes);
  template <typename Copy>
  Status download(uint64_t size_bytes, Copy copy, uint64_t n, uint64_t stride, uint64_t part, void* data);
  void load_pipeline_cache();
  std::string cache_path(const char* suffix) const;

  VkQueue queue_ = VK_NULL_HANDLE;
  VkFence fence_ = VK_NULL_HANDLE;
  VkPhysicalDeviceMemoryProperties memory_{};
  bool shares_memory_ = false;  // with the host
  bool direct_ = false;         // the host reads and writes device buffers in place
  bool lost_ = false;           // a submission failed
  ScratchBytes scratch_bytes_;
  Scratch scratch_;
  std::shared_ptr<Buffer> turns_;
  std::unordered_map<std::string, std::weak_ptr<Buffer>> constants_;
  std::vector<std::weak_ptr<State>> states_;
  using PipelineKey = std::tuple<const fb::Algorithm*, const fb::Variant*, std::vector<int32_t>>;
  std::map<PipelineKey, std::shared_ptr<Pipeline>> pipelines_;
  VkPipelineCache pipeline_cache_ = VK_NULL_HANDLE;
  bool pipelines_changed_ = false;
};

}  // namespace zeropoint
