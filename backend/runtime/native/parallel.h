// Independent items of host work, side by side.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace zeropoint {

// Runs body(i) for each i below n, here and in other threads, at most one a core, and in fewer where the system gives
// no more. std::thread would end the process then.
template <typename Body> void parallel_for(size_t n, const Body& body) {
  struct Shared {
    const Body& body;
    size_t n;
    std::atomic<size_t> next{0};
    void run() {
      for (size_t i = next++; i < n; i = next++) body(i);
    }
  } shared{body, n};
  constexpr size_t kStackBytes = 8 << 20;  // a driver's shader compiler gets that of a main thread elsewhere
  auto run = [](void* given) -> void* { return static_cast<Shared*>(given)->run(), nullptr; };
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  std::vector<pthread_t> others;
  size_t n_threads = std::min<size_t>(n, std::thread::hardware_concurrency());
  for (pthread_t other{}; others.size() + 1 < n_threads && pthread_create(&other, &attributes, run, &shared) == 0;)
    others.push_back(other);
  shared.run();
  for (pthread_t other : others) pthread_join(other, nullptr);
  pthread_attr_destroy(&attributes);
}

}  // namespace zeropoint
