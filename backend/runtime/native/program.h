// A Program as plain data, decoded from a delegate blob.
#pragma once

#include "library.h"
#include "program_generated.h"

namespace zeropoint {

inline constexpr uint32_t kOldestProgramVersion = 1, kProgramVersion = 4;
inline constexpr int kMaxRank = 8;
inline constexpr uint64_t kArenaAlign = 256;
inline constexpr uint64_t kSizeAlign = 16;

using Term = std::pair<int64_t, uint32_t>;  // coefficient, symbol

// base + sum(coefficient * symbol); in [0, 2^31) for all symbol values in range.
struct Dim {
  int64_t base = 0;
  std::vector<Term> terms;

  bool operator==(const Dim& other) const { return base == other.base && terms == other.terms; }
  int64_t value(const std::vector<int64_t>& symbols) const {
    int64_t result = base;
    for (const auto& [coefficient, symbol] : terms) result += coefficient * symbols[symbol];
    return result;
  }
};

struct Symbol {
  std::string name;
  int64_t min = 0;
  int64_t max = 0;
  fb::SymbolOp op = fb::SymbolOp::given;
  Dim a, b;  // operands of a derived symbol: earlier symbols

  bool is_given() const { return op == fb::SymbolOp::given; }
  int64_t derived(const std::vector<int64_t>& symbols) const {
    return op == fb::SymbolOp::product ? a.value(symbols) * b.value(symbols) : a.value(symbols) / b.value(symbols);
  }
};

struct Tensor {
  std::string name;
  fb::DType dtype = fb::DType::none;
  fb::Storage storage = fb::Storage::none;
  fb::Memory memory = fb::Memory::arena;
  std::vector<Dim> dims;
  uint64_t offset = 0;      // into the arena
  uint64_t size_bytes = 0;  // at the symbols' maxima, a multiple of 16
  uint64_t data_bytes = 0;  // the same, not rounded up
  int64_t max_numel = 0;
  std::string constant;
  std::string shared;  // the key under which methods share a state that is no alias; before version 4 its name
  size_t root = 0;     // the tensor that this one is an alias of, or itself

  bool is_state() const { return memory == fb::Memory::state; }
  bool in_arena() const { return memory == fb::Memory::arena && storage == fb::Storage::buffer; }
  bool is_constant() const { return memory == fb::Memory::constant; }
  // Tensor `index` is this one, not an alias, and starts with bytes of the file.
  bool is_stored(size_t index) const { return root == index && size_bytes != 0 && !constant.empty(); }
  bool shares_memory(const Tensor& other) const {
    if (!in_arena() || !other.in_arena()) return root == other.root;
    return offset < other.offset + other.size_bytes && other.offset < offset + size_bytes;
  }
  int64_t numel(const std::vector<int64_t>& symbols) const {
    int64_t result = 1;
    for (const Dim& dim : dims) result *= dim.value(symbols);
    return result;
  }
};

struct Call {
  std::string name;
  const fb::Kernel* kernel = nullptr;
  bool fused = false;                                  // one of an alternative's fused calls
  std::vector<int32_t> tensors;                        // one per slot, -1 when not bound
  std::vector<int64_t> integer_attrs;                  // one per declared attribute, 0 where it is real
  std::vector<float> real_attrs;                       // one per declared attribute, 0 where it is an integer
  std::vector<std::pair<size_t, Dim>> symbolic_attrs;  // declared attributes that depend on symbols
  std::string where(size_t index) const { return cat("call[", index, "] ", view(kernel->name())); }
};

struct Input {
  int32_t tensor = -1;
  int32_t symbol = -1;
  fb::HostDType host_dtype = fb::HostDType::f32;
  std::vector<Dim> dims;  // of the tensor
};

struct Output {
  std::vector<uint32_t> tensors;
  fb::HostDType host_dtype = fb::HostDType::f32;
};

// Integers of an input that must lie in [min, max]: elements offset + sum(i * stride), i below the sizes.
struct Check {
  uint32_t input = 0;
  std::string what;  // they index, for messages
  Dim min, max, offset;
  std::vector<Dim> sizes, strides;
};

// What Program::faults holds after a run in which a call was given an index that it may not use: 1 + that call (0: none
// was), the element, its value, and the bounds.
struct Faults {
  int32_t call, element, value, min, max;
};

struct Program {
  uint32_t version = 0;
  uint64_t arena_bytes = 0;
  std::vector<Symbol> symbols;
  std::vector<Tensor> tensors;
  std::vector<Call> calls;
  std::vector<Input> inputs;
  std::vector<Output> outputs;
  std::vector<fb::Alternative> alternatives;  // in order, within the calls, none within another
  std::vector<Check> checks;
  int32_t faults = -1;  // the tensor, or -1
};

inline std::string dims_text(const std::vector<int64_t>& dims) { return cat("[", join(dims), "]"); }

inline std::vector<int64_t> values_of(const std::vector<Dim>& dims, const std::vector<int64_t>& symbols) {
  std::vector<int64_t> result;
  for (const Dim& dim : dims) result.push_back(dim.value(symbols));
  return result;
}

inline uint64_t align_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace zeropoint
