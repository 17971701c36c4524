#include "library.h"

#include <zlib.h>

#include "expr.h"

extern "C" const char zp_embedded_library[];
extern "C" const char zp_embedded_library_end[];

namespace zeropoint {
namespace {

constexpr uint32_t kSpirvMagic = 0x07230203;
// As backend/kernels/library.py writes modules: a zlib stream a block, with a part of the base around its place.
constexpr size_t kWindowBytes = 1 << 15;
constexpr size_t kBlockBytes = 1 << 14;
constexpr size_t kAheadBytes = 1 << 13;
constexpr uint32_t kMaxChain = 4;           // modules to decode before one
constexpr uint32_t kMaxLocalSize = 0xffff;  // invocations; three of them multiplied fit 64 bits

// Checks all that the player later relies on, once, so that nothing is checked again at a load.
class Checker {
 public:
  explicit Checker(const fb::Library& library) : library_(library) {}

  Status modules() const {
    std::vector<uint32_t> chain;
    for (uint32_t i = 0; i < count(library_.modules()); ++i) {
      const fb::Module& module = *library_.modules()->Get(i);
      if (module.size() % 4 != 0 || module.size() < 20 || module.size() > kMaxSpirvBytes || module.data() == nullptr)
        return fail(Code::kInvalidProgram, "kernel library: module ", i, ": ", module.size(), " bytes are no SPIR-V");
      bool earlier = module.base() < static_cast<int64_t>(i);
      chain.push_back(!earlier ? kMaxChain + 1 : module.base() < 0 ? 0 : chain[module.base()] + 1);
      if (chain.back() > kMaxChain)
        return fail(Code::kInvalidProgram, "kernel library: module ", i, ": dictionary ", module.base(),
            "; need an earlier module, and at most ", kMaxChain, " to decode before one");
    }
    return Status();
  }

  Status kernel(const fb::Kernel& kernel) {
    kernel_ = &kernel;
    where_ = "kernel library: " + printable(view(kernel.name()));
    if (view(kernel.name()).empty() || count(kernel.slots()) == 0) return bad("needs a name and slots");
    if (kernel.attrs() == nullptr || kernel.algorithms() == nullptr) return bad("needs attrs and algorithms");
    integers_.clear();
    for (const fb::AttrDecl* attr : *kernel.attrs()) integers_.push_back(attr->kind() == fb::ValueKind::integer);
    std::string where = where_;
    for (const fb::Algorithm* algorithm : *kernel.algorithms()) {
      where_ = where + "/" + printable(view(algorithm->name()));
      ZP_TRY(this->algorithm(*algorithm));
    }
    return Status();
  }

 private:
  Status bad(const char* what) const { return fail(Code::kInvalidProgram, where_, ": ", what); }

  Status expr(const fb::Expr* expr) const {
    if (expr == nullptr) return bad("an expression is missing");
    return check_expr(expr->ops(), count(kernel_->slots()), integers_, count(library_.facts()))
        .in(where_ + ": " + printable(view(expr->text())));
  }

  Status algorithm(const fb::Algorithm& algorithm) const {
    if (count(algorithm.grid()) != 3 || count(algorithm.local_size()) != 3) return bad("needs 3 grid and local sizes");
    for (uint32_t size : *algorithm.local_size())
      if (size - 1 >= kMaxLocalSize) return bad("a local size that is not from 1 to 65535");
    if (!algorithm.specs() || !algorithm.push() || !algorithm.variants()) return bad("needs specs, push and variants");
    if (algorithm.when() != nullptr) ZP_TRY(expr(algorithm.when()));
    for (uint16_t slot : items(algorithm.ahead()))
      if (slot >= count(kernel_->slots())) return bad("reads a slot ahead that it does not have");
    for (const fb::Variant* variant : *algorithm.variants())
      if (algorithm.ahead() != nullptr && variant->push_bytes() < kTurnPushBytes)
        return bad("takes turns, without push constants for them");
    for (const fb::Expr* grid : *algorithm.grid()) ZP_TRY(expr(grid));
    for (const fb::Spec* spec : *algorithm.specs()) ZP_TRY(expr(spec->value()));
    for (const fb::Push* push : *algorithm.push()) {
      if (push->offset() % 4 != 0 || push->offset() > kMaxPushBytes - 4) return bad("a push offset above 124 or odd");
      bool integer = push->kind() == fb::ValueKind::integer;
      if (integer) ZP_TRY(expr(push->value()));
      if (!integer && (push->attr() >= integers_.size() || integers_[push->attr()]))
        return bad("a real push constant needs a real attribute");
    }
    for (const fb::Variant* variant : *algorithm.variants()) ZP_TRY(this->variant(*variant));
    return Status();
  }

