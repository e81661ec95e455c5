// Files are hostile: only regular files are opened, sizes are known before anything is allocated, writes are atomic.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/xxh64.h"

namespace thimble {

namespace fs = std::filesystem;

// A read-only mapping of a whole regular file. Throws Error (bad_input) when missing, not regular, or empty while `required`.
class MappedFile {
 public:
  explicit MappedFile(const fs::path&);
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const fs::path& path() const { return path_; }
  void will_read(int64_t begin, int64_t n) const;   // read ahead
  void done_with(int64_t begin, int64_t n) const;   // its pages may leave memory

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  fs::path path_;
};

// A regular file, or `bytes` of it from `begin`, for readers that go through once: a piece of it is in memory, and as nothing is mapped, a file
// that is cut short meanwhile is an error and no signal.
class FilePieces {
 public:
  explicit FilePieces(const fs::path&, int64_t begin = 0, int64_t bytes = -1);  // -1: to its end
  FilePieces(const FilePieces&) = delete;
  ~FilePieces();
  std::string_view next();  // what follows, until the next call; empty at the end. Throws Error (bad_input) where the file ends before its bytes.
  int64_t bytes() const { return end_ - begin_; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  int fd_;
  int64_t begin_, at_, end_ = 0;
  std::string piece_;
};

std::string read_text(const fs::path&, int64_t limit = int64_t{256} << 20);  // throws when larger than the limit

// A file that stands under its name, whole and flushed to disk: what a manifest says of it.
struct WrittenFile {
  std::string name;  // without its folder
  int64_t bytes = 0;
  uint64_t xxh64 = 0;
  bool operator==(const WrittenFile&) const = default;
};
WrittenFile measure(const fs::path&);  // of a file that is there

// Written aside, fsynced, renamed: a reader sees the old file or the new one, never half of one. Throws on a full disk.
WrittenFile write_atomically(const fs::path&, std::string_view bytes);
WrittenFile copy_atomically(const fs::path& from, const fs::path& to);

// A file that is being written piece by piece and appears under its name only at commit().
class AtomicFile {
 public:
  explicit AtomicFile(const fs::path&);
  ~AtomicFile();  // an uncommitted file leaves nothing behind
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data, int64_t bytes) { write_at(end_, data, bytes); }
  void write_at(int64_t place, const void* data, int64_t bytes);  // anywhere; holes that are left read as zeros
  WrittenFile commit();

 private:
  fs::path path_, aside_;
  int fd_ = -1;
  int64_t end_ = 0;
  bool in_order_ = true;  // so far: then the hash grew with the file
  Xxh64 hash_;
};

// What was renamed or removed in a folder stays so after a power cut.
void flush_folder(const fs::path&);
int64_t free_disk_bytes(const fs::path& folder);  // that we may write; INT64_MAX where the system does not say

// "1.5 GiB", "420.9 MiB"; parse_bytes accepts "24GiB", "24G", "24 GB" (decimal), "123456".
std::string human_bytes(int64_t);
int64_t parse_bytes(std::string_view text, std::string_view where);

}  // namespace thimble
