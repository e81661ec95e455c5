// The system calls behind file.h, each checked; messages name the path and the reason the system gave.
#include "base/file.h"

#include <algorithm>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace thimble {
namespace {

[[noreturn]] void fail(const fs::path& path, std::string what, std::string fix = "") {
  throw Error(Fault::bad_input, {.what = std::move(what), .where = path.string(), .found = std::strerror(errno), .fix = std::move(fix)});
}

struct Descriptor {
  int fd;
  ~Descriptor() { if (fd >= 0) ::close(fd); }
};

size_t size_of_regular(int fd, const fs::path& path) {
  struct stat s {};
  if (::fstat(fd, &s) != 0) fail(path, "cannot stat a file");
  if (!S_ISREG(s.st_mode))
    throw Error(Fault::bad_input, {.what = "not a regular file", .where = path.string(), .expected = "a plain file",
                                   .found = S_ISDIR(s.st_mode) ? "a directory" : "a device, pipe or socket"});
  return size_t(s.st_size);
}

int open_to_read(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // non-blocking: a FIFO must not hang us
  if (fd < 0) fail(path, "cannot open a file");
  return fd;
}

// Hands a regular file to `use`, piece by piece.
template <class Use>
void read_pieces(const fs::path& path, Use&& use) {
  FilePieces file(path);
  for (std::string_view piece; !(piece = file.next()).empty();) use(piece.data(), int64_t(piece.size()));
}

}  // namespace

FilePieces::FilePieces(const fs::path& path, int64_t begin, int64_t bytes) : path_(path), fd_(-1), begin_(begin), at_(begin) {
  Descriptor d{open_to_read(path)};
  const auto size = int64_t(size_of_regular(d.fd, path));
  end_ = bytes < 0 ? std::max(begin, size) : begin + bytes;
  piece_.resize(size_t(std::min<int64_t>(end_ - begin, int64_t{1} << 20)));
  fd_ = std::exchange(d.fd, -1);
}

FilePieces::~FilePieces() { ::close(fd_); }

std::string_view FilePieces::next() {
  while (at_ < end_) {
    const ssize_t n = ::pread(fd_, piece_.data(), size_t(std::min<int64_t>(end_ - at_, int64_t(piece_.size()))), off_t(at_));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, "cannot read a file");
    if (n == 0)
      throw Error(Fault::bad_input, {.what = "a file became shorter while it was read", .where = path_.string(), .expected = fmt::format("{} more bytes", end_ - at_),
                                     .found = "the end of the file", .fix = "leave files alone while they are in use"});
    at_ += n;
    return std::string_view(piece_).substr(0, size_t(n));
  }
  return {};
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const Descriptor d{open_to_read(path)};
  size_ = size_of_regular(d.fd, path);
  if (size_ == 0) return;
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, d.fd, 0);
  if (p == MAP_FAILED) fail(path, "cannot map a file");
  data_ = static_cast<const std::byte*>(p);
}

