// What lies in the memory of a device: buffers, images, states, constants.
#pragma once

#include <set>

#include "vk.h"

namespace zeropoint {

class Context;

// One allocation, of a buffer or an image.
struct Memory {
  ~Memory();
  Context* context = nullptr;
  VkDeviceMemory memory = VK_NULL_HANDLE;
  uint64_t allocated_bytes = 0;
  uint8_t* mapped = nullptr;  // coherent; null when the host cannot see it
};

struct Buffer : Memory {
  ~Buffer();
  VkBuffer handle = VK_NULL_HANDLE;
  uint64_t size_bytes = 0;
};

// A storage image in layout GENERAL: element t of the tensor is component x of texel (t % width, t / width).
struct Image : Memory {
  ~Image();
  VkImage handle = VK_NULL_HANDLE;
  VkImageView view = VK_NULL_HANDLE;
  uint32_t width = 1;
  uint32_t height = 1;
  uint32_t texel_bytes = 0;
};

// A buffer that keeps its contents between calls, shared by key among the methods of one load of a .pte.
struct State {
  const void* program = nullptr;  // tells one load from another; null: not shared
  std::string key;                // empty: not shared
  std::set<std::string> methods;  // those that hold it now
  std::shared_ptr<Buffer> buffer;
  std::shared_ptr<Buffer> first;  // its first contents; null: zeros
};
using States = std::vector<std::shared_ptr<State>>;

// A constant of a Program.
struct Upload {
  size_t tensor;
  std::string_view data;
  std::string key;  // the XXH3-128 of its bytes
  std::string where;
  std::string hash;                // the same, of the bytes that are there; empty until somebody looks
  const Buffer* target = nullptr;  // null where an earlier load put them

  bool is_staged() const { return target != nullptr && target->mapped == nullptr; }
};
// Tells of each constant what its bytes have.
void hash_all(std::vector<Upload>* uploads);
// The XXH3-128 in canonical form: 32 lower-case hexadecimal digits.
std::string content_key(std::string_view data);

// kInput: of the device, if the host can write there. kHost: where the host reads fast.
enum class MemoryUse { kDevice, kInput, kHost };

// What runs use and nobody keeps. inputs: what the host writes before a run. outputs: what it reads after that. Both
// are null where the host uses the arena in place.
struct Scratch {
  std::shared_ptr<Buffer> arena, inputs, outputs;
};
struct ScratchBytes {
  uint64_t arena = 0, inputs = 0, outputs = 0;
};

}  // namespace zeropoint
