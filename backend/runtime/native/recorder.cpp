// The recording half of Delegate: command buffers, one per set of symbol values, and reading device memory
// back.

#include <chrono>
#include <cmath>

#include "convert.h"
#include "delegate.h"

namespace zeropoint {
namespace {

constexpr size_t kMaxRecordings = 16;
constexpr double kMaxSlices = 256.0;
constexpr double kTellingWork = 1e8;        // a run of less tells what a submit takes
constexpr uint64_t kMostAwaited = 1 << 20;  // workgroups

struct Access {
  const Tensor* tensor;
  bool write;     // or else read
  bool in_turn;   // by a dispatch that takes turns
  bool is_ahead;  // before its turn
};

}  // namespace

Delegate::Recording::~Recording() {
  if (context == nullptr) return;
  VkDevice device = context->device;
  for (VkCommandBuffer slice : slices) vkFreeCommandBuffers(device, context->command_pool, 1, &slice);
  vkDestroyDescriptorPool(device, descriptors, nullptr);
  vkDestroyQueryPool(device, queries, nullptr);
}

// Records one Recording. Barriers are placed where the bytes of a call overlap those of calls since the last
// barrier, so that a forged memory plan cannot cause a race and independent calls overlap.
class Delegate::Recorder {
 public:
  Recorder(Delegate& delegate, Recording* recording)
      : delegate_(delegate), program_(delegate.program_), context_(*delegate.context_), recording_(*recording) {}

  Status run() {
    ZP_TRY(make_pipelines());
    ZP_TRY(create_turns());
    ZP_TRY(create_descriptors());
    double most = most_work();
    ZP_TRY(next_slice());
    if (recording_.profile) ZP_TRY(create_queries());
    if (!delegate_.states_.empty()) Context::barrier(commands_);
    for (const auto& state : delegate_.kept_) {
      VkBufferCopy all{0, 0, state->buffer->size_bytes};
      vkCmdCopyBuffer(commands_, state->buffer->handle, state->first->handle, 1, &all);
    }
    if (!delegate_.kept_.empty()) Context::barrier(commands_);
    timestamp(0);
    for (size_t i = 0; i < recording_.picks.size(); ++i) {
      double before = recording_.work.back();
      if (before > 0.0 && before + recording_.picks[i].work > most) {
        if (awaited_ > 0) flush();
        ZP_TRY(next_slice());
      }
      recording_.work.back() += recording_.picks[i].work;
      if (recording_.profile) flush();
      if (recording_.pipelines[i] != nullptr) ZP_TRY(call(recording_.picks[i], *recording_.pipelines[i]));
      timestamp(i + 1);
    }
    std::set<uint32_t> copied;
    for (const Output& output : program_.outputs)
      for (uint32_t tensor : output.tensors)
        if (copied.insert(tensor).second) copy_out(tensor);
    Context::barrier(commands_, true);
    ZP_VK(vkEndCommandBuffer, commands_);
    return Status();
  }

 private:
  // Of a slice: what takes half as long as a submit may, so that a submit can be made of several.
  double most_work() const {
    auto add = [](double sum, const Pick& pick) { return sum + pick.work; };
    double sum = std::accumulate(recording_.picks.begin(), recording_.picks.end(), 0.0, add);
    double work_per_s = recording_.runs > 0 ? sum / recording_.seconds : context_.work_per_s;
    return delegate_.slice_s_ == 0.0 ? sum : std::max(sum / kMaxSlices, work_per_s * delegate_.slice_s_ / 2);
  }

  // Ends the slice, if there is one, and begins another.
  Status next_slice() {
    if (commands_ != VK_NULL_HANDLE) ZP_VK(vkEndCommandBuffer, commands_);
    recording_.work.push_back(0.0);
    VkCommandBuffer& slice = recording_.slices.emplace_back();
    Status status = context_.begin(&slice);
    commands_ = slice;
    return status;
  }

  Status make_pipelines() {
    std::vector<PipelineSource> sources;
    for (const Pick& pick : recording_.picks) {
      bool empty = pick.grid[0] == 0 || pick.grid[1] == 0 || pick.grid[2] == 0;
      sources.push_back(
          empty ? PipelineSource() : PipelineSource{pick.candidate.algorithm, pick.candidate.variant, pick.specs});
    }
    size_t failed = 0;
    Status status = context_.pipelines(*delegate_.library_, sources, &recording_.pipelines, &failed);
    if (status.ok()) return status;
    const Pick& pick = recording_.picks[failed];
    const Call& call = program_.calls[pick.call];
    return status.in(
        "call[", pick.call, "] ", variant_key(*call.kernel, *pick.candidate.algorithm, *pick.candidate.variant));
  }

