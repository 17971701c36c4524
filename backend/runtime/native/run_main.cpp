// zeropoint-run: runs a .pte with .npy files, without Python. Also the example for C++ users: link ExecuTorch's
// runtime, its kernels and libzeropoint.so, and delegates run on Vulkan.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>
#include <executorch/runtime/core/exec_aten/util/scalar_type_util.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "files.h"
#include "zeropoint.h"

namespace zeropoint {
namespace {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::extension::Module;

// dtype: numpy's descr without the byte order: f4 f2 V2 i8 i4 i1 u1 b1. bf16 has no numpy type: it is written as V2.
struct Array {
  std::string dtype;
  std::vector<int64_t> dims;
  std::vector<uint8_t> data;
};

constexpr char kMagic[] = "\x93NUMPY";

// The value of a key in the header's Python dict, up to the next comma or bracket that ends it.
std::string value_of(const std::string& header, const std::string& key) {
  size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) return "";
  at = header.find_first_not_of(' ', at + key.size() + 3);
  if (at == std::string::npos) return "";
  size_t end = header[at] == '(' ? header.find(')', at) : header.find_first_of(",}", at);
  return end == std::string::npos ? "" : header.substr(at, end - at);
}

Status parse_header(const std::string& header, Array* array) {
  std::string descr = value_of(header, "descr");
  if (descr.size() < 5 || descr.front() != '\'' || (descr[1] == '>' && descr[3] != '1'))
    return bad_argument("dtype ", printable(descr), "; need a little-endian scalar type");
  array->dtype = descr.substr(2, descr.size() - 3);
  if (value_of(header, "fortran_order") != "False") return bad_argument("not in C order");
  std::string shape = value_of(header, "shape");
  if (shape.empty() || shape[0] != '(') return bad_argument("no shape");
  for (size_t at = 1; (at = shape.find_first_of("0123456789", at)) != std::string::npos;) {
    size_t end = std::min(shape.find_first_not_of("0123456789", at), shape.size());
    if (end - at > 9 || array->dims.size() == ZP_MAX_RANK)
      return bad_argument("shape ", printable(shape), "; at most 8 dimensions below 10^9");
    array->dims.push_back(std::stoll(shape.substr(at, end - at)));
    at = end;
  }
  return Status();
}

// numpy's .npy format, version 1.0, little-endian, C order. Safe on untrusted files.
Status read_npy(const std::string& path, Array* array) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return fail(Code::kNotFound, std::strerror(errno));
  auto file_bytes = static_cast<uint64_t>(file.tellg());
  file.seekg(0);
  uint8_t start[10] = {};
  if (!file.read(reinterpret_cast<char*>(start), 10) || std::memcmp(start, kMagic, 6) != 0)
    return bad_argument("no .npy file");
  if (start[6] != 1) return bad_argument(".npy version ", start[6], "; need 1");
  int length = start[8] | start[9] << 8;
  std::string header(static_cast<size_t>(length), '\0');
  if (!file.read(header.data(), length)) return bad_argument("cut short");
  ZP_TRY(parse_header(header, array));
  uint64_t rest = file_bytes - static_cast<uint64_t>(file.tellg());
  auto need = static_cast<uint64_t>(array->dtype.back() - '0');
  for (int64_t dim : array->dims)
    if (__builtin_mul_overflow(need, static_cast<uint64_t>(dim), &need)) need = UINT64_MAX;
  if (need != rest) return bad_argument(rest, " bytes of data; its shape needs ", need);
  array->data.resize(rest);
  file.read(reinterpret_cast<char*>(array->data.data()), static_cast<std::streamsize>(rest));
  return file ? Status() : bad_argument("cut short");
}

constexpr const char* kUsage =
    "usage: zeropoint-run MODEL.pte [--data X.ptd]... [--method NAME] [--input A.npy]... [--output DIR] [--repeat N]\n"
    "       zeropoint-run --help\n"
    "  Inputs in the method's order; outputs go to DIR/output_0.npy and so on. bf16 arrays have dtype V2 or uint16.\n"
    "  Prints times as JSON. States (KV caches) are as after loading at every repetition. ZEROPOINT_DEVICE chooses the "
    "device: an index, a part of its name, or cpu.\n";

constexpr const char* kSeeHelp = "; see zeropoint-run --help";

struct Options {
  std::string model, output, method = "forward";
  std::vector<std::string> inputs, data;
  long repeat = 1;
  bool help = false;
};

constexpr std::pair<ScalarType, const char*> kTypes[] = {{ScalarType::Float, "f4"}, {ScalarType::Half, "f2"},
    {ScalarType::Long, "i8"}, {ScalarType::Int, "i4"}, {ScalarType::Char, "i1"}, {ScalarType::Byte, "u1"},
    {ScalarType::Bool, "b1"}, {ScalarType::BFloat16, "V2"}};

const char* npy_type(ScalarType scalar) {
  for (const auto& [type, npy] : kTypes)
    if (type == scalar) return npy;
  return "none";
}

