#include "verify.h"

#include <cmath>
#include <unordered_set>

#include "convert.h"
#include "expr.h"
#include "memory.h"

namespace zeropoint {
namespace {

constexpr size_t kMaxItems = 1 << 16;   // tensors, calls
constexpr size_t kMaxArguments = 4096;  // inputs, outputs, pieces of one output, symbols, states
constexpr size_t kMaxTerms = 8, kMaxStateKey = 256;
constexpr int64_t kMaxElements = INT32_MAX;

template <typename... Parts> Status bad(const Parts&... parts) { return fail(Code::kInvalidProgram, parts...); }

// What a message calls an item by, besides its index.
template <typename Item> std::string_view name_of(const Item& item) { return view(item.name()); }
template <> std::string_view name_of(const fb::Call& call) { return view(call.kernel()); }
template <> std::string_view name_of(const fb::Input&) { return ""; }
template <> std::string_view name_of(const fb::Alternative&) { return ""; }
template <> std::string_view name_of(const fb::Output&) { return ""; }
template <> std::string_view name_of(const fb::Check&) { return ""; }

std::string where(const char* what, size_t index, std::string_view name = "") {
  return cat(what, "[", index, name.empty() ? "]" : "] ", printable(name));
}

class Decoder {
 public:
  Decoder(const fb::Program& source, const Library& library, Program* program)
      : source_(source), library_(library), program_(*program) {}

  Status run() {
    program_.version = source_.version();
    program_.arena_bytes = source_.arena_bytes();
    ZP_TRY(each("symbol", source_.symbols(), kMaxArguments, &Decoder::symbol));
    ZP_TRY(each("tensor", source_.tensors(), kMaxItems, &Decoder::tensor));
    uint64_t end = 0;
    for (const Tensor& tensor : program_.tensors)
      if (tensor.in_arena()) end = std::max(end, tensor.offset + tensor.size_bytes);
    // No larger than the tensors need: a forged size must not become an allocation.
    if (program_.arena_bytes - end >= kArenaAlign)
      return bad("arena_bytes ", program_.arena_bytes, "; its tensors end at ", end);
    ZP_TRY(each("input", source_.inputs(), kMaxArguments, &Decoder::input));
    ZP_TRY(check_symbols_are_given());
    ZP_TRY(each("check", source_.checks(), kMaxItems, &Decoder::check));
    ZP_TRY(faults(source_.faults()).in("faults"));
    ZP_TRY(each("call", source_.calls(), kMaxItems, &Decoder::call));
    ZP_TRY(each("alternative", source_.alternatives(), kMaxItems, &Decoder::alternative));
    return each("output", source_.outputs(), kMaxArguments, &Decoder::output);
  }

 private:
  template <typename Vector> static Status limit(const char* what, const Vector* found, size_t most) {
    return count(found) <= most ? Status() : bad(count(found), " ", what, "s; at most ", most);
  }

  // Decodes the items of a list in order.
  template <typename Vector, typename Item>
  Status each(const char* what, const Vector* source, size_t most, Status (Decoder::*decode)(const Item&)) {
    ZP_TRY(limit(what, source, most));
    for (uint32_t i = 0; i < count(source); ++i)
      ZP_TRY((this->*decode)(*source->Get(i)).in(where(what, i, name_of(*source->Get(i)))));
    return Status();
  }

  // Operands of a derived symbol name earlier symbols only: later ones are not there yet.
  Status symbol(const fb::Symbol& source) {
    Symbol target{printable(view(source.name())), source.min(), source.max(), source.op()};
    if (source.min() < 0 || source.min() > source.max() || source.max() > kMaxElements)
      return bad("range [", source.min(), ", ", source.max(), "]; need 0 <= min <= max < 2^31");
    if (!target.is_given()) {
      if (source.op() > fb::SymbolOp::MAX || source.a() == nullptr || source.b() == nullptr)
        return bad("operation ", source.op(), " without two operands");
      int64_t a[2] = {}, b[2] = {};
      ZP_TRY(dim(*source.a(), &target.a, a));
      ZP_TRY(dim(*source.b(), &target.b, b));
      bool product = source.op() == fb::SymbolOp::product;
      if (!product && b[0] < 1) return bad("divided by [", b[0], ", ", b[1], "]; need at least 1");
      int64_t low = product ? a[0] * b[0] : a[0] / b[1];  // below 2^62
      int64_t high = product ? a[1] * b[1] : a[1] / b[0];
      if (low != source.min() || high != source.max())
        return bad("range [", source.min(), ", ", source.max(), "]; its operands give [", low, ", ", high, "]");
    }
    program_.symbols.push_back(std::move(target));
    return Status();
  }

