#include "convert.h"

#include <executorch/runtime/core/exec_aten/exec_aten.h>

namespace zeropoint {
namespace {

using fb::HostDType;

using executorch::aten::BFloat16;
using executorch::aten::Half;

// To half types it rounds half to even, overflows to infinity and keeps NaN a NaN, as everywhere in ExecuTorch.
using Convert = void (*)(const void* source, void* target, size_t n);
template <typename From, typename To> void through_f32(const void* source, void* target, size_t n) {
  for (size_t i = 0; i < n; ++i)
    static_cast<To*>(target)[i] = static_cast<To>(static_cast<float>(static_cast<const From*>(source)[i]));
}
template <typename From>
constexpr Convert kTo[] = {through_f32<From, float>, through_f32<From, Half>, through_f32<From, BFloat16>};
// [from][to] of f32, f16, bf16, the first three of HostDType.
constexpr const Convert* kReals[] = {kTo<float>, kTo<Half>, kTo<BFloat16>};

bool is_real(HostDType dtype) { return dtype <= HostDType::bf16; }

}  // namespace

uint64_t bits_of(fb::DType dtype) {
  static constexpr uint64_t kBits[] = {0, 32, 16, 32, 8, 8, 4};  // none f32 f16 i32 i8 u8 i4
  return kBits[static_cast<size_t>(dtype)];
}

HostDType host_of(fb::DType dtype) {
  static constexpr HostDType kHost[] = {HostDType::boolean, HostDType::f32, HostDType::f16, HostDType::i32,
      HostDType::i8, HostDType::u8, HostDType::boolean};
  return kHost[static_cast<size_t>(dtype)];
}

uint64_t host_bytes_of(HostDType dtype) {
  static constexpr uint64_t kBytes[] = {4, 2, 2, 8, 4, 1, 1, 1};  // f32 f16 bf16 i64 i32 i8 u8 boolean
  return kBytes[static_cast<size_t>(dtype)];
}

bool can_convert(HostDType host, fb::DType device) {
  if (device == fb::DType::i4) return false;
  HostDType same = host_of(device);
  return host == same || (is_real(host) && is_real(same)) || (host == HostDType::i64 && same == HostDType::i32) ||
         (host == HostDType::boolean && same == HostDType::u8);
}

Status convert(HostDType from, const void* source, HostDType to, void* target, size_t n) {
  if (from == to || n == 0) {
    if (n > 0) std::memcpy(target, source, n * host_bytes_of(from));
  } else if (is_real(from)) {
    kReals[static_cast<size_t>(from)][static_cast<size_t>(to)](source, target, n);
  } else if (from == HostDType::i64) {
    for (size_t i = 0; i < n; ++i) {
      int64_t value = static_cast<const int64_t*>(source)[i];
      if (value < INT32_MIN || value > INT32_MAX) return bad_argument("element ", i, ": ", value, "; need 32 bits");
      static_cast<int32_t*>(target)[i] = static_cast<int32_t>(value);
    }
  } else if (to == HostDType::i64) {
    for (size_t i = 0; i < n; ++i) static_cast<int64_t*>(target)[i] = static_cast<const int32_t*>(source)[i];
  } else {  // between boolean and u8
    for (size_t i = 0; i < n; ++i) static_cast<uint8_t*>(target)[i] = static_cast<const uint8_t*>(source)[i] != 0;
  }
  return Status();
}

}  // namespace zeropoint
