// Every kind of file gives the same rows; every damaged one ends in an error that names the place.
#include "data/rows.h"

#include <cstring>
#include <fstream>

#include "files.h"

namespace thimble::data {
namespace {

std::vector<Row> rows_of(const fs::path& path) {
  const auto reader = open_rows(path);
  std::vector<Row> all;
  for (Row row; reader->next(row);) all.push_back(row);
  return all;
}

std::vector<Json> json_of(const fs::path& path) {
  std::vector<Json> all;
  for (const Row& row : rows_of(path)) all.push_back(parse_json(row.text, path.string()));
  return all;
}

class RowsTest : public testing::Test {
 protected:
  TemporaryFolder folder;
  void expect_error(std::string_view name, std::string_view text, std::string_view place, std::string_view part) const {
    const std::string found = error_of([&] { rows_of(folder.write(name, text)); });
    EXPECT_NE(found.find(place), std::string::npos) << "expected \"" << place << "\" in: " << found;
    EXPECT_NE(found.find(part), std::string::npos) << "expected \"" << part << "\" in: " << found;
  }
};

TEST_F(RowsTest, ParquetOfEveryKindGivesTheRowsOfPyarrow) {
  const auto expected = json_of(golden("parquet/rows.jsonl"));
  ASSERT_EQ(expected.size(), 60u);
  for (const char* kind : {"snappy", "zstd_v2", "gzip_plain", "none_groups", "flat_lists"}) {
    const auto found = json_of(golden(fmt::format("parquet/{}.parquet", kind)));
    ASSERT_EQ(found.size(), expected.size()) << kind;
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(found[i], expected[i]) << kind << " row " << i + 1;
  }
  EXPECT_EQ(rows_of(golden("parquet/none_groups.parquet"))[40].line, 41);
}

TEST_F(RowsTest, ParquetThatIsNotReadIsRefusedByName) {
  const auto error = [](const char* name) { return error_of([&] { rows_of(golden(fmt::format("parquet/{}.parquet", name))); }); };
  EXPECT_NE(error("delta").find("DELTA_BINARY_PACKED"), std::string::npos) << error("delta");
  EXPECT_NE(error("delta").find("column 'count'"), std::string::npos);
  EXPECT_NE(error("lz4").find("LZ4"), std::string::npos) << error("lz4");
}

TEST_F(RowsTest, ParquetOfWrongEndsAndFooters) {
  const std::string good = read_text(golden("parquet/snappy.parquet"));
  expect_error("a.parquet", "", "a.parquet", "12 bytes");
  expect_error("a.parquet", "PAR1PAR1", "a.parquet", "12 bytes");
  expect_error("a.parquet", good.substr(0, good.size() - 1), "a.parquet", "PAR1 at both");
  expect_error("a.parquet", "{\"prompt\": \"this is not parquet\"}", "a.parquet", "PAR1 at both");
  expect_error("a.parquet", good.substr(0, good.size() - 4) + "PARE", "a.parquet", "encrypted");
  std::string long_footer = good;
  const uint32_t length = 0x7fffffff;
  std::memcpy(long_footer.data() + good.size() - 8, &length, 4);
  expect_error("a.parquet", long_footer, "a.parquet", "footer");
  const auto with_footer = [](std::string_view footer) {
    std::string file = "PAR1" + std::string(footer) + "0000PAR1";
    const auto n = uint32_t(footer.size());
    std::memcpy(file.data() + file.size() - 8, &n, 4);
    return file;
  };
  expect_error("a.parquet", with_footer(std::string(100, '\x1c')), "a.parquet", "32 levels");       // structs in structs
  expect_error("a.parquet", with_footer(std::string(100, '\x19') ), "a.parquet", "a.parquet");      // lists in lists
  expect_error("a.parquet", with_footer("\x29\xfc\xff\xff\xff\xff\x0f"), "a.parquet", "longer than the file");  // 4e9 elements
  expect_error("a.parquet", with_footer(std::string(1, '\0')), "a.parquet", "no schema");
  expect_error("a.parquet", with_footer("\x05\xfe\xff\xff\xff\x0f\x02\xf5\x02"), "a.parquet", "a field with id");  // beyond i16, and beyond int with the next
  expect_error("a.parquet", with_footer("\x19\xf3\x80\x80\x40" + std::string(1 << 20, '\0')), "a.parquet", "small parts");  // a million bytes, each an element
}

// Every byte changed in three ways, and the file cut at every place: rows, or an error that names the file; never anything else.
TEST_F(RowsTest, ParquetDamagedAnywhereNeverDoesHarm) {
  for (const char* kind : {"snappy", "zstd_v2", "gzip_plain", "none_groups"}) {
    const std::string good = read_text(golden(fmt::format("parquet/{}.parquet", kind)));
    const size_t stride = good.size() / 50 + 1;
    int refused = 0;
    for (size_t at = 0; at < good.size(); at += stride)
      for (const int change : {0xff, 0x01, 0x80}) {
        std::string bad = good;
        bad[at] = char(bad[at] ^ change);
        const fs::path path = folder.path / "bad.parquet";
        std::ofstream(path, std::ios::binary) << bad;
        try {
          rows_of(path);
        } catch (const Error& e) {
          ++refused;
          ASSERT_EQ(e.fault(), Fault::bad_input) << e.what();
          ASSERT_NE(std::string_view(e.what()).find("bad.parquet"), std::string_view::npos) << e.what();
        }
      }
    EXPECT_GT(refused, 15) << kind;
  }
}

TEST_F(RowsTest, TablesGiveObjectsOfStrings) {
  const auto rows = json_of(folder.write("a.csv", "\xef\xbb\xbfprompt,response\r\n\"a, \"\"b\"\"\nc\",1\r\n\r\nplain \"quote,\"\"\nlast,\"x\""));
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0], (Json{{"prompt", "a, \"b\"\nc"}, {"response", "1"}}));
  EXPECT_EQ(rows[1], (Json{{"prompt", "plain \"quote"}, {"response", ""}}));
  EXPECT_EQ(rows[2], (Json{{"prompt", "last"}, {"response", "x"}}));
  EXPECT_EQ(rows_of(folder.path / "a.csv")[1].line, 5);
  EXPECT_EQ(json_of(folder.write("a.tsv", "a\tb\n1,5\t2\n"))[0], (Json{{"a", "1,5"}, {"b", "2"}}));
}

