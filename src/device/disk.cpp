// Plain reads and writes, whose pages are dropped from the page cache at once: a layer is wanted again when all others were, so that the cache would
// keep what is of no use, out of the RAM that the budget leaves to others. Reading around the cache (O_DIRECT) would save a copy in memory.
#include "device/disk.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace thimble {
namespace {

constexpr int64_t piece = int64_t{8} << 20;  // that is read or written at a time, and may be in the page cache
constexpr int64_t most_unwritten = 2 * piece;

Error failed(const std::string& folder, std::string what, int error, std::string fix) {
  return Error(Fault::bad_input, {.what = std::move(what), .where = folder, .found = error ? std::strerror(error) : "", .fix = std::move(fix)});
}

// A file system that cannot make files without a name is given one that goes at once.
int open_nameless(const fs::path& folder) {
  int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
  std::string path = folder / "thimble-XXXXXX";
  fd = ::mkostemp(path.data(), O_CLOEXEC);
  if (fd >= 0) ::unlink(path.c_str());
  return fd;
}

}  // namespace

void check_disk_folder(const fs::path& folder) {
  constexpr const char* fix = "disk: FOLDER:SIZE, with a folder that is there and may be written";
  if (!fs::is_directory(folder)) throw failed(folder, "the disk tier's folder is not there", 0, fix);
  const int fd = open_nameless(folder);
  if (fd < 0) throw failed(folder, "cannot make a file in the disk tier's folder", errno, fix);
  ::close(fd);
}

DiskFile::DiskFile(const fs::path& folder, int64_t bytes) : folder_(folder), bytes_(bytes) {
  check_disk_folder(folder);
  const auto does_not_fit = [&](std::string found) {
    return Error(Fault::does_not_fit, {.what = "the disk has not the room that the plan takes of it", .where = folder_, .expected = human_bytes(bytes), .found = std::move(found),
                                       .fix = "free some disk space, name a folder on another disk, or a smaller size"});
  };
  if (const int64_t free = free_disk_bytes(folder); free < bytes) throw does_not_fit(human_bytes(free) + " free");
  struct statfs system {};
  if (::statfs(folder.c_str(), &system) == 0 && system.f_type == TMPFS_MAGIC)
    log_warning("{} lies in memory: what the plan puts on disk there is RAM that the budget does not count", folder_);
  fd_ = open_nameless(folder);
  if (fd_ < 0) throw failed(folder_, "cannot make a file in the disk tier's folder", errno, "");
  void* addresses = MAP_FAILED;
  const int error = ::posix_fallocate(fd_, 0, bytes);
  if (error == 0) addresses = ::mmap(nullptr, size_t(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (addresses == MAP_FAILED) {
    const std::string why = std::strerror(error ? error : errno);
    ::close(fd_);
    throw does_not_fit(why);
  }
  base_ = static_cast<std::byte*>(addresses);
}

DiskFile::~DiskFile() {
  ::munmap(base_, size_t(bytes_));
  ::close(fd_);
}

void DiskFile::copy(void* to, const void* from, int64_t bytes) {
  const bool writes = holds(to);
  const int64_t at = (writes ? static_cast<const std::byte*>(to) : static_cast<const std::byte*>(from)) - base_;
  check(bytes == 0 || (at >= 0 && at + bytes <= bytes_), "a copy stays inside its file");
  for (int64_t done = 0; done < bytes; done += piece) {
    const int64_t n = std::min(piece, bytes - done);
    if (writes) {
      write(at + done, static_cast<const std::byte*>(from) + done, n);
      continue;
    }
    read(static_cast<std::byte*>(to) + done, at + done, n);
    ::posix_fadvise(fd_, at + done, n, POSIX_FADV_DONTNEED);
  }
}

void DiskFile::read(std::byte* to, int64_t at, int64_t bytes) const {
  while (bytes > 0) {
    const ssize_t n = ::pread(fd_, to, size_t(bytes), at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw failed(folder_, "cannot read a layer back from disk", errno, "check the disk; the last checkpoint is whole");
    if (n == 0) throw failed(folder_, "a layer on disk is cut short: its file ends too early", 0, "check the disk; the last checkpoint is whole");
    to += n, at += n, bytes -= n;
  }
}

void DiskFile::write(int64_t at, const std::byte* from, int64_t bytes) {
  unwritten_ += bytes;
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd_, from, size_t(bytes), at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw failed(folder_, "cannot write a layer to disk", errno, "check the disk, or name a folder on another one");
    from += n, at += n, bytes -= n;
  }
  if (unwritten_ < most_unwritten) return;
  ::sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);  // only clean pages can be dropped
  ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  unwritten_ = 0;
}

Storage Disk::reserve(const std::string& folder, int64_t bytes) {
  if (folder.empty()) throw Error(Fault::usage, {.what = "the plan takes disk, and no folder is named for it", .fix = "disk: FOLDER:SIZE"});
  auto file = std::make_shared<DiskFile>(folder, bytes);
  std::erase_if(files_, [](const auto& f) { return f.expired(); });
  files_.push_back(file);
  if (!thread_) thread_ = std::make_unique<CopyThread>();
  std::byte* data = file->data();
  return Storage(data, bytes, [file = std::move(file)](void*, int64_t) {});
}

Ticket Disk::copy(void* to, const void* from, int64_t bytes, std::function<void()> first) {
  std::shared_ptr<DiskFile> file;
  for (const auto& f : files_)
    if (const auto one = f.lock(); one && (one->holds(to) || one->holds(from))) file = one;
  check(file != nullptr, "a copy on the disk lane is of a file's bytes");
  return thread_->enqueue([=, first = std::move(first)] {
    if (first) first();
    file->copy(to, from, bytes);
  });
}

}  // namespace thimble
