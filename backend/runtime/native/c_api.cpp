#include <cstring>

#include "delegate.h"
#include "verify.h"
#include "zeropoint.h"

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

Status delegate_of(uint64_t id, std::shared_ptr<Delegate>* delegate) {
  *delegate = find_delegate(id);
  if (*delegate != nullptr) return Status();
  return fail(Code::kNotFound, "program %llu: no such program", static_cast<unsigned long long>(id));
}

Status library_of(const void* data, uint64_t size, const Library** library) {
  return data == nullptr ? Library::embedded(library) : Library::from_bytes(data, size, library);
}

Status load(const void* blob, uint64_t size, const zp_constant* constants, uint64_t n,
            const void* library_data, uint64_t library_size, uint32_t flags, uint64_t* id) {
  const Library* library = nullptr;
  ZP_TRY(library_of(library_data, library_size, &library));
  auto find = [&](const std::string& key, const void** data, size_t* bytes) -> Status {
    for (uint64_t i = 0; i < n; ++i) {
      if (key != constants[i].key) continue;
      *data = constants[i].data;
      *bytes = constants[i].size_bytes;
      return Status();
    }
    return Status(Code::kNotFound, "not among the constants given");
  };
  std::shared_ptr<Delegate> delegate;
  ZP_TRY(Delegate::load(blob, size, *library, find, flags, &delegate));
  *id = register_delegate(delegate);
  return Status();
}

Status unload(uint64_t id) {
  std::shared_ptr<Delegate> delegate;
  ZP_TRY(delegate_of(id, &delegate));
  if (delegate->owned_by_executorch) {
    return Status(Code::kInvalidArgument, "the program belongs to ExecuTorch, which destroys it");
  }
  forget_delegate(id);
  return Status();
}

struct Outputs {
  zp_tensor* tensors;
  uint64_t count;
};

Status place_output(void* user, size_t index, zp_tensor* output) {
  const auto* outputs = static_cast<Outputs*>(user);
  if (index >= outputs->count) {
    return fail(Code::kInvalidArgument, "%llu outputs; the program has more",
                static_cast<unsigned long long>(outputs->count));
  }
  zp_tensor& given = outputs->tensors[index];
  if (given.size_bytes < output->size_bytes) {
    return fail(Code::kInvalidArgument, "output[%zu]: room for %llu bytes; need %llu", index,
                static_cast<unsigned long long>(given.size_bytes),
                static_cast<unsigned long long>(output->size_bytes));
  }
  output->data = given.data;
  given = *output;
  return Status();
}

Status evaluate_ops(const zp_op* ops, uint64_t n_ops, const zp_tensor* slots, uint64_t n_slots,
                    const int64_t* attrs, uint64_t n_attrs, int64_t* value) {
  Expr expr;
  for (uint64_t i = 0; i < n_ops; ++i) {
    expr.ops.emplace_back(ops[i].value, ops[i].arg, static_cast<fb::OpCode>(ops[i].code));
  }
  ZP_TRY(check_expr(expr, n_slots, std::vector<bool>(n_attrs, true), 0));
  std::vector<SlotShape> shapes;
  for (uint64_t i = 0; i < n_slots; ++i) {
    shapes.push_back(slots[i].rank < 0 ? SlotShape() : SlotShape{slots[i].dims, slots[i].rank, true});
  }
  const char* reason = evaluate(expr, {shapes.data(), attrs, nullptr}, value);
  return reason == nullptr ? Status() : Status(Code::kInvalidArgument, reason);
}

Status devices_text(std::string* result) {
  std::vector<DeviceInfo> devices;
  ZP_TRY(list_devices(&devices));
  for (DeviceInfo& device : devices) ZP_TRY(disable_facts(std::getenv("ZEROPOINT_DISABLE"), &device.facts));
  *result = devices_json(devices);
  return Status();
}

}  // namespace

int report(const Status& status) {
  if (!status.ok()) last_error = status.message();
  return static_cast<int>(status.code());
}

}  // namespace zeropoint

using namespace zeropoint;

const char* zp_version(void) { return ZEROPOINT_VERSION; }
const char* zp_last_error(void) { return last_error.c_str(); }

const char* zp_devices(void) {
  std::string result;
  return report(devices_text(&result)) == ZP_OK ? text(std::move(result)) : nullptr;
}

const void* zp_library(uint64_t* size_bytes) {
  *size_bytes = Library::embedded_bytes().size();
  return Library::embedded_bytes().data();
}

