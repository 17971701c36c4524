#include "verify.h"

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "convert.h"

namespace zeropoint {
namespace {

constexpr size_t kMaxTensors = 1 << 16;
constexpr size_t kMaxCalls = 1 << 16;
constexpr size_t kMaxSymbols = 64;
constexpr size_t kMaxTerms = 8;
constexpr size_t kMaxArguments = 4096;  // inputs, outputs, pieces of one output
constexpr size_t kMaxHandles = 256;     // debug handles of one call
constexpr size_t kMaxName = 256;
constexpr int64_t kMaxElements = INT32_MAX;

template <typename Vector>
size_t count(const Vector* vector) {
  return vector == nullptr ? 0 : vector->size();
}

std::string_view view(const flatbuffers::String* text) {
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}

template <typename... Args>
Status bad(const char* text, Args... args) {
  return fail(Code::kInvalidProgram, text, args...);
}

// Smallest and largest value of a dimension. False on overflow.
bool dim_range(const Dim& dim, const std::vector<Symbol>& symbols, int64_t* low, int64_t* high) {
  *low = *high = dim.base;
  for (const fb::Term& term : dim.terms) {
    int64_t a = 0;
    int64_t b = 0;
    const Symbol& symbol = symbols[term.symbol()];
    if (__builtin_mul_overflow(term.coefficient(), symbol.min, &a)) return false;
    if (__builtin_mul_overflow(term.coefficient(), symbol.max, &b)) return false;
    if (__builtin_add_overflow(*low, std::min(a, b), low)) return false;
    if (__builtin_add_overflow(*high, std::max(a, b), high)) return false;
  }
  return true;
}

bool same_dim(const Dim& a, const Dim& b) {
  if (a.base != b.base || a.terms.size() != b.terms.size()) return false;
  for (size_t i = 0; i < a.terms.size(); ++i) {
    if (a.terms[i].coefficient() != b.terms[i].coefficient() || a.terms[i].symbol() != b.terms[i].symbol()) {
      return false;
    }
  }
  return true;
}

class Decoder {
 public:
  Decoder(const fb::Program& source, const Library& library, Program* program)
      : source_(source), library_(library), program_(*program) {}

  Status run() {
    ZP_TRY(limit("symbols", count(source_.symbols()), kMaxSymbols));
    ZP_TRY(limit("tensors", count(source_.tensors()), kMaxTensors));
    ZP_TRY(limit("calls", count(source_.calls()), kMaxCalls));
    ZP_TRY(limit("inputs", count(source_.inputs()), kMaxArguments));
    ZP_TRY(limit("outputs", count(source_.outputs()), kMaxArguments));
    program_.arena_bytes = source_.arena_bytes();
    ZP_TRY(symbols());
    for (size_t i = 0; i < count(source_.tensors()); ++i) {
      const fb::Tensor& tensor = *source_.tensors()->Get(i);
      program_.tensors.emplace_back();
      ZP_TRY(this->tensor(tensor, &program_.tensors.back()).in(where("tensor", i, view(tensor.name()))));
    }
    ZP_TRY(arena());
    for (size_t i = 0; i < count(source_.inputs()); ++i) {
      ZP_TRY(input(*source_.inputs()->Get(i), i).in(where("input", i, "")));
    }
    ZP_TRY(symbol_sources());
    for (size_t i = 0; i < count(source_.calls()); ++i) {
      const fb::Call& call = *source_.calls()->Get(i);
      program_.calls.emplace_back();
      ZP_TRY(this->call(call, &program_.calls.back()).in(where("call", i, view(call.kernel()))));
    }
    for (size_t i = 0; i < count(source_.outputs()); ++i) {
      program_.outputs.emplace_back();
      ZP_TRY(output(*source_.outputs()->Get(i), &program_.outputs.back()).in(where("output", i, "")));
    }
    return data_flow();
  }

 private:
  static std::string where(const char* what, size_t index, std::string_view name) {
    return format("%s[%zu]%s", what, index, name.empty() ? "" : (" " + printable(name)).c_str());
  }

  static Status limit(const char* what, size_t found, size_t most) {
    return found <= most ? Status() : bad("%zu %s; at most %zu", found, what, most);
  }

  Status symbols() {
    for (size_t i = 0; i < count(source_.symbols()); ++i) {
      const fb::Symbol& symbol = *source_.symbols()->Get(i);
      if (symbol.min() < 0 || symbol.min() > symbol.max() || symbol.max() > kMaxElements) {
        return bad("symbol[%zu] %s: range [%lld, %lld]; need 0 <= min <= max < 2^31", i,
                   printable(view(symbol.name())).c_str(), static_cast<long long>(symbol.min()),
                   static_cast<long long>(symbol.max()));
      }
      program_.symbols.push_back({printable(view(symbol.name())), symbol.min(), symbol.max()});
    }
    return Status();
  }

