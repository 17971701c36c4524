// Vulkan through volk: the loader is opened at run time, never linked.
#pragma once

#include <volk.h>

#include "status.h"

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
