#define VOLK_IMPLEMENTATION
#include "instance.h"

#include <unistd.h>

#include <atomic>
#include <cctype>
#include <fstream>
#include <iterator>

namespace zeropoint {
namespace {

// SPIR-V capability, its fact. Specification, section 3.31.
// clang-format off
constexpr std::pair<uint32_t, Fact> kCapabilities[] = {
    {9, Fact::float16}, {11, Fact::int64}, {22, Fact::int16}, {39, Fact::int8}, {61, Fact::subgroup_basic},
    {62, Fact::subgroup_vote}, {63, Fact::subgroup_arithmetic}, {64, Fact::subgroup_ballot},
    {65, Fact::subgroup_shuffle}, {66, Fact::subgroup_shuffle_relative}, {67, Fact::subgroup_clustered},
    {4433, Fact::storage_16bit}, {4448, Fact::storage_8bit}, {5345, Fact::memory_model}, {6016, Fact::int8_dot},
    {6017, Fact::int8_dot}, {6018, Fact::int8_dot}, {6019, Fact::int8_dot}, {6022, Fact::cooperative_matrix}};
// clang-format on
constexpr uint32_t kAlways[] = {1 /* Shader */, 0 /* Matrix */, 50 /* ImageQuery */};

// Vulkan's two-call lists.
template <typename Item, typename List> std::vector<Item> listed(List list, Item blank = {}) {
  uint32_t count = 0;
  list(&count, nullptr);
  std::vector<Item> items(count, blank);
  list(&count, items.data());
  items.resize(count);
  return items;
}

constexpr const char* kInstallDriver =
    "install a driver: the Debian package mesa-vulkan-drivers (AMD, Intel, Arm, and the software device) or "
    "NVIDIA's own; vulkaninfo lists what works";
constexpr const char* kValidationLayer = "VK_LAYER_KHRONOS_validation";
constexpr size_t kMaxMessages = 256;

std::mutex messages_mutex;
ValidationMessages messages;

VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
    const VkDebugUtilsMessengerCallbackDataEXT* data, void*) {
  std::lock_guard<std::mutex> lock(messages_mutex);
  ++messages.count;
  if (messages.texts.size() < kMaxMessages) messages.texts.emplace_back(data->pMessage);
  return VK_FALSE;
}

Status create_instance(VkInstance* instance) {
  if (volkInitialize() != VK_SUCCESS)
    return Status(Code::kDevice, "Vulkan loader: libvulkan.so.1 does not open; install the Debian package libvulkan1");
  uint32_t api = std::min<uint32_t>(volkGetInstanceVersion(), VK_API_VERSION_1_3);
  if (api < VK_API_VERSION_1_1) return Status(Code::kDevice, "Vulkan loader: version 1.0; need 1.1 or later");
  const char* wanted = std::getenv("ZEROPOINT_VALIDATION");
  bool validate = wanted != nullptr && std::strcmp(wanted, "1") == 0;
  const char* debug_utils = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
  VkValidationFeatureEnableEXT synchronization = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT;
  VkValidationFeaturesEXT features{VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT, nullptr, 1, &synchronization, 0, nullptr};
  VkApplicationInfo application{VK_STRUCTURE_TYPE_APPLICATION_INFO, nullptr, nullptr, 0, "zeropoint", 0, api};
  VkInstanceCreateInfo create{VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, nullptr, 0, &application, 0, nullptr, 0, nullptr};
  if (validate) create = {create.sType, &features, 0, &application, 1, &kValidationLayer, 1, &debug_utils};
  // Layers of 2025 see a hazard between two dispatches, or submissions, only with these; older ones always.
  for (const char* setting : {"SHADER_ACCESSES_HEURISTIC", "SUBMIT_TIME_VALIDATION"})
    if (validate) setenv(cat("VK_KHRONOS_VALIDATION_SYNCVAL_", setting).c_str(), "1", 0);
  VkResult created = vkCreateInstance(&create, nullptr, instance);
  if (created == VK_ERROR_LAYER_NOT_PRESENT)
    return fail(Code::kDevice, "ZEROPOINT_VALIDATION: no ", kValidationLayer, "; install vulkan-validationlayers");
  if (created == VK_ERROR_INCOMPATIBLE_DRIVER) return fail(Code::kDevice, "no Vulkan driver; ", kInstallDriver);
  ZP_TRY(vk_status("vkCreateInstance", created));
  volkLoadInstance(*instance);
  if (!validate) return Status();
  VkDebugUtilsMessengerCreateInfoEXT messenger{VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT, nullptr, 0,
      VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
      VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT, on_message, nullptr};
  VkDebugUtilsMessengerEXT handle = VK_NULL_HANDLE;
  ZP_VK(vkCreateDebugUtilsMessengerEXT, *instance, &messenger, nullptr, &handle);
  messages.active = true;
  return Status();
}

void find_queue(const VkPhysicalDeviceLimits& limits, DeviceInfo* info) {
  auto families = listed<VkQueueFamilyProperties>(
      [&](auto... out) { vkGetPhysicalDeviceQueueFamilyProperties(info->handle, out...); });
  for (uint32_t i = 0; i < families.size(); ++i) {
    if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) continue;
    info->queue_family = i;
    info->timestamp_ns = families[i].timestampValidBits == 0 ? 0.0f : limits.timestampPeriod;
    return;
  }
  info->unusable = "no compute queue";
}