  Status variant(const fb::Variant& variant) const {
    uint32_t n_slots = count(kernel_->slots());
    bool whole = count(variant.dtypes()) == n_slots && count(variant.storages()) == n_slots && variant.bindings() &&
                 variant.capabilities() && variant.push_bytes() <= kMaxPushBytes &&
                 variant.module_() < count(library_.modules());
    if (!whole) return bad("a variant's key, bindings, capabilities, push bytes or module are not as they must be");
    for (uint32_t i = 0; i < n_slots; ++i) {
      fb::DType dtype = variant.dtypes()->Get(i);
      fb::Storage storage = variant.storages()->Get(i);
      bool bound = dtype != fb::DType::none;
      if (dtype > fb::DType::MAX || storage > fb::Storage::MAX || bound != (storage != fb::Storage::none) ||
          (!bound && !kernel_->slots()->Get(i)->optional()))
        return bad("a variant's key holds an unknown dtype or storage");
    }
    uint32_t seen = 0;
    for (const fb::Binding* binding : *variant.bindings()) {
      if (binding->slot() >= n_slots || variant.dtypes()->Get(binding->slot()) == fb::DType::none ||
          binding->binding() > 31 || (seen >> binding->binding() & 1) != 0)
        return bad("a variant binds a slot it does not have, or a binding twice");
      seen |= 1u << binding->binding();
    }
    return Status();
  }

  const fb::Library& library_;
  const fb::Kernel* kernel_ = nullptr;
  std::string where_;
  std::vector<bool> integers_;  // per attribute
};

}  // namespace

Status Library::decode(std::string_view bytes) {
  size_ = bytes.size();
  bytes_.resize(size_ / 8 + 1);
  std::memcpy(bytes_.data(), bytes.data(), size_);
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(bytes_.data()), size_, 64, UINT32_MAX);
  if (size_ < 8 || !fb::LibraryBufferHasIdentifier(bytes_.data()) || !fb::VerifyLibraryBuffer(verifier))
    return fail(Code::kInvalidProgram, "kernel library: not a valid ZPL1 flatbuffer");
  const fb::Library& library = *fb::GetLibrary(bytes_.data());
  if (library.version() != kLibraryVersion) {
    return fail(Code::kIncompatible, "kernel library: version ", library.version(), "; this player reads version ",
        kLibraryVersion);
  }
  for (uint32_t i = 0; i < count(library.facts()); ++i) {
    facts_.push_back(find_fact(view(library.facts()->Get(i))));
    if (facts_.back() < kNumFacts) continue;
    return fail(Code::kIncompatible, "kernel library: fact ", printable(view(library.facts()->Get(i))),
        "; this player knows ", fact_names());
  }
  if (library.kernels() == nullptr) return fail(Code::kInvalidProgram, "kernel library: no kernels");
  Checker checker(library);
  ZP_TRY(checker.modules());
  for (uint32_t i = 0; i < count(library.kernels()); ++i) {
    const fb::Kernel& kernel = *library.kernels()->Get(i);
    ZP_TRY(checker.kernel(kernel));
    kernels_.emplace(view(kernel.name()), &kernel);
    for (const auto* alias : items(kernel.aliases())) kernels_.emplace(view(alias), &kernel);
  }
  return Status();
}

Status Library::from_bytes(const void* data, size_t size, const Library** library) {
  static std::mutex mutex;
  static auto* libraries = new std::vector<std::unique_ptr<Library>>();
  std::lock_guard<std::mutex> lock(mutex);
  for (const auto& known : *libraries) {
    *library = known.get();
    if (known->size_ == size && std::memcmp(known->bytes_.data(), data, size) == 0) return Status();
  }
  auto loaded = std::make_unique<Library>();
  ZP_TRY(loaded->decode({static_cast<const char*>(data), size}));
  *library = loaded.get();
  libraries->push_back(std::move(loaded));
  return Status();
}

