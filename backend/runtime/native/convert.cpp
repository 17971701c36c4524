#include "convert.h"

#include <cstring>

namespace zeropoint {
namespace {

using fb::DType;
using fb::HostDType;

template <typename To, typename From>
To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

float f16_to_f32(uint16_t half) {
  uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  uint32_t exponent = (half >> 10) & 0x1fu;
  uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: exact as mantissa * 2^-24
    float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return bit_cast<float>(bit_cast<uint32_t>(magnitude) | sign);
  }
  uint32_t wide = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
  return bit_cast<float>(sign | wide | mantissa << 13);
}

// Rounds half to even; overflows to infinity; keeps NaN a NaN.
uint16_t f32_to_f16(float value) {
  uint32_t bits = bit_cast<uint32_t>(value);
  uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the half's bits at the bottom, rounded
    float shifted = bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

float bf16_to_f32(uint16_t value) { return bit_cast<float>(static_cast<uint32_t>(value) << 16); }

uint16_t f32_to_bf16(float value) {
  uint32_t bits = bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

template <typename From, typename To, typename Convert>
void map(const void* source, void* target, size_t n, Convert convert) {
  const auto* from = static_cast<const From*>(source);
  auto* to = static_cast<To*>(target);
  for (size_t i = 0; i < n; ++i) to[i] = convert(from[i]);
}

bool same_type(HostDType host, DType device) {
  return (host == HostDType::f32 && device == DType::f32) || (host == HostDType::f16 && device == DType::f16) ||
         (host == HostDType::i32 && device == DType::i32) || (host == HostDType::i8 && device == DType::i8) ||
         (host == HostDType::u8 && device == DType::u8);
}

bool is_real(HostDType host) { return host == HostDType::f32 || host == HostDType::f16 || host == HostDType::bf16; }

Status narrow(const void* source, void* target, size_t n) {
  const auto* from = static_cast<const int64_t*>(source);
  auto* to = static_cast<int32_t*>(target);
  for (size_t i = 0; i < n; ++i) {
    if (from[i] < INT32_MIN || from[i] > INT32_MAX)
      return fail(Code::kInvalidArgument, "element ", i, ": ", from[i], "; need 32 bits");
    to[i] = static_cast<int32_t>(from[i]);
  }
  return Status();
}

}  // namespace

uint64_t host_bytes_of(HostDType dtype) {
  switch (dtype) {
    case HostDType::i64: return 8;
    case HostDType::f32:
    case HostDType::i32: return 4;
    case HostDType::f16:
    case HostDType::bf16: return 2;
    case HostDType::i8:
    case HostDType::u8:
    case HostDType::boolean: return 1;
  }
  return 0;
}

bool can_convert(HostDType host, DType device) {
  if (is_real(host)) return device == DType::f32 || device == DType::f16;
  return same_type(host, device) || (host == HostDType::i64 && device == DType::i32) ||
         (host == HostDType::boolean && device == DType::u8);
}

Status to_device(HostDType host, const void* source, DType device, void* target, size_t n) {
  if (n == 0) return Status();
  if (same_type(host, device)) {
    std::memcpy(target, source, n * host_bytes_of(host));
  } else if (host == HostDType::i64) {
    return narrow(source, target, n);
  } else if (host == HostDType::boolean) {
    map<uint8_t, uint8_t>(source, target, n, [](uint8_t b) { return static_cast<uint8_t>(b != 0); });
  } else if (device == DType::f16) {
    if (host == HostDType::f32) map<float, uint16_t>(source, target, n, f32_to_f16);
    if (host == HostDType::bf16)
      map<uint16_t, uint16_t>(source, target, n, [](uint16_t b) { return f32_to_f16(bf16_to_f32(b)); });
  } else if (host == HostDType::f16) {
    map<uint16_t, float>(source, target, n, f16_to_f32);
  } else {
    map<uint16_t, float>(source, target, n, bf16_to_f32);
  }
  return Status();
}

void to_host(DType device, const void* source, HostDType host, void* target, size_t n) {
  if (n == 0) return;
  if (same_type(host, device)) {
    std::memcpy(target, source, n * host_bytes_of(host));
  } else if (host == HostDType::i64) {
    map<int32_t, int64_t>(source, target, n, [](int32_t v) { return static_cast<int64_t>(v); });
  } else if (host == HostDType::boolean) {
    map<uint8_t, uint8_t>(source, target, n, [](uint8_t b) { return static_cast<uint8_t>(b != 0); });
  } else if (device == DType::f16) {
    if (host == HostDType::f32) map<uint16_t, float>(source, target, n, f16_to_f32);
    if (host == HostDType::bf16)
      map<uint16_t, uint16_t>(source, target, n, [](uint16_t h) { return f32_to_bf16(f16_to_f32(h)); });
  } else if (host == HostDType::f16) {
    map<float, uint16_t>(source, target, n, f32_to_f16);
  } else {
    map<float, uint16_t>(source, target, n, f32_to_bf16);
  }
}

}  // namespace zeropoint