  Status tensor(const fb::Tensor& source, Tensor* target) {
    ZP_TRY(limit("bytes of name", view(source.name()).size(), kMaxName));
    target->name = printable(view(source.name()));
    target->dtype = source.dtype();
    target->storage = source.storage();
    target->memory = source.memory();
    if (source.dtype() == fb::DType::none || source.dtype() > fb::DType::MAX) {
      return bad("dtype %d; need 1 to %d", int(source.dtype()), int(fb::DType::MAX));
    }
    if (source.storage() == fb::Storage::none || source.storage() > fb::Storage::MAX) {
      return bad("storage %d; need 1 (buffer) or 2 (image)", int(source.storage()));
    }
    if (source.memory() > fb::Memory::MAX) return bad("memory %d; at most 1", int(source.memory()));
    ZP_TRY(limit("dimensions", count(source.dims()), kMaxRank));
    uint64_t numel = 1;
    for (size_t i = 0; i < count(source.dims()); ++i) {
      int64_t high = 0;
      target->dims.emplace_back();
      ZP_TRY(dim(*source.dims()->Get(i), &target->dims.back(), &high).in(format("dim[%zu]", i)));
      numel *= static_cast<uint64_t>(high);  // both factors are below 2^31
      if (numel > static_cast<uint64_t>(kMaxElements)) return bad("more than 2^31 - 1 elements");
    }
    target->max_numel = static_cast<int64_t>(numel);
    target->data_bytes = (numel * static_cast<uint64_t>(bits_of(target->dtype)) + 7) / 8;
    target->size_bytes = (target->data_bytes + kSizeAlign - 1) / kSizeAlign * kSizeAlign;
    if (source.size_bytes() != target->size_bytes) {
      return bad("size_bytes %llu; its dtype and dimensions need %llu",
                 static_cast<unsigned long long>(source.size_bytes()),
                 static_cast<unsigned long long>(target->size_bytes));
    }
    target->offset = source.offset();
    return target->memory == fb::Memory::constant ? constant(source, target) : arena_tensor(source, *target);
  }

  Status dim(const fb::Dim& source, Dim* target, int64_t* high) {
    target->base = source.base();
    ZP_TRY(limit("terms", count(source.terms()), kMaxTerms));
    for (size_t i = 0; i < count(source.terms()); ++i) {
      const fb::Term& term = *source.terms()->Get(i);
      if (term.symbol() >= program_.symbols.size()) {
        return bad("symbol %u; the program has %zu", term.symbol(), program_.symbols.size());
      }
      if (term.coefficient() == 0) return bad("a coefficient of 0");
      target->terms.push_back(term);
    }
    int64_t low = 0;
    if (!dim_range(*target, program_.symbols, &low, high) || low < 0 || *high > kMaxElements) {
      return bad("leaves [0, 2^31) for some symbol values");
    }
    return Status();
  }

  static Status constant(const fb::Tensor& source, Tensor* target) {
    std::string_view key = view(source.constant());
    if (key.size() != 64 || key.find_first_not_of("0123456789abcdef") != std::string_view::npos) {
      return bad("constant key %s; need 64 lower-case hexadecimal digits", printable(key).c_str());
    }
    for (const Dim& dim : target->dims) {
      if (!dim.terms.empty()) return bad("a constant has no symbols");
    }
    if (target->storage != fb::Storage::buffer || source.offset() != 0) {
      return bad("a constant is a buffer with offset 0");
    }
    target->constant = std::string(key);
    return Status();
  }

  Status arena_tensor(const fb::Tensor& source, const Tensor& target) {
    if (!view(source.constant()).empty()) return bad("arena memory with a constant key; leave the key empty");
    if (target.storage == fb::Storage::image) {
      if (source.offset() != 0) return bad("an image has offset 0");
      bool allowed = target.dtype == fb::DType::f32 || target.dtype == fb::DType::f16 ||
                     target.dtype == fb::DType::i32 || target.dtype == fb::DType::i8;
      return allowed ? Status() : bad("an image of %s; offered f32, f16, i32, i8", name_of(target.dtype));
    }
    if (target.offset % kArenaAlign != 0) {
      return bad("offset %llu; need a multiple of 256", static_cast<unsigned long long>(target.offset));
    }
    if (target.offset > program_.arena_bytes || target.size_bytes > program_.arena_bytes - target.offset) {
      return bad("%llu bytes at offset %llu; the arena has %llu bytes",
                 static_cast<unsigned long long>(target.size_bytes),
                 static_cast<unsigned long long>(target.offset),
                 static_cast<unsigned long long>(program_.arena_bytes));
    }
    return Status();
  }