  Status tensor(const fb::Tensor& source) {
    Tensor& target = program_.tensors.emplace_back();
    target.root = program_.tensors.size() - 1;
    target.name = printable(view(source.name()));
    target.dtype = source.dtype();
    target.storage = source.storage();
    target.memory = source.memory();
    target.offset = source.offset();
    if (source.dtype() == fb::DType::none || source.dtype() > fb::DType::MAX) return bad("dtype ", source.dtype());
    if (source.storage() == fb::Storage::none || source.storage() > fb::Storage::MAX)
      return bad("storage ", source.storage());
    if (source.memory() > fb::Memory::MAX) return bad("memory ", source.memory());
    ZP_TRY(limit("dimension", source.dims(), kMaxRank));
    uint64_t numel = 1;
    for (uint32_t i = 0; i < count(source.dims()); ++i) {
      int64_t range[2] = {};
      ZP_TRY(dim(*source.dims()->Get(i), &target.dims.emplace_back(), range).in(where("dim", i)));
      numel *= static_cast<uint64_t>(range[1]);  // both factors are below 2^31
      if (numel > static_cast<uint64_t>(kMaxElements)) return bad("more than 2^31 - 1 elements");
    }
    if (target.dtype == fb::DType::i4 &&
        (target.dims.empty() || !target.dims.back().terms.empty() || target.dims.back().base % 2 != 0))
      return bad("i4 needs a static, even last dimension");
    target.max_numel = static_cast<int64_t>(numel);
    target.data_bytes = (numel * bits_of(target.dtype) + 7) / 8;
    target.size_bytes = align_up(target.data_bytes, kSizeAlign);
    if (source.size_bytes() != target.size_bytes)
      return bad("size_bytes ", source.size_bytes(), "; its dtype and dimensions need ", target.size_bytes);
    target.constant = printable(view(source.constant()));
    if (source.alias_of() >= 0) ZP_TRY(alias(source.alias_of(), &target));
    if (source.alias_of() < 0 && target.is_state())
      ZP_TRY(state(view(program_.version < 4 ? source.name() : source.shared()), &target));
    else if (count(source.shared()) != 0)
      return bad("shared under ", printable(view(source.shared())), "; only a state that is no alias is shared");
    return target.memory == fb::Memory::arena ? arena_tensor(target) : fixed_tensor(target, source.alias_of() >= 0);
  }

  // A state is shared by its whole key, which must tell it from the others.
  Status state(std::string_view key, Tensor* target) {
    bool is_new = key.empty() ? program_.version >= 4 : shared_.insert(key).second;
    if (!is_new || key.size() > kMaxStateKey || ++n_states_ > kMaxArguments)
      return bad(
          "need at most ", kMaxArguments, " states, shared under different keys of at most ", kMaxStateKey, " bytes");
    target->shared = key;
    return Status();
  }

  Status alias(int32_t index, Tensor* target) const {
    if (static_cast<size_t>(index) >= target->root) return bad("alias of tensor ", index, "; need an earlier one");
    const Tensor& base = at(index);
    bool buffers = base.storage == fb::Storage::buffer && target->storage == fb::Storage::buffer;
    bool same = base.dtype == target->dtype && base.memory == target->memory && base.offset == target->offset;
    if (base.root != static_cast<size_t>(index) || !buffers || !same || base.is_constant() ||
        base.constant != target->constant || target->size_bytes > base.size_bytes)
      return bad("cannot be an alias of ", base.name, "; need an arena or state buffer as large, of the same dtype, ",
          "memory and offset, that is no alias");
    target->root = static_cast<size_t>(index);
    return Status();
  }

  // range: the smallest and the largest value; of a dimension or (signed) of an attribute.
  Status dim(const fb::Dim& source, Dim* target, int64_t range[2], bool is_signed = false) const {
    ZP_TRY(limit("term", source.terms(), kMaxTerms));
    if (!aligned(source.terms())) return bad("terms at an address that is no multiple of 8");
    target->base = range[0] = range[1] = source.base();
    bool overflow = false;
    for (const fb::Term* term : items(source.terms())) {
      if (term->symbol() >= program_.symbols.size())
        return bad("symbol ", term->symbol(), "; the program has ", program_.symbols.size());
      if (term->coefficient() == 0) return bad("a coefficient of 0");
      target->terms.emplace_back(term->coefficient(), term->symbol());
      const Symbol& symbol = program_.symbols[term->symbol()];
      int64_t ends[2] = {};
      overflow |= __builtin_mul_overflow(term->coefficient(), symbol.min, &ends[0]);
      overflow |= __builtin_mul_overflow(term->coefficient(), symbol.max, &ends[1]);
      overflow |= __builtin_add_overflow(range[0], std::min(ends[0], ends[1]), &range[0]);
      overflow |= __builtin_add_overflow(range[1], std::max(ends[0], ends[1]), &range[1]);
    }
    if (!overflow && range[0] >= (is_signed ? -kMaxElements : 0) && range[1] <= kMaxElements) return Status();
    return bad("leaves 32 bits for some symbol values");
  }