// The products of cooperative matrices that the device computes; none without the feature.
std::vector<VkCooperativeMatrixPropertiesKHR> matrix_products(VkPhysicalDevice device, const Features& features) {
  auto query = reinterpret_cast<PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR>(
      vkGetInstanceProcAddr(volkGetLoadedInstance(), "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"));
  if (features.matrix.cooperativeMatrix == VK_FALSE || query == nullptr) return {};
  return listed<VkCooperativeMatrixPropertiesKHR>(
      [&](auto... out) { query(device, out...); }, {VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR});
}

// Most iterations of an invocation, all its loops together. llvmpipe of Mesa 22.3.6 silently ends them after 65,535, of
// 25.0.7 it does not: older and unknown versions are taken for the former.
int64_t loop_iterations(const DeviceInfo& info) {
  size_t mesa = info.driver.find("Mesa ");
  bool is_new = mesa < info.driver.size() && std::atoi(info.driver.c_str() + mesa + 5) >= 25;
  return info.name.rfind("llvmpipe", 0) != 0 || is_new ? INT32_MAX : 50000;
}

// Whether the workgroups of a queue start in the order of their dispatches, and go on once started, whatever waits
// beside them: Vulkan promises neither, NVIDIA's own driver keeps both, and llvmpipe runs one dispatch after the other.
// Validation layers do not see that shaders wait.
bool ordered_starts(VkDriverId driver) {
  return !messages.active && (driver == VK_DRIVER_ID_NVIDIA_PROPRIETARY || driver == VK_DRIVER_ID_MESA_LLVMPIPE);
}