  // The arena is no larger than its tensors need: a forged size must not become an allocation.
  Status arena() {
    uint64_t end = 0;
    for (const Tensor& tensor : program_.tensors) {
      if (tensor.in_arena()) end = std::max(end, tensor.offset + tensor.size_bytes);
    }
    if (program_.arena_bytes - end >= kArenaAlign) {
      return bad("arena_bytes %llu; its tensors end at %llu",
                 static_cast<unsigned long long>(program_.arena_bytes), static_cast<unsigned long long>(end));
    }
    return Status();
  }

  Status host_tensor(int64_t index, fb::HostDType host_dtype) {
    if (index < 0 || index >= static_cast<int64_t>(program_.tensors.size())) {
      return bad("tensor %lld; the program has %zu", static_cast<long long>(index), program_.tensors.size());
    }
    const Tensor& tensor = program_.tensors[static_cast<size_t>(index)];
    if (!tensor.in_arena()) return bad("tensor %s is no arena buffer", tensor.name.c_str());
    if (host_dtype > fb::HostDType::MAX || !can_convert(host_dtype, tensor.dtype)) {
      return bad("tensor %s: dtype %s for host dtype %s", tensor.name.c_str(), name_of(tensor.dtype),
                 host_dtype > fb::HostDType::MAX ? "unknown" : fb::EnumNameHostDType(host_dtype));
    }
    return Status();
  }

  Status input(const fb::Input& source, size_t index) {
    if ((source.tensor() < 0) == (source.symbol() < 0)) {
      return bad("tensor %d, symbol %d; exactly one must be given", source.tensor(), source.symbol());
    }
    if (source.tensor() >= 0) {
      ZP_TRY(host_tensor(source.tensor(), source.host_dtype()));
      if (!written_.insert(source.tensor()).second) return bad("tensor %d is given twice", source.tensor());
    } else if (source.symbol() >= static_cast<int64_t>(program_.symbols.size())) {
      return bad("symbol %d; the program has %zu", source.symbol(), program_.symbols.size());
    } else if (source.host_dtype() != fb::HostDType::i64) {
      return bad("host dtype %d of a symbol; need i64", int(source.host_dtype()));
    }
    program_.inputs.push_back({source.tensor(), source.symbol(), source.host_dtype()});
    static_cast<void>(index);
    return Status();
  }

  Status symbol_sources() {
    std::vector<bool> found(program_.symbols.size());
    program_.sources.resize(program_.symbols.size());
    for (uint32_t i = 0; i < program_.inputs.size(); ++i) {
      const Input& input = program_.inputs[i];
      if (input.symbol >= 0) {
        program_.sources[static_cast<size_t>(input.symbol)] = {i, -1, 0, 1};
        found[static_cast<size_t>(input.symbol)] = true;
        continue;
      }
      const std::vector<Dim>& dims = program_.tensors[static_cast<size_t>(input.tensor)].dims;
      for (size_t axis = 0; axis < dims.size(); ++axis) {
        if (dims[axis].terms.size() != 1 || found[dims[axis].terms[0].symbol()]) continue;
        const fb::Term& term = dims[axis].terms[0];
        program_.sources[term.symbol()] = {i, static_cast<int32_t>(axis), dims[axis].base,
                                           term.coefficient()};
        found[term.symbol()] = true;
      }
    }
    for (size_t i = 0; i < found.size(); ++i) {
      if (!found[i]) {
        return bad("symbol[%zu] %s: no input gives it a value", i, program_.symbols[i].name.c_str());
      }
    }
    return Status();
  }

  Status call(const fb::Call& source, Call* target) {
    ZP_TRY(limit("bytes of name", view(source.name()).size(), kMaxName));
    ZP_TRY(limit("debug handles", count(source.debug_handles()), kMaxHandles));
    target->name = printable(view(source.name()));
    target->kernel = library_.find(view(source.kernel()));
    if (target->kernel == nullptr) {
      return fail(Code::kIncompatible, "no such kernel; this player has %s", library_.kernel_names().c_str());
    }
    for (size_t i = 0; i < count(source.debug_handles()); ++i) {
      target->debug_handles.push_back(source.debug_handles()->Get(i));
    }
    ZP_TRY(args(source, target));
    return attrs(source, target);
  }