  // Of a pick whose algorithm can; whether it does is the device's matter, and the workgroups' number.
  static bool has_turns(const Pick& pick) { return pick.candidate.algorithm->ahead() != nullptr; }

  bool takes_turns(const Pick& pick) const {
    uint64_t workgroups = uint64_t{pick.grid[0]} * pick.grid[1] * pick.grid[2];
    return has_turns(pick) && workgroups <= kMostAwaited && context_.facts[Fact::ordered_starts] != 0 &&
           !recording_.profile;
  }

  Status create_turns() {
    auto n_turns = static_cast<uint64_t>(std::count_if(recording_.picks.begin(), recording_.picks.end(), has_turns));
    if (n_turns == 0) return Status();
    auto takes = [&](const Pick& pick) { return takes_turns(pick); };
    if (std::any_of(recording_.picks.begin(), recording_.picks.end(), takes))
      recording_.turn_bytes = (n_turns + 1) * kTurnBytes;
    return context_.turns(n_turns + 1, &recording_.turns);
  }

  Status create_descriptors() {
    std::vector<VkDescriptorPoolSize> sizes;
    for (const Pick& pick : recording_.picks) {
      if (has_turns(pick)) sizes.push_back({VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1});
      for (const fb::Binding* binding : *pick.candidate.variant->bindings())
        sizes.push_back({descriptor_type(*pick.candidate.variant, *binding), 1});
    }
    if (sizes.empty()) return Status();
    VkDescriptorPoolCreateInfo info{VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO, nullptr, 0,
        static_cast<uint32_t>(recording_.picks.size()), static_cast<uint32_t>(sizes.size()), sizes.data()};
    ZP_VK(vkCreateDescriptorPool, context_.device, &info, nullptr, &recording_.descriptors);
    return Status();
  }

  Status create_queries() {
    if (context_.info.timestamp_ns == 0.0f) return Status();
    VkQueryPoolCreateInfo info{VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO, nullptr, 0, VK_QUERY_TYPE_TIMESTAMP,
        static_cast<uint32_t>(recording_.picks.size() + 1), 0};
    ZP_VK(vkCreateQueryPool, context_.device, &info, nullptr, &recording_.queries);
    vkCmdResetQueryPool(commands_, recording_.queries, 0, info.queryCount);
    return Status();
  }

  void timestamp(size_t index) {
    if (recording_.queries == VK_NULL_HANDLE) return;
    vkCmdWriteTimestamp(
        commands_, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, recording_.queries, static_cast<uint32_t>(index));
  }

  void flush() {
    awaited_ = 0;
    if (pending_.empty()) return;
    Context::barrier(commands_);
    ++context_.counters.barriers_recorded;
    pending_.clear();
  }

  // A turn comes after all turns since the last barrier, but for what is read ahead of it, or is not coherent.
  void depend(const std::vector<Access>& accesses) {
    for (const Access& own : accesses)
      for (size_t i = 0; i < pending_.size(); ++i) {
        const Access& other = pending_[i];
        bool waits = own.in_turn && other.in_turn && !(other.write && (own.is_ahead || other.is_ahead));
        if (!waits && (own.write || other.write) && own.tensor->shares_memory(*other.tensor)) flush();
      }
    pending_.insert(pending_.end(), accesses.begin(), accesses.end());
  }

  // The actual bytes of one tensor, to where the host reads them, unless a kernel has written them there.
  void copy_out(size_t index) {
    const Tensor& tensor = program_.tensors[index];
    uint64_t bytes = static_cast<uint64_t>(tensor.numel(recording_.symbols)) * bits_of(tensor.dtype) / 8;
    uint64_t to = delegate_.places_[index].copy;
    if (bytes == 0 || to == UINT64_MAX || recording_.scratch.outputs == nullptr) return;
    depend({{&tensor, false, false, false}});
    VkDescriptorBufferInfo source = delegate_.buffer_of(index, recording_.scratch);
    VkBufferCopy region{source.offset, to, bytes};
    vkCmdCopyBuffer(commands_, source.buffer, recording_.scratch.outputs->handle, 1, &region);
  }

