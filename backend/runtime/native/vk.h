// Vulkan through volk: the loader is opened at run time, never linked.
#pragma once

#include <volk.h>

#include "status.h"

// Newer than the oldest headers this builds with (1.3.239). Values: Vulkan specification,
// VK_KHR_cooperative_matrix.
#ifndef VK_KHR_cooperative_matrix
#define VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME "VK_KHR_cooperative_matrix"
constexpr auto VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR =
    static_cast<VkStructureType>(1000506000);
constexpr auto VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR = static_cast<VkStructureType>(1000506001);
constexpr uint32_t VK_COMPONENT_TYPE_SINT8_KHR = 3;
constexpr uint32_t VK_COMPONENT_TYPE_SINT32_KHR = 5;
constexpr uint32_t VK_SCOPE_SUBGROUP_KHR = 3;
struct VkPhysicalDeviceCooperativeMatrixFeaturesKHR {
  VkStructureType sType;
  void* pNext;
  VkBool32 cooperativeMatrix;
  VkBool32 cooperativeMatrixRobustBufferAccess;
};
struct VkCooperativeMatrixPropertiesKHR {
  VkStructureType sType;
  void* pNext;
  uint32_t MSize, NSize, KSize;
  uint32_t AType, BType, CType, ResultType;
  VkBool32 saturatingAccumulation;
  uint32_t scope;
};
using PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR = VkResult(VKAPI_PTR*)(
    VkPhysicalDevice, uint32_t*, VkCooperativeMatrixPropertiesKHR*);
#endif

namespace zeropoint {

// "vkCreateBuffer: VK_ERROR_OUT_OF_DEVICE_MEMORY"
Status vk_failure(const char* call, VkResult result);

#define ZP_VK(function, ...)                                                   \
  do {                                                                         \
    if (VkResult zp_result = function(__VA_ARGS__); zp_result != VK_SUCCESS) { \
      return ::zeropoint::vk_failure(#function, zp_result);                    \
    }                                                                          \
  } while (false)

}  // namespace zeropoint