  Status args(const fb::Call& source, Call* target) {
    const Kernel& kernel = *target->kernel;
    target->tensors.assign(kernel.slots.size(), -1);
    for (size_t i = 0; i < count(source.args()); ++i) {
      const fb::Arg& arg = *source.args()->Get(i);
      size_t slot = 0;
      while (slot < kernel.slots.size() && kernel.slots[slot].name != view(arg.slot())) ++slot;
      std::string name = printable(view(arg.slot()));
      if (slot == kernel.slots.size()) return bad("slot %s: the kernel has no such slot", name.c_str());
      if (target->tensors[slot] >= 0) return bad("slot %s: bound twice", name.c_str());
      if (arg.tensor() >= program_.tensors.size()) {
        return bad("slot %s: tensor %u; the program has %zu", name.c_str(), arg.tensor(),
                   program_.tensors.size());
      }
      bool is_constant = program_.tensors[arg.tensor()].memory == fb::Memory::constant;
      if (kernel.slots[slot].is_output && is_constant) return bad("slot %s: writes a constant", name.c_str());
      target->tensors[slot] = static_cast<int32_t>(arg.tensor());
    }
    for (size_t slot = 0; slot < kernel.slots.size(); ++slot) {
      if (target->tensors[slot] < 0 && !kernel.slots[slot].optional) {
        return bad("slot %s: not bound", kernel.slots[slot].name.c_str());
      }
    }
    return Status();
  }

  static Status attrs(const fb::Call& source, Call* target) {
    const std::vector<AttrDecl>& declared = target->kernel->attrs;
    target->integer_attrs.assign(declared.size(), 0);
    target->real_attrs.assign(declared.size(), 0.0f);
    std::vector<bool> seen(declared.size());
    for (size_t i = 0; i < count(source.attrs()); ++i) {
      const fb::Attr& attr = *source.attrs()->Get(i);
      size_t index = 0;
      while (index < declared.size() && declared[index].name != view(attr.name())) ++index;
      std::string name = printable(view(attr.name()));
      if (index == declared.size())
        return bad("attribute %s: the kernel has no such attribute", name.c_str());
      if (seen[index]) return bad("attribute %s: given twice", name.c_str());
      seen[index] = true;
      bool is_integer = attr.kind() == fb::AttrKind::integer;
      if (attr.kind() > fb::AttrKind::MAX || is_integer != declared[index].is_integer) {
        return bad("attribute %s: kind %d; the kernel needs %s", name.c_str(), int(attr.kind()),
                   declared[index].is_integer ? "an integer" : "a real number");
      }
      if (!is_integer && !std::isfinite(attr.real())) return bad("attribute %s: not finite", name.c_str());
      if (is_integer) target->integer_attrs[index] = attr.integer();
      if (!is_integer) target->real_attrs[index] = static_cast<float>(attr.real());
    }
    for (size_t i = 0; i < declared.size(); ++i) {
      if (!seen[i]) return bad("attribute %s: missing", declared[i].name.c_str());
    }
    return Status();
  }

  Status output(const fb::Output& source, Output* target) {
    ZP_TRY(limit("pieces", count(source.tensors()), kMaxArguments));
    if (count(source.tensors()) == 0) return bad("no tensors; need at least one");
    target->host_dtype = source.host_dtype();
    for (uint32_t index : *source.tensors()) {
      ZP_TRY(host_tensor(index, source.host_dtype()));
      target->tensors.push_back(index);
    }
    const Tensor& first = program_.tensors[target->tensors[0]];
    for (size_t i = 1; i < target->tensors.size(); ++i) {
      const Tensor& piece = program_.tensors[target->tensors[i]];
      bool same = piece.dtype == first.dtype && piece.dims.size() == first.dims.size() && !first.dims.empty();
      for (size_t axis = 0; same && axis + 1 < first.dims.size(); ++axis) {
        same = same_dim(piece.dims[axis], first.dims[axis]);
      }
      if (!same) return bad("piece %zu: dtype or leading dimensions differ from piece 0", i);
    }
    return Status();
  }

  // Nothing is read before it is written, and no call reads the bytes it writes under another name.
  Status data_flow() {
    for (size_t i = 0; i < program_.calls.size(); ++i) {
      const Call& call = program_.calls[i];
      Status status = call_flow(call);
      ZP_TRY(status.in(where("call", i, call.kernel->name)));
    }
    for (size_t i = 0; i < program_.outputs.size(); ++i) {
      for (uint32_t tensor : program_.outputs[i].tensors) {
        if (written_.count(tensor) == 0) {
          return bad("output[%zu]: tensor %s is never written", i, program_.tensors[tensor].name.c_str());
        }
      }
    }
    return Status();
  }

