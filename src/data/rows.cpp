// The table of endings.
#include "data/rows.h"

#include <algorithm>
#include <array>

#include "data/csv_rows.h"
#include "data/parquet_rows.h"
#include "data/text_rows.h"

namespace thimble::data {
namespace {

struct Ending {
  std::string_view ending;
  std::unique_ptr<RowReader> (*open)(const fs::path&);
};

constexpr std::array endings{
    Ending{".jsonl", [](const fs::path& p) -> std::unique_ptr<RowReader> { return std::make_unique<TextRows>(p, TextRows::Kind::json_lines); }},
    Ending{".ndjson", [](const fs::path& p) -> std::unique_ptr<RowReader> { return std::make_unique<TextRows>(p, TextRows::Kind::json_lines); }},
    Ending{".json", [](const fs::path& p) -> std::unique_ptr<RowReader> { return std::make_unique<TextRows>(p, TextRows::Kind::json); }},
    Ending{".txt", [](const fs::path& p) -> std::unique_ptr<RowReader> { return std::make_unique<TextRows>(p, TextRows::Kind::plain); }},
    Ending{".csv", [](const fs::path& p) -> std::unique_ptr<RowReader> { return std::make_unique<CsvRows>(p, ','); }},
    Ending{".tsv", [](const fs::path& p) -> std::unique_ptr<RowReader> { return std::make_unique<CsvRows>(p, '\t'); }},
    Ending{".parquet", [](const fs::path& p) -> std::unique_ptr<RowReader> { return std::make_unique<ParquetRows>(p); }},
};

const Ending* ending_of(const fs::path& path) {
  const std::string kind = path.extension().string();
  const auto it = std::find_if(endings.begin(), endings.end(), [&](const Ending& e) { return e.ending == kind; });
  return it == endings.end() ? nullptr : &*it;
}

constexpr const char* known = ".jsonl, .json, .csv, .tsv, .txt or .parquet";

}  // namespace

bool is_data_file(const fs::path& path) { return ending_of(path) != nullptr; }

std::unique_ptr<RowReader> open_rows(const fs::path& path) {
  const Ending* ending = ending_of(path);
  if (!ending)
    throw Error(Fault::bad_input, {.what = "the kind of a data file is not known", .where = path.string(), .expected = known,
                                   .found = path.extension().empty() ? "no extension" : path.extension().string(),
                                   .fix = "convert the file to JSON lines"});
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored))
    throw Error(Fault::bad_input, {.what = "cannot read a data file", .where = path.string(), .expected = "a plain file",
                                   .found = fs::exists(path, ignored) ? "a folder, device or pipe" : "no such file"});
  return ending->open(path);
}

std::vector<fs::path> data_files(const fs::path& path) {
  if (!fs::is_directory(path)) return {path};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.is_regular_file() && is_data_file(entry.path()) && entry.path().filename() != "dataset_info.json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  if (files.empty())
    throw Error(Fault::bad_input, {.what = "a folder of data has no data file in it", .where = path.string(), .expected = std::string("files that end in ") + known});
  return files;
}

}  // namespace thimble::data
