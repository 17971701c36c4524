// ExecuTorch's BackendInterface over Delegate.
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/event_tracer_hooks_delegate.h>
#include <executorch/runtime/core/exec_aten/util/scalar_type_util.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/platform/log.h>
#include <executorch/runtime/platform/platform.h>

#include <list>

#include "registry.h"

namespace zeropoint {

namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;

constexpr size_t kLogLine = 200;  // ExecuTorch cuts a log message at 256 bytes

et::Error mapped(Code code) {
  static constexpr et::Error kErrors[] = {et::Error::Ok, et::Error::InvalidArgument, et::Error::InvalidProgram,
      et::Error::DelegateInvalidCompatibility, et::Error::MemoryAllocationFailed, et::Error::AccessFailed,
      et::Error::NotFound};
  return kErrors[static_cast<size_t>(code)];
}

et::Error logged(const Status& status) {
  report(status);
  for (size_t at = 0; at < status.message().size(); at += kLogLine)
    ET_LOG(Error, "%s%s", at == 0 ? "" : "... ", status.message().substr(at, kLogLine).c_str());
  return mapped(status.code());
}

// In the order of zp_dtype.
constexpr ScalarType kScalarTypes[] = {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16, ScalarType::Long,
    ScalarType::Int, ScalarType::Char, ScalarType::Byte, ScalarType::Bool};

// Tells one load of a .pte from another. With a .ptd each method sees a map of its own, but all of them show the same
// strings: export puts an entry of this name beside shared states. Older programs have none, and the map stands for it.
const void* load_of(const et::NamedDataMap* map) {
  uint32_t n = map == nullptr || !map->get_num_keys().ok() ? 0 : map->get_num_keys().get();
  for (uint32_t i = 0; i < n; ++i)
    if (auto key = map->get_key(i); key.ok() && std::strcmp(key.get(), "zeropoint.states") == 0) return key.get();
  return map;
}

// What ExecuTorch holds as the delegate handle.
struct Handle {
  uint64_t id = 0;
  std::shared_ptr<Delegate> delegate;
  std::mutex mutex;  // guards what follows
  std::vector<zp_tensor> inputs;
  std::vector<int64_t> integers;
};

Status read_tensor_argument(const et::EValue& value, zp_tensor* result) {
  if (!value.isTensor()) return bad_argument("no tensor");
  const executorch::aten::Tensor& tensor = value.toTensor();
  const ScalarType* known = std::find(std::begin(kScalarTypes), std::end(kScalarTypes), tensor.scalar_type());
  if (known == std::end(kScalarTypes))
    return bad_argument("scalar type ", et::toString(tensor.scalar_type()), "; no host dtype of ours");
  result->dtype = static_cast<int32_t>(known - kScalarTypes);
  if (tensor.dim() > ZP_MAX_RANK) return bad_argument(tensor.dim(), " dimensions; at most ", ZP_MAX_RANK);
  result->rank = static_cast<int32_t>(tensor.dim());
  for (int32_t i = 0; i < result->rank; ++i) {
    if (tensor.dim_order()[static_cast<size_t>(i)] != i)
      return bad_argument("not contiguous in the default dimension order");
    result->dims[i] = tensor.size(i);
  }
  result->size_bytes = tensor.nbytes();
  result->data = const_cast<void*>(tensor.const_data_ptr());
  return Status();
}

const char* host_name(int32_t dtype) { return fb::EnumNameHostDType(static_cast<fb::HostDType>(dtype)); }

// Resizes the output; its shape is known only now.
Status place_output(et::EValue& value, size_t index, zp_tensor* output) {
  auto wrong = [&](const auto&... parts) { return bad_argument("output[", index, "]: ", parts...); };
  zp_tensor given{};
  if (Status status = read_tensor_argument(value, &given); !status.ok()) return wrong(status.message());
  if (given.dtype != output->dtype)
    return wrong("host dtype ", host_name(given.dtype), "; the program gives ", host_name(output->dtype));
  executorch::aten::SizesType sizes[ZP_MAX_RANK] = {};
  for (int32_t i = 0; i < output->rank; ++i) {
    if (output->dims[i] > INT32_MAX) return wrong("a dimension above 2^31");
    sizes[i] = static_cast<executorch::aten::SizesType>(output->dims[i]);
  }
  executorch::aten::Tensor& tensor = value.toTensor();
  et::Error error = et::resize_tensor(tensor, {sizes, static_cast<size_t>(output->rank)});
  if (error != et::Error::Ok || tensor.nbytes() < output->size_bytes)
    return wrong("cannot be resized (ExecuTorch ", et::to_string(error), ")");
  output->data = tensor.mutable_data_ptr();
  return Status();
}

class Backend final : public et::BackendInterface {
 public:
  bool is_available() const override { return true; }

