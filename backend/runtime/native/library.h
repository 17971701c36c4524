// The kernel library: every kernel as data, verified once and then trusted.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "expr.h"
#include "facts.h"
#include "library_generated.h"
#include "status.h"

namespace zeropoint {

inline constexpr uint32_t kLibraryVersion = 1;
inline constexpr size_t kMaxPushBytes = 128;

struct Slot {
  std::string name;
  bool is_output = false;
  bool optional = false;
};

struct AttrDecl {
  std::string name;
  bool is_integer = true;
};

struct Spec {
  uint32_t id = 0;
  std::string name;
  Expr value;
};

// 4 bytes at `offset`: an i32 from `value`, or the f32 value of real attribute `attr`.
struct Push {
  std::string name;
  uint32_t offset = 0;
  bool is_integer = true;
  Expr value;
  uint16_t attr = 0;
};

struct Variant {
  std::vector<fb::DType> dtypes;      // one per slot
  std::vector<fb::Storage> storages;  // one per slot
  std::vector<fb::Binding> bindings;
  std::vector<uint32_t> capabilities;
  uint32_t push_bytes = 0;
  uint32_t shared_bytes = 0;
  const uint32_t* spirv = nullptr;  // owned by Library::bytes_
  size_t spirv_bytes = 0;
};

struct Algorithm {
  std::string name;
  Expr when;  // no operations: always
  std::array<Expr, 3> grid;
  std::array<uint32_t, 3> local_size{};
  std::vector<Spec> specs;
  std::vector<Push> push;
  std::vector<Variant> variants;
};

struct Kernel {
  std::string name;
  std::vector<Slot> slots;
  std::vector<AttrDecl> attrs;
  std::vector<Algorithm> algorithms;
};

class Library {
 public:
  // The library embedded in this plugin. Decoded at the first call; thread-safe.
  static Status embedded(const Library** library);
  // A library from memory, for tests. Kept for the life of the process; equal bytes give the same object.
  static Status from_bytes(const void* data, size_t size, const Library** library);
  static std::string_view embedded_bytes();

  const Kernel* find(std::string_view name) const;
  std::string kernel_names() const;
  const std::string& hash() const { return hash_; }

 private:
  Status decode(std::string_view bytes);

  std::vector<uint64_t> bytes_;  // a copy, aligned
  size_t size_ = 0;
  std::string hash_;
  std::vector<Kernel> kernels_;
  std::unordered_map<std::string_view, size_t> by_name_;
};

const char* name_of(fb::DType dtype);
const char* name_of(fb::Storage storage);
// `kernel/algorithm[x=f16:buffer,zp=i8:image,bias=none]`
std::string variant_key(const Kernel& kernel, const Algorithm& algorithm, const Variant& variant);

}  // namespace zeropoint
