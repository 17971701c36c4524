// Files that are there as a whole or not at all.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <initializer_list>

#include "status.h"

namespace zeropoint {

// What a signal that ends the process should remove: one for the player and its runner.
__attribute__((visibility("default"))) inline std::atomic<const char*> partial_file{nullptr};

// Writes beside the target and renames: readers see the old file or the whole new one. The file beside it is made
// exclusively and through no link. Not for two threads at once.
inline Status replace_file(const std::string& path, std::initializer_list<std::string_view> parts) {
  auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  std::string partial = cat(path, ".", getpid(), "-", now, ".partial");
  partial_file = partial.c_str();
  FILE* file = std::fopen(partial.c_str(), "wbxe");
  bool good = file != nullptr;
  for (std::string_view part : parts) good = good && std::fwrite(part.data(), 1, part.size(), file) == part.size();
  if (file != nullptr) good = std::fclose(file) == 0 && good;
  good = good && std::rename(partial.c_str(), path.c_str()) == 0;
  Status status = good ? Status() : fail(Code::kDevice, path, ": ", std::strerror(errno));
  if (!good && file != nullptr) unlink(partial.c_str());
  partial_file = nullptr;
  return status;
}

}  // namespace zeropoint
