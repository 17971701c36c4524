// Reading a delegate blob. Safe on untrusted bytes: any input gives a Program or an error, in time and memory
// bounded by the blob's size.
#pragma once

#include "program.h"

namespace zeropoint {

// Verifies everything that does not depend on the device and fills *program. Afterwards `data` may be freed.
// Errors read "program: call[3] rms_norm: slot x: ...". `library` must outlive *program.
Status decode_program(const void* data, size_t size, const Library& library, Program* program);

}  // namespace zeropoint
