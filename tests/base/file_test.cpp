// Hostile paths, atomic writes, and sizes in words.
#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/error.h"

namespace thimble {
namespace {

class File : public testing::Test {
 protected:
  File() : dir(fs::temp_directory_path() / ("thimble-file-" + std::to_string(::getpid()))) { fs::create_directories(dir); }
  ~File() override { fs::remove_all(dir); }
  fs::path put(const char* name, std::string_view text) const {
    std::ofstream(dir / name, std::ios::binary) << text;
    return dir / name;
  }
  int files() const { return int(std::distance(fs::directory_iterator(dir), {})); }
  fs::path dir;
};

void expect_bad_input(const std::function<void()>& f, std::string_view words) {
  try {
    f();
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::bad_input);
    EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
  }
}

TEST_F(File, MapsAndReads) {
  const auto path = put("a", std::string("he\0llo", 6));
  const MappedFile m(path);
  EXPECT_EQ(m.text(), std::string_view("he\0llo", 6));
  m.will_read(0, 6), m.done_with(2, 3), m.will_read(-1, 5), m.will_read(3, 1000);  // advice out of range is no advice
  EXPECT_EQ(m.text()[5], 'o');
  EXPECT_EQ(read_text(path), std::string("he\0llo", 6));
  EXPECT_EQ(read_text(path, 6).size(), 6u);
  expect_bad_input([&] { read_text(path, 5); }, "larger");
}

TEST_F(File, PiecesOfAFile) {
  std::string text;
  for (int i = 0; i < 400'000; ++i) text += fmt::format("{} ", i);
  const auto path = put("a", text);
  const auto all = [&](int64_t begin, int64_t bytes) {
    FilePieces file(path, begin, bytes);
    std::string joined;
    for (std::string_view piece; !(piece = file.next()).empty(); joined += piece) EXPECT_LE(piece.size(), 1u << 20);
    EXPECT_EQ(int64_t(joined.size()), file.bytes());
    EXPECT_TRUE(file.next().empty());
    return joined;
  };
  EXPECT_EQ(all(0, -1), text);
  EXPECT_EQ(all(7, 1'500'000), text.substr(7, 1'500'000));
  EXPECT_EQ(all(int64_t(text.size()), -1), "");
  EXPECT_EQ(all(int64_t(text.size()) + 5, -1), "");
  FilePieces file(path);
  file.next();
  fs::resize_file(path, 1 << 20);
  expect_bad_input([&] { file.next(); }, "became shorter");
  expect_bad_input([&] { FilePieces(dir / "absent"); }, "No such file");
  expect_bad_input([&] { FilePieces{dir}; }, "a directory");
}

TEST_F(File, AMapMovesWithItsBytes) {
  MappedFile a(put("a", "first")), b(put("b", "second"));
  a = std::move(b);
  EXPECT_EQ(a.text(), "second");
  const MappedFile c(std::move(a));
  EXPECT_EQ(c.text(), "second");
  EXPECT_EQ(c.path().filename(), "b");
}

TEST_F(File, AnEmptyFileIsEmpty) {
  const auto path = put("empty", "");
  EXPECT_EQ(MappedFile(path).bytes().size(), 0u);
  EXPECT_EQ(read_text(path), "");
}

TEST_F(File, OnlyRegularFiles) {
  const auto fifo = dir / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const fs::path& path : {dir, fs::path("/dev/zero"), fifo}) {
    expect_bad_input([&] { MappedFile m(path); }, "not a regular file");
    expect_bad_input([&] { read_text(path); }, "not a regular file");
  }
  expect_bad_input([&] { read_text(dir / "absent"); }, "No such file");
  expect_bad_input([&] { MappedFile m(dir / "absent"); }, (dir / "absent").string());
}

TEST_F(File, ASparseGiantIsRefusedBySizeBeforeItIsRead) {
  const auto path = put("sparse", "x");
  ASSERT_EQ(::truncate(path.c_str(), off_t{1} << 40), 0);
  expect_bad_input([&] { read_text(path); }, "1.00 TiB");
}

TEST_F(File, AtomicWritesAppearWholeOrNotAtAll) {
  const auto path = dir / "out";
  write_atomically(path, "old");
  {
    AtomicFile f(path);
    f.write("new", 3);
    EXPECT_EQ(read_text(path), "old");
  }
  EXPECT_EQ(read_text(path), "old") << "never committed";
  EXPECT_EQ(files(), 1) << "and nothing is left behind";
  {
    AtomicFile f(path);
    f.write("ne", 2), f.write("w", 1), f.write("", 0);
    f.commit();
  }
  EXPECT_EQ(read_text(path), "new");
  EXPECT_EQ(files(), 1);
}

TEST_F(File, WhatCannotBeWrittenSaysWhere) {
  expect_bad_input([&] { write_atomically(dir / "no" / "such" / "folder", "x"); }, "No such file");
  fs::create_directories(dir / "taken" / "inside");
  expect_bad_input([&] { write_atomically(dir / "taken", "x"); }, "rename");
  expect_bad_input([&] { write_atomically(dir / "taken", "x"); }, std::strerror(EISDIR));
  EXPECT_EQ(files(), 1) << "the finished file that found no place is gone";
}

TEST_F(File, WhatWasWrittenIsKnownByItsHash) {
  const std::string text(100'003, 'q');
  const WrittenFile written = write_atomically(dir / "one", text), copied = copy_atomically(dir / "one", dir / "two");
  EXPECT_EQ(written.name, "one");
  EXPECT_EQ(written.bytes, int64_t(text.size()));
  EXPECT_EQ(measure(dir / "one"), written);
  EXPECT_EQ(measure(dir / "two"), copied);
  EXPECT_EQ(copied.xxh64, written.xxh64);
  EXPECT_EQ(read_text(dir / "two"), text);
  EXPECT_GT(free_disk_bytes(dir), 0);
  EXPECT_EQ(free_disk_bytes(dir / "absent"), INT64_MAX);
}

// Values of the reference implementation.
TEST(Xxh64, KnownValues) {
  const std::pair<std::string, const char*> known[] = {{"", "ef46db3751d8e999"}, {"a", "d24ec4f1a98c6e5b"}, {"abc", "44bc2cf5ad770999"},
                                                       {"Nobody inspects the spammish repetition", "fbcea83c8a378bf1"}};
  for (const auto& [text, hash] : known) {
    Xxh64 h;
    h.add(text.data(), int64_t(text.size()));
    EXPECT_EQ(Xxh64::text(h.value()), hash) << text;
  }
}

TEST(Xxh64, PiecesMakeTheWhole) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += char(i * 7);
  Xxh64 whole;
  whole.add(text.data(), 300);
  for (const int64_t piece : {1, 7, 31, 32, 33, 100}) {
    Xxh64 h;
    for (int64_t at = 0; at < 300; at += piece) h.add(text.data() + at, std::min<int64_t>(piece, 300 - at));
    EXPECT_EQ(h.value(), whole.value()) << piece;
  }
}

TEST(Size, Words) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(int64_t{3} << 29), "1.50 GiB");
  EXPECT_EQ(human_bytes(-2048), "-2.0 KiB");
}

TEST(Size, Parsing) {
  const std::pair<const char*, int64_t> good[] = {{"0", 0}, {"123456", 123456}, {"24GiB", int64_t{24} << 30}, {"24G", int64_t{24} << 30}, {"24 GB", 24000000000},
                                                  {"1.5g", int64_t{3} << 29}, {"800MB", 800000000}, {"2k", 2048}, {"7b", 7}, {"1TiB", int64_t{1} << 40}};
  for (const auto& [text, bytes] : good) EXPECT_EQ(parse_bytes(text, "vram"), bytes) << text;
  for (const char* bad : {"", "GiB", "-1G", "nan", "inf", "1e30", "12 parsecs", "5 XB", "5GiBs", "5 G B", "9999999999999 TiB"}) {
    try {
      parse_bytes(bad, "vram");
      ADD_FAILURE() << "accepted: " << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::usage);
      EXPECT_EQ(e.problem().where, "vram");
    }
  }
}

}  // namespace
}  // namespace thimble
