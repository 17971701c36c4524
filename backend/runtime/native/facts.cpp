#include "facts.h"

#include <algorithm>

namespace zeropoint {
namespace {

struct CapabilityFact {
  uint32_t capability;  // SPIR-V specification, section 3.31
  Fact fact;
};

constexpr CapabilityFact kCapabilities[] = {
    {9, Fact::float16},
    {11, Fact::int64},
    {22, Fact::int16},
    {39, Fact::int8},
    {61, Fact::subgroup_basic},
    {62, Fact::subgroup_vote},
    {63, Fact::subgroup_arithmetic},
    {64, Fact::subgroup_ballot},
    {65, Fact::subgroup_shuffle},
    {66, Fact::subgroup_shuffle_relative},
    {67, Fact::subgroup_clustered},
    {4433, Fact::storage_16bit},  // StorageBuffer16BitAccess
    {4448, Fact::storage_8bit},   // StorageBuffer8BitAccess
    {5345, Fact::memory_model},   // VulkanMemoryModel
    {6016, Fact::int8_dot},       // DotProductInputAll
    {6017, Fact::int8_dot},       // DotProductInput4x8Bit
    {6018, Fact::int8_dot},       // DotProductInput4x8BitPacked
    {6019, Fact::int8_dot},       // DotProduct
    {6022, Fact::coopmat},        // CooperativeMatrixKHR
};
constexpr uint32_t kAlways[] = {1 /* Shader */, 0 /* Matrix */, 50 /* ImageQuery */};

}  // namespace

size_t find_fact(std::string_view name) {
  return static_cast<size_t>(std::find(kFactNames, kFactNames + kNumFacts, name) - kFactNames);
}

std::string fact_names() {
  std::string result;
  for (const char* name : kFactNames) result += (result.empty() ? "" : ", ") + std::string(name);
  return result;
}

bool fact_of_capability(uint32_t capability, bool* always, Fact* fact) {
  *always = std::find(std::begin(kAlways), std::end(kAlways), capability) != std::end(kAlways);
  if (*always) return true;
  for (const CapabilityFact& entry : kCapabilities) {
    if (entry.capability != capability) continue;
    *fact = entry.fact;
    return true;
  }
  return false;
}

}  // namespace zeropoint
