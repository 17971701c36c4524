#include "library.h"

#include <cstring>
#include <memory>
#include <mutex>

extern "C" const unsigned char zp_embedded_library[];
extern "C" const unsigned char zp_embedded_library_end[];

namespace zeropoint {
namespace {

constexpr uint32_t kMaxBinding = 31;

template <typename Vector>
size_t count(const Vector* vector) {
  return vector == nullptr ? 0 : vector->size();
}

std::string text_of(const flatbuffers::String* text) { return text == nullptr ? std::string() : text->str(); }

Status bad(const std::string& where, const char* what) {
  return Status(Code::kInvalidProgram, where + ": " + what);
}

// Turns the library's flatbuffer into plain data, checking all that the player later relies on.
class Decoder {
 public:
  Decoder(const fb::Library& library, std::vector<Kernel>* kernels) : library_(library), kernels_(*kernels) {}

  Status run() {
    for (size_t i = 0; i < count(library_.facts()); ++i) {
      std::string name = text_of(library_.facts()->Get(i));
      size_t fact = find_fact(name);
      if (fact == kNumFacts) {
        return fail(Code::kIncompatible, "kernel library: fact %s; this player knows %s",
                    printable(name).c_str(), fact_names().c_str());
      }
      facts_.push_back(static_cast<uint16_t>(fact));
    }
    for (size_t i = 0; i < count(library_.kernels()); ++i) {
      kernels_.emplace_back();
      ZP_TRY(kernel(*library_.kernels()->Get(i), &kernels_.back()));
    }
    return Status();
  }

 private:
  Status expr(const fb::Expr* source, const Kernel& kernel, const std::string& where, Expr* target) {
    if (source == nullptr) return bad(where, "the expression is missing");
    target->text = text_of(source->text());
    for (size_t i = 0; i < count(source->ops()); ++i) {
      const fb::Op& op = *source->ops()->Get(i);
      bool is_fact = op.code() == fb::OpCode::fact;
      if (is_fact && op.arg() >= facts_.size())
        return bad(where, "names a fact that the library does not list");
      target->ops.emplace_back(op.value(), is_fact ? facts_[op.arg()] : op.arg(), op.code());
    }
    std::vector<bool> integers;
    for (const AttrDecl& attr : kernel.attrs) integers.push_back(attr.is_integer);
    return check_expr(*target, kernel.slots.size(), integers, kNumFacts).in(where);
  }

  Status kernel(const fb::Kernel& source, Kernel* target) {
    target->name = text_of(source.name());
    std::string where = "kernel library: " + printable(target->name);
    for (size_t i = 0; i < count(source.slots()); ++i) {
      const fb::Slot& slot = *source.slots()->Get(i);
      target->slots.push_back({text_of(slot.name()), slot.io() == fb::Io::output, slot.optional()});
    }
    for (size_t i = 0; i < count(source.attrs()); ++i) {
      const fb::AttrDecl& attr = *source.attrs()->Get(i);
      target->attrs.push_back({text_of(attr.name()), attr.kind() == fb::ValueKind::integer});
    }
    if (target->name.empty() || target->slots.empty()) return bad(where, "needs a name and slots");
    for (size_t i = 0; i < count(source.algorithms()); ++i) {
      target->algorithms.emplace_back();
      ZP_TRY(algorithm(*source.algorithms()->Get(i), *target, where, &target->algorithms.back()));
    }
    return Status();
  }

  Status algorithm(const fb::Algorithm& source, const Kernel& kernel, std::string where, Algorithm* target) {
    target->name = text_of(source.name());
    where += "/" + printable(target->name);
    if (source.when() != nullptr) ZP_TRY(expr(source.when(), kernel, where + ": when", &target->when));
    if (count(source.grid()) != 3 || count(source.local_size()) != 3) {
      return bad(where, "needs three grid expressions and three local sizes");
    }
    for (size_t i = 0; i < 3; ++i) {
      ZP_TRY(expr(source.grid()->Get(i), kernel, where + ": grid", &target->grid[i]));
      target->local_size[i] = source.local_size()->Get(i);
    }
    for (size_t i = 0; i < count(source.specs()); ++i) {
      const fb::Spec& spec = *source.specs()->Get(i);
      target->specs.push_back({spec.id(), text_of(spec.name()), {}});
      ZP_TRY(expr(spec.value(), kernel, where + ": spec", &target->specs.back().value));
    }
    for (size_t i = 0; i < count(source.push()); ++i) {
      target->push.emplace_back();
      ZP_TRY(push(*source.push()->Get(i), kernel, where, &target->push.back()));
    }
    for (size_t i = 0; i < count(source.variants()); ++i) {
      target->variants.emplace_back();
      ZP_TRY(variant(*source.variants()->Get(i), kernel, where, &target->variants.back()));
    }
    return Status();
  }

  Status push(const fb::Push& source, const Kernel& kernel, const std::string& where, Push* target) {
    *target = {
        text_of(source.name()), source.offset(), source.kind() == fb::ValueKind::integer, {}, source.attr()};
    if (target->offset % 4 != 0 || target->offset > kMaxPushBytes - 4) {
      return bad(where, "a push constant's offset is not a multiple of 4 below 128");
    }
    if (target->is_integer) return expr(source.value(), kernel, where + ": push", &target->value);
    if (target->attr >= kernel.attrs.size() || kernel.attrs[target->attr].is_integer) {
      return bad(where, "a real push constant needs a real attribute");
    }
    return Status();
  }

