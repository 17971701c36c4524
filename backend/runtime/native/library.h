// The kernel library: every kernel as data, verified once and then trusted.
#pragma once

#include <array>
#include <unordered_map>

#include "library_generated.h"
#include "status.h"

namespace zeropoint {

// Device facts: what guards may ask of a device, and the SPIR-V capabilities that stand for them (instance.cpp).
// X(name, value): 0 or 1, or a number in the unit that the name carries; the value is computed in instance.cpp.
// ZEROPOINT_DISABLE sets a fact to 0, ZEROPOINT_LIMITS lowers it.
// clang-format off
#define ZP_FACTS(X) \
  X(int8_dot, features.dot.shaderIntegerDotProduct) X(storage_8bit, features.storage_8bit.storageBuffer8BitAccess) \
  X(storage_16bit, features.storage_16bit.storageBuffer16BitAccess) X(float16, features.float16_int8.shaderFloat16) \
  X(int8, features.float16_int8.shaderInt8) X(int16, features.core.features.shaderInt16) \
  X(int64, features.core.features.shaderInt64) X(subgroup_basic, subgroup(VK_SUBGROUP_FEATURE_BASIC_BIT)) \
  X(subgroup_vote, subgroup(VK_SUBGROUP_FEATURE_VOTE_BIT)) \
  X(subgroup_arithmetic, subgroup(VK_SUBGROUP_FEATURE_ARITHMETIC_BIT)) \
  X(subgroup_ballot, subgroup(VK_SUBGROUP_FEATURE_BALLOT_BIT)) \
  X(subgroup_shuffle, subgroup(VK_SUBGROUP_FEATURE_SHUFFLE_BIT)) \
  X(subgroup_shuffle_relative, subgroup(VK_SUBGROUP_FEATURE_SHUFFLE_RELATIVE_BIT)) \
  X(subgroup_clustered, subgroup(VK_SUBGROUP_FEATURE_CLUSTERED_BIT)) \
  X(memory_model, features.memory_model.vulkanMemoryModel) X(cooperative_matrix, features.matrix.cooperativeMatrix) \
  X(coopmat_f16_16x16x16, product(VK_COMPONENT_TYPE_FLOAT16_KHR, VK_COMPONENT_TYPE_FLOAT32_KHR, 16, 16, 16)) \
  X(subgroup_size, subgroups.subgroupSize) X(shared_memory_bytes, limits.maxComputeSharedMemorySize) \
  X(max_workgroup_invocations, limits.maxComputeWorkGroupInvocations) \
  X(max_binding_bytes, limits.maxStorageBufferRange) X(max_workgroup_count_x, limits.maxComputeWorkGroupCount[0]) \
  X(max_workgroup_count_y, limits.maxComputeWorkGroupCount[1]) \
  X(max_workgroup_count_z, limits.maxComputeWorkGroupCount[2]) \
  X(max_workgroup_size_x, limits.maxComputeWorkGroupSize[0]) \
  X(max_workgroup_size_y, limits.maxComputeWorkGroupSize[1]) \
  X(max_workgroup_size_z, limits.maxComputeWorkGroupSize[2]) X(max_push_bytes, limits.maxPushConstantsSize) \
  X(max_stage_buffers, limits.maxPerStageDescriptorStorageBuffers) \
  X(max_stage_images, limits.maxPerStageDescriptorStorageImages) X(max_image_extent, limits.maxImageDimension2D) \
  X(max_loop_iterations, loop_iterations(*info)) X(ordered_starts, ordered_starts(driver.driverID)) \
  X(is_cpu, info->type == VK_PHYSICAL_DEVICE_TYPE_CPU) \
  X(vendor_id, first.vendorID)
// clang-format on

#define X(name, value) name,
enum class Fact : size_t { ZP_FACTS(X) };
#undef X
#define X(name, value) #name,
inline constexpr const char* kFactNames[] = {ZP_FACTS(X)};
#undef X
inline constexpr size_t kNumFacts = sizeof(kFactNames) / sizeof(kFactNames[0]);

struct Facts {
  std::array<int64_t, kNumFacts> values{};
  int64_t& operator[](Fact fact) { return values[static_cast<size_t>(fact)]; }
  int64_t operator[](Fact fact) const { return values[static_cast<size_t>(fact)]; }
};

// Index into kFactNames, or kNumFacts.
size_t find_fact(std::string_view name);
std::string fact_names();

// Why a device with these facts cannot run a module with a SPIR-V capability; empty when it can.
std::string missing_capability(uint32_t capability, const Facts& facts);

inline constexpr uint32_t kLibraryVersion = 4;
inline constexpr uint32_t kMaxSpirvBytes = 16 << 20;
inline constexpr uint32_t kMaxPushBytes = 128;
inline constexpr uint32_t kTurnPushBytes = 8;  // the last ones of an algorithm that takes turns: `turn` and `awaited`
inline constexpr uint32_t kTurnsBinding = 32;

// Null-safe views of flatbuffers.
template <typename Vector> uint32_t count(const Vector* vector) { return vector == nullptr ? 0 : vector->size(); }
template <typename Vector> auto items(const Vector* vector) {
  return vector == nullptr ? std::vector<typename Vector::return_type>()
                           : std::vector<typename Vector::return_type>(vector->begin(), vector->end());
}
inline std::string_view view(const flatbuffers::String* text) {
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}

class Library {
 public:
  // The library embedded in this plugin. Verified at the first call; thread-safe.
  static Status embedded(const Library** library);
  // A library from memory, for tests. Kept for the life of the process; equal bytes give the same object.
  static Status from_bytes(const void* data, size_t size, const Library** library);
  static std::string_view embedded_bytes();
  // Verifies a library and keeps a copy of its bytes, for those above. Once; what failed is of no use.
  Status decode(std::string_view bytes);

  // After verification every kernel has slots, attrs and algorithms; every algorithm three grid expressions and local
  // sizes, specs, push constants and variants; every variant a key over all slots, bindings and capabilities.
  const fb::Kernel* find(std::string_view name) const;
  std::string kernel_names() const;
  std::string_view hash() const { return view(fb::GetLibrary(bytes_.data())->hash()); }
  // Decodes the code of a variant. Fails on bytes that are no SPIR-V.
  Status spirv(const fb::Variant& variant, std::vector<uint32_t>* words) const;
  // The facts in the order of the library's expressions.
  std::vector<int64_t> ordered(const Facts& facts) const;

 private:
  Status decoded(const fb::Module& module, std::vector<uint32_t>* words) const;

  std::vector<uint64_t> bytes_;  // a copy, aligned
  size_t size_ = 0;
  std::vector<size_t> facts_;  // player fact index of each library fact
  std::unordered_map<std::string_view, const fb::Kernel*> kernels_;
};

// `kernel/algorithm[x=f16:buffer,zp=i8:image,bias=none]`
std::string variant_key(const fb::Kernel& kernel, const fb::Algorithm& algorithm, const fb::Variant& variant);

}  // namespace zeropoint
