// From the bytes of a delegate to a Program that the player may trust.
#pragma once

#include "program.h"

namespace zeropoint {

// Verifies all of a delegate blob that does not depend on the device and fills *program; `data` may be
// freed afterwards, `library` must outlive *program. Safe on untrusted bytes: any input gives a Program or an error
// that reads "program: call[3] the_kernel: slot x: ...", in time and memory bounded by its size.
Status decode_program(const void* data, size_t size, const Library& library, Program* program);

}  // namespace zeropoint
