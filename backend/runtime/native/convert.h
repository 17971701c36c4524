// Element types of the host and of the device, and what turns one into the other.
#pragma once

#include "program_generated.h"
#include "status.h"

namespace zeropoint {

uint64_t bits_of(fb::DType dtype);

// Host tensors of ExecuTorch <-> device tensors. f32, f16, bf16 <-> f32, f16; i64 <-> i32 (range-checked);
// boolean <-> u8 (anything but 0 becomes 1); equal types.
fb::HostDType host_of(fb::DType dtype);
uint64_t host_bytes_of(fb::HostDType dtype);
bool can_convert(fb::HostDType host, fb::DType device);
Status convert(fb::HostDType from, const void* source, fb::HostDType to, void* target, size_t n);

}  // namespace zeropoint
