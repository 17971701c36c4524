// Arrays in numpy's .npy format, version 1.0 to 3.0: little-endian, C order. Safe on untrusted files.
#pragma once

#include <vector>

#include "status.h"

namespace zeropoint {

// dtype: numpy's descr without the byte order: f4 f2 V2 i8 i4 i1 u1 b1. bf16 has no numpy type: it is written as V2.
struct Array {
  std::string dtype;
  std::vector<int64_t> dims;
  std::vector<uint8_t> data;
};

Status read_npy(const std::string& path, Array* array);
// Writes beside the target and renames, so that no half-written file stays behind.
Status write_npy(const std::string& path, const std::string& dtype, const std::vector<int64_t>& dims, const void* data,
                 size_t size);

}  // namespace zeropoint
