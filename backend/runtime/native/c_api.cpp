#include "registry.h"
#include "verify.h"

static_assert(sizeof(zp_op) == sizeof(zeropoint::fb::Op));
static_assert(ZP_MAX_RANK == zeropoint::kMaxRank);

namespace zeropoint {
namespace {

thread_local std::string last_error;
thread_local std::string last_text;

const char* text(std::string value) {
  last_text = std::move(value);
  return last_text.c_str();
}

template <typename Use> Status with_program(uint64_t id, Use use) {
  ZP_TRY(check_process());
  std::shared_ptr<Delegate> delegate = find_delegate(id);
  return delegate == nullptr ? fail(Code::kNotFound, "program ", id, ": no such program") : use(*delegate);
}

Status load(const void* blob, uint64_t size, const zp_constant* constants, uint64_t n, const void* library_data,
    uint64_t library_size, uint32_t flags, uint64_t* id) {
  const Library* library = nullptr;
  ZP_TRY(library_data == nullptr ? Library::embedded(&library)
                                 : Library::from_bytes(library_data, library_size, &library));
  Program program;
  if (id == nullptr) return decode_program(blob, size, *library, &program);
  auto find = [&](const std::string& key, std::string_view* data) {
    const zp_constant* end = constants + n;
    const zp_constant* found = std::find_if(constants, end, [&](const zp_constant& item) { return key == item.key; });
    if (found == end) return fail(Code::kNotFound, "not among the constants given");
    *data = {static_cast<const char*>(found->data), found->size_bytes};
    return Status();
  };
  std::shared_ptr<Delegate> delegate;
  ZP_TRY(Delegate::load(blob, size, *library, find, flags, nullptr, "", &delegate));
  *id = register_delegate(delegate);
  return Status();
}

Status evaluate_ops(const zp_op* ops, uint64_t n_ops, const zp_tensor* slots, uint64_t n_slots, const int64_t* attrs,
    uint64_t n_attrs, int64_t* value) {
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(builder.CreateVectorOfStructs(reinterpret_cast<const fb::Op*>(ops), n_ops));
  const auto* expr = flatbuffers::GetRoot<Ops>(builder.GetBufferPointer());
  ZP_TRY(check_expr(expr, n_slots, std::vector<bool>(n_attrs, true), 0));
  std::vector<SlotShape> shapes;
  for (uint64_t i = 0; i < n_slots; ++i)
    shapes.push_back(slots[i].rank < 0 ? SlotShape() : SlotShape{slots[i].dims, slots[i].rank, true});
  const char* reason = evaluate(*expr, {shapes.data(), attrs, nullptr}, value);
  return reason == nullptr ? Status() : bad_argument(reason);
}

}  // namespace

int report(const Status& status) {
  if (!status.ok()) last_error = status.message();
  return static_cast<int>(status.code());
}

}  // namespace zeropoint

using namespace zeropoint;

static const char* text_of(uint64_t program, std::string (Delegate::*describe)()) {
  Status status = with_program(program, [&](Delegate& delegate) { return text((delegate.*describe)()), Status(); });
  return report(status) == ZP_OK ? last_text.c_str() : nullptr;
}

const char* zp_version(void) { return ZEROPOINT_VERSION; }
const char* zp_last_error(void) { return last_error.c_str(); }
void zp_clear_error(void) { last_error.clear(); }

const char* zp_devices(void) {
  std::vector<DeviceInfo> devices;
  Status status = list_devices(&devices);
  std::string asked;
  for (DeviceInfo& device : devices)
    if (status.ok()) status = restrict_facts(&device.facts, &asked);
  return report(status) == ZP_OK ? text(devices_json(devices)) : nullptr;
}

const void* zp_library(uint64_t* size_bytes) {
  *size_bytes = Library::embedded_bytes().size();
  return Library::embedded_bytes().data();
}

int zp_load(const void* blob, uint64_t size_bytes, const zp_constant* constants, uint64_t n_constants,
    const void* library, uint64_t library_bytes, uint32_t flags, uint64_t* program) {
  return report(load(blob, size_bytes, constants, n_constants, library, library_bytes, flags, program));
}

int zp_unload(uint64_t program) {
  return report(with_program(program, [&](Delegate& delegate) {
    if (delegate.owned_by_executorch) return bad_argument("ExecuTorch owns and destroys this program");
    find_delegate(program, true);
    return Status();
  }));
}

const char* zp_describe(uint64_t program) { return text_of(program, &Delegate::describe); }

int zp_output_shapes(
    uint64_t program, const zp_tensor* inputs, uint64_t n_inputs, zp_tensor* outputs, uint64_t n_outputs) {
  return report(with_program(
      program, [&](Delegate& delegate) { return delegate.output_shapes(inputs, n_inputs, outputs, n_outputs); }));
}

int zp_execute(uint64_t program, const zp_tensor* inputs, uint64_t n_inputs, zp_tensor* outputs, uint64_t n_outputs) {
  auto place = [&](size_t index, zp_tensor* output) {
    if (index >= n_outputs) return bad_argument(n_outputs, " outputs; the program has more");
    zp_tensor& given = outputs[index];
    if (given.size_bytes < output->size_bytes)
      return bad_argument("output[", index, "]: room for ", given.size_bytes, " bytes; need ", output->size_bytes);
    output->data = given.data;
    given = *output;
    return Status();
  };
  auto execute = [&](Delegate& delegate) { return delegate.execute(inputs, n_inputs, place, false); };
  return report(with_program(program, execute));
}

int zp_reset(uint64_t program) {
  if (program != 0) return report(with_program(program, [](Delegate& delegate) { return delegate.reset(); }));
  if (int code = report(check_process()); code != ZP_OK) return code;
  for (const auto& [id, delegate] : live_delegates())
    if (int code = report(delegate->reset()); code != ZP_OK) return code;
  return ZP_OK;
}

const char* zp_picks(uint64_t program) { return text_of(program, &Delegate::picks); }

const char* zp_counters(void) {
  Counters all = Context::total_counters();
  std::string result;
#define X(name) result += cat(result.empty() ? "{\"" : ",\"", #name, "\":", all.name);
  ZP_COUNTERS(X)
#undef X
  return text(result + "}");
}

const char* zp_validation(int clear) {
  ValidationMessages messages = validation_messages(clear != 0);
  return text(cat("{\"active\":", messages.active ? "true" : "false", ",\"count\":", messages.count,
      ",\"messages\":", json_list(messages.texts, json_string), "}"));
}

const char* zp_programs(void) {
  return text(json_list(live_delegates(), [](const auto& live) {
    return cat("{\"id\":", live.first, ",\"method\":", json_string(live.second->method),
        ",\"flags\":", live.second->flags(), "}");
  }));
}

void zp_default_flags(uint32_t flags) { default_flags = flags; }

int zp_read_tensor(uint64_t program, uint32_t tensor, void* data, uint64_t* size_bytes) {
  return report(
      with_program(program, [&](Delegate& delegate) { return delegate.read_tensor(tensor, data, size_bytes); }));
}

int zp_evaluate(const zp_op* ops, uint64_t n_ops, const zp_tensor* slots, uint64_t n_slots, const int64_t* attrs,
    uint64_t n_attrs, int64_t* value) {
  return report(evaluate_ops(ops, n_ops, slots, n_slots, attrs, n_attrs, value));
}
