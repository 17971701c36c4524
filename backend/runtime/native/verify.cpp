#include <cmath>
#include <unordered_set>

#include "program.h"

namespace zeropoint {
namespace {

constexpr size_t kMaxItems = 1 << 16;   // tensors, calls
constexpr size_t kMaxArguments = 4096;  // inputs, outputs, pieces of one output
constexpr size_t kMaxSymbols = 64, kMaxTerms = 8;
constexpr int64_t kMaxElements = INT32_MAX;

template <typename... Parts> Status bad(const Parts&... parts) { return fail(Code::kInvalidProgram, parts...); }

std::string where(const char* what, size_t index, std::string_view name = "") {
  return cat(what, "[", index, name.empty() ? "]" : "] ", printable(name));
}

bool same_dim(const Dim& a, const Dim& b) {
  auto same_term = [](const fb::Term& x, const fb::Term& y) {
    return x.coefficient() == y.coefficient() && x.symbol() == y.symbol();
  };
  return a.base == b.base && std::equal(a.terms.begin(), a.terms.end(), b.terms.begin(), b.terms.end(), same_term);
}

class Decoder {
 public:
  Decoder(const fb::Program& source, const Library& library, Program* program)
      : source_(source), library_(library), program_(*program) {}

  Status run() {
    ZP_TRY(limit("symbols", source_.symbols(), kMaxSymbols));
    ZP_TRY(limit("tensors", source_.tensors(), kMaxItems));
    ZP_TRY(limit("calls", source_.calls(), kMaxItems));
    ZP_TRY(limit("inputs", source_.inputs(), kMaxArguments));
    ZP_TRY(limit("outputs", source_.outputs(), kMaxArguments));
    program_.arena_bytes = source_.arena_bytes();
    for (uint32_t i = 0; i < count(source_.symbols()); ++i) {
      const fb::Symbol& symbol = *source_.symbols()->Get(i);
      program_.symbols.push_back({printable(view(symbol.name())), symbol.min(), symbol.max()});
      if (0 <= symbol.min() && symbol.min() <= symbol.max() && symbol.max() <= kMaxElements) continue;
      return bad(where("symbol", i, view(symbol.name())), ": range [", symbol.min(), ", ", symbol.max(),
          "]; need 0 <= min <= max < 2^31");
    }
    uint64_t end = 0;
    for (uint32_t i = 0; i < count(source_.tensors()); ++i) {
      Tensor& added = program_.tensors.emplace_back();
      ZP_TRY(
          tensor(*source_.tensors()->Get(i), &added).in(where("tensor", i, view(source_.tensors()->Get(i)->name()))));
      if (added.in_arena()) end = std::max(end, added.offset + added.size_bytes);
    }
    // No larger than the tensors need: a forged size must not become an allocation.
    if (program_.arena_bytes - end >= kArenaAlign)
      return bad("arena_bytes ", program_.arena_bytes, "; its tensors end at ", end);
    for (uint32_t i = 0; i < count(source_.inputs()); ++i)
      ZP_TRY(input(*source_.inputs()->Get(i)).in(where("input", i)));
    ZP_TRY(symbol_sources());
    for (uint32_t i = 0; i < count(source_.calls()); ++i) {
      const fb::Call& call = *source_.calls()->Get(i);
      ZP_TRY(this->call(call, &program_.calls.emplace_back()).in(where("call", i, view(call.kernel()))));
    }
    for (uint32_t i = 0; i < count(source_.outputs()); ++i)
      ZP_TRY(output(*source_.outputs()->Get(i), &program_.outputs.emplace_back()).in(where("output", i)));
    return Status();
  }

 private:
  template <typename Vector> static Status limit(const char* what, const Vector* found, size_t most) {
    return count(found) <= most ? Status() : bad(count(found), " ", what, "; at most ", most);
  }

  Status tensor(const fb::Tensor& source, Tensor* target) const {
    target->name = printable(view(source.name()));
    target->dtype = source.dtype();
    target->storage = source.storage();
    target->memory = source.memory();
    target->offset = source.offset();
    if (source.dtype() == fb::DType::none || source.dtype() > fb::DType::MAX) return bad("dtype ", source.dtype());
    if (source.storage() == fb::Storage::none || source.storage() > fb::Storage::MAX)
      return bad("storage ", source.storage());
    if (source.memory() > fb::Memory::MAX) return bad("memory ", source.memory());
    ZP_TRY(limit("dimensions", source.dims(), kMaxRank));
    uint64_t numel = 1;
    for (uint32_t i = 0; i < count(source.dims()); ++i) {
      int64_t high = 0;
      ZP_TRY(dim(*source.dims()->Get(i), &target->dims.emplace_back(), &high).in(where("dim", i)));
      numel *= static_cast<uint64_t>(high);  // both factors are below 2^31
      if (numel > static_cast<uint64_t>(kMaxElements)) return bad("more than 2^31 - 1 elements");
    }
    target->max_numel = static_cast<int64_t>(numel);
    target->data_bytes = (numel * bits_of(target->dtype) + 7) / 8;
    target->size_bytes = align_up(target->data_bytes, kSizeAlign);
    if (source.size_bytes() != target->size_bytes)
      return bad("size_bytes ", source.size_bytes(), "; its dtype and dimensions need ", target->size_bytes);
    target->constant = printable(view(source.constant()));
    return target->is_constant() ? constant(*target) : arena_tensor(*target);
  }

