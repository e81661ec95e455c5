// How an error reads on a terminal, and the distance behind "did you mean".
#include "base/error.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace thimble {

Error::Error(Fault fault, Problem problem) : fault_(fault), problem_(std::move(problem)) {
  const auto add = [&](std::string_view part) {
    for (const char c : part) {  // a file's words may be hostile: no control character reaches a terminal
      const auto u = static_cast<unsigned char>(c);
      if ((u < 0x20 && c != '\n') || u == 0x7f) text_ += fmt::format("\\x{:02x}", u);
      else text_ += c;
    }
  };
  const auto line = [&](std::string_view label, const std::string& part) {
    if (!part.empty()) add(fmt::format("\n  {:<9} {}", label, part));
  };
  add(problem_.what);
  line("where:", problem_.where);
  line("expected:", problem_.expected);
  line("found:", problem_.found);
  line("fix:", problem_.fix);
}

void fail_check(std::string_view what, std::source_location at) {
  std::string_view file = at.file_name();
  if (const auto src = file.rfind("src/"); src != file.npos) file.remove_prefix(src);
  throw Error(Fault::internal, {.what = std::string(what),
                                .where = fmt::format("{}:{} in {}", file, at.line(), at.function_name()),
                                .fix = "this is a defect of thimble; please report it with the command you ran"});
}

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    int diagonal = row[0];
    row[0] = int(i) + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const int substituted = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

}  // namespace thimble
