// A record is its length, a masked checksum of that, an Event in protocol buffers' wire format, and a masked checksum of it.
#include "train/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>

#include "base/log.h"

namespace thimble::train {
namespace {

// Fields of Event, Summary, Summary.Value and SessionLog, with their wire types.
enum Key : char { wall_time = 0x09, step_key = 0x10, file_version = 0x1a, summary = 0x2a, session_log = 0x3a, one_value = 0x0a, tag_key = 0x0a, simple_value = 0x15, status = 0x08 };
constexpr char started = 1;

template <class T>
std::string little_endian(T x) {
  static_assert(std::endian::native == std::endian::little);
  return std::string(reinterpret_cast<const char*>(&x), sizeof x);
}

std::string varint(uint64_t x) {
  std::string out;
  for (; x >= 0x80; x >>= 7) out += char(uint8_t(x) | 0x80);
  return out + char(x);
}

std::string field(Key key, std::string_view bytes) { return char(key) + varint(bytes.size()).append(bytes); }

std::string event(int64_t step, std::string_view what) {
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return (char(wall_time) + little_endian(now) + char(step_key) + varint(uint64_t(step))).append(what);
}

uint32_t masked(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = t[i] & 1 ? (t[i] >> 1) ^ 0x82f63b78u : t[i] >> 1;
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = table[(crc ^ uint8_t(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& folder, int64_t first_step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  path_ = folder / fmt::format("events.out.tfevents.{}.{}.{}.0", seconds, host, ::getpid());
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    log_warning("cannot write {} ({}); training goes on", path_.string(), std::strerror(errno));
    return;
  }
  append(event(0, field(file_version, "brain.Event:2")));
  if (first_step > 0) append(event(first_step, field(session_log, std::string{status, started})));
}

EventFile::~EventFile() {
  if (fd_ >= 0) ::close(fd_);
}

void EventFile::write(int64_t step, std::span<const Scalar> scalars) {
  for (const Scalar& s : scalars)
    append(event(step, field(summary, field(one_value, field(tag_key, s.tag) + char(simple_value) + little_endian(float(s.value))))));
}

void EventFile::append(std::string_view event) {
  if (fd_ < 0) return;
  const std::string length = little_endian(uint64_t(event.size()));
  const std::string record = (length + little_endian(masked(crc32c(length)))).append(event) + little_endian(masked(crc32c(event)));
  if (::write(fd_, record.data(), record.size()) == ssize_t(record.size())) return;
  log_warning("cannot write {} ({}); training goes on without it", path_.string(), std::strerror(errno));
  ::close(fd_);
  fd_ = -1;
}

}  // namespace thimble::train
