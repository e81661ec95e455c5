// The disk tier: bytes come back as they went, beside other copies too; nothing is seen in its folder; a disk that refuses or fails says so once.
#include "device/disk.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "folder_on_disk.h"

namespace thimble {
namespace {

DeviceSpec with_disk(const fs::path& folder) {
  DeviceSpec spec = this_cpu();
  spec.disk = folder;
  return spec;
}

Fault fault_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_FALSE(e.problem().what.empty());
    EXPECT_FALSE(e.problem().where.empty()) << e.what();
    return e.fault();
  }
  ADD_FAILURE() << "no error";
  return Fault::internal;
}

TEST(Disk, BytesComeBackAndNothingIsSeenInItsFolder) {
  const FolderOnDisk folder;
  constexpr int64_t bytes = (int64_t{20} << 20) + 12345;  // several pieces, and a part of a page
  std::vector<uint32_t> sent(bytes / 4), got(bytes / 4);
  std::iota(sent.begin(), sent.end(), 1u);
  const auto device = cpu_device(with_disk(folder.path));
  const Storage file = device->reserve(Tier::disk, bytes + 2 * disk_page);
  EXPECT_TRUE(fs::is_empty(folder.path));
  EXPECT_EQ(folder.open_files().size(), 1u);
  std::byte* at = file.data() + disk_page;
  const Ticket written = device->copy(Lane::disk, at, sent.data(), std::ssize(sent) * 4, 0);
  const Ticket read = device->copy(Lane::disk, got.data(), at, std::ssize(got) * 4, written);
  std::vector<uint32_t> copied(got.size());
  device->wait(device->copy(Lane::in, copied.data(), got.data(), std::ssize(got) * 4, 0, read));
  EXPECT_EQ(got, sent);
  EXPECT_EQ(copied, sent);
}

TEST(Disk, GoesWithItsStorage) {
  const FolderOnDisk folder;
  const auto device = cpu_device(with_disk(folder.path));
  { const Storage a = device->reserve(Tier::disk, 1 << 16), b = device->reserve(Tier::disk, 1 << 16); EXPECT_EQ(folder.open_files().size(), 2u); }
  EXPECT_TRUE(folder.open_files().empty());
}

// What was read or written does not stay in the page cache, which would be RAM.
TEST(Disk, LeavesNothingInThePageCache) {
  const FolderOnDisk folder;
  constexpr int64_t bytes = int64_t{32} << 20;
  DiskFile file(folder.path, bytes);
  std::vector<std::byte> data(bytes, std::byte{3});
  file.copy(file.data(), data.data(), bytes);
  file.copy(data.data(), file.data(), bytes);
  const int fd = ::open(folder.open_files().at(0).c_str(), O_RDONLY);
  void* map = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  ASSERT_NE(map, MAP_FAILED);
  std::vector<unsigned char> there(bytes / 4096);
  ASSERT_EQ(::mincore(map, bytes, there.data()), 0);
  ::munmap(map, bytes);
  const auto pages = std::count_if(there.begin(), there.end(), [](unsigned char c) { return c & 1; });
  if (folder.in_memory()) GTEST_SKIP() << "this folder is in memory";
  EXPECT_LT(pages, std::ssize(there) / 8);
}

TEST(Disk, AFolderThatIsNotThereOrHasNoRoomIsAnError) {
  const FolderOnDisk folder;
  EXPECT_EQ(fault_of([&] { DiskFile(folder.path / "absent", 4096); }), Fault::bad_input);
  EXPECT_EQ(fault_of([&] { DiskFile("/proc", 4096); }), Fault::bad_input);  // no file is made there, whoever asks
  EXPECT_EQ(fault_of([&] { DiskFile(folder.path, int64_t{1} << 60); }), Fault::does_not_fit);
  EXPECT_THROW(cpu_device()->reserve(Tier::disk, 4096), Error);
}

TEST(Disk, AFileThatEndsTooEarlyIsOneErrorForWhoeverWaits) {
  const FolderOnDisk folder;
  constexpr int64_t bytes = int64_t{1} << 20;
  const auto device = cpu_device(with_disk(folder.path));
  const Storage file = device->reserve(Tier::disk, bytes);
  std::vector<std::byte> data(bytes), copied(bytes);
  folder.cut_short(bytes / 2);
  const Ticket read = device->copy(Lane::disk, data.data(), file.data(), bytes, 0);
  const Ticket there = device->copy(Lane::in, copied.data(), data.data(), bytes, 0, read);
  EXPECT_EQ(fault_of([&] { device->wait(there); }), Fault::bad_input);
  EXPECT_EQ(fault_of([&] { device->wait(device->copy(Lane::disk, data.data(), file.data(), 16, 0)); }), Fault::bad_input);
}

}  // namespace
}  // namespace thimble