int zp_load(const void* blob, uint64_t size_bytes, const zp_constant* constants, uint64_t n_constants,
            const void* library, uint64_t library_bytes, uint32_t flags, uint64_t* program) {
  return report(load(blob, size_bytes, constants, n_constants, library, library_bytes, flags, program));
}

int zp_unload(uint64_t program) { return report(unload(program)); }

int zp_verify(const void* blob, uint64_t size_bytes, const void* library, uint64_t library_bytes) {
  const Library* kernels = nullptr;
  if (int code = report(library_of(library, library_bytes, &kernels)); code != ZP_OK) return code;
  Program program;
  return report(decode_program(blob, size_bytes, *kernels, &program));
}

const char* zp_describe(uint64_t program) {
  std::shared_ptr<Delegate> delegate;
  return report(delegate_of(program, &delegate)) == ZP_OK ? text(delegate->describe()) : nullptr;
}

int zp_output_shapes(uint64_t program, const zp_tensor* inputs, uint64_t n_inputs, zp_tensor* outputs,
                     uint64_t n_outputs) {
  std::shared_ptr<Delegate> delegate;
  if (int code = report(delegate_of(program, &delegate)); code != ZP_OK) return code;
  return report(delegate->output_shapes(inputs, n_inputs, outputs, n_outputs));
}

int zp_execute(uint64_t program, const zp_tensor* inputs, uint64_t n_inputs, zp_tensor* outputs,
               uint64_t n_outputs) {
  std::shared_ptr<Delegate> delegate;
  if (int code = report(delegate_of(program, &delegate)); code != ZP_OK) return code;
  Outputs placed{outputs, n_outputs};
  return report(delegate->execute(inputs, n_inputs, place_output, &placed, false));
}

const char* zp_picks(uint64_t program) {
  std::shared_ptr<Delegate> delegate;
  return report(delegate_of(program, &delegate)) == ZP_OK ? text(delegate->picks()) : nullptr;
}

const char* zp_counters(void) {
  Counters all = total_counters();
  std::string result = "{";
#define ZP_COUNTER(name)                                                  \
  result += format("%s\"" #name "\":%llu", result.size() == 1 ? "" : ",", \
                   static_cast<unsigned long long>(all.name));
  ZP_COUNTER(programs)
  ZP_COUNTER(loads)
  ZP_COUNTER(executes)
  ZP_COUNTER(recordings)
  ZP_COUNTER(submits)
  ZP_COUNTER(dispatches_recorded)
  ZP_COUNTER(barriers_recorded)
  ZP_COUNTER(pipelines)
  ZP_COUNTER(device_allocations)
  ZP_COUNTER(device_bytes)
  ZP_COUNTER(constants_uploaded)
  ZP_COUNTER(constants_shared)
#undef ZP_COUNTER
  return text(result + "}");
}

const char* zp_validation(int clear) {
  ValidationMessages messages = validation_messages(clear != 0);
  std::string result = format("{\"active\":%s,\"count\":%zu,\"messages\":[",
                              messages.active ? "true" : "false", messages.count);
  for (size_t i = 0; i < messages.texts.size(); ++i)
    result += (i == 0 ? "" : ",") + json_string(messages.texts[i]);
  return text(result + "]}");
}

const char* zp_programs(void) {
  std::string result = "[";
  for (const auto& [id, delegate] : live_delegates()) {
    result +=
        format("%s{\"id\":%llu,\"method\":%s,\"flags\":%u}", result.size() == 1 ? "" : ",",
               static_cast<unsigned long long>(id), json_string(delegate->method).c_str(), delegate->flags());
  }
  return text(result + "]");
}

void zp_default_flags(uint32_t flags) { set_default_flags(flags); }

int zp_read_tensor(uint64_t program, uint32_t tensor, void* data, uint64_t* size_bytes) {
  std::shared_ptr<Delegate> delegate;
  if (int code = report(delegate_of(program, &delegate)); code != ZP_OK) return code;
  return report(delegate->read_tensor(tensor, data, size_bytes));
}

int zp_evaluate(const zp_op* ops, uint64_t n_ops, const zp_tensor* slots, uint64_t n_slots,
                const int64_t* attrs, uint64_t n_attrs, int64_t* value) {
  return report(evaluate_ops(ops, n_ops, slots, n_slots, attrs, n_attrs, value));
}
