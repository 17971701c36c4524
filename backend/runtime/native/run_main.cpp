// zeropoint-run: runs a .pte with .npy files, without Python. Also the example for C++ users: link ExecuTorch's
// runtime, its kernels and libzeropoint.so, and delegates run on Vulkan.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>
#include <executorch/runtime/platform/runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "npy.h"
#include "zeropoint.h"

namespace zeropoint {
namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::extension::Module;

constexpr const char* kUsage =
    "usage: zeropoint-run MODEL.pte [--data X.ptd]... [--method NAME] [--input A.npy]... [--output DIR] [--repeat N]\n"
    "  Inputs in the method's order; outputs go to DIR/output_0.npy and so on. bf16 arrays have dtype V2 or uint16.\n"
    "  Prints times as JSON. ZEROPOINT_DEVICE chooses the device: an index, a part of its name, or cpu.\n";

struct Options {
  std::string model;
  std::vector<std::string> data;
  std::string method = "forward";
  std::vector<std::string> inputs;
  std::string output;
  long repeat = 1;
};

struct NpyType {
  ScalarType scalar;
  const char* npy;
};
constexpr NpyType kTypes[] = {{ScalarType::Float, "f4"}, {ScalarType::Half, "f2"},    {ScalarType::Long, "i8"},
                              {ScalarType::Int, "i4"},   {ScalarType::Char, "i1"},    {ScalarType::Byte, "u1"},
                              {ScalarType::Bool, "b1"},  {ScalarType::BFloat16, "V2"}};

const char* npy_type(ScalarType scalar) {
  for (const NpyType& type : kTypes)
    if (type.scalar == scalar) return type.npy;
  return nullptr;
}

Status parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    if (name.rfind("--", 0) != 0) {
      if (!options->model.empty()) return fail(Code::kInvalidArgument, name, ": a second model\n", kUsage);
      options->model = name;
      continue;
    }
    if (i + 1 == argc) return fail(Code::kInvalidArgument, name, ": needs a value\n", kUsage);
    std::string value = argv[++i];
    char* end = nullptr;
    if (name == "--data")
      options->data.push_back(value);
    else if (name == "--method")
      options->method = value;
    else if (name == "--input")
      options->inputs.push_back(value);
    else if (name == "--output")
      options->output = value;
    else if (name != "--repeat")
      return fail(Code::kInvalidArgument, name, ": unknown option\n", kUsage);
    else if (options->repeat = std::strtol(value.c_str(), &end, 10); *end != '\0' || options->repeat < 1)
      return fail(Code::kInvalidArgument, "--repeat ", value, ": need a number of at least 1");
  }
  return options->model.empty() ? fail(Code::kInvalidArgument, kUsage) : Status();
}

Status failed(const std::string& what, et::Error error) {
  std::string reason = zp_last_error();
  return fail(Code::kDevice, what, ": ", reason.empty() ? cat("ExecuTorch error ", error) : reason);
}

// An input as the method wants it: a tensor over the array's bytes, or an integer, real or boolean number.
Status to_evalue(const et::MethodMeta& meta, size_t index, Array* array, executorch::extension::TensorPtr* tensor,
                 et::EValue* value) {
  auto tag = meta.input_tag(index);
  if (!tag.ok()) return failed("input", tag.error());
  bool single = array->dims.empty() && !array->data.empty();
  if (*tag == et::Tag::Int && single && array->dtype == "i8") {
    *value = et::EValue(*reinterpret_cast<const int64_t*>(array->data.data()));
    return Status();
  }
  if (*tag == et::Tag::Double && single && array->dtype == "f8") {
    *value = et::EValue(*reinterpret_cast<const double*>(array->data.data()));
    return Status();
  }
  if (*tag == et::Tag::Bool && single && array->dtype == "b1") {
    *value = et::EValue(array->data[0] != 0);
    return Status();
  }
  if (*tag != et::Tag::Tensor) {
    return fail(Code::kInvalidArgument,
                "the method wants a number; give an array of shape () and dtype int64, "
                "float64 or bool");
  }
  auto info = meta.input_tensor_meta(index);
  if (!info.ok()) return failed("input", info.error());
  const char* wanted = npy_type(info->scalar_type());
  bool bits = info->scalar_type() == ScalarType::BFloat16 && array->dtype == "u2";
  if (wanted == nullptr || (array->dtype != wanted && !bits)) {
    return fail(Code::kInvalidArgument, "dtype ", printable(array->dtype), "; need ",
                wanted == nullptr ? "none" : wanted);
  }
  std::vector<executorch::aten::SizesType> sizes(array->dims.begin(), array->dims.end());
  *tensor = executorch::extension::make_tensor_ptr(std::move(sizes), array->data.data(), info->scalar_type());
  *value = et::EValue(**tensor);
  return Status();
}