  et::Result<et::DelegateHandle*> init(
      et::BackendInitContext& context, et::FreeableBuffer* processed, et::ArrayRef<et::CompileSpec>) const override {
    auto handle = std::make_unique<Handle>();
    Status status = load(context, *processed, handle.get());
    if (!status.ok()) return logged(status);
    processed->Free();
    return handle.release();
  }

  et::Error execute(
      et::BackendExecutionContext& context, et::DelegateHandle* opaque, et::Span<et::EValue*> args) const override {
    auto* handle = static_cast<Handle*>(opaque);
    et::EventTracer* tracer = context.event_tracer();
    et_timestamp_t start = tracer == nullptr ? 0 : et_pal_current_ticks();
    Status status = run(handle, args, tracer != nullptr);
    if (!status.ok()) return logged(status);
    if (tracer != nullptr) log_calls(*handle->delegate, tracer, start);
    return et::Error::Ok;
  }

  void destroy(et::DelegateHandle* opaque) const override {
    if (!check_process().ok()) return;  // its objects are the parent's
    auto* handle = static_cast<Handle*>(opaque);
    find_delegate(handle->id, true);
    delete handle;
  }

 private:
  static Status load(et::BackendInitContext& context, const et::FreeableBuffer& processed, Handle* handle) {
    auto blob = processed.data_safe();
    if (!blob.ok()) return Status(Code::kInvalidProgram, "program: the delegate blob is not in memory");
    const Library* library = nullptr;
    ZP_TRY(Library::embedded(&library));
    const et::NamedDataMap* named_data = context.get_named_data_map();
    std::list<et::FreeableBuffer> loaded;
    auto find = [&](const std::string& key, std::string_view* data) {
      if (named_data == nullptr) return fail(Code::kNotFound, "the .pte has no named data; is a .ptd missing?");
      auto found = named_data->get_data(key);
      if (!found.ok())
        return fail(Code::kNotFound, "not in the named data (ExecuTorch ", et::to_string(found.error()),
            "); is a .ptd missing?");
      loaded.push_back(std::move(found.get()));
      auto bytes = loaded.back().data_safe();
      if (bytes.ok()) *data = {static_cast<const char*>(bytes.get()), loaded.back().size()};
      return Status();
    };
    std::string method = context.get_method_name() == nullptr ? "" : context.get_method_name();
    ZP_TRY(Delegate::load(
        blob.get(), processed.size(), *library, find, 0, load_of(named_data), method, &handle->delegate));
    handle->delegate->owned_by_executorch = true;
    handle->id = register_delegate(handle->delegate);
    return Status();
  }

  static Status run(Handle* handle, et::Span<et::EValue*> args, bool profile) {
    ZP_TRY(check_process());
    const Program& program = handle->delegate->program();
    size_t n_inputs = program.inputs.size();
    if (args.size() != n_inputs + program.outputs.size()) {
      return bad_argument(
          args.size(), " arguments; the program has ", n_inputs, " inputs and ", program.outputs.size(), " outputs");
    }
    std::lock_guard<std::mutex> lock(handle->mutex);
    handle->inputs.resize(n_inputs);
    handle->integers.resize(n_inputs);
    for (size_t i = 0; i < n_inputs; ++i) {
      zp_tensor& input = handle->inputs[i];
      if (args[i]->isInt()) {
        handle->integers[i] = args[i]->toInt();
        input = {ZP_I64, 0, {}, &handle->integers[i], sizeof(int64_t)};
      } else if (Status status = read_tensor_argument(*args[i], &input); !status.ok()) {
        return status.in("input[", i, "]");
      }
    }
    auto place = [&](size_t i, zp_tensor* output) { return place_output(*args[n_inputs + i], i, output); };
    return handle->delegate->execute(handle->inputs.data(), n_inputs, place, profile);
  }

  // One event per kernel call; the delegate debug identifier is the call's index in the Program.
  static void log_calls(Delegate& delegate, et::EventTracer* tracer, et_timestamp_t start) {
    et_tick_ratio_t ratio = et_pal_ticks_to_ns_multiplier();
    auto ticks = [&](uint64_t ns) { return start + ns * ratio.denominator / std::max<uint64_t>(ratio.numerator, 1); };
    for (const auto& [call, begin, end] : delegate.call_times())
      et::event_tracer_log_profiling_delegate(
          tracer, nullptr, static_cast<et::DebugHandle>(call), ticks(begin), ticks(end));
  }
};

// Only registers; the first init() makes the first Vulkan call.
[[maybe_unused]] const et::Error registered = [] {
  static Backend backend;
  return et::register_backend({"ZeropointBackend", &backend});
}();

}  // namespace
}  // namespace zeropoint