  static bool reads_ahead(const Pick& pick, uint32_t slot) {
    const auto& ahead = *pick.candidate.algorithm->ahead();
    return std::find(ahead.begin(), ahead.end(), slot) != ahead.end();
  }

  Status call(const Pick& pick, const Pipeline& pipeline) {
    const Call& call = program_.calls[pick.call];
    std::vector<Access> accesses;
    bool in_turn = takes_turns(pick);
    n_turns_ += has_turns(pick);
    for (uint32_t slot = 0; slot < call.tensors.size(); ++slot) {
      auto tensor = static_cast<size_t>(call.tensors[slot]);
      if (call.tensors[slot] < 0 || program_.tensors[tensor].is_constant()) continue;
      bool write = call.kernel->slots()->Get(slot)->io() == fb::Io::output;
      accesses.push_back({&program_.tensors[tensor], write, in_turn, in_turn && reads_ahead(pick, slot)});
    }
    depend(accesses);
    const fb::Variant& variant = *pick.candidate.variant;
    vkCmdBindPipeline(commands_, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.handle);
    if (variant.bindings()->size() > 0 || has_turns(pick)) ZP_TRY(bind(call, pick, pipeline));
    uint8_t push[kMaxPushBytes];
    std::memcpy(push, pick.push, sizeof(push));
    if (in_turn) {
      uint32_t values[] = {++turn_, std::exchange(awaited_, pick.grid[0] * pick.grid[1] * pick.grid[2])};
      static_assert(sizeof(values) == kTurnPushBytes);
      std::memcpy(push + variant.push_bytes() - sizeof(values), values, sizeof(values));
    }
    if (variant.push_bytes() > 0)
      vkCmdPushConstants(
          commands_, pipeline.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, (variant.push_bytes() + 3) / 4 * 4, push);
    vkCmdDispatch(commands_, pick.grid[0], pick.grid[1], pick.grid[2]);
    ++context_.counters.dispatches_recorded;
    return Status();
  }

  Status bind(const Call& call, const Pick& pick, const Pipeline& pipeline) {
    VkDescriptorSetAllocateInfo info{
        VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO, nullptr, recording_.descriptors, 1, &pipeline.set_layout};
    VkDescriptorSet set = VK_NULL_HANDLE;
    ZP_VK(vkAllocateDescriptorSets, context_.device, &info, &set);
    for (const fb::Binding* binding : *pick.candidate.variant->bindings()) {
      auto index = static_cast<size_t>(call.tensors[binding->slot()]);
      const Image* image = delegate_.images_[index].get();
      VkDescriptorImageInfo texels{
          VK_NULL_HANDLE, image == nullptr ? VK_NULL_HANDLE : image->view, VK_IMAGE_LAYOUT_GENERAL};
      VkDescriptorBufferInfo buffer = delegate_.buffer_of(index, recording_.scratch);
      VkWriteDescriptorSet write{VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET, nullptr, set, binding->binding(), 0, 1,
          descriptor_type(*pick.candidate.variant, *binding), &texels, &buffer, nullptr};
      vkUpdateDescriptorSets(context_.device, 1, &write, 0, nullptr);
    }
    if (has_turns(pick)) {
      // A dispatch that takes none has a part of its own, which validation layers take to be written.
      bool all = takes_turns(pick);
      VkDescriptorBufferInfo turns{
          recording_.turns->handle, all ? 0 : n_turns_ * kTurnBytes, all ? VK_WHOLE_SIZE : kTurnBytes};
      VkWriteDescriptorSet write{VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET, nullptr, set, kTurnsBinding, 0, 1,
          VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, nullptr, &turns, nullptr};
      vkUpdateDescriptorSets(context_.device, 1, &write, 0, nullptr);
    }
    vkCmdBindDescriptorSets(commands_, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.layout, 0, 1, &set, 0, nullptr);
    return Status();
  }