  Status call_flow(const Call& call) {
    const std::vector<Slot>& slots = call.kernel->slots;
    for (size_t a = 0; a < slots.size(); ++a) {
      if (call.tensors[a] < 0) continue;
      const Tensor& tensor = program_.tensors[static_cast<size_t>(call.tensors[a])];
      bool is_constant = tensor.memory == fb::Memory::constant;
      if (!slots[a].is_output && !is_constant && written_.count(call.tensors[a]) == 0) {
        return bad("slot %s: tensor %s is read before anything writes it", slots[a].name.c_str(),
                   tensor.name.c_str());
      }
      for (size_t b = 0; b < slots.size(); ++b) {
        if (!slots[a].is_output || call.tensors[b] < 0 || a == b) continue;
        if (!overlap(call.tensors[a], call.tensors[b])) continue;
        return bad("slot %s: shares memory with slot %s", slots[a].name.c_str(), slots[b].name.c_str());
      }
    }
    for (size_t a = 0; a < slots.size(); ++a) {
      if (slots[a].is_output && call.tensors[a] >= 0) written_.insert(call.tensors[a]);
    }
    return Status();
  }

  bool overlap(int32_t first, int32_t second) const {
    const Tensor& a = program_.tensors[static_cast<size_t>(first)];
    const Tensor& b = program_.tensors[static_cast<size_t>(second)];
    if (first == second) return true;
    if (!a.in_arena() || !b.in_arena()) return false;
    return a.offset < b.offset + b.size_bytes && b.offset < a.offset + a.size_bytes;
  }

  const fb::Program& source_;
  const Library& library_;
  Program& program_;
  std::unordered_set<int64_t> written_;  // tensors that an input or an earlier call wrote
};

// Reads the version before anything else, so that a later format is refused by its number.
Status check_version(const uint8_t* data, size_t size) {
  flatbuffers::Verifier verifier(data, size);
  flatbuffers::uoffset_t root = verifier.VerifyOffset(0);
  const auto* table = reinterpret_cast<const flatbuffers::Table*>(data + root);
  if (root == 0 || !table->VerifyTableStart(verifier) ||
      !table->VerifyField<uint32_t>(verifier, fb::Program::VT_VERSION, 4)) {
    return bad("not a valid ZPP1 flatbuffer");
  }
  uint32_t version = reinterpret_cast<const fb::Program*>(table)->version();
  if (version != kProgramVersion) {
    return fail(Code::kIncompatible, "version %u; this player reads version %u; export again or update",
                version, kProgramVersion);
  }
  return Status();
}

Status decode(const void* data, size_t size, const Library& library, Program* program) {
  if (data == nullptr || size < 8 || size >= FLATBUFFERS_MAX_BUFFER_SIZE) {
    return bad("%zu bytes; a Program has at least 8 and less than 2^31", size);
  }
  std::vector<uint64_t> aligned;
  const auto* bytes = static_cast<const uint8_t*>(data);
  if (reinterpret_cast<uintptr_t>(data) % sizeof(uint64_t) != 0) {
    aligned.resize((size + 7) / 8);
    std::memcpy(aligned.data(), data, size);
    bytes = reinterpret_cast<const uint8_t*>(aligned.data());
  }
  if (!fb::ProgramBufferHasIdentifier(bytes)) return bad("no ZPP1 identifier; this is no Program");
  ZP_TRY(check_version(bytes, size));
  flatbuffers::Verifier verifier(bytes, size);
  if (!fb::VerifyProgramBuffer(verifier)) return bad("not a valid ZPP1 flatbuffer");
  return Decoder(*fb::GetProgram(bytes), library, program).run();
}

}  // namespace

Status decode_program(const void* data, size_t size, const Library& library, Program* program) {
  *program = Program();
  return decode(data, size, library, program).in("program");
}

int bits_of(fb::DType dtype) {
  switch (dtype) {
    case fb::DType::f32:
    case fb::DType::i32:
      return 32;
    case fb::DType::f16:
      return 16;
    case fb::DType::i8:
    case fb::DType::u8:
      return 8;
    case fb::DType::i4:
      return 4;
    case fb::DType::none:
      break;
  }
  return 0;
}

}  // namespace zeropoint
