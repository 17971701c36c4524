// A loaded Program: memory, variants, recordings, execution. Knows neither ExecuTorch nor any operator.
#pragma once

#include <atomic>
#include <functional>
#include <numeric>

#include "picker.h"
#include "zeropoint.h"

namespace zeropoint {

using CallTime = std::tuple<size_t, uint64_t, uint64_t>;  // its index, and GPU nanoseconds from the run's start

// Gives the bytes of a constant by key. They must stay valid until load() returns.
using FindConstant = std::function<Status(const std::string& key, std::string_view* data)>;

// Called once per output, with dtype, rank, dims and size_bytes set; sets data. Execution then writes there.
using PlaceOutput = std::function<Status(size_t index, zp_tensor* output)>;

// Elements of a host's tensor.
inline uint64_t product(const zp_tensor& tensor) {
  return std::accumulate(tensor.dims, tensor.dims + tensor.rank, uint64_t{1}, std::multiplies<uint64_t>());
}

class Delegate {
 public:
  // program: tells loads of one .pte from those of another; states are shared by key among the methods of one load.
  // Null: this delegate has states of its own.
  static Status load(const void* blob, size_t size, const Library& library, const FindConstant& find, uint32_t flags,
      const void* program, const std::string& method, std::shared_ptr<Delegate>* delegate);
  ~Delegate();

  // Thread-safe; calls on one delegate and on one device run one after the other. After the first call with
  // the same symbol values it neither allocates nor looks anything up by name.
  Status execute(const zp_tensor* inputs, size_t n_inputs, const PlaceOutput& place, bool profile);
  Status output_shapes(const zp_tensor* inputs, size_t n_inputs, zp_tensor* outputs, size_t n_outputs);

  const Program& program() const { return program_; }
  uint32_t flags() const { return flags_; }
  // Of each call that the last execute ran, if it was profiled; empty otherwise.
  std::vector<CallTime> call_times();

  // Gives every state its first contents, for every delegate that shares it.
  Status reset();

  std::string describe();
  std::string picks();
  Status read_tensor(uint32_t index, void* data, uint64_t* size_bytes);

  std::string method;  // ExecuTorch's name
  bool owned_by_executorch = false;

 private:
  struct Recording {
    ~Recording();
    bool is_misjudged(double slice_s) const;
    Context* context = nullptr;
    std::vector<int64_t> symbols;
    bool profile = false;
    std::vector<VkCommandBuffer> slices;  // to be run in this order
    std::vector<double> work;             // of each slice
    double seconds = 0.0;                 // of the fastest run; the first one may have compiled shaders
    uint32_t runs = 0;
    bool guessed = true;  // the slices were cut before a run told what it takes
    VkDescriptorPool descriptors = VK_NULL_HANDLE;
    VkQueryPool queries = VK_NULL_HANDLE;
    Scratch scratch;
    std::shared_ptr<Buffer> turns;
    uint64_t turn_bytes = 0;                           // of those that dispatches take
    std::vector<Pick> picks;                           // of the calls that run
    std::vector<std::shared_ptr<Pipeline>> pipelines;  // of the picks, null where a grid is empty
  };
  class Recorder;
  // Where a tensor of the arena lies if the host does not use the arena in place.
  struct Place {
    std::shared_ptr<Buffer> Scratch::* buffer = &Scratch::arena;
    uint64_t offset = 0;
    uint64_t copy = UINT64_MAX;  // where among the outputs it is copied after a run
  };

  Delegate() = default;
  Status open(const Library& library, std::vector<Upload>* constants, const void* program);
  void unalias();
  Status check_device();
  void place_tensors();
  Status create_images();
  Status create_states(const void* program);
  VkDescriptorBufferInfo buffer_of(size_t tensor, const Scratch& scratch) const;
  Status find_constants(const FindConstant& find, std::vector<Upload>* constants) const;
  Status load_constants(std::vector<Upload>* constants);
  Status bind_inputs(const zp_tensor* inputs, size_t n_inputs);
  Status bind_symbols(const zp_tensor* inputs);
  Status check_indices(const zp_tensor* inputs) const;
  Status bind_symbol(size_t input, const char* what, int64_t given, int64_t base, const Term& term);
  void output_shape(const Output& output, zp_tensor* tensor) const;
  Status pick_calls(const std::vector<int64_t>& symbols, std::vector<Pick>* picks);
  Status find_recording(bool profile, Recording** result);
  Status record(Recording* recording);
  Status run(Recording* recording);
  uint8_t* host_bytes(const Scratch& scratch, size_t tensor, bool after) const;
  Status copy_in(const zp_tensor* inputs, const Recording& recording);
  Status copy_out(const Recording& recording);
  Status read_times(const Recording& recording);
  Status read_faults(const Recording& recording);
  Status check_turns(const Recording& recording);

  Program program_;
  uint32_t flags_ = 0;
  double slice_s_ = 0.0;  // what one submit takes, where the calls allow it; 0: a run is one submit
  const Library* library_ = nullptr;
  std::vector<int64_t> facts_;  // in the library's order
  Context* context_ = nullptr;
  bool counted_ = false;  // among the context's programs
  ScratchBytes needs_;
  std::vector<Place> places_;                       // per tensor
  std::vector<std::shared_ptr<Buffer>> buffers_;    // per tensor, of constants and of states that are no alias
  std::vector<std::unique_ptr<Image>> images_;      // per tensor, null unless an image
  std::vector<std::vector<Candidate>> candidates_;  // per call
  std::string choices_;                             // Context::read_choices()
  States states_;
  States kept_;  // the same, with what they held before a run as first contents: where a run may report an index
  Scratch own_;  // ZP_KEEP_ALL

  std::mutex mutex_;  // held by execute(); taken before Context::mutex. Guards what follows
  std::vector<int64_t> symbols_;
  std::vector<zp_tensor> outputs_;
  std::vector<std::unique_ptr<Recording>> recordings_;  // the last used comes first
  Recording* last_ = nullptr;
  std::vector<CallTime> times_;
  std::vector<uint32_t> submits_;  // of the last run: slices in each
};

// Flags added to every later load.
inline std::atomic<uint32_t> default_flags{0};

}  // namespace zeropoint
