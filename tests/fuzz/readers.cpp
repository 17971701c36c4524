// libFuzzer's entry into the readers of the player, which `make fuzz` runs: a Program with the player's own kernel
// library, or (ZEROPOINT_FUZZ_LIBRARY) a kernel library with the Program of the file that the variable of that name
// has. What is let through goes on as far as a load and a run go without a device: variants are found, guards and grids
// evaluated, modules decoded.
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "picker.h"
#include "verify.h"

namespace zeropoint {
namespace {

// A device that can do all, or the least, and whose memory is never asked for.
Context* device(int64_t fact) {
  auto* context = new Context();
  context->facts.values.fill(fact);
  return context;
}

// What Delegate does with every call at a load and when a shape is recorded. decode: the library is not the player's
// own.
void pick_all(const Program& program, const Library& library, const Context& context, bool largest, bool decode) {
  std::vector<int64_t> symbols;
  for (const Symbol& symbol : program.symbols)
    symbols.push_back(!symbol.is_given() ? symbol.derived(symbols) : largest ? symbol.max : symbol.min);
  std::vector<std::vector<int64_t>> dims;
  for (const Tensor& tensor : program.tensors) dims.push_back(values_of(tensor.dims, symbols));
  for (size_t i = 0; i < program.calls.size(); ++i) {
    const Call& call = program.calls[i];
    std::vector<SlotShape> shapes;
    for (int32_t tensor : call.tensors) {
      const std::vector<int64_t>& bound = dims[static_cast<size_t>(std::max(tensor, 0))];
      shapes.push_back({bound.data(), static_cast<int>(bound.size()), tensor >= 0});
    }
    std::vector<Candidate> candidates;
    Pick found{i, {}, {}, {}, {}};
    std::vector<uint32_t> words;
    if (!find_candidates(program, call, context, &candidates).ok()) continue;
    if (!pick(call, candidates, shapes, symbols, library.ordered(context.facts), context, &found).ok()) continue;
    if (decode) (void)library.spirv(*found.candidate.variant, &words);
  }
}

void use(const void* blob, size_t size, const Library& library, bool decode) {
  static const Context* const devices[] = {device(INT32_MAX), device(0)};
  Program program;
  if (!decode_program(blob, size, library, &program).ok()) return;
  for (const Context* context : devices)
    for (bool largest : {false, true}) pick_all(program, library, *context, largest, decode);
}

}  // namespace
}  // namespace zeropoint

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zeropoint;
#ifdef ZEROPOINT_FUZZ_LIBRARY
  static const std::string blob = [] {
    std::ifstream file(std::getenv("ZEROPOINT_FUZZ_LIBRARY"), std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(file), {}};
  }();
  Library library;
  if (library.decode({reinterpret_cast<const char*>(data), size}).ok()) use(blob.data(), blob.size(), library, true);
#else
  const Library* library = nullptr;
  if (!Library::embedded(&library).ok()) std::abort();
  use(data, size, *library, false);
#endif
  return 0;
}
