// Host tensors of ExecuTorch <-> device tensors: element type conversion on copy.
#pragma once

#include "program_generated.h"
#include "status.h"

namespace zeropoint {

uint64_t host_bytes_of(fb::HostDType dtype);
// f32, f16, bf16 <-> f32, f16; i64 <-> i32; boolean <-> u8; equal types.
bool can_convert(fb::HostDType host, fb::DType device);

// Copies n elements to device memory. An i64 outside the range of i32 is an error; any nonzero bool
// becomes 1.
Status to_device(fb::HostDType host, const void* source, fb::DType device, void* target, size_t n);
void to_host(fb::DType device, const void* source, fb::HostDType host, void* target, size_t n);

}  // namespace zeropoint