  Status variant(const fb::Variant& source, const Kernel& kernel, const std::string& where, Variant* target) {
    size_t n_slots = kernel.slots.size();
    if (count(source.dtypes()) != n_slots || count(source.storages()) != n_slots) {
      return bad(where, "a variant's key does not cover every slot");
    }
    for (size_t i = 0; i < n_slots; ++i) {
      auto dtype = static_cast<fb::DType>(source.dtypes()->Get(i));
      auto storage = static_cast<fb::Storage>(source.storages()->Get(i));
      bool bound = dtype != fb::DType::none;
      if (dtype > fb::DType::MAX || storage > fb::Storage::MAX || bound != (storage != fb::Storage::none) ||
          (!bound && !kernel.slots[i].optional)) {
        return bad(where, "a variant's key holds an unknown dtype or storage");
      }
      target->dtypes.push_back(dtype);
      target->storages.push_back(storage);
    }
    uint32_t seen = 0;
    for (size_t i = 0; i < count(source.bindings()); ++i) {
      const fb::Binding& binding = *source.bindings()->Get(i);
      bool unbound = binding.slot() >= n_slots || target->dtypes[binding.slot()] == fb::DType::none;
      if (unbound || binding.binding() > kMaxBinding || (seen >> binding.binding() & 1) != 0) {
        return bad(where, "a variant binds a slot it does not have, or a binding twice");
      }
      seen |= 1u << binding.binding();
      target->bindings.push_back(binding);
    }
    for (size_t i = 0; i < count(source.capabilities()); ++i) {
      target->capabilities.push_back(source.capabilities()->Get(i));
    }
    target->push_bytes = source.push_bytes();
    target->shared_bytes = source.shared_bytes();
    if (target->push_bytes > kMaxPushBytes) return bad(where, "more than 128 push bytes");
    if (source.module_() >= count(library_.modules())) return bad(where, "names a module that is not there");
    const auto* spirv = library_.modules()->Get(source.module_())->spirv();
    if (count(spirv) < 5 || spirv->Get(0) != 0x07230203) return bad(where, "a module is no SPIR-V");
    target->spirv = spirv->data();
    target->spirv_bytes = spirv->size() * sizeof(uint32_t);
    return Status();
  }

  const fb::Library& library_;
  std::vector<Kernel>& kernels_;
  std::vector<uint16_t> facts_;  // library fact index -> player fact index
};

}  // namespace

Status Library::decode(std::string_view bytes) {
  bytes_.resize((bytes.size() + 7) / 8);
  if (!bytes.empty()) std::memcpy(bytes_.data(), bytes.data(), bytes.size());
  size_ = bytes.size();
  const auto* data = reinterpret_cast<const uint8_t*>(bytes_.data());
  flatbuffers::Verifier verifier(data, size_);
  if (size_ < 8 || !fb::LibraryBufferHasIdentifier(data) || !fb::VerifyLibraryBuffer(verifier)) {
    return bad("kernel library", "not a valid ZPL1 flatbuffer");
  }
  const fb::Library& library = *fb::GetLibrary(data);
  if (library.version() != kLibraryVersion) {
    return fail(Code::kIncompatible, "kernel library: version %u; this player reads version %u",
                library.version(), kLibraryVersion);
  }
  hash_ = text_of(library.hash());
  ZP_TRY(Decoder(library, &kernels_).run());
  for (size_t i = 0; i < kernels_.size(); ++i) by_name_.emplace(kernels_[i].name, i);
  if (by_name_.size() != kernels_.size()) return bad("kernel library", "two kernels have one name");
  return Status();
}

Status Library::from_bytes(const void* data, size_t size, const Library** library) {
  static std::mutex mutex;
  static auto* libraries = new std::vector<std::unique_ptr<Library>>();
  std::lock_guard<std::mutex> lock(mutex);
  for (const auto& known : *libraries) {
    if (known->size_ == size && std::memcmp(known->bytes_.data(), data, size) == 0) {
      *library = known.get();
      return Status();
    }
  }
  auto loaded = std::make_unique<Library>();
  ZP_TRY(loaded->decode({static_cast<const char*>(data), size}));
  *library = loaded.get();
  libraries->push_back(std::move(loaded));
  return Status();
}

std::string_view Library::embedded_bytes() {
  return {reinterpret_cast<const char*>(zp_embedded_library),
          static_cast<size_t>(zp_embedded_library_end - zp_embedded_library)};
}

Status Library::embedded(const Library** library) {
  static std::mutex mutex;
  static const Library* cached = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (cached == nullptr) ZP_TRY(from_bytes(embedded_bytes().data(), embedded_bytes().size(), &cached));
  *library = cached;
  return Status();
}

const Kernel* Library::find(std::string_view name) const {
  auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &kernels_[found->second];
}

std::string Library::kernel_names() const {
  std::string result;
  for (const Kernel& kernel : kernels_) result += (result.empty() ? "" : ", ") + kernel.name;
  return result.empty() ? "none" : result;
}

const char* name_of(fb::DType dtype) { return fb::EnumNameDType(dtype); }
const char* name_of(fb::Storage storage) { return fb::EnumNameStorage(storage); }

std::string variant_key(const Kernel& kernel, const Algorithm& algorithm, const Variant& variant) {
  std::string result = kernel.name + "/" + algorithm.name + "[";
  for (size_t i = 0; i < kernel.slots.size(); ++i) {
    result += (i == 0 ? "" : ",") + kernel.slots[i].name + "=" + name_of(variant.dtypes[i]);
    if (variant.dtypes[i] != fb::DType::none) result += std::string(":") + name_of(variant.storages[i]);
  }
  return result + "]";
}

}  // namespace zeropoint
