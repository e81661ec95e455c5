// The disk tier: files without a name, so that nothing is left behind whatever happens, read and written by a thread of their own. Their bytes have
// addresses that nobody may touch, so that an arena of the disk tier hands out tensors as any other.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "device/copy_thread.h"

namespace thimble {

// Throws Error (bad_input) where files cannot be made in the folder, or it is none.
void check_disk_folder(const std::filesystem::path&);

// What begins at a multiple of this shares no page with what lies before it.
constexpr int64_t disk_page = 4096;

class DiskFile {
 public:
  // Takes the bytes of the file system at once. Throws Error: bad_input, or does_not_fit where it has not the room.
  DiskFile(const std::filesystem::path& folder, int64_t bytes);
  ~DiskFile();
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;

  std::byte* data() const { return base_; }
  int64_t bytes() const { return bytes_; }
  bool holds(const void* p) const { return p >= base_ && p < base_ + bytes_; }
  // Between memory and the file: one of the two is an address of the file. Its pages do not stay in the page cache. Throws Error (bad_input).
  void copy(void* to, const void* from, int64_t bytes);

 private:
  void read(std::byte* to, int64_t at, int64_t bytes) const;
  void write(int64_t at, const std::byte* from, int64_t bytes);
  std::string folder_;
  int64_t bytes_, unwritten_ = 0;  // of the file; of these, what may be in the page cache alone
  int fd_ = -1;
  std::byte* base_ = nullptr;
};

// The files of a device, and the thread that they are copied by, which begins with the first of them.
class Disk {
 public:
  Storage reserve(const std::string& folder, int64_t bytes);
  // In order; `first` is run before it, by the same thread.
  Ticket copy(void* to, const void* from, int64_t bytes, std::function<void()> first);
  void wait(Ticket t) { if (thread_) thread_->wait(t); }
  void throw_if_failed() { if (thread_) thread_->throw_if_failed(); }
  void wait_for_all() { if (thread_) thread_->wait_for_all(); }

 private:
  std::vector<std::weak_ptr<DiskFile>> files_;  // each lives as long as its storage, and as copies of it
  std::unique_ptr<CopyThread> thread_;
};

}  // namespace thimble
