
#include "program.h"

namespace zeropoint {
namespace {

using fb::HostDType;

template <typename To, typename From> To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

float f32_to_f32(float value) { return value; }

float f16_to_f32(uint16_t half) {
  uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  uint32_t exponent = (half >> 10) & 0x1fu;
  uint32_t mantissa = half & 0x3ffu;
  // Zero or subnormal: exact as mantissa * 2^-24.
  uint32_t tiny = bit_cast<uint32_t>(static_cast<float>(mantissa) * 5.9604644775390625e-8f);
  uint32_t wide = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
  return bit_cast<float>(sign | (exponent == 0 ? tiny : wide | mantissa << 13));
}

// Rounds half to even; overflows to infinity; keeps NaN a NaN.
uint16_t f32_to_f16(float value) {
  uint32_t bits = bit_cast<uint32_t>(value);
  uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  // Below 2^-14, adding 0.5 leaves the half's bits at the bottom, rounded.
  uint32_t tiny = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | (magnitude < 0x38800000u ? tiny : (rounded - 0x38000000u) >> 13));
}

float bf16_to_f32(uint16_t value) { return bit_cast<float>(static_cast<uint32_t>(value) << 16); }

uint16_t f32_to_bf16(float value) {
  uint32_t bits = bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

using Convert = void (*)(const void* source, void* target, size_t n);
template <typename From, float (*Load)(From), typename To, To (*Store)(float)>
void through_f32(const void* source, void* target, size_t n) {
  for (size_t i = 0; i < n; ++i) static_cast<To*>(target)[i] = Store(Load(static_cast<const From*>(source)[i]));
}
template <typename From, float (*Load)(From)> constexpr Convert kTo[] = {through_f32<From, Load, float, f32_to_f32>,
    through_f32<From, Load, uint16_t, f32_to_f16>, through_f32<From, Load, uint16_t, f32_to_bf16>};
// [from][to] of f32, f16, bf16, the first three of HostDType.
constexpr const Convert* kReals[] = {kTo<float, f32_to_f32>, kTo<uint16_t, f16_to_f32>, kTo<uint16_t, bf16_to_f32>};

bool is_real(HostDType dtype) { return dtype <= HostDType::bf16; }

}  // namespace

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
      if (value < INT32_MIN || value > INT32_MAX)
        return fail(Code::kInvalidArgument, "element ", i, ": ", value, "; need 32 bits");
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