std::string_view Library::embedded_bytes() {
  return {zp_embedded_library, static_cast<size_t>(zp_embedded_library_end - zp_embedded_library)};
}

Status Library::embedded(const Library** library) {
  static std::mutex mutex;
  static const Library* cached = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (cached == nullptr) ZP_TRY(from_bytes(embedded_bytes().data(), embedded_bytes().size(), &cached));
  *library = cached;
  return Status();
}

const fb::Kernel* Library::find(std::string_view name) const {
  auto found = kernels_.find(name);
  return found == kernels_.end() ? nullptr : found->second;
}

std::string Library::kernel_names() const {
  return join(items(fb::GetLibrary(bytes_.data())->kernels()), [](const auto* kernel) { return view(kernel->name()); });
}

Status Library::spirv(const fb::Variant& variant, std::vector<uint32_t>* words) const {
  ZP_TRY(decoded(*fb::GetLibrary(bytes_.data())->modules()->Get(variant.module_()), words));
  return words->front() == kSpirvMagic ? Status()
                                       : fail(Code::kInvalidProgram, "kernel library: a module is no SPIR-V");
}

Status Library::decoded(const fb::Module& module, std::vector<uint32_t>* words) const {
  std::vector<uint32_t> base;
  if (module.base() >= 0) ZP_TRY(decoded(*fb::GetLibrary(bytes_.data())->modules()->Get(module.base()), &base));
  words->resize(module.size() / 4);
  const Bytef* dictionary = reinterpret_cast<const Bytef*>(base.data());
  size_t base_bytes = base.size() * 4;
  z_stream stream{};
  stream.next_in = const_cast<Bytef*>(module.data()->data());
  stream.avail_in = count(module.data());
  stream.next_out = reinterpret_cast<Bytef*>(words->data());
  int result = inflateInit(&stream);
  for (size_t done = 0; done < module.size() && result == Z_OK; done += kBlockBytes) {
    stream.avail_out = static_cast<uInt>(std::min<size_t>(kBlockBytes, module.size() - done));
    result = inflate(&stream, Z_FINISH);
    if (result == Z_NEED_DICT) {
      size_t last = base_bytes < kWindowBytes ? 0 : base_bytes - kWindowBytes;
      size_t start = std::min(done < kAheadBytes ? 0 : done - kAheadBytes, last);
      uInt size = static_cast<uInt>(std::min(kWindowBytes, base_bytes - start));
      result = inflateSetDictionary(&stream, dictionary + start, size);
      if (result == Z_OK) result = inflate(&stream, Z_FINISH);
    }
    bool whole = result == Z_STREAM_END && stream.avail_out == 0;
    result = whole ? inflateReset(&stream) : result < 0 ? result : Z_BUF_ERROR;
  }
  inflateEnd(&stream);
  if (result == Z_OK) return Status();
  return fail(Code::kInvalidProgram, "kernel library: a module of ", module.size(), " bytes cannot be decoded (zlib ",
      result, "); the library is damaged");
}

std::vector<int64_t> Library::ordered(const Facts& facts) const {
  std::vector<int64_t> result;
  for (size_t fact : facts_) result.push_back(facts.values[fact]);
  return result;
}

std::string variant_key(const fb::Kernel& kernel, const fb::Algorithm& algorithm, const fb::Variant& variant) {
  std::string result = cat(view(kernel.name()), "/", view(algorithm.name()), "[");
  for (uint32_t i = 0; i < count(kernel.slots()); ++i) {
    fb::DType dtype = variant.dtypes()->Get(i);
    result += cat(i == 0 ? "" : ",", view(kernel.slots()->Get(i)->name()), "=", fb::EnumNameDType(dtype));
    if (dtype != fb::DType::none) result += cat(":", fb::EnumNameStorage(variant.storages()->Get(i)));
  }
  return result + "]";
}

}  // namespace zeropoint