  Delegate& delegate_;
  const Program& program_;
  Context& context_;
  Recording& recording_;
  VkCommandBuffer commands_ = VK_NULL_HANDLE;  // the last slice
  std::vector<Access> pending_;                // since the last barrier
  uint64_t n_turns_ = 0;                       // of dispatches so far that could take one
  uint32_t turn_ = 0;                          // of the last that did
  uint32_t awaited_ = 0;                       // its workgroups; 0: a barrier came since
};

// A guess of its speed cut slices that what it took shows to be needless, or too long.
bool Delegate::Recording::is_misjudged(double slice_s) const {
  if (!guessed || runs == 0 || slice_s == 0.0) return false;
  double sum = std::accumulate(work.begin(), work.end(), 0.0), most = *std::max_element(work.begin(), work.end());
  return (slices.size() > 1 && seconds <= slice_s / 2) || (runs > 1 && most * seconds > slice_s * sum);
}

Status Delegate::find_recording(bool profile, Recording** result) {
  auto matches = [&](const auto& known) { return known->profile == profile && known->symbols == symbols_; };
  auto found = std::find_if(recordings_.begin(), recordings_.end(), matches);
  bool known = found != recordings_.end(), again = known && (*found)->is_misjudged(slice_s_);
  if (!known || again) {
    std::unique_ptr<Recording> fresh(new Recording{context_, symbols_, profile});
    if (again) {
      fresh->seconds = (*found)->seconds;
      fresh->runs = (*found)->runs;
      fresh->guessed = (*found)->guessed = false;
    }
    Status status = record(fresh.get());
    if (!known) ZP_TRY(status);
    if (again && status.ok()) {
      if (last_ == found->get()) last_ = nullptr;
      *found = std::move(fresh);
    }
    if (!known && recordings_.size() == kMaxRecordings) {
      if (last_ == recordings_.back().get()) last_ = nullptr;
      recordings_.pop_back();
    }
    if (!known) found = recordings_.insert(recordings_.end(), std::move(fresh));
  }
  std::rotate(recordings_.begin(), found, found + 1);
  *result = recordings_.front().get();
  return Status();
}

Status Delegate::record(Recording* recording) {
  ZP_TRY(pick_calls(symbols_, &recording->picks));
  recording->scratch = own_;
  if (own_.arena == nullptr) ZP_TRY(context_->scratch(&recording->scratch));
  ZP_TRY(Recorder(*this, recording).run());
  ++context_->counters.recordings;
  context_->save_pipelines();
  return Status();
}

// Submits slices so that each submit takes about slice_s_, by what the fastest run took or, before, a guess by the
// work: a display gets its turn in between, and no watchdog sees a long job.
Status Delegate::run(Recording* recording) {
  double all = std::accumulate(recording->work.begin(), recording->work.end(), 0.0), part = 0.0;
  double expected_s = recording->runs > 0 ? recording->seconds : all / context_->work_per_s;
  double n_submits = slice_s_ == 0.0 ? 1.0 : std::max(1.0, std::ceil(expected_s / slice_s_));
  submits_.assign(1, 0);
  for (double work : recording->work) {
    if (submits_.back() > 0 && part + work > all / n_submits) {
      submits_.push_back(0);
      part = 0.0;
    }
    ++submits_.back();
    part += work;
  }
  auto start = std::chrono::steady_clock::now();
  ZP_TRY(context_->submit_and_wait(recording->slices.data(), submits_, recording->seconds));
  double seconds = std::max(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 1e-9);
  recording->seconds = recording->runs++ == 0 ? seconds : std::min(recording->seconds, seconds);
  if (all >= kTellingWork) context_->work_per_s = all / seconds;
  return Status();
}

Status Delegate::read_times(const Recording& recording) {
  size_t n_picks = recording.picks.size();
  std::vector<uint64_t> found(n_picks + 1);
  ZP_VK(vkGetQueryPoolResults, context_->device, recording.queries, 0, static_cast<uint32_t>(n_picks + 1),
      found.size() * sizeof(uint64_t), found.data(), sizeof(uint64_t),
      VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
  times_.clear();
  auto since_start = [&](size_t i) {
    double ticks = found[i] > found[0] ? static_cast<double>(found[i] - found[0]) : 0.0;
    return static_cast<uint64_t>(ticks * static_cast<double>(context_->info.timestamp_ns));
  };
  for (size_t i = 0; i < n_picks; ++i)
    times_.emplace_back(recording.picks[i].call, since_start(i), std::max(since_start(i), since_start(i + 1)));
  return Status();
}

}  // namespace zeropoint
