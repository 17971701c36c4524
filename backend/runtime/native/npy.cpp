#include "npy.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace zeropoint {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr size_t kMaxHeader = 1 << 16;
constexpr size_t kMaxRank = 8;

// The value of a key in the header's Python dict, up to the next comma or bracket that ends it.
std::string value_of(const std::string& header, const std::string& key) {
  size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) return "";
  at = header.find_first_not_of(' ', at + key.size() + 3);
  if (at == std::string::npos) return "";
  size_t end = header[at] == '(' ? header.find(')', at) : header.find_first_of(",}", at);
  return end == std::string::npos ? "" : header.substr(at, end - at);
}

Status parse_header(const std::string& header, Array* array) {
  std::string descr = value_of(header, "descr");
  if (descr.size() < 5 || descr.front() != '\'' || (descr[1] == '>' && descr[3] != '1'))
    return fail(Code::kInvalidArgument, "dtype ", printable(descr), "; need a little-endian scalar type");
  array->dtype = descr.substr(2, descr.size() - 3);
  if (value_of(header, "fortran_order") != "False") return fail(Code::kInvalidArgument, "not in C order");
  std::string shape = value_of(header, "shape");
  if (shape.empty() || shape[0] != '(') return fail(Code::kInvalidArgument, "no shape");
  for (size_t at = 1; (at = shape.find_first_of("0123456789", at)) != std::string::npos;) {
    size_t end = std::min(shape.find_first_not_of("0123456789", at), shape.size());
    if (end - at > 9 || array->dims.size() == kMaxRank)
      return fail(Code::kInvalidArgument, "shape ", printable(shape), "; at most 8 dimensions below 10^9");
    array->dims.push_back(std::stoll(shape.substr(at, end - at)));
    at = end;
  }
  return Status();
}

Status read(const std::string& path, Array* array) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return fail(Code::kNotFound, std::strerror(errno));
  auto file_bytes = static_cast<uint64_t>(file.tellg());
  file.seekg(0);
  uint8_t start[12] = {};
  if (!file.read(reinterpret_cast<char*>(start), 10) || std::memcmp(start, kMagic, 6) != 0)
    return fail(Code::kInvalidArgument, "no .npy file");
  uint64_t length = start[8] | start[9] << 8;
  if (start[6] > 1) {
    if (!file.read(reinterpret_cast<char*>(start + 10), 2)) return fail(Code::kInvalidArgument, "cut short");
    length |= static_cast<uint64_t>(start[10]) << 16 | static_cast<uint64_t>(start[11]) << 24;
  }
  if (length > kMaxHeader) return fail(Code::kInvalidArgument, "header of ", length, " bytes; at most ", kMaxHeader);
  std::string header(length, '\0');
  if (!file.read(header.data(), static_cast<std::streamsize>(length))) return fail(Code::kInvalidArgument, "cut short");
  ZP_TRY(parse_header(header, array));
  uint64_t rest = file_bytes - static_cast<uint64_t>(file.tellg());
  auto width = static_cast<uint64_t>(array->dtype.back() - '0');
  uint64_t need = width;
  for (int64_t dim : array->dims)
    if (__builtin_mul_overflow(need, static_cast<uint64_t>(dim), &need)) need = UINT64_MAX;
  if (need != rest) return fail(Code::kInvalidArgument, rest, " bytes of data; its shape needs ", need);
  array->data.resize(rest);
  file.read(reinterpret_cast<char*>(array->data.data()), static_cast<std::streamsize>(rest));
  return file ? Status() : fail(Code::kInvalidArgument, "cut short");
}

}  // namespace

Status read_npy(const std::string& path, Array* array) {
  *array = Array();
  return read(path, array).in(path);
}

Status write_npy(const std::string& path, const std::string& dtype, const std::vector<int64_t>& dims, const void* data,
                 size_t size) {
  std::string shape;
  for (int64_t dim : dims) shape += cat(dim, ", ");
  std::string order = dtype.back() == '1' ? "|" : "<";
  std::string header = cat("{'descr': '", order, dtype, "', 'fortran_order': False, 'shape': (", shape, "), }");
  header.resize((header.size() + 11 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  std::string temporary = path + ".partial";
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file.write(kMagic, 6).write("\x01\x00", 2);
  file.put(static_cast<char>(header.size() & 255)).put(static_cast<char>(header.size() >> 8));
  file << header;
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
  file.close();
  if (file && std::rename(temporary.c_str(), path.c_str()) == 0) return Status();
  Status status = fail(Code::kDevice, path, ": ", std::strerror(errno));
  std::remove(temporary.c_str());
  return status;
}

}  // namespace zeropoint
