// The kernel library: every kernel as data, verified once and then trusted.
#pragma once

#include <unordered_map>
#include <vector>

#include "expr.h"
#include "facts.h"

namespace zeropoint {

inline constexpr uint32_t kLibraryVersion = 1;
inline constexpr uint32_t kMaxPushBytes = 128;

// Null-safe views of flatbuffers.
template <typename Vector>
uint32_t count(const Vector* vector) {
  return vector == nullptr ? 0 : vector->size();
}
inline std::string_view view(const flatbuffers::String* text) {
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}

class Library {
 public:
  // The library embedded in this plugin. Verified at the first call; thread-safe.
  static Status embedded(const Library** library);
  // A library from memory, for tests. Kept for the life of the process; equal bytes give the same object.
  static Status from_bytes(const void* data, size_t size, const Library** library);
  static std::string_view embedded_bytes();

  // After verification every kernel has slots, attrs and algorithms; every algorithm three grid expressions and local
  // sizes, specs, push constants and variants; every variant a key over all slots, bindings and capabilities.
  const fb::Kernel* find(std::string_view name) const;
  std::string kernel_names() const;
  std::string_view hash() const { return view(fb::GetLibrary(bytes_.data())->hash()); }
  const flatbuffers::Vector<uint32_t>& spirv(const fb::Variant& variant) const;
  // The facts in the order of the library's expressions.
  std::vector<int64_t> ordered(const Facts& facts) const;

 private:
  Status decode(std::string_view bytes);

  std::vector<uint64_t> bytes_;  // a copy, aligned
  size_t size_ = 0;
  std::vector<size_t> facts_;  // player fact index of each library fact
  std::unordered_map<std::string_view, const fb::Kernel*> kernels_;
};

// `kernel/algorithm[x=f16:buffer,zp=i8:image,bias=none]`
std::string variant_key(const fb::Kernel& kernel, const fb::Algorithm& algorithm, const fb::Variant& variant);

}  // namespace zeropoint