Status write_output(const std::string& path, const et::EValue& value) {
  if (value.isInt()) {
    int64_t number = value.toInt();
    return write_npy(path, "i8", {}, &number, sizeof(number));
  }
  if (!value.isTensor()) return fail(Code::kInvalidArgument, path, ": the output is no tensor and no integer");
  const executorch::aten::Tensor& tensor = value.toTensor();
  const char* type = npy_type(tensor.scalar_type());
  if (type == nullptr) return fail(Code::kInvalidArgument, path, ": scalar type ", tensor.scalar_type());
  std::vector<int64_t> dims(tensor.sizes().begin(), tensor.sizes().end());
  return write_npy(path, type, dims, tensor.const_data_ptr(), tensor.nbytes());
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Status run(const Options& options) {
  for (const std::string& path : options.data)
    if (!std::filesystem::exists(path)) return fail(Code::kNotFound, path, ": no such file");
  if (!std::filesystem::exists(options.model)) return fail(Code::kNotFound, options.model, ": no such file");
  auto start = std::chrono::steady_clock::now();
  Module module(options.model, options.data, Module::LoadMode::Mmap);
  if (et::Error error = module.load(); error != et::Error::Ok) return failed(options.model, error);
  if (et::Error error = module.load_method(options.method); error != et::Error::Ok)
    return failed(options.model + ": method " + options.method, error);
  double load_ms = milliseconds_since(start);
  auto meta = module.method_meta(options.method);
  if (!meta.ok()) return failed(options.method, meta.error());
  size_t n_inputs = options.inputs.size();
  if (n_inputs != meta->num_inputs())
    return fail(Code::kInvalidArgument, n_inputs, " inputs; method ", options.method, " has ", meta->num_inputs());
  std::vector<Array> arrays(n_inputs);
  std::vector<executorch::extension::TensorPtr> tensors(n_inputs);
  std::vector<et::EValue> values(n_inputs);
  for (size_t i = 0; i < n_inputs; ++i) {
    ZP_TRY(read_npy(options.inputs[i], &arrays[i]));
    ZP_TRY(to_evalue(*meta, i, &arrays[i], &tensors[i], &values[i]).in(cat("input[", i, "] ", options.inputs[i])));
  }
  std::vector<double> times;
  std::vector<et::EValue> outputs;
  for (long i = 0; i < options.repeat; ++i) {
    start = std::chrono::steady_clock::now();
    auto result = module.execute(options.method, values);
    if (!result.ok()) return failed(options.method, result.error());
    times.push_back(milliseconds_since(start));
    outputs = std::move(*result);
  }
  if (!options.output.empty()) {
    std::error_code error;
    std::filesystem::create_directories(options.output, error);
    if (error) return fail(Code::kDevice, options.output, ": ", error.message());
  }
  for (size_t i = 0; i < outputs.size() && !options.output.empty(); ++i)
    ZP_TRY(write_output(cat(options.output, "/output_", i, ".npy"), outputs[i]));
  double first = times[0];
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  std::printf("{\"load_ms\": %.3f, \"first_ms\": %.3f, \"median_ms\": %.3f, \"executes\": %ld, \"outputs\": %zu}\n",
              load_ms, first, times[times.size() / 2], options.repeat, outputs.size());
  return Status();
}

}  // namespace
}  // namespace zeropoint

int main(int argc, char** argv) {
  et_pal_init();
  zeropoint::Options options;
  zeropoint::Status status = zeropoint::parse(argc, argv, &options);
  if (status.ok()) status = zeropoint::run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "zeropoint-run: %s\n", status.message().c_str());
  return 1;
}
