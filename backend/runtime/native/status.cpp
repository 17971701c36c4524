#include "status.h"

#include <algorithm>

namespace zeropoint {

std::string printable(std::string_view text) {
  std::string result(text.substr(0, 64));
  std::replace_if(result.begin(), result.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text.size() > 64 ? result + "..." : result;
}

std::string hex(const uint8_t* bytes, size_t n) {
  std::string result;
  for (size_t i = 0; i < n; ++i) (result += "0123456789abcdef"[bytes[i] >> 4]) += "0123456789abcdef"[bytes[i] & 15];
  return result;
}

std::string json_string(std::string_view text) {
  std::string result = "\"";
  for (char c : text)
    if (c == '"' || c == '\\')
      (result += '\\') += c;
    else if (c < ' ' || c > '~')
      result += "\\u00" + hex(reinterpret_cast<const uint8_t*>(&c), 1);
    else
      result += c;
  return result + '"';
}

}  // namespace zeropoint
