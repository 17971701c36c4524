// The process's Vulkan instance and what its devices offer. No Vulkan call happens before the first use.
#pragma once

#include "library.h"
#include "vk.h"

namespace zeropoint {

// The feature structs of a device, chained for vkCreateDevice with only what the facts stand for.
struct Features {
  Features() = default;
  Features(const Features&) = delete;

  VkPhysicalDeviceFeatures2 core{};
  VkPhysicalDevice16BitStorageFeatures storage_16bit{};
  VkPhysicalDevice8BitStorageFeatures storage_8bit{};
  VkPhysicalDeviceShaderFloat16Int8Features float16_int8{};
  VkPhysicalDeviceShaderIntegerDotProductFeatures dot{};
  VkPhysicalDeviceVulkanMemoryModelFeatures memory_model{};
  VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix{};
  std::vector<const char*> extensions;

  void query(VkPhysicalDevice device, uint32_t api);
};

struct DeviceInfo {
  VkPhysicalDevice handle = VK_NULL_HANDLE;
  size_t index = 0;
  std::string name;
  std::string driver;
  VkPhysicalDeviceType type = VK_PHYSICAL_DEVICE_TYPE_OTHER;
  uint32_t api = 0;
  std::string cache_id;  // driver and device, fit for a file name
  uint8_t cache_uuid[VK_UUID_SIZE] = {};
  uint32_t queue_family = 0;
  std::string unusable;           // why this device cannot be used; empty when it can
  Facts facts;                    // before ZEROPOINT_DISABLE and ZEROPOINT_LIMITS
  uint64_t allocation_bytes = 0;  // of one allocation, at most
  float timestamp_ns = 0;         // 0: no timestamps
};

// Drivers do not survive a fork: an error in a child of the process that created the instance. Waits for nothing.
Status check_process();
// Creates the instance at the first call. Thread-safe.
Status list_devices(std::vector<DeviceInfo>* devices);
// The device that ZEROPOINT_DEVICE names (an index, a part of a name, or `cpu`), otherwise the first of
// discrete, integrated, virtual, cpu.
Status choose_device(const std::vector<DeviceInfo>& devices, const char* wanted, const DeviceInfo** chosen);
// Sets the facts that ZEROPOINT_DISABLE names to 0, and to at most their values those in the file ZEROPOINT_LIMITS, of
// which each line is name=value. *asked: what both ask for.
Status restrict_facts(Facts* facts, std::string* asked);
std::string devices_json(const std::vector<DeviceInfo>& devices);

// Messages of the validation layers since the last clear, when ZEROPOINT_VALIDATION=1 stood in the
// environment at the first Vulkan call. The count goes on past the texts kept.
struct ValidationMessages {
  size_t count = 0;
  std::vector<std::string> texts;
  bool active = false;
};
ValidationMessages validation_messages(bool clear);

}  // namespace zeropoint
