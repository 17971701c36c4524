#include "instance.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace zeropoint {
namespace {

constexpr const char* kValidationLayer = "VK_LAYER_KHRONOS_validation";
constexpr size_t kMaxMessages = 256;

struct Validation {
  std::mutex mutex;
  ValidationMessages messages;
};

Validation& validation() {
  static auto* state = new Validation();
  return *state;
}

VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                                          const VkDebugUtilsMessengerCallbackDataEXT* data, void*) {
  Validation& state = validation();
  std::lock_guard<std::mutex> lock(state.mutex);
  ++state.messages.count;
  if (state.messages.texts.size() < kMaxMessages) state.messages.texts.emplace_back(data->pMessage);
  return VK_FALSE;
}

bool has_layer(const char* name) {
  uint32_t count = 0;
  vkEnumerateInstanceLayerProperties(&count, nullptr);
  std::vector<VkLayerProperties> layers(count);
  vkEnumerateInstanceLayerProperties(&count, layers.data());
  return std::any_of(layers.begin(), layers.end(),
                     [&](const VkLayerProperties& layer) { return std::strcmp(layer.layerName, name) == 0; });
}

Status create_instance(VkInstance* instance) {
  if (volkInitialize() != VK_SUCCESS)
    return Status(Code::kDevice, "Vulkan loader: libvulkan.so.1 does not open; install libvulkan1");
  uint32_t api = std::min<uint32_t>(volkGetInstanceVersion(), VK_API_VERSION_1_3);
  if (api < VK_API_VERSION_1_1) return Status(Code::kDevice, "Vulkan loader: version 1.0; need 1.1 or later");
  const char* wanted = std::getenv("ZEROPOINT_VALIDATION");
  bool validate = wanted != nullptr && std::strcmp(wanted, "1") == 0;
  if (validate && !has_layer(kValidationLayer))
    return fail(Code::kDevice, "ZEROPOINT_VALIDATION: no ", kValidationLayer, "; install vulkan-validationlayers");
  const char* debug_utils = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
  VkValidationFeatureEnableEXT synchronization = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT;
  VkValidationFeaturesEXT features{VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT};
  features.enabledValidationFeatureCount = 1;
  features.pEnabledValidationFeatures = &synchronization;
  VkApplicationInfo application{VK_STRUCTURE_TYPE_APPLICATION_INFO};
  application.pEngineName = "zeropoint";
  application.apiVersion = api;
  VkInstanceCreateInfo create{VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
  create.pApplicationInfo = &application;
  if (validate) {
    create.pNext = &features;
    create.enabledLayerCount = 1;
    create.ppEnabledLayerNames = &kValidationLayer;
    create.enabledExtensionCount = 1;
    create.ppEnabledExtensionNames = &debug_utils;
  }
  ZP_VK(vkCreateInstance, &create, nullptr, instance);
  volkLoadInstance(*instance);
  if (!validate) return Status();
  VkDebugUtilsMessengerCreateInfoEXT messenger{VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT};
  messenger.messageSeverity =
      VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
  messenger.messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT;
  messenger.pfnUserCallback = on_message;
  VkDebugUtilsMessengerEXT handle = VK_NULL_HANDLE;
  ZP_VK(vkCreateDebugUtilsMessengerEXT, *instance, &messenger, nullptr, &handle);
  validation().messages.active = true;
  return Status();
}

bool has_extension(const std::vector<VkExtensionProperties>& extensions, const char* name) {
  return std::any_of(extensions.begin(), extensions.end(), [&](const VkExtensionProperties& extension) {
    return std::strcmp(extension.extensionName, name) == 0;
  });
}

// K of the 16 x 16 x K int8 matrices with int32 sums that a subgroup multiplies; 0 when there are none.
int64_t int8_matrix_k(VkInstance instance, VkPhysicalDevice device) {
  auto get = reinterpret_cast<PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR>(
      vkGetInstanceProcAddr(instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"));
  uint32_t count = 0;
  if (get == nullptr || get(device, &count, nullptr) != VK_SUCCESS) return 0;
  std::vector<VkCooperativeMatrixPropertiesKHR> shapes(count);
  for (auto& shape : shapes) shape = {VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR};
  if (get(device, &count, shapes.data()) != VK_SUCCESS) return 0;
  for (const auto& shape : shapes) {
    if (shape.MSize == 16 && shape.NSize == 16 && shape.AType == VK_COMPONENT_TYPE_SINT8_KHR &&
        shape.BType == VK_COMPONENT_TYPE_SINT8_KHR && shape.CType == VK_COMPONENT_TYPE_SINT32_KHR &&
        shape.ResultType == VK_COMPONENT_TYPE_SINT32_KHR && shape.scope == VK_SCOPE_SUBGROUP_KHR &&
        shape.saturatingAccumulation == VK_FALSE) {
      return shape.KSize;
    }
  }
  return 0;
}

void read_facts(VkInstance instance, const Features& features, const VkPhysicalDeviceProperties& properties,
                const VkPhysicalDeviceSubgroupProperties& subgroup, DeviceInfo* info) {
  const VkPhysicalDeviceLimits& limits = properties.limits;
  bool compute = (subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0;
  auto supports = [&](VkSubgroupFeatureFlags bit) { return compute && (subgroup.supportedOperations & bit) != 0; };
  int64_t matrix_k = features.coopmat.cooperativeMatrix != VK_FALSE ? int8_matrix_k(instance, info->handle) : 0;
  const std::pair<Fact, int64_t> values[] = {
      {Fact::int8_dot, features.dot.shaderIntegerDotProduct},
      {Fact::storage_8bit, features.storage_8bit.storageBuffer8BitAccess},
      {Fact::storage_16bit, features.storage_16bit.storageBuffer16BitAccess},
      {Fact::float16, features.float16_int8.shaderFloat16},
      {Fact::int8, features.float16_int8.shaderInt8},
      {Fact::int16, features.core.features.shaderInt16},
      {Fact::int64, features.core.features.shaderInt64},
      {Fact::memory_model, features.memory_model.vulkanMemoryModel},
      {Fact::subgroup_basic, supports(VK_SUBGROUP_FEATURE_BASIC_BIT)},
      {Fact::subgroup_vote, supports(VK_SUBGROUP_FEATURE_VOTE_BIT)},
      {Fact::subgroup_arithmetic, supports(VK_SUBGROUP_FEATURE_ARITHMETIC_BIT)},
      {Fact::subgroup_ballot, supports(VK_SUBGROUP_FEATURE_BALLOT_BIT)},
      {Fact::subgroup_shuffle, supports(VK_SUBGROUP_FEATURE_SHUFFLE_BIT)},
      {Fact::subgroup_shuffle_relative, supports(VK_SUBGROUP_FEATURE_SHUFFLE_RELATIVE_BIT)},
      {Fact::subgroup_clustered, supports(VK_SUBGROUP_FEATURE_CLUSTERED_BIT)},
      {Fact::coopmat, matrix_k != 0},
      {Fact::coopmat_k, matrix_k},
      {Fact::subgroup_size, subgroup.subgroupSize},
      {Fact::shared_memory_bytes, limits.maxComputeSharedMemorySize},
      {Fact::max_workgroup_invocations, limits.maxComputeWorkGroupInvocations},
      {Fact::max_binding_bytes, limits.maxStorageBufferRange},
      {Fact::max_workgroup_count_x, limits.maxComputeWorkGroupCount[0]},
      {Fact::max_workgroup_count_y, limits.maxComputeWorkGroupCount[1]},
      {Fact::max_workgroup_count_z, limits.maxComputeWorkGroupCount[2]},
      {Fact::is_cpu, info->type == VK_PHYSICAL_DEVICE_TYPE_CPU},
      {Fact::vendor_id, properties.vendorID}};
  for (const auto& [fact, value] : values) info->facts[fact] = value;
}

void find_queue(const VkPhysicalDeviceLimits& limits, DeviceInfo* info) {
  uint32_t count = 0;
  vkGetPhysicalDeviceQueueFamilyProperties(info->handle, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  vkGetPhysicalDeviceQueueFamilyProperties(info->handle, &count, families.data());
  for (uint32_t i = 0; i < count; ++i) {
    if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) continue;
    info->queue_family = i;
    info->limits.timestamp_ns = families[i].timestampValidBits == 0 ? 0.0f : limits.timestampPeriod;
    return;
  }
  info->unusable = "no compute queue";
}

void describe(VkInstance instance, DeviceInfo* info) {
  VkPhysicalDeviceSubgroupProperties subgroup{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES};
  VkPhysicalDeviceMaintenance3Properties maintenance{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES,
                                                     &subgroup, 0, 0};
  VkPhysicalDeviceIDProperties id{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES, &maintenance, {}, {}, {}, 0, 0};
  VkPhysicalDeviceDriverProperties driver{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
  driver.pNext = &id;
  VkPhysicalDeviceProperties2 properties{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
  VkPhysicalDeviceProperties first;
  vkGetPhysicalDeviceProperties(info->handle, &first);
  info->name = first.deviceName;
  info->type = first.deviceType;
  info->api = first.apiVersion;
  info->driver = std::to_string(first.driverVersion);
  if (first.apiVersion < VK_API_VERSION_1_1) {
    info->unusable = "Vulkan 1.0; need 1.1 or later";
    return;
  }
  properties.pNext = first.apiVersion < VK_API_VERSION_1_2 ? static_cast<void*>(&id) : &driver;
  vkGetPhysicalDeviceProperties2(info->handle, &properties);
  const VkPhysicalDeviceLimits& limits = properties.properties.limits;
  if (first.apiVersion >= VK_API_VERSION_1_2) info->driver = std::string(driver.driverName) + " " + driver.driverInfo;
  info->cache_id =
      cat(hex(id.driverUUID, VK_UUID_SIZE), "-", first.vendorID, "-", first.deviceID, "-", first.driverVersion);
  std::memcpy(info->cache_uuid, first.pipelineCacheUUID, VK_UUID_SIZE);
  info->limits.push_bytes = limits.maxPushConstantsSize;
  info->limits.image_extent = limits.maxImageDimension2D;
  info->limits.stage_buffers = limits.maxPerStageDescriptorStorageBuffers;
  info->limits.stage_images = limits.maxPerStageDescriptorStorageImages;
  std::copy_n(limits.maxComputeWorkGroupSize, 3, info->limits.workgroup_size);
  info->limits.allocation_bytes = maintenance.maxMemoryAllocationSize;
  Features features;
  features.query(info->handle, first.apiVersion);
  read_facts(instance, features, properties.properties, subgroup, info);
  find_queue(limits, info);
}

const char* type_name(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return "discrete";
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return "integrated";
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return "virtual";
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return "cpu";
    default: return "other";
  }
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool matches(const DeviceInfo& device, const std::string& wanted) {
  if (wanted.find_first_not_of("0123456789") == std::string::npos) return wanted == std::to_string(device.index);
  if (wanted == "cpu") return device.type == VK_PHYSICAL_DEVICE_TYPE_CPU;
  return lower(device.name).find(wanted) != std::string::npos;
}

std::string device_list(const std::vector<DeviceInfo>& devices) {
  std::string result;
  for (const DeviceInfo& device : devices) {
    result += cat(result.empty() ? "" : "; ", device.index, ": ", device.name, " (", type_name(device.type),
                  device.unusable.empty() ? "" : ", ", device.unusable, ")");
  }
  return result.empty() ? "none" : result;
}

}  // namespace

void Features::query(VkPhysicalDevice device, uint32_t api) {
  uint32_t count = 0;
  vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr);
  std::vector<VkExtensionProperties> available(count);
  vkEnumerateDeviceExtensionProperties(device, nullptr, &count, available.data());
  core.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  void** tail = &core.pNext;
  // Chains a struct that core Vulkan knows since core_since, or an extension of the device brings.
  auto chain = [&](auto* features, VkStructureType type, uint32_t core_since, const char* extension) {
    features->sType = type;
    if (api < core_since) {
      if (!has_extension(available, extension)) return;
      extensions.push_back(extension);
    }
    *tail = features;
    tail = &features->pNext;
  };
  chain(&storage_16bit, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES, VK_API_VERSION_1_1, "");
  chain(&storage_8bit, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_8BIT_STORAGE_FEATURES, VK_API_VERSION_1_2,
        VK_KHR_8BIT_STORAGE_EXTENSION_NAME);
  chain(&float16_int8, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES, VK_API_VERSION_1_2,
        VK_KHR_SHADER_FLOAT16_INT8_EXTENSION_NAME);
  chain(&memory_model, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES, VK_API_VERSION_1_2,
        VK_KHR_VULKAN_MEMORY_MODEL_EXTENSION_NAME);
  chain(&dot, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES, VK_API_VERSION_1_3,
        VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME);
  chain(&coopmat, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR, UINT32_MAX,
        VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
  vkGetPhysicalDeviceFeatures2(device, &core);
  // Enable no more than a fact or a capability stands for.
  VkPhysicalDeviceFeatures supported = core.features;
  core.features = {};
  core.features.shaderInt16 = supported.shaderInt16;
  core.features.shaderInt64 = supported.shaderInt64;
  for (VkBool32* unused :
       {&storage_16bit.uniformAndStorageBuffer16BitAccess, &storage_16bit.storagePushConstant16,
        &storage_16bit.storageInputOutput16, &storage_8bit.uniformAndStorageBuffer8BitAccess,
        &storage_8bit.storagePushConstant8, &memory_model.vulkanMemoryModelDeviceScope,
        &memory_model.vulkanMemoryModelAvailabilityVisibilityChains, &coopmat.cooperativeMatrixRobustBufferAccess}) {
    *unused = VK_FALSE;
  }
}

Status list_devices(std::vector<DeviceInfo>* devices) {
  static std::mutex mutex;
  static VkInstance instance = VK_NULL_HANDLE;
  static auto* known = new std::vector<DeviceInfo>();
  std::lock_guard<std::mutex> lock(mutex);
  if (instance == VK_NULL_HANDLE) {
    VkInstance created = VK_NULL_HANDLE;
    ZP_TRY(create_instance(&created));
    uint32_t count = 0;
    ZP_VK(vkEnumeratePhysicalDevices, created, &count, nullptr);
    std::vector<VkPhysicalDevice> handles(count);
    ZP_VK(vkEnumeratePhysicalDevices, created, &count, handles.data());
    instance = created;
    for (uint32_t i = 0; i < count; ++i) {
      known->emplace_back();
      known->back().handle = handles[i];
      known->back().index = i;
      describe(instance, &known->back());
    }
  }
  *devices = *known;
  return Status();
}

Status choose_device(const std::vector<DeviceInfo>& devices, const char* wanted, const DeviceInfo** chosen) {
  *chosen = nullptr;
  std::string name = wanted == nullptr ? "" : lower(wanted);
  for (VkPhysicalDeviceType type : {VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU, VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU,
                                    VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU, VK_PHYSICAL_DEVICE_TYPE_CPU}) {
    for (const DeviceInfo& device : devices) {
      bool fits = name.empty() ? device.type == type && device.unusable.empty() : matches(device, name);
      if (*chosen == nullptr && fits) *chosen = &device;
    }
  }
  if (*chosen != nullptr && (*chosen)->unusable.empty()) return Status();
  if (name.empty()) {
    return fail(Code::kDevice, "no usable Vulkan device; devices: ", device_list(devices),
                "; install a driver, or mesa-vulkan-drivers for the software one");
  }
  return fail(Code::kDevice, "ZEROPOINT_DEVICE=", printable(wanted),
              ": no such usable device; devices: ", device_list(devices));
}

Status disable_facts(const char* list, Facts* facts) {
  std::string rest = list == nullptr ? "" : list;
  while (!rest.empty()) {
    size_t comma = std::min(rest.find(','), rest.size());
    std::string name = rest.substr(0, comma);
    rest.erase(0, comma + 1);
    name.erase(std::remove(name.begin(), name.end(), ' '), name.end());
    if (name.empty()) continue;
    size_t fact = find_fact(name);
    if (fact == kNumFacts)
      return fail(Code::kInvalidArgument, "ZEROPOINT_DISABLE: no fact ", printable(name), "; facts: ", fact_names());
    facts->values[fact] = 0;
  }
  return Status();
}

std::string devices_json(const std::vector<DeviceInfo>& devices) {
  std::string result;
  for (const DeviceInfo& device : devices) {
    result += cat(result.empty() ? "[" : ",", "{\"index\":", device.index, ",\"name\":", json_string(device.name),
                  ",\"type\":\"", type_name(device.type), "\",\"driver\":", json_string(device.driver), ",\"api\":\"",
                  VK_API_VERSION_MAJOR(device.api), ".", VK_API_VERSION_MINOR(device.api), ".",
                  VK_API_VERSION_PATCH(device.api), "\",\"unusable\":", json_string(device.unusable), ",\"facts\":");
    for (size_t i = 0; i < kNumFacts; ++i)
      result += cat(i == 0 ? "{\"" : ",\"", kFactNames[i], "\":", device.facts.values[i]);
    result += "}}";
  }
  return (result.empty() ? "[" : result) + "]";
}

ValidationMessages validation_messages(bool clear) {
  Validation& state = validation();
  std::lock_guard<std::mutex> lock(state.mutex);
  ValidationMessages result = state.messages;
  if (clear) state.messages = {0, {}, result.active};
  return result;
}

}  // namespace zeropoint
