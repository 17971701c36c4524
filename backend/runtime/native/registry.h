// What the C interface and the ExecuTorch backend have in common: the programs that are alive, and the last failure.
#pragma once

#include "delegate.h"

namespace zeropoint {

// Live programs by id, for the C interface. forget: no longer live afterwards.
uint64_t register_delegate(const std::shared_ptr<Delegate>& delegate);
std::shared_ptr<Delegate> find_delegate(uint64_t id, bool forget = false);
std::map<uint64_t, std::shared_ptr<Delegate>> live_delegates();
// Keeps the text of a failure for zp_last_error() and returns its code.
int report(const Status& status);

}  // namespace zeropoint
