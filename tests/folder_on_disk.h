// A folder of a test's own for the disk tier, whose nameless files it finds among those that this process has open.
#pragma once
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

namespace thimble {

struct FolderOnDisk {
  FolderOnDisk() {
    std::string name = "/var/tmp/thimble-test-XXXXXX";
    path = ::mkdtemp(name.data());
  }
  ~FolderOnDisk() { std::filesystem::remove_all(path); }
  FolderOnDisk(const FolderOnDisk&) = delete;
  FolderOnDisk& operator=(const FolderOnDisk&) = delete;

  // Paths by which they can be opened once more.
  std::vector<std::string> open_files() const {
    std::vector<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      if (std::filesystem::read_symlink(entry, gone).string().starts_with(path.string() + "/")) all.push_back(entry.path());
    }
    return all;
  }
  void cut_short(int64_t bytes) const {
    for (const auto& file : open_files())
      if (::truncate(file.c_str(), bytes) != 0) throw std::runtime_error("a file on disk cannot be cut short");
  }
  bool in_memory() const {
    struct statfs s {};
    return ::statfs(path.c_str(), &s) == 0 && s.f_type == TMPFS_MAGIC;
  }
  std::filesystem::path path;
};

}  // namespace thimble