TEST_F(RowsTest, DamagedTablesAreRefusedWithTheirLine) {
  expect_error("a.csv", "a,b\n1,2\n1\n", "a.csv:3", "another number of cells");
  expect_error("a.csv", "a,b\n1,2,3\n", "a.csv:2", "another number of cells");
  expect_error("a.csv", "a,b\n1,\"2\n3,4\n", "a.csv:2", "never closed");
  expect_error("a.csv", "a,b\n1,\"2\"x\n", "a.csv:2", "follows a closing quote");
  expect_error("a.csv", "a,a\n1,2\n", "a.csv:1", "one name");
  expect_error("a.csv", "a,b\n1,\xff\n", "a.csv:2", "UTF-8");
  expect_error("a.csv", "a,\xff\n1,2\n", "a.csv:1", "UTF-8");
  expect_error("a.csv", std::string(100000, ','), "a.csv:1", "too many columns");
  expect_error("a.csv", std::string("\xff\xfe" "a\0", 4), "a.csv:1", "UTF-16");
}

TEST_F(RowsTest, AFolderIsItsDataFilesByName) {
  folder.write("b.jsonl", "{}");
  folder.write("a.parquet", "");
  folder.write("README.md", "");
  folder.write("dataset_info.json", "{}");
  EXPECT_EQ(data_files(folder.path), (std::vector<fs::path>{folder.path / "a.parquet", folder.path / "b.jsonl"}));
  fs::create_directory(folder.path / "empty");
  EXPECT_NE(error_of([&] { data_files(folder.path / "empty"); }).find("no data file"), std::string::npos);
}

}  // namespace
}  // namespace thimble::data
