// A folder is whole or not there, and what happened to it later is seen.
#include "store/sealed_folder.h"

#include "base/json.h"
#include "store/files.h"

namespace thimble::store {
namespace {

int entries(const fs::path& folder) { return int(std::distance(fs::directory_iterator(folder), fs::directory_iterator())); }

void make(const fs::path& path, std::string_view text, int64_t serial) {
  SealedFolder f(path);
  f.add(write_atomically(f.inside() / "values", text));
  f.add(write_atomically(f.inside() / "empty", ""));
  EXPECT_FALSE(fs::exists(f.inside() / manifest_name));
  f.seal(serial);
}

TEST(SealedFolder, AppearsWhole) {
  const Folder dir;
  make(dir.path / "one", "abc", 7);
  EXPECT_EQ(damage_of(dir.path / "one"), "");
  EXPECT_EQ(entries(dir.path), 1);
  const auto m = read_manifest(dir.path / "one");
  ASSERT_TRUE(m);
  EXPECT_EQ(m->serial, 7);
  ASSERT_EQ(m->files.size(), 2u);
  EXPECT_EQ(m->files[0], measure(dir.path / "one/values"));
}

TEST(SealedFolder, WhatWasNotSealedLeavesNothing) {
  const Folder dir;
  {
    SealedFolder f(dir.path / "one");
    f.add(write_atomically(f.inside() / "values", "abc"));
    EXPECT_EQ(entries(dir.path), 1);
  }
  EXPECT_EQ(entries(dir.path), 0);
}

TEST(SealedFolder, TakesThePlaceOfAnOlderOne) {
  const Folder dir;
  make(dir.path / "one", "old", 1);
  { const SealedFolder given_up(dir.path / "one"); }
  EXPECT_EQ(read_text(dir.path / "one/values"), "old") << "until the new one is sealed the old one stands";
  make(dir.path / "one", "new", 2);
  EXPECT_EQ(read_text(dir.path / "one/values"), "new");
  EXPECT_EQ(damage_of(dir.path / "one"), "");
  EXPECT_EQ(entries(dir.path), 1);
  remove_sealed(dir.path / "one");
  EXPECT_EQ(entries(dir.path), 0);
}

TEST(SealedFolder, LeftoversOfAKillAreInNobodysWay) {
  const Folder dir;
  fs::create_directories(dir.path / "one.partial/deep");
  dir.put("one.partial/values", "half");
  make(dir.path / "one", "abc", 1);
  EXPECT_EQ(entries(dir.path), 1);
  EXPECT_EQ(entries(dir.path / "one"), 3);
}

TEST(SealedFolder, DamageIsNamed) {
  const Folder dir;
  const auto damaged = [&](const std::function<void(const fs::path&)>& harm) {
    make(dir.path / "one", "abcdef", 1);
    harm(dir.path / "one");
    return damage_of(dir.path / "one");
  };
  const auto manifest_of = [&](const fs::path& f) { return parse_json(read_text(f / manifest_name), manifest_name); };
  const auto with = [&](const fs::path& f, const std::function<void(Json&)>& edit) {
    Json m = manifest_of(f);
    edit(m);
    write_atomically(f / manifest_name, m.dump());
  };
  EXPECT_EQ(damaged([](const fs::path& f) { fs::resize_file(f / "values", 5); }), "values has 5 bytes, and had 6");
  EXPECT_EQ(damaged([](const fs::path& f) { write_atomically(f / "values", "abcdeg"); }), "values is not what was written");
  EXPECT_EQ(damaged([](const fs::path& f) { fs::remove(f / "values"); }), "values: No such file or directory");
  EXPECT_EQ(damaged([](const fs::path& f) { fs::remove(f / manifest_name); }), "manifest.json: No such file or directory");
  EXPECT_EQ(damaged([](const fs::path& f) { write_atomically(f / "beside", "notes of a person"); }), "");
  for (const auto& edit : std::vector<std::function<void(Json&)>>{
           [](Json& m) { m["format"] = 2; }, [](Json& m) { m.erase("serial"); }, [](Json& m) { m["files"] = 3; },
           [](Json& m) { m["files"][0] = "values"; }, [](Json& m) { m["files"][0]["name"] = "../one/values"; },
           [](Json& m) { m["files"][0]["name"] = ""; }, [](Json& m) { m["files"][0]["bytes"] = -1; },
           [](Json& m) { m["files"][0]["xxh64"] = "12"; }, [](Json& m) { m["files"][0]["xxh64"] = "zzzzzzzzzzzzzzzz"; },
           [](Json& m) { m = Json::array(); }})
    EXPECT_NE(damaged([&](const fs::path& f) { with(f, edit); }), "");
  for (size_t length : {0, 1, 20, 100}) {
    const auto cut = [&](const fs::path& f) { fs::resize_file(f / manifest_name, length); };
    EXPECT_NE(damaged(cut), "") << length;
    EXPECT_FALSE(read_manifest(dir.path / "one"));
  }
}

}  // namespace
}  // namespace thimble::store