  // A constant, or a state, whose first contents are zeros or a constant.
  Status fixed_tensor(const Tensor& tensor, bool is_alias) const {
    size_t n_digits = program_.version < 4 ? 64 : 32;  // sha256; XXH3-128
    bool is_key = tensor.constant.size() == n_digits || (tensor.is_state() && tensor.constant.empty());
    if (!is_key || tensor.constant.find_first_not_of("0123456789abcdef") != std::string::npos)
      return bad("constant key ", tensor.constant, "; need ", n_digits, " lower-case hexadecimal digits");
    for (const Dim& dim : tensor.dims)
      if (!dim.terms.empty() && !is_alias) return bad("a constant has no symbols");
    if (tensor.storage == fb::Storage::buffer && tensor.offset == 0) return Status();
    return bad("a constant or a state is a buffer with offset 0");
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
    const Tensor& tensor = at(index);
    if (!tensor.in_arena()) return bad("tensor ", tensor.name, " is no arena buffer");
    if (host_dtype <= fb::HostDType::MAX && can_convert(host_dtype, tensor.dtype)) return Status();
    return bad("tensor ", tensor.name, ": dtype ", fb::EnumNameDType(tensor.dtype), " for host dtype ",
        host_dtype > fb::HostDType::MAX ? "unknown" : fb::EnumNameHostDType(host_dtype));
  }

  Status input(const fb::Input& source) {
    Input& target = program_.inputs.emplace_back(Input{source.tensor(), source.symbol(), source.host_dtype()});
    if ((source.tensor() < 0) == (source.symbol() < 0))
      return bad("tensor ", source.tensor(), ", symbol ", source.symbol(), "; exactly one must be given");
    if (source.tensor() >= 0) {
      ZP_TRY(host_tensor(source.tensor(), source.host_dtype()));
      target.dims = at(source.tensor()).dims;
      bool is_first = written_.insert(at(source.tensor()).root).second;
      return is_first ? Status() : bad("tensor ", source.tensor(), " is given twice");
    }
    if (source.symbol() >= static_cast<int64_t>(program_.symbols.size()))
      return bad("symbol ", source.symbol(), "; the program has ", program_.symbols.size());
    bool i64 = source.host_dtype() == fb::HostDType::i64;
    return i64 ? Status() : bad("host dtype ", source.host_dtype(), " of a symbol; need i64");
  }

  Status check(const fb::Check& source) {
    Check& target =
        program_.checks.emplace_back(Check{source.input(), printable(view(source.what())), {}, {}, {}, {}, {}});
    if (source.input() >= program_.inputs.size() || program_.inputs[source.input()].host_dtype <= fb::HostDType::bf16)
      return bad("input ", source.input(), "; need one of integers, below ", program_.inputs.size());
    int64_t range[2] = {};
    for (auto [from, to] :
        {std::pair(source.min(), &target.min), {source.max(), &target.max}, {source.offset(), &target.offset}})
      ZP_TRY(from == nullptr ? bad("no min, max or offset") : dim(*from, to, range, true));
    if (count(source.sizes()) != count(source.strides())) return bad("need as many sizes as strides");
    ZP_TRY(limit("dimension", source.sizes(), kMaxRank));
    for (uint32_t i = 0; i < count(source.sizes()); ++i) {
      ZP_TRY(dim(*source.sizes()->Get(i), &target.sizes.emplace_back(), range));
      ZP_TRY(dim(*source.strides()->Get(i), &target.strides.emplace_back(), range, true));
    }
    return Status();
  }

  // The player writes them before a run, like an input, and reads them after it.
  Status faults(int32_t index) {
    program_.faults = std::max(index, -1);
    if (index < 0) return Status();
    ZP_TRY(host_tensor(index, fb::HostDType::i32));
    const Tensor& tensor = at(index);
    bool fits = tensor.root == static_cast<size_t>(index) && tensor.dims == std::vector<Dim>{{sizeof(Faults) / 4, {}}};
    if (fits && written_.insert(tensor.root).second) return Status();
    return bad("tensor ", tensor.name, "; need i32 [5], no alias and no input");
  }

