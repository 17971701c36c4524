// Chooses the shader variant of every call: by the serialized dtypes and storages at load, by guards at record.
#pragma once

#include "context.h"
#include "expr.h"
#include "program.h"

namespace zeropoint {

// A variant whose key equals the bound tensors and whose needs the device meets, in the manifest's order.
struct Candidate {
  const fb::Algorithm* algorithm = nullptr;
  const fb::Variant* variant = nullptr;
};

struct Pick {
  size_t call = 0;
  Candidate candidate;
  uint32_t grid[3] = {};
  std::vector<int32_t> specs;
  uint8_t push[kMaxPushBytes] = {};
  double work = 0.0;
};

// Errors: no variant has the key (the slot, the dtype found, the dtypes offered), or every one that has it needs a
// fact or a limit that this device does not offer (a fused call has no candidates then).
Status find_candidates(
    const Program& program, const Call& call, const Context& context, std::vector<Candidate>* candidates);

// What a choice of algorithm is known by: the kernel, its integer attributes (0: depends on symbols), and what is bound
// to its slots. Dimensions that depend on symbols are rounded up to a power of two. Has no line break and no " -> ".
// `kernel step=32 q=i8:buffer[8,64] w=i4:buffer[2,24,32] y=f32:buffer[8,24]`
std::string signature(const Program& program, const Call& call, const std::vector<int64_t>& symbols);

// The candidate whose algorithm a line `signature -> algorithm` of choices names, or none. Safe on untrusted choices.
std::vector<Candidate> find_chosen(
    std::string_view choices, const std::string& signature, const std::vector<Candidate>& candidates);

// The first candidate whose guard holds and whose grid fits. shapes: one per slot; facts: in the library's order.
Status pick(const Call& call, const std::vector<Candidate>& candidates, const std::vector<SlotShape>& shapes,
    const std::vector<int64_t>& symbols, const std::vector<int64_t>& facts, const Context& context, Pick* result);

}  // namespace zeropoint
