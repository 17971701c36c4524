// Pipelines of a Context, and their cache on disk: removable, keyed by driver and library, never trusted.

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "context.h"
#include "files.h"
#include "parallel.h"

namespace zeropoint {
namespace {

constexpr std::string_view kMagic = "ZPPC2\n";
constexpr size_t kHeaderBytes = kMagic.size() + 32;  // with the content key of what follows
constexpr size_t kMaxCacheBytes = 256 << 20;
constexpr std::string_view kChoices = "zeropoint choices 1\n";
constexpr size_t kMaxChoicesBytes = 256 << 10;
constexpr size_t kMaxPipelines = 64;  // with those that no recording holds; a software device takes megabytes for each

// The directory for cache files, made when missing; empty when the cache is off or no directory can be made.
std::string cache_directory() {
  auto variable = [](const char* name) { return std::string(std::getenv(name) == nullptr ? "" : std::getenv(name)); };
  std::string path = variable("ZEROPOINT_CACHE_DIR");
  if (std::getenv("ZEROPOINT_CACHE_DIR") == nullptr) {
    std::string base = variable("XDG_CACHE_HOME").empty() ? variable("HOME") + "/.cache" : variable("XDG_CACHE_HOME");
    path = base[0] == '/' && base != "/.cache" ? base + "/zeropoint" : "";
  }
  std::error_code error;
  if (!path.empty()) std::filesystem::create_directories(path, error);
  return error ? "" : path;
}

// A regular file of ours with at most so many bytes; otherwise empty.
std::string read_own(const std::string& path, size_t most_bytes) {
  struct stat info{};
  bool ours = lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid();
  if (!ours || static_cast<uint64_t>(info.st_size) > most_bytes) return "";
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The file's payload when it is whole, unchanged and made by this driver; otherwise empty.
std::string read_cache(const std::string& path, const uint8_t* uuid) {
  std::string data = read_own(path, kMaxCacheBytes);
  std::string header = data.substr(0, kHeaderBytes);
  data.erase(0, kHeaderBytes);
  VkPipelineCacheHeaderVersionOne driver{};
  if (data.size() < sizeof(driver) || header != cat(kMagic, content_key(data))) return "";
  std::memcpy(&driver, data.data(), sizeof(driver));
  bool good = driver.headerVersion == VK_PIPELINE_CACHE_HEADER_VERSION_ONE &&
              std::memcmp(driver.pipelineCacheUUID, uuid, VK_UUID_SIZE) == 0;
  return good ? data : "";
}

}  // namespace

VkDescriptorType descriptor_type(const fb::Variant& variant, const fb::Binding& binding) {
  bool image = variant.storages()->Get(binding.slot()) == fb::Storage::image;
  return image ? VK_DESCRIPTOR_TYPE_STORAGE_IMAGE : VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
}

std::string Context::cache_path(const char* suffix) const {
  const Library* library = nullptr;
  std::string directory = cache_directory();
  if (directory.empty() || !Library::embedded(&library).ok()) return "";
  return directory + "/" + info.cache_id + "-" + printable(library->hash()).substr(0, 16) + suffix;
}

std::string Context::read_choices() const {
  std::string text = read_own(choices_path(), kMaxChoicesBytes);
  return text.compare(0, kChoices.size(), kChoices) == 0 ? text : "";
}

void Context::load_pipeline_cache() {
  std::string path = cache_path(".pipelines");
  std::string data = path.empty() ? "" : read_cache(path, info.cache_uuid);
  VkPipelineCacheCreateInfo create{VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO, nullptr, 0, data.size(), data.data()};
  if (vkCreatePipelineCache(device, &create, nullptr, &pipeline_cache_) == VK_SUCCESS) return;
  create.initialDataSize = 0;
  if (vkCreatePipelineCache(device, &create, nullptr, &pipeline_cache_) != VK_SUCCESS) pipeline_cache_ = VK_NULL_HANDLE;
}

void Context::save_pipelines() {
  if (!std::exchange(pipelines_changed_, false) || pipeline_cache_ == VK_NULL_HANDLE) return;
  std::string path = cache_path(".pipelines");
  size_t size = 0;
  if (path.empty() || vkGetPipelineCacheData(device, pipeline_cache_, &size, nullptr) != VK_SUCCESS) return;
  std::string data(size, '\0');
  if (vkGetPipelineCacheData(device, pipeline_cache_, &size, data.data()) != VK_SUCCESS) return;
  data.resize(size);
  // The next process makes the pipelines again where this does not succeed.
  (void)replace_file(path, {cat(kMagic, content_key(data)), data});
}

Pipeline::~Pipeline() {
  vkDestroyPipeline(context->device, handle, nullptr);
  vkDestroyPipelineLayout(context->device, layout, nullptr);
  vkDestroyDescriptorSetLayout(context->device, set_layout, nullptr);
  --context->counters.pipelines;
}

Status Context::pipelines(const Library& library, const std::vector<PipelineSource>& sources,
    std::vector<std::shared_ptr<Pipeline>>* result, size_t* failed) {
  std::vector<size_t> fresh;
  for (size_t i = 0; i < sources.size(); ++i) {
    std::shared_ptr<Pipeline>& made = result->emplace_back();
    if (sources[i].variant == nullptr) continue;
    std::shared_ptr<Pipeline>& known = pipelines_[{sources[i].algorithm, sources[i].variant, sources[i].specs}];
    if (known == nullptr) {
      known = std::make_shared<Pipeline>();
      known->context = this;
      ++counters.pipelines;
      fresh.push_back(i);
    }
    made = known;
  }
  std::vector<Status> statuses(fresh.size());
  parallel_for(fresh.size(),
      [&](size_t i) { statuses[i] = create_pipeline(library, sources[fresh[i]], (*result)[fresh[i]].get()); });
  pipelines_changed_ = pipelines_changed_ || !fresh.empty();
  for (size_t i = fresh.size(); i-- > 0;) {
    if (statuses[i].ok()) continue;
    const PipelineSource& source = sources[fresh[i]];
    pipelines_.erase({source.algorithm, source.variant, source.specs});
    *failed = fresh[i];
  }
  for (auto i = pipelines_.begin(); i != pipelines_.end() && pipelines_.size() > kMaxPipelines;)
    i = i->second.use_count() == 1 ? pipelines_.erase(i) : std::next(i);
  auto wrong = std::find_if(statuses.begin(), statuses.end(), [](const Status& status) { return !status.ok(); });
  return wrong == statuses.end() ? Status() : *wrong;
}

// Runs in any thread: of the context it reads what is constant once opened, and the pipeline cache, which locks itself.
Status Context::create_pipeline(const Library& library, const PipelineSource& source, Pipeline* pipeline) const {
  const fb::Variant& variant = *source.variant;
  const std::vector<int32_t>& specs = source.specs;
  std::vector<VkDescriptorSetLayoutBinding> bindings;
  for (const fb::Binding* binding : *variant.bindings())
    bindings.push_back(
        {binding->binding(), descriptor_type(variant, *binding), 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr});
  if (source.algorithm->ahead() != nullptr)
    bindings.push_back({kTurnsBinding, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr});
  VkDescriptorSetLayoutCreateInfo set{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO, nullptr, 0,
      static_cast<uint32_t>(bindings.size()), bindings.data()};
  ZP_VK(vkCreateDescriptorSetLayout, device, &set, nullptr, &pipeline->set_layout);
  VkPushConstantRange range{VK_SHADER_STAGE_COMPUTE_BIT, 0, (variant.push_bytes() + 3) / 4 * 4};
  VkPipelineLayoutCreateInfo layout{VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO, nullptr, 0, 1, &pipeline->set_layout,
      range.size == 0 ? 0u : 1u, &range};
  ZP_VK(vkCreatePipelineLayout, device, &layout, nullptr, &pipeline->layout);
  std::vector<uint32_t> spirv;
  ZP_TRY(library.spirv(variant, &spirv));
  VkShaderModuleCreateInfo code{
      VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, nullptr, 0, spirv.size() * 4, spirv.data()};
  VkShaderModule shader = VK_NULL_HANDLE;
  ZP_VK(vkCreateShaderModule, device, &code, nullptr, &shader);
  std::vector<VkSpecializationMapEntry> entries;
  for (uint32_t i = 0; i < specs.size(); ++i) entries.push_back({source.algorithm->specs()->Get(i)->id(), i * 4, 4});
  VkSpecializationInfo values{static_cast<uint32_t>(specs.size()), entries.data(), specs.size() * 4, specs.data()};
  VkComputePipelineCreateInfo create{VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO};
  create.stage = {VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO, nullptr, 0, VK_SHADER_STAGE_COMPUTE_BIT, shader,
      "main", &values};
  create.layout = pipeline->layout;
  VkResult result = vkCreateComputePipelines(device, pipeline_cache_, 1, &create, nullptr, &pipeline->handle);
  vkDestroyShaderModule(device, shader, nullptr);
  return vk_status("vkCreateComputePipelines", result);
}

}  // namespace zeropoint