void describe(VkPhysicalDevice handle, std::vector<DeviceInfo>* devices) {
  DeviceInfo* info = &devices->emplace_back();
  info->handle = handle;
  info->index = devices->size() - 1;
  VkPhysicalDeviceSubgroupProperties subgroups{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES};
  VkPhysicalDeviceMaintenance3Properties memory{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES, &subgroups};
  VkPhysicalDeviceIDProperties id{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES, &memory};
  VkPhysicalDeviceDriverProperties driver{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES, &id};
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
  info->allocation_bytes = memory.maxMemoryAllocationSize;
  Features features;
  features.query(info->handle, first.apiVersion);
  bool compute = (subgroups.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0;
  auto subgroup = [&](VkSubgroupFeatureFlags bit) { return compute && (subgroups.supportedOperations & bit) != 0; };
  auto products = matrix_products(info->handle, features);
  auto product = [&](int64_t factors, int64_t sums, int64_t m, int64_t n, int64_t k) {
    return std::any_of(products.begin(), products.end(), [&](const VkCooperativeMatrixPropertiesKHR& p) {
      std::array<int64_t, 9> found{
          p.AType, p.BType, p.CType, p.ResultType, p.MSize, p.NSize, p.KSize, p.scope, p.saturatingAccumulation};
      return found == std::array<int64_t, 9>{factors, factors, sums, sums, m, n, k, VK_SCOPE_SUBGROUP_KHR, VK_FALSE};
    });
  };
#define X(name, value) info->facts[Fact::name] = value;
  ZP_FACTS(X)
#undef X
  find_queue(limits, info);
}

const char* type_name(VkPhysicalDeviceType type) {
  static constexpr const char* kNames[] = {"other", "integrated", "discrete", "virtual", "cpu"};
  return type <= VK_PHYSICAL_DEVICE_TYPE_CPU ? kNames[type] : kNames[0];
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

}  // namespace

Status vk_status(const char* call, VkResult result) {
  if (result == VK_SUCCESS) return Status();
  // clang-format off
#define X(name) {name, #name}
  // clang-format on
  static constexpr std::pair<VkResult, const char*> kNames[] = {X(VK_ERROR_OUT_OF_HOST_MEMORY),
      X(VK_ERROR_OUT_OF_DEVICE_MEMORY), X(VK_ERROR_OUT_OF_POOL_MEMORY), X(VK_ERROR_TOO_MANY_OBJECTS),
      X(VK_ERROR_FRAGMENTATION), X(VK_ERROR_FRAGMENTED_POOL), X(VK_ERROR_INITIALIZATION_FAILED),
      X(VK_ERROR_DEVICE_LOST), X(VK_ERROR_MEMORY_MAP_FAILED), X(VK_ERROR_LAYER_NOT_PRESENT),
      X(VK_ERROR_EXTENSION_NOT_PRESENT), X(VK_ERROR_FEATURE_NOT_PRESENT), X(VK_ERROR_INCOMPATIBLE_DRIVER),
      X(VK_ERROR_FORMAT_NOT_SUPPORTED), X(VK_ERROR_UNKNOWN), X(VK_ERROR_INVALID_EXTERNAL_HANDLE),
      X(VK_ERROR_INVALID_OPAQUE_CAPTURE_ADDRESS), X(VK_ERROR_VALIDATION_FAILED_EXT), X(VK_ERROR_INVALID_SHADER_NV),
      X(VK_NOT_READY), X(VK_TIMEOUT), X(VK_INCOMPLETE), X(VK_PIPELINE_COMPILE_REQUIRED)};
#undef X
  constexpr size_t kMemoryErrors = 6;  // the first ones
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (kNames[i].first == result)
      return fail(i < kMemoryErrors ? Code::kOutOfMemory : Code::kDevice, call, ": ", kNames[i].second);
  return fail(Code::kDevice, call, ": VkResult ", static_cast<int>(result));
}

size_t find_fact(std::string_view name) {
  return static_cast<size_t>(std::find(kFactNames, kFactNames + kNumFacts, name) - kFactNames);
}

std::string fact_names() { return join(kFactNames); }

std::string missing_capability(uint32_t capability, const Facts& facts) {
  if (std::find(std::begin(kAlways), std::end(kAlways), capability) != std::end(kAlways)) return "";
  for (const auto& [known, fact] : kCapabilities)
    if (known == capability) return facts[fact] != 0 ? "" : cat("needs ", kFactNames[static_cast<size_t>(fact)]);
  return cat("needs SPIR-V capability ", capability);
}

void Features::query(VkPhysicalDevice device, uint32_t api) {
  auto available = listed<VkExtensionProperties>(
      [&](auto... out) { vkEnumerateDeviceExtensionProperties(device, nullptr, out...); });
  core.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  void** tail = &core.pNext;
  // Chains a struct that core Vulkan knows since core_since, or an extension of the device brings.
  auto chain = [&](auto* features, VkStructureType type, uint32_t core_since, const char* extension) {
    features->sType = type;
    if (api < core_since) {
      auto named = [&](const VkExtensionProperties& found) { return std::strcmp(found.extensionName, extension) == 0; };
      if (std::none_of(available.begin(), available.end(), named)) return;
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
  chain(&matrix, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR, UINT32_MAX,
      VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
  vkGetPhysicalDeviceFeatures2(device, &core);
  // Enable no more than a fact or a capability stands for.
  VkPhysicalDeviceFeatures supported = core.features;
  core.features = {};
  core.features.shaderInt16 = supported.shaderInt16;
  core.features.shaderInt64 = supported.shaderInt64;
  for (VkBool32* unused : {&storage_16bit.uniformAndStorageBuffer16BitAccess, &storage_16bit.storagePushConstant16,
           &storage_16bit.storageInputOutput16, &storage_8bit.uniformAndStorageBuffer8BitAccess,
           &storage_8bit.storagePushConstant8, &memory_model.vulkanMemoryModelAvailabilityVisibilityChains,
           &matrix.cooperativeMatrixRobustBufferAccess})
    *unused = VK_FALSE;
  // Workgroups of one dispatch that wait for each other's writes need it, wherever the memory model is on.
  if (!memory_model.vulkanMemoryModelDeviceScope) memory_model.vulkanMemoryModel = VK_FALSE;
}

static std::atomic<pid_t> opener{0};  // the process that created the instance

Status check_process() {
  if (opener == 0 || opener == getpid()) return Status();
  return fail(Code::kDevice, "this process was forked from one that had opened Vulkan already, which drivers do not ",
      "survive; use spawn: multiprocessing.get_context(\"spawn\")");
}

Status list_devices(std::vector<DeviceInfo>* devices) {
  ZP_TRY(check_process());
  static std::mutex mutex;
  static VkInstance instance = VK_NULL_HANDLE;
  static auto* known = new std::vector<DeviceInfo>();
  std::lock_guard<std::mutex> lock(mutex);
  if (instance == VK_NULL_HANDLE) {
    VkInstance created = VK_NULL_HANDLE;
    ZP_TRY(create_instance(&created));
    instance = created;
    opener = getpid();
    auto list = [](auto... out) { vkEnumeratePhysicalDevices(instance, out...); };
    for (VkPhysicalDevice handle : listed<VkPhysicalDevice>(list)) describe(handle, known);
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
  auto described = [](const DeviceInfo& device) {
    return cat(device.index, ": ", device.name, " (", type_name(device.type), device.unusable.empty() ? "" : ", ",
        device.unusable, ")");
  };
  std::string list = join(devices, described, "; ");
  if (!name.empty())
    return fail(Code::kDevice, "ZEROPOINT_DEVICE=", printable(wanted), ": no such usable device; devices: ", list);
  return fail(Code::kDevice, "no usable Vulkan device (", list, "); ", kInstallDriver);
}

Status restrict_facts(Facts* facts, std::string* asked) {
  const char* disabled = std::getenv("ZEROPOINT_DISABLE");
  const char* path = std::getenv("ZEROPOINT_LIMITS");
  *asked = cat(disabled == nullptr ? "" : disabled, "\n");
  size_t n_disabled = asked->size();
  if (path != nullptr && *path != '\0') {
    std::ifstream file(path);
    if (!file) return bad_argument("ZEROPOINT_LIMITS: ", path, ": ", std::strerror(errno));
    asked->append(std::istreambuf_iterator<char>(file), {});
  }
  for (size_t at = 0, end = 0; at < asked->size(); at = end + 1) {
    end = std::min(asked->find_first_of(",\n", at), asked->size());
    std::string item = asked->substr(at, end - at);
    item.erase(std::remove(item.begin(), item.end(), ' '), item.end());
    if (item.empty()) continue;
    size_t equals = std::min(item.find('='), item.size()), fact = find_fact(item.substr(0, equals));
    const char* number = equals == item.size() ? "0" : item.c_str() + equals + 1;
    char* rest = nullptr;
    int64_t most = std::strtoll(number, &rest, 10);
    bool known = fact < kNumFacts;
    if (!known || rest == number || *rest != '\0')
      return bad_argument(at < n_disabled ? "ZEROPOINT_DISABLE: " : "ZEROPOINT_LIMITS: ", known ? "" : "no fact ",
          printable(item), known ? "; need a number" : "; facts: " + fact_names());
    facts->values[fact] = std::min(facts->values[fact], most);
  }
  return Status();
}

std::string devices_json(const std::vector<DeviceInfo>& devices) {
  return json_list(devices, [](const DeviceInfo& device) {
    std::string facts;
    for (size_t i = 0; i < kNumFacts; ++i)
      facts += cat(i == 0 ? "\"" : ",\"", kFactNames[i], "\":", device.facts.values[i]);
    return cat("{\"index\":", device.index, ",\"name\":", json_string(device.name), ",\"type\":\"",
        type_name(device.type), "\",\"driver\":", json_string(device.driver), ",\"api\":\"",
        VK_API_VERSION_MAJOR(device.api), ".", VK_API_VERSION_MINOR(device.api), ".", VK_API_VERSION_PATCH(device.api),
        "\",\"unusable\":", json_string(device.unusable), ",\"facts\":{", facts, "}}");
  });
}

ValidationMessages validation_messages(bool clear) {
  std::lock_guard<std::mutex> lock(messages_mutex);
  return clear ? std::exchange(messages, {0, {}, messages.active}) : messages;
}

}  // namespace zeropoint