Status parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i];
    options->help = options->help || name == "--help" || name == "-h";
    if (options->help) return Status();
    if (name.size() < 2 || name[0] != '-') {
      if (!options->model.empty()) return bad_argument(name, ": a second model", kSeeHelp);
      options->model = name;
      continue;
    }
    std::string* text = name == "--method" ? &options->method : name == "--output" ? &options->output : nullptr;
    std::vector<std::string>* list = name == "--data" ? &options->data : name == "--input" ? &options->inputs : nullptr;
    if (text == nullptr && list == nullptr && name != "--repeat")
      return bad_argument(name, ": unknown option", kSeeHelp);
    if (i + 1 == argc) return bad_argument(name, ": needs a value", kSeeHelp);
    std::string value = argv[++i];
    if (text != nullptr) *text = value;
    if (list != nullptr) list->push_back(value);
    if (name != "--repeat") continue;
    char* end = nullptr;
    options->repeat = std::strtol(value.c_str(), &end, 10);
    if (*end != '\0' || options->repeat < 1) return bad_argument("--repeat ", value, ": need a number of at least 1");
  }
  return options->model.empty() ? bad_argument("no MODEL.pte", kSeeHelp) : Status();
}

std::mutex note_mutex;
std::string note;  // the first error that ExecuTorch logged

void keep_note(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* text, size_t n) {
  std::lock_guard<std::mutex> lock(note_mutex);
  std::string line = printable({text, n}, n);
  if (level == kFatal) std::fprintf(stderr, "zeropoint-run: %s\n", line.c_str());  // it aborts next
  if (level == kError && note.empty()) note = line;
}

// The reason is the player's, or what ExecuTorch logged first.
Status failed(const std::string& what, et::Error error) {
  std::string reason = zp_last_error();
  if (reason.empty()) reason = cat(note, note.empty() ? "" : " ", "(ExecuTorch ", et::to_string(error), ")");
  return fail(Code::kDevice, what, ": ", reason);
}

template <typename Dims> std::string shape_text(const Dims& dims) { return cat("[", join(dims), "]"); }

// "input_ids i8 [1, 16]": the name if the file has it, numpy's dtype and the largest shape.
std::string described_input(const et::MethodMeta& meta, size_t index) {
  auto info = meta.input_tensor_meta(index);
  if (!info.ok()) return "an integer";
  std::string name(info->name());
  return cat(printable(name), name.empty() ? "" : " ", npy_type(info->scalar_type()), " ", shape_text(info->sizes()));
}

// An input as the method wants it: a tensor over the array's bytes, or an integer.
Status to_evalue(const et::MethodMeta& meta, size_t index, Array* array, executorch::extension::TensorPtr* tensor,
    et::EValue* value) {
  auto tag = meta.input_tag(index);
  if (!tag.ok()) return failed("input", tag.error());
  if (*tag == et::Tag::Int && array->dims.empty() && array->dtype == "i8") {
    *value = et::EValue(*reinterpret_cast<const int64_t*>(array->data.data()));
    return Status();
  }
  if (*tag != et::Tag::Tensor) return bad_argument("the method wants an integer here; give an int64 array of shape ()");
  auto info = meta.input_tensor_meta(index);
  if (!info.ok()) return failed("input", info.error());
  std::string wanted = npy_type(info->scalar_type());
  bool bits = wanted == "V2" && array->dtype == "u2";
  if (array->dtype != wanted && !bits) return bad_argument("dtype ", printable(array->dtype), "; need ", wanted);
  std::vector<executorch::aten::SizesType> sizes(array->dims.begin(), array->dims.end());
  bool fits = sizes.size() == info->sizes().size() &&
              std::equal(sizes.begin(), sizes.end(), info->sizes().begin(), std::less_equal<>());
  if (!fits) return bad_argument("shape ", shape_text(sizes), "; need at most ", described_input(meta, index));
  *tensor = executorch::extension::make_tensor_ptr(std::move(sizes), array->data.data(), info->scalar_type());
  *value = et::EValue(**tensor);
  return Status();
}