  Status dim(const fb::Dim& source, Dim* target, int64_t* high) const {
    ZP_TRY(limit("terms", source.terms(), kMaxTerms));
    int64_t low = target->base = *high = source.base();
    bool overflow = false;
    for (const fb::Term* item : items(source.terms())) {
      const fb::Term& term = *item;
      if (term.symbol() >= program_.symbols.size())
        return bad("symbol ", term.symbol(), "; the program has ", program_.symbols.size());
      if (term.coefficient() == 0) return bad("a coefficient of 0");
      target->terms.push_back(term);
      const Symbol& symbol = program_.symbols[term.symbol()];
      int64_t a = 0;
      int64_t b = 0;
      overflow |= __builtin_mul_overflow(term.coefficient(), symbol.min, &a);
      overflow |= __builtin_mul_overflow(term.coefficient(), symbol.max, &b);
      overflow |= __builtin_add_overflow(low, std::min(a, b), &low);
      overflow |= __builtin_add_overflow(*high, std::max(a, b), high);
    }
    return overflow || low < 0 || *high > kMaxElements ? bad("leaves [0, 2^31) for some symbol values") : Status();
  }

  static Status constant(const Tensor& tensor) {
    bool is_key = tensor.constant.size() == 64;
    if (!is_key || tensor.constant.find_first_not_of("0123456789abcdef") != std::string::npos)
      return bad("constant key ", tensor.constant, "; need 64 lower-case hexadecimal digits");
    for (const Dim& dim : tensor.dims)
      if (!dim.terms.empty()) return bad("a constant has no symbols");
    if (tensor.storage == fb::Storage::buffer && tensor.offset == 0) return Status();
    return bad("a constant is a buffer with offset 0");
  }

  Status arena_tensor(const Tensor& tensor) const {
    if (!tensor.constant.empty()) return bad("arena memory with constant key ", tensor.constant, "; leave it empty");
    if (tensor.storage == fb::Storage::image) {
      if (tensor.offset != 0) return bad("an image has offset 0");
      bool packed = tensor.dtype == fb::DType::u8 || tensor.dtype == fb::DType::i4;
      return packed ? bad("an image of ", fb::EnumNameDType(tensor.dtype), "; offered f32, f16, i32, i8") : Status();
    }
    if (tensor.offset % kArenaAlign != 0) return bad("offset ", tensor.offset, "; need a multiple of ", kArenaAlign);
    uint64_t arena = program_.arena_bytes;
    if (tensor.offset <= arena && tensor.size_bytes <= arena - tensor.offset) return Status();
    return bad(tensor.size_bytes, " bytes at offset ", tensor.offset, "; the arena has ", arena, " bytes");
  }

  Status host_tensor(int64_t index, fb::HostDType host_dtype) const {
    if (index >= static_cast<int64_t>(program_.tensors.size()))
      return bad("tensor ", index, "; the program has ", program_.tensors.size());
    const Tensor& tensor = program_.tensors[static_cast<size_t>(index)];
    if (!tensor.in_arena()) return bad("tensor ", tensor.name, " is no arena buffer");
    if (host_dtype <= fb::HostDType::MAX && can_convert(host_dtype, tensor.dtype)) return Status();
    return bad("tensor ", tensor.name, ": dtype ", fb::EnumNameDType(tensor.dtype), " for host dtype ",
        host_dtype > fb::HostDType::MAX ? "unknown" : fb::EnumNameHostDType(host_dtype));
  }