MappedFile::MappedFile(MappedFile&& o) noexcept
    : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)), path_(std::move(o.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(size_, o.size_);
  std::swap(path_, o.path_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

static void advise(const std::byte* data, size_t size, int64_t begin, int64_t n, int advice) {
  if (!data || begin < 0 || n <= 0 || size_t(begin + n) > size) return;
  const auto page = int64_t(::sysconf(_SC_PAGESIZE));
  const int64_t first = begin / page * page;
  ::madvise(const_cast<std::byte*>(data) + first, size_t(begin + n - first), advice);  // advice only: failure costs nothing
}
void MappedFile::will_read(int64_t begin, int64_t n) const { advise(data_, size_, begin, n, MADV_WILLNEED); }
void MappedFile::done_with(int64_t begin, int64_t n) const { advise(data_, size_, begin, n, MADV_DONTNEED); }

std::string read_text(const fs::path& path, int64_t limit) {
  const Descriptor d{open_to_read(path)};
  const size_t size = size_of_regular(d.fd, path);
  if (int64_t(size) > limit)
    throw Error(Fault::bad_input, {.what = "a file is larger than its kind may be", .where = path.string(),
                                   .expected = "at most " + human_bytes(limit), .found = human_bytes(int64_t(size))});
  std::string text(size, '\0');
  size_t have = 0;
  while (have < size) {
    const ssize_t n = ::read(d.fd, text.data() + have, size - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "cannot read a file");
    if (n == 0) break;  // truncated while we read: what is there is what is parsed
    have += size_t(n);
  }
  text.resize(have);
  return text;
}

AtomicFile::AtomicFile(const fs::path& path) : path_(path), aside_(path) {
  aside_ += fmt::format(".tmp-{}", ::getpid());
  fd_ = ::open(aside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail(path, "cannot create a file", "choose an output folder that can be written");
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(aside_.c_str());
}

void AtomicFile::write_at(int64_t place, const void* data, int64_t bytes) {
  auto p = static_cast<const char*>(data);
  in_order_ = in_order_ && place == end_;
  if (in_order_) hash_.add(data, bytes);
  end_ = std::max(end_, place + bytes);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd_, p, size_t(bytes), off_t(place));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, "cannot write a file", "free some disk space; what stood there before is untouched");
    p += n;
    place += n;
    bytes -= n;
  }
}

WrittenFile AtomicFile::commit() {
  if (::fsync(fd_) != 0) fail(path_, "cannot flush a file to disk");
  ::close(std::exchange(fd_, -1));
  if (::rename(aside_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    ::unlink(aside_.c_str());
    errno = reason;
    fail(path_, "cannot rename a finished file into place");
  }
  flush_folder(path_.parent_path());
  return in_order_ ? WrittenFile{path_.filename().string(), end_, hash_.value()} : measure(path_);
}

WrittenFile write_atomically(const fs::path& path, std::string_view bytes) {
  AtomicFile f(path);
  f.write(bytes.data(), int64_t(bytes.size()));
  return f.commit();
}

WrittenFile copy_atomically(const fs::path& from, const fs::path& to) {
  AtomicFile f(to);
  read_pieces(from, [&](const char* piece, int64_t bytes) { f.write(piece, bytes); });
  return f.commit();
}

WrittenFile measure(const fs::path& path) {
  WrittenFile file{.name = path.filename().string()};
  Xxh64 hash;
  read_pieces(path, [&](const char* piece, int64_t bytes) { hash.add(piece, bytes), file.bytes += bytes; });
  file.xxh64 = hash.value();
  return file;
}

void flush_folder(const fs::path& folder) {
  const Descriptor d{::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (d.fd >= 0) ::fsync(d.fd);  // a file system that cannot flush a folder says so here, and nothing better can be done
}

int64_t free_disk_bytes(const fs::path& folder) {
  struct statvfs s {};
  int64_t bytes = 0;
  if (::statvfs(folder.c_str(), &s) != 0 || __builtin_mul_overflow(s.f_bavail, s.f_frsize, &bytes)) return INT64_MAX;
  return bytes;
}

std::string human_bytes(int64_t n) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double x = double(n);
  int u = 0;
  while (std::fabs(x) >= 1024 && u < 5) x /= 1024, ++u;
  return u == 0 ? fmt::format("{} B", n) : fmt::format("{:.{}f} {}", x, u >= 3 ? 2 : 1, units[u]);
}

int64_t parse_bytes(std::string_view text, std::string_view where) {
  const auto wrong = [&] {
    return Error(Fault::usage, {.what = "not a size", .where = std::string(where), .expected = "a number and a unit, such as 24GiB, 1.5G, 800MB",
                                .found = std::string(text)});
  };
  const std::string s(text);
  char* end = nullptr;
  const double x = std::strtod(s.c_str(), &end);
  if (end == s.c_str() || !std::isfinite(x) || x < 0) throw wrong();
  while (*end == ' ') ++end;
  std::string unit(end);
  for (char& c : unit) c = char(std::tolower(static_cast<unsigned char>(c)));
  static constexpr std::string_view letters = "kmgtp";
  double factor = 1;
  if (!unit.empty() && unit != "b") {
    const auto power = letters.find(unit[0]);
    if (power == letters.npos) throw wrong();
    const std::string rest = unit.substr(1);
    if (rest != "" && rest != "b" && rest != "ib") throw wrong();
    factor = std::pow(rest == "b" ? 1000.0 : 1024.0, double(power) + 1);  // GB is decimal; G and GiB are binary
  }
  if (x * factor >= 0x1p62) throw wrong();
  return int64_t(x * factor);
}

}  // namespace thimble