Status write_npy(const std::string& path, const et::EValue& value) {
  if (!value.isTensor()) return bad_argument(path, ": the output is no tensor");
  const executorch::aten::Tensor& tensor = value.toTensor();
  std::string type = npy_type(tensor.scalar_type());
  if (type == "none") return bad_argument(path, ": scalar type ", et::toString(tensor.scalar_type()));
  std::string shape;
  for (int64_t dim : tensor.sizes()) shape += cat(dim, ", ");
  std::string header =
      cat("{'descr': '", type.back() == '1' ? "|" : "<", type, "', 'fortran_order': False, 'shape': (", shape, "), }");
  header.resize((header.size() + 11 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  const char start[] = {1, 0, static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
  std::string_view data{static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()};
  return replace_file(path, {kMagic, {start, 4}, header, data});
}

// Nothing half-written stays behind when a signal ends the process.
void on_signal(int number) {
  if (const char* partial = partial_file) unlink(partial);
  signal(number, SIG_DFL);
  raise(number);
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Status check_file(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error)) return Status();
  return fail(Code::kNotFound, path, std::filesystem::exists(path, error) ? ": no file" : ": no such file");
}

// What ExecuTorch's own verification passes over: it would abort at the first use, or take all memory.
Status check_method(const et::MethodMeta& meta) {
  for (size_t i = 0; i < meta.num_inputs(); ++i)
    if (auto tag = meta.input_tag(i); !tag.ok()) return failed(cat("input[", i, "]"), tag.error());
  for (size_t i = 0; i < meta.num_outputs(); ++i)
    if (auto tag = meta.output_tag(i); !tag.ok()) return failed(cat("output[", i, "]"), tag.error());
  auto memory = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  for (size_t i = 0; i < meta.num_memory_planned_buffers(); ++i) {
    auto size = meta.memory_planned_buffer_size(i);
    if (!size.ok() || *size < 0 || static_cast<uint64_t>(*size) > memory)
      return bad_argument("planned buffer ", i, ": ", size.ok() ? *size : -1, " bytes; this machine has ", memory);
  }
  return Status();
}

Status run(const Options& options) {
  for (const std::string& path : options.data) ZP_TRY(check_file(path));
  ZP_TRY(check_file(options.model));
  auto start = std::chrono::steady_clock::now();
  Module module(options.model, options.data, Module::LoadMode::Mmap);
  // As executorch.runtime does in Python.
  if (et::Error error = module.load(et::Program::Verification::InternalConsistency); error != et::Error::Ok)
    return failed(options.model, error);
  auto names = module.method_names();
  if (!names.ok()) return failed(options.model, names.error());
  std::string where = cat(options.model, ": method ", printable(options.method));
  if (names->count(options.method) == 0)
    return bad_argument(
        where, "; offered ", printable(join(std::set<std::string>(names->begin(), names->end())), 1024));
  auto meta = module.method_meta(options.method);
  if (!meta.ok()) return failed(where, meta.error());
  ZP_TRY(check_method(*meta).in(where));
  size_t n_inputs = options.inputs.size();
  if (n_inputs != meta->num_inputs()) {
    std::vector<std::string> needed;
    for (size_t i = 0; i < meta->num_inputs(); ++i) needed.push_back(described_input(*meta, i));
    return bad_argument(where, ": ", n_inputs, " inputs given; need ", needed.size(), ": ", join(needed, AsIs(), "; "));
  }
  if (et::Error error = module.load_method(options.method); error != et::Error::Ok) return failed(where, error);
  double load_ms = milliseconds_since(start);
  std::vector<Array> arrays(n_inputs);
  std::vector<executorch::extension::TensorPtr> tensors(n_inputs);
  std::vector<et::EValue> values(n_inputs);
  for (size_t i = 0; i < n_inputs; ++i) {
    ZP_TRY(read_npy(options.inputs[i], &arrays[i]).in(options.inputs[i]));
    ZP_TRY(to_evalue(*meta, i, &arrays[i], &tensors[i], &values[i]).in("input[", i, "] ", options.inputs[i]));
  }
  std::vector<double> times;
  std::vector<et::EValue> outputs;
  for (long i = 0; i < options.repeat; ++i) {
    if (i > 0 && zp_reset(0) != ZP_OK) return failed("reset", et::Error::Internal);
    start = std::chrono::steady_clock::now();
    auto result = module.execute(options.method, values);
    if (!result.ok()) return failed(where, result.error());
    times.push_back(milliseconds_since(start));
    outputs = std::move(*result);
  }
  if (!options.output.empty()) {
    std::error_code error;
    std::filesystem::create_directories(options.output, error);
    if (error) return fail(Code::kDevice, options.output, ": ", error.message());
  }
  for (size_t i = 0; i < outputs.size() && !options.output.empty(); ++i)
    ZP_TRY(write_npy(cat(options.output, "/output_", i, ".npy"), outputs[i]));
  double first = times[0];
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  std::printf("{\"load_ms\": %.3f, \"first_ms\": %.3f, \"median_ms\": %.3f, \"executes\": %ld, \"outputs\": %zu}\n",
      load_ms, first, times[times.size() / 2], options.repeat, outputs.size());
  return Status();
}

}  // namespace
}  // namespace zeropoint

int main(int argc, char** argv) {
  using namespace zeropoint;
  et_pal_init();
  et::register_pal(et::PalImpl::create(keep_note, __FILE__));
  for (int number : {SIGHUP, SIGINT, SIGTERM, SIGXFSZ}) signal(number, on_signal);
  Options options;
  Status status = parse(argc, argv, &options);
  if (options.help) std::fputs(kUsage, stdout);
  if (status.ok() && !options.help) status = run(options);
  if (!status.ok()) std::fprintf(stderr, "zeropoint-run: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