  Status input(const fb::Input& source) {
    program_.inputs.push_back({source.tensor(), source.symbol(), source.host_dtype()});
    if ((source.tensor() < 0) == (source.symbol() < 0))
      return bad("tensor ", source.tensor(), ", symbol ", source.symbol(), "; exactly one must be given");
    if (source.tensor() >= 0) {
      ZP_TRY(host_tensor(source.tensor(), source.host_dtype()));
      return written_.insert(source.tensor()).second ? Status() : bad("tensor ", source.tensor(), " is given twice");
    }
    if (source.symbol() >= static_cast<int64_t>(program_.symbols.size()))
      return bad("symbol ", source.symbol(), "; the program has ", program_.symbols.size());
    bool i64 = source.host_dtype() == fb::HostDType::i64;
    return i64 ? Status() : bad("host dtype ", source.host_dtype(), " of a symbol; need i64");
  }

  Status symbol_sources() {
    program_.sources.resize(program_.symbols.size());
    for (uint32_t i = 0; i < program_.inputs.size(); ++i) {
      const Input& input = program_.inputs[i];
      if (input.symbol >= 0) program_.sources[static_cast<size_t>(input.symbol)] = {i, -1, 0, 1};
      if (input.tensor < 0) continue;
      const std::vector<Dim>& dims = program_.tensors[static_cast<size_t>(input.tensor)].dims;
      for (size_t axis = 0; axis < dims.size(); ++axis) {
        if (dims[axis].terms.size() != 1) continue;
        const fb::Term& term = dims[axis].terms[0];
        SymbolSource& source = program_.sources[term.symbol()];
        if (source.coefficient == 0) source = {i, static_cast<int32_t>(axis), dims[axis].base, term.coefficient()};
      }
    }
    for (size_t i = 0; i < program_.sources.size(); ++i) {
      if (program_.sources[i].coefficient != 0) continue;
      return bad(where("symbol", i, program_.symbols[i].name), ": no input gives it a value");
    }
    return Status();
  }

  Status call(const fb::Call& source, Call* target) {
    target->name = printable(view(source.name()));
    target->kernel = library_.find(view(source.kernel()));
    if (target->kernel == nullptr)
      return fail(Code::kIncompatible, "no such kernel; this player has ", library_.kernel_names());
    ZP_TRY(args(source, target));
    ZP_TRY(attrs(source, target));
    return data_flow(*target);
  }

  Status args(const fb::Call& source, Call* target) const {
    const auto& slots = *target->kernel->slots();
    target->tensors.assign(slots.size(), -1);
    for (const fb::Arg* item : items(source.args())) {
      const fb::Arg& arg = *item;
      uint32_t slot = 0;
      while (slot < slots.size() && view(slots.Get(slot)->name()) != view(arg.slot())) ++slot;
      std::string name = "slot " + printable(view(arg.slot())) + ": ";
      if (slot == slots.size()) return bad(name, "the kernel has no such slot");
      if (target->tensors[slot] >= 0) return bad(name, "bound twice");
      size_t n_tensors = program_.tensors.size();
      if (arg.tensor() >= n_tensors) return bad(name, "tensor ", arg.tensor(), "; the program has ", n_tensors);
      bool is_output = slots.Get(slot)->io() == fb::Io::output;
      if (is_output && program_.tensors[arg.tensor()].is_constant()) return bad(name, "writes a constant");
      target->tensors[slot] = static_cast<int32_t>(arg.tensor());
    }
    for (uint32_t slot = 0; slot < slots.size(); ++slot) {
      if (target->tensors[slot] >= 0 || slots.Get(slot)->optional()) continue;
      return bad("slot ", view(slots.Get(slot)->name()), ": not bound");
    }
    return Status();
  }

  static Status attrs(const fb::Call& source, Call* target) {
    const auto& declared = *target->kernel->attrs();
    target->integer_attrs.assign(declared.size(), 0);
    target->real_attrs.assign(declared.size(), 0.0f);
    std::vector<bool> seen(declared.size());
    for (const fb::Attr* item : items(source.attrs())) {
      const fb::Attr& attr = *item;
      uint32_t index = 0;
      while (index < declared.size() && view(declared.Get(index)->name()) != view(attr.name())) ++index;
      std::string name = "attribute " + printable(view(attr.name())) + ": ";
      if (index == declared.size()) return bad(name, "the kernel has no such attribute");
      if (seen[index]) return bad(name, "given twice");
      seen[index] = true;
      bool integer = declared.Get(index)->kind() == fb::ValueKind::integer;
      if (attr.kind() != (integer ? fb::AttrKind::integer : fb::AttrKind::real))
        return bad(name, "kind ", attr.kind(), "; the kernel needs ", integer ? "an integer" : "a real number");
      if (!integer && !std::isfinite(attr.real())) return bad(name, "not finite");
      if (integer) target->integer_attrs[index] = attr.integer();
      if (!integer) target->real_attrs[index] = static_cast<float>(attr.real());
    }
    for (uint32_t i = 0; i < declared.size(); ++i)
      if (!seen[i]) return bad("attribute ", view(declared.Get(i)->name()), ": missing");
    return Status();
  }