  // Every symbol is derived, or an integer input, or all that varies in a dimension of an input.
  Status check_symbols_are_given() const {
    std::unordered_set<uint32_t> given;
    for (const Input& input : program_.inputs) {
      if (input.symbol >= 0) given.insert(static_cast<uint32_t>(input.symbol));
      for (const Dim& dim : input.dims)
        if (dim.terms.size() == 1) given.insert(dim.terms[0].second);
    }
    for (uint32_t i = 0; i < program_.symbols.size(); ++i)
      if (program_.symbols[i].is_given() && given.count(i) == 0)
        return bad(where("symbol", i, program_.symbols[i].name), ": no input gives it a value");
    return Status();
  }

  Status call(const fb::Call& source) {
    Call& target = program_.calls.emplace_back();
    target.name = printable(view(source.name()));
    target.kernel = library_.find(view(source.kernel()));
    if (target.kernel == nullptr)
      return fail(Code::kIncompatible, "no such kernel; this player has ", library_.kernel_names());
    ZP_TRY(args(source, &target));
    ZP_TRY(attrs(source, &target));
    return data_flow(target);
  }

  Status alternative(const fb::Alternative& source) {
    uint64_t end = uint64_t{source.first()} + source.fused() + source.plain();
    if (source.first() < alternatives_end_ || source.fused() == 0 || source.plain() == 0 || end > program_.calls.size())
      return bad("need some fused and some plain calls, after ", alternatives_end_, ", to ", program_.calls.size());
    for (uint64_t i = source.first(); i < source.first() + source.fused(); ++i) program_.calls[i].fused = true;
    alternatives_end_ = end;
    program_.alternatives.push_back(source);
    return Status();
  }

  Status args(const fb::Call& source, Call* target) const {
    const auto& slots = *target->kernel->slots();
    target->tensors.assign(slots.size(), -1);
    for (const fb::Arg* arg : items(source.args())) {
      uint32_t slot = 0;
      while (slot < slots.size() && view(slots.Get(slot)->name()) != view(arg->slot())) ++slot;
      std::string name = "slot " + printable(view(arg->slot())) + ": ";
      if (slot == slots.size()) return bad(name, "the kernel has no such slot");
      if (target->tensors[slot] >= 0) return bad(name, "bound twice");
      size_t n_tensors = program_.tensors.size();
      if (arg->tensor() >= n_tensors) return bad(name, "tensor ", arg->tensor(), "; the program has ", n_tensors);
      bool is_output = slots.Get(slot)->io() == fb::Io::output;
      if (is_output && program_.tensors[arg->tensor()].is_constant()) return bad(name, "writes a constant");
      target->tensors[slot] = static_cast<int32_t>(arg->tensor());
    }
    for (uint32_t slot = 0; slot < slots.size(); ++slot)
      if (target->tensors[slot] < 0 && !slots.Get(slot)->optional())
        return bad("slot ", view(slots.Get(slot)->name()), ": not bound");
    return Status();
  }

  Status attrs(const fb::Call& source, Call* target) const {
    const auto& declared = *target->kernel->attrs();
    target->integer_attrs.assign(declared.size(), 0);
    target->real_attrs.assign(declared.size(), 0.0f);
    std::vector<bool> seen(declared.size());
    for (const fb::Attr* attr : items(source.attrs())) {
      uint32_t index = 0;
      while (index < declared.size() && view(declared.Get(index)->name()) != view(attr->name())) ++index;
      std::string name = "attribute " + printable(view(attr->name())) + ": ";
      if (index == declared.size()) return bad(name, "the kernel has no such attribute");
      if (seen[index]) return bad(name, "given twice");
      seen[index] = true;
      bool integer = declared.Get(index)->kind() == fb::ValueKind::integer;
      if (integer && attr->kind() == fb::AttrKind::symbolic && attr->symbolic() != nullptr) {
        int64_t range[2] = {};
        Dim* value = &target->symbolic_attrs.emplace_back(index, Dim()).second;
        ZP_TRY(dim(*attr->symbolic(), value, range, true).in("attribute ", printable(view(attr->name()))));
        continue;
      }
      if (attr->kind() != (integer ? fb::AttrKind::integer : fb::AttrKind::real))
        return bad(name, "kind ", attr->kind(), "; the kernel needs ", integer ? "an integer" : "a real number");
      if (!integer && !std::isfinite(attr->real())) return bad(name, "not finite");
      if (integer) target->integer_attrs[index] = attr->integer();
      if (!integer) target->real_attrs[index] = static_cast<float>(attr->real());
    }
    for (uint32_t i = 0; i < declared.size(); ++i)
      if (!seen[i]) return bad("attribute ", view(declared.Get(i)->name()), ": missing");
    return Status();
  }

