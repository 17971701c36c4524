// Makes pipelines as the player does, on a driver that need not run them, and prints what its compiler says of each.
// First a line with device and driver; then for each line `kernel algorithm variant spec...` of standard input one:
// `name=value` by tabs, `refused` with what the device lacks, or `failed` with the call.
#include <cstdio>
#include <iostream>
#include <sstream>

#include "context.h"

namespace zeropoint {
namespace {

PFN_vkCreateDevice create_device = nullptr;
PFN_vkCreateComputePipelines create_pipelines = nullptr;

// The player's device, with statistics of pipelines beside what the player asks for.
VKAPI_ATTR VkResult VKAPI_CALL create_telling_device(VkPhysicalDevice physical, const VkDeviceCreateInfo* wanted,
    const VkAllocationCallbacks* allocator, VkDevice* device) {
  VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR telling{
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR, const_cast<void*>(wanted->pNext),
      VK_TRUE};
  std::vector<const char*> extensions(
      wanted->ppEnabledExtensionNames, wanted->ppEnabledExtensionNames + wanted->enabledExtensionCount);
  extensions.push_back(VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
  VkDeviceCreateInfo create = *wanted;
  create.pNext = &telling;
  create.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  create.ppEnabledExtensionNames = extensions.data();
  return create_device(physical, &create, allocator, device);
}

// RADV's null device has no fences; nothing is submitted.
VKAPI_ATTR VkResult VKAPI_CALL create_no_fence(
    VkDevice, const VkFenceCreateInfo*, const VkAllocationCallbacks*, VkFence* fence) {
  *fence = VK_NULL_HANDLE;
  return VK_SUCCESS;
}

// The player's pipeline, compiled anew.
VKAPI_ATTR VkResult VKAPI_CALL create_telling_pipeline(VkDevice device, VkPipelineCache, uint32_t count,
    const VkComputePipelineCreateInfo* wanted, const VkAllocationCallbacks* allocator, VkPipeline* pipelines) {
  std::vector<VkComputePipelineCreateInfo> create(wanted, wanted + count);
  for (VkComputePipelineCreateInfo& info : create) info.flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR;
  return create_pipelines(device, VK_NULL_HANDLE, count, create.data(), allocator, pipelines);
}

std::string text_of(const VkPipelineExecutableStatisticKHR& statistic) {
  switch (statistic.format) {
    case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_BOOL32_KHR: return cat(statistic.value.b32);
    case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_INT64_KHR: return cat(statistic.value.i64);
    case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_UINT64_KHR: return cat(statistic.value.u64);
    default: return std::to_string(statistic.value.f64);
  }
}

Status statistics(const Context& context, const Pipeline& pipeline, std::string* text) {
  VkPipelineInfoKHR info{VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, nullptr, pipeline.handle};
  uint32_t count = 1;  // a compute pipeline is one executable
  VkPipelineExecutablePropertiesKHR properties{VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR};
  ZP_VK(vkGetPipelineExecutablePropertiesKHR, context.device, &info, &count, &properties);
  VkPipelineExecutableInfoKHR executable{VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, nullptr, pipeline.handle, 0};
  ZP_VK(vkGetPipelineExecutableStatisticsKHR, context.device, &executable, &count, nullptr);
  std::vector<VkPipelineExecutableStatisticKHR> found(count, {VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR});
  ZP_VK(vkGetPipelineExecutableStatisticsKHR, context.device, &executable, &count, found.data());
  *text = cat("Subgroup size=", properties.subgroupSize);
  for (const auto& statistic : found) *text += cat("\t", statistic.name, "=", text_of(statistic));
  return Status();
}

// What the device lacks, as the player says when it looks for a variant.
std::string missing(const fb::Variant& variant, const Context& context) {
  for (uint32_t capability : *variant.capabilities())
    if (std::string reason = missing_capability(capability, context.facts); !reason.empty()) return reason;
  int64_t most = context.facts[Fact::shared_memory_bytes];
  return variant.shared_bytes() > most ? cat("needs ", variant.shared_bytes(), " shared bytes of ", most) : "";
}

Status compile(const Library& library, Context* context, const std::string& line, std::string* text) {
  std::istringstream words(line);
  std::string kernel_name, algorithm_name;
  uint32_t index = 0;
  words >> kernel_name >> algorithm_name >> index;
  std::vector<int32_t> specs;
  for (int32_t value = 0; words >> value;) specs.push_back(value);
  const fb::Kernel* kernel = library.find(kernel_name);
  const fb::Algorithm* algorithm = nullptr;
  for (const fb::Algorithm* each : items(kernel == nullptr ? nullptr : kernel->algorithms()))
    if (view(each->name()) == algorithm_name) algorithm = each;
  if (algorithm == nullptr || index >= algorithm->variants()->size() || specs.size() != count(algorithm->specs()))
    return bad_argument(line, ": the kernel library has no such variant, or its specialization constants are others");
  const fb::Variant& variant = *algorithm->variants()->Get(index);
  if (std::string reason = missing(variant, *context); !reason.empty()) {
    *text = cat("refused\t", reason);
    return Status();
  }
  std::vector<std::shared_ptr<Pipeline>> made;
  size_t failed = 0;
  ZP_TRY(context->pipelines(library, {{algorithm, &variant, specs}}, &made, &failed));
  return statistics(*context, *made[0], text);
}

Status run() {
  const Library* library = nullptr;
  Context* context = nullptr;
  std::vector<DeviceInfo> devices;
  ZP_TRY(Library::embedded(&library));
  ZP_TRY(list_devices(&devices));
  create_device = std::exchange(vkCreateDevice, create_telling_device);
  vkCreateFence = create_no_fence;
  ZP_TRY(Context::acquire(&context));
  create_pipelines = std::exchange(vkCreateComputePipelines, create_telling_pipeline);
  std::cout << context->info.name << '\t' << context->info.driver << std::endl;
  for (std::string line, text; std::getline(std::cin, line);) {
    Status status = compile(*library, context, line, &text);
    std::cout << (status.ok() ? text : cat("failed\t", status.message())) << std::endl;
  }
  return Status();
}

}  // namespace
}  // namespace zeropoint

int main() {
  zeropoint::Status status = zeropoint::run();
  if (!status.ok()) std::cerr << status.message() << std::endl;
  return status.ok() ? 0 : 1;
}