  // Nothing is read before it is written, and no call writes memory that it also names in another slot.
  Status data_flow(const Call& call) {
    const auto& slots = *call.kernel->slots();
    auto name = [&](size_t slot) { return cat("slot ", view(slots.Get(static_cast<uint32_t>(slot))->name())); };
    auto is_output = [&](size_t slot) { return slots.Get(static_cast<uint32_t>(slot))->io() == fb::Io::output; };
    for (size_t a = 0; a < call.tensors.size(); ++a) {
      if (call.tensors[a] < 0) continue;
      const Tensor& tensor = program_.tensors[static_cast<size_t>(call.tensors[a])];
      if (!is_output(a) && !tensor.is_constant() && written_.count(call.tensors[a]) == 0)
        return bad(name(a), ": tensor ", tensor.name, " is read before anything writes it");
      for (size_t b = 0; b < call.tensors.size() && is_output(a); ++b) {
        if (call.tensors[b] < 0 || a == b || !overlap(call.tensors[a], call.tensors[b])) continue;
        return bad(name(a), ": shares memory with ", name(b));
      }
    }
    for (size_t a = 0; a < call.tensors.size(); ++a)
      if (is_output(a) && call.tensors[a] >= 0) written_.insert(call.tensors[a]);
    return Status();
  }

  bool overlap(int32_t first, int32_t second) const {
    const Tensor& a = program_.tensors[static_cast<size_t>(first)];
    const Tensor& b = program_.tensors[static_cast<size_t>(second)];
    if (first == second || !a.in_arena() || !b.in_arena()) return first == second;
    return a.offset < b.offset + b.size_bytes && b.offset < a.offset + a.size_bytes;
  }

  Status output(const fb::Output& source, Output* target) const {
    ZP_TRY(limit("pieces", source.tensors(), kMaxArguments));
    if (count(source.tensors()) == 0) return bad("no tensors; need at least one");
    target->host_dtype = source.host_dtype();
    for (uint32_t index : *source.tensors()) {
      ZP_TRY(host_tensor(index, source.host_dtype()));
      const Tensor& piece = program_.tensors[index];
      if (written_.count(index) == 0) return bad("tensor ", piece.name, " is never written");
      const Tensor& first = program_.tensors[source.tensors()->Get(0)];
      bool same = piece.dtype == first.dtype && piece.dims.size() == first.dims.size();
      same = same && (source.tensors()->size() == 1 || !first.dims.empty());
      for (size_t axis = 0; same && axis + 1 < first.dims.size(); ++axis)
        same = same_dim(piece.dims[axis], first.dims[axis]);
      if (!same) return bad("piece ", piece.name, ": dtype or leading dimensions differ from the first piece");
      target->tensors.push_back(index);
    }
    return Status();
  }

  const fb::Program& source_;
  const Library& library_;
  Program& program_;
  std::unordered_set<int64_t> written_;  // tensors that an input or an earlier call wrote
};

// The version comes before everything else, so that a later format is refused by its number.
Status check_version(const uint8_t* data, size_t size) {
  flatbuffers::Verifier verifier(data, size);
  flatbuffers::uoffset_t root = verifier.VerifyOffset(0);
  const auto* table = reinterpret_cast<const flatbuffers::Table*>(data + root);
  if (root == 0 || !table->VerifyTableStart(verifier) ||
      !table->VerifyField<uint32_t>(verifier, fb::Program::VT_VERSION, 4)) {
    return bad("not a valid ZPP1 flatbuffer");
  }
  uint32_t version = reinterpret_cast<const fb::Program*>(table)->version();
  if (version == kProgramVersion) return Status();
  return fail(Code::kIncompatible, "version ", version, "; this player reads version ", kProgramVersion,
      "; export again or update zeropoint");
}

Status decode(const void* data, size_t size, const Library& library, Program* program) {
  if (size < 8 || size >= FLATBUFFERS_MAX_BUFFER_SIZE) return bad(size, " bytes; need at least 8 and below 2^31");
  std::vector<uint64_t> aligned(size / 8 + 1);
  std::memcpy(aligned.data(), data, size);
  const auto* bytes = reinterpret_cast<const uint8_t*>(aligned.data());
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

uint64_t bits_of(fb::DType dtype) {
  static constexpr uint64_t kBits[] = {0, 32, 16, 32, 8, 8, 4};  // none f32 f16 i32 i8 u8 i4
  return kBits[static_cast<size_t>(dtype)];
}

}  // namespace zeropoint
