// Device facts: what guards may ask of a device, and the SPIR-V capabilities that stand for them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace zeropoint {

// 0 or 1, or a number in the unit that the name carries. ZEROPOINT_DISABLE sets a fact to 0.
// clang-format off
#define ZP_FACTS(X) \
  X(int8_dot) X(storage_8bit) X(storage_16bit) X(float16) X(int8) X(int16) X(int64) X(subgroup_basic) \
  X(subgroup_vote) X(subgroup_arithmetic) X(subgroup_ballot) X(subgroup_shuffle) X(subgroup_shuffle_relative) \
  X(subgroup_clustered) X(memory_model) X(coopmat) X(coopmat_k) X(subgroup_size) X(shared_memory_bytes) \
  X(max_workgroup_invocations) X(max_binding_bytes) X(max_workgroup_count_x) X(max_workgroup_count_y) \
  X(max_workgroup_count_z) X(is_cpu) X(vendor_id)
// clang-format on

enum class Fact : size_t {
#define X(name) name,
  ZP_FACTS(X)
#undef X
};

inline constexpr const char* kFactNames[] = {
#define X(name) #name,
    ZP_FACTS(X)
#undef X
};
inline constexpr size_t kNumFacts = sizeof(kFactNames) / sizeof(kFactNames[0]);

struct Facts {
  std::array<int64_t, kNumFacts> values{};
  int64_t& operator[](Fact fact) { return values[static_cast<size_t>(fact)]; }
  int64_t operator[](Fact fact) const { return values[static_cast<size_t>(fact)]; }
};

// Index into kFactNames, or kNumFacts.
size_t find_fact(std::string_view name);
std::string fact_names();

// The fact that stands for a SPIR-V capability. False when the player does not know the capability; `always`
// is set for those that every Vulkan device has.
bool fact_of_capability(uint32_t capability, bool* always, Fact* fact);

}  // namespace zeropoint
