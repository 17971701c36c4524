// Vulkan through volk: the loader is opened at run time, never linked.
#pragma once

#include <volk.h>

#include "status.h"

namespace zeropoint {

// "vkCreateBuffer: VK_ERROR_OUT_OF_DEVICE_MEMORY", unless the call succeeded.
Status vk_status(const char* call, VkResult result);

#define ZP_VK(function, ...) ZP_TRY(::zeropoint::vk_status(#function, function(__VA_ARGS__)))

}  // namespace zeropoint
