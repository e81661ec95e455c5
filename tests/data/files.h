// Where the tests of this room find their files, and a folder of their own that is gone afterwards.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>

#include "base/file.h"
#include "data/tokenizer.h"
#include "golden_folder.h"

namespace thimble::data {

inline fs::path golden(std::string_view name) { return golden_folder() / name; }
inline fs::path stories_folder() { return fs::path(THIMBLE_SOURCE_DIR) / "../shared/data/stories260K"; }

// A tokenizer of tests/golden, which lie there as single files.
inline std::unique_ptr<Tokenizer> golden_tokenizer(std::string_view name, std::string_view config = "null") {
  return std::make_unique<Tokenizer>(read_tokenizer_file(golden(name)), parse_json(config, "config"));
}

struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "thimble-data-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() { fs::remove_all(path); }
  fs::path write(std::string_view name, std::string_view text) const {
    write_atomically(path / name, text);
    return path / name;
  }
};

// The text of the Error that f throws; a test fails where it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::bad_input) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "an error was expected";
  return "";
}

}  // namespace thimble::data
