#include "registry.h"

namespace zeropoint {
// Never destroyed, like the devices that programs hold.
static std::mutex& delegates_mutex = *new std::mutex();
static auto& delegates = *new std::map<uint64_t, std::shared_ptr<Delegate>>();

uint64_t register_delegate(const std::shared_ptr<Delegate>& delegate) {
  static uint64_t last_id = 0;
  std::lock_guard<std::mutex> lock(delegates_mutex);
  delegates[++last_id] = delegate;
  return last_id;
}

std::map<uint64_t, std::shared_ptr<Delegate>> live_delegates() {
  std::lock_guard<std::mutex> lock(delegates_mutex);
  return delegates;
}

std::shared_ptr<Delegate> find_delegate(uint64_t id, bool forget) {
  std::lock_guard<std::mutex> lock(delegates_mutex);
  auto found = delegates.find(id);
  std::shared_ptr<Delegate> result = found == delegates.end() ? nullptr : found->second;
  if (forget) delegates.erase(id);
  return result;
}

}  // namespace zeropoint
