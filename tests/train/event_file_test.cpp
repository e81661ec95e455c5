// Records read back by rules written here, checksums beside known ones; TensorBoard's own reader saw such a file: tests/golden/events_check.txt.
#include "train/event_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>

namespace thimble::train {
namespace {

namespace fs = std::filesystem;

TEST(EventFile, Crc32cOfKnownTexts) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
}

std::vector<std::string> records_of(const fs::path& folder) {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    const auto masked = [&](size_t at, std::string_view of) {
      uint32_t crc;
      std::memcpy(&crc, bytes.data() + at, 4);
      const uint32_t plain = crc - 0xa282ead8u;
      return (plain >> 17 | plain << 15) == crc32c(of);
    };
    for (size_t at = 0; at < bytes.size();) {
      uint64_t n;
      std::memcpy(&n, bytes.data() + at, 8);
      EXPECT_TRUE(masked(at + 8, std::string_view(bytes).substr(at, 8)));
      found.push_back(bytes.substr(at + 12, n));
      EXPECT_TRUE(masked(at + 12 + n, found.back()));
      at += 16 + n;
    }
  }
  return found;
}

TEST(EventFile, HoldsItsScalars) {
  const fs::path folder = fs::path(testing::TempDir()) / "events";
  fs::remove_all(folder);
  {
    EventFile file(folder, 300);
    const EventFile::Scalar scalars[] = {{"train/loss", 1.5}, {"train/epoch", 0.25}};
    file.write(300, scalars);
  }
  const auto records = records_of(folder);
  ASSERT_EQ(records.size(), 4u);
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  EXPECT_EQ(records[1].substr(9), std::string("\x10\xac\x02\x3a\x02\x08\x01", 7));  // step 300, a session log that starts
  EXPECT_EQ(records[2].substr(9), std::string("\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0a"
                                              "train/loss\x15\x00\x00\xc0\x3f", 24));
}

TEST(EventFile, AFolderThatRefusesCostsAWarning) {
  EventFile file("/proc/no/such", 0);
  const EventFile::Scalar scalars[] = {{"train/loss", 1.5}};
  file.write(1, scalars);
}

}  // namespace
}  // namespace thimble::train