  // Nothing is read before it is written, and no call writes memory that it also names in another slot.
  Status data_flow(const Call& call) {
    const auto& slots = *call.kernel->slots();
    auto name = [&](uint32_t slot) { return cat("slot ", view(slots.Get(slot)->name())); };
    std::vector<size_t> outputs;
    for (uint32_t a = 0; a < slots.size(); ++a) {
      if (call.tensors[a] < 0) continue;
      const Tensor& tensor = at(call.tensors[a]);
      if (slots.Get(a)->io() != fb::Io::output) {
        if (tensor.memory != fb::Memory::arena || written_.count(tensor.root) != 0) continue;
        return bad(name(a), ": tensor ", tensor.name, " is read before anything writes it");
      }
      for (uint32_t b = 0; b < slots.size(); ++b)
        if (call.tensors[b] >= 0 && a != b && tensor.shares_memory(at(call.tensors[b])))
          return bad(name(a), ": shares memory with ", name(b));
      outputs.push_back(tensor.root);
    }
    written_.insert(outputs.begin(), outputs.end());
    return Status();
  }

  const Tensor& at(int64_t tensor) const { return program_.tensors[static_cast<size_t>(tensor)]; }

  Status output(const fb::Output& source) {
    Output& target = program_.outputs.emplace_back();
    ZP_TRY(limit("piece", source.tensors(), kMaxArguments));
    if (count(source.tensors()) == 0) return bad("no tensors; need at least one");
    target.host_dtype = source.host_dtype();
    for (uint32_t index : *source.tensors()) {
      ZP_TRY(host_tensor(index, source.host_dtype()));
      const Tensor& piece = at(index);
      if (written_.count(piece.root) == 0) return bad("tensor ", piece.name, " is never written");
      const Tensor& first = at(source.tensors()->Get(0));
      bool same = piece.dtype == first.dtype && piece.dims.size() == first.dims.size();
      same = same && (source.tensors()->size() == 1 || !first.dims.empty());
      for (size_t axis = 0; same && axis + 1 < first.dims.size(); ++axis) same = piece.dims[axis] == first.dims[axis];
      if (!same) return bad("piece ", piece.name, ": dtype or leading dimensions differ from the first piece");
      target.tensors.push_back(index);
    }
    return Status();
  }

  const fb::Program& source_;
  const Library& library_;
  Program& program_;
  std::unordered_set<size_t> written_;           // roots of the tensors that an input or an earlier call wrote
  std::unordered_set<std::string_view> shared_;  // keys of states
  size_t n_states_ = 0;
  uint64_t alternatives_end_ = 0;
};

// The version comes before everything else, so that a later format is refused by its number.
Status check_version(const uint8_t* data, size_t size) {
  flatbuffers::Verifier verifier(data, size);
  flatbuffers::uoffset_t root = verifier.VerifyOffset(0);
  const auto* table = reinterpret_cast<const flatbuffers::Table*>(data + root);
  if (root == 0 || !table->VerifyTableStart(verifier) ||
      !table->VerifyField<uint32_t>(verifier, fb::Program::VT_VERSION, 4))
    return bad("not a valid ZPP1 flatbuffer");
  uint32_t version = reinterpret_cast<const fb::Program*>(table)->version();
  if (version >= kOldestProgramVersion && version <= kProgramVersion) return Status();
  return fail(Code::kIncompatible, "version ", version, "; this player reads versions ", kOldestProgramVersion, " to ",
      kProgramVersion, "; export again or update zeropoint");
}

constexpr size_t kSealBytes = 36;

// A blob that ends in "ZPCK" and the content key of what stands before is what was written, or refused: forged
// attributes verify, and make a shader compute nonsense, or for hours.
Status check_seal(const void* data, size_t* size) {
  std::string_view all(static_cast<const char*>(data), *size);
  if (all.size() < kSealBytes || all.substr(all.size() - kSealBytes, 4) != "ZPCK") return Status();
  *size -= kSealBytes;
  if (content_key(all.substr(0, *size)) == all.substr(*size + 4)) return Status();
  return bad("its checksum differs; the bytes are damaged; export again");
}

Status decode(const void* data, size_t size, const Library& library, Program* program) {
  ZP_TRY(check_seal(data, &size));
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

}  // namespace zeropoint
