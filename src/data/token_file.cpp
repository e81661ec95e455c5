// Two hashes: one of what the examples are, by which a resumed run knows its data; one of every byte, against damage.
#include "data/token_file.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace thimble::data {
namespace {

constexpr char name[8] = {'T', 'H', 'T', 'O', 'K', 'E', 'N', '1'};
constexpr size_t gathered = size_t{1} << 16;  // tokens that are written at once

struct Tail {
  int64_t tokens, examples, report;
  uint64_t content, all;
  char name[8];
};

}  // namespace

TokenWriter::TokenWriter(const fs::path& path) : file_(path) { write(name, sizeof name); }

void TokenWriter::write(const void* data, int64_t bytes) {
  all_.add(data, bytes);
  file_.write(data, bytes);
}

void TokenWriter::flush() {
  write(waiting_.data(), int64_t(waiting_.size() * sizeof(uint32_t)));
  content_.add(waiting_.data(), int64_t(waiting_.size() * sizeof(uint32_t)));
  waiting_.clear();
}

void TokenWriter::add(std::span<const int32_t> ids, std::span<const uint8_t> learned) {
  check(ids.size() == learned.size(), "each token is learned or not");
  for (size_t t = 0; t < ids.size(); ++t) waiting_.push_back(uint32_t(ids[t]) | (learned[t] ? learned_bit : 0));
  tokens_ += int64_t(ids.size());
  ends_.push_back(tokens_);
  if (waiting_.size() >= gathered) flush();
}

void TokenWriter::commit(const Json& report) {
  flush();
  content_.add(ends_.data(), int64_t(ends_.size() * sizeof(int64_t)));
  const char zeros[8]{};
  if (tokens_ % 2) write(zeros, 4);
  write(ends_.data(), int64_t(ends_.size() * sizeof(int64_t)));
  const std::string text = report.dump();
  write(text.data(), int64_t(text.size()));
  Tail tail{tokens_, examples(), int64_t(text.size()), content_.value(), 0, {}};
  all_.add(&tail, offsetof(Tail, all));
  tail.all = all_.value();
  std::memcpy(tail.name, name, sizeof name);
  file_.write(&tail, sizeof tail);
  file_.commit();
}

std::optional<TokenFile> open_tokens(const fs::path& path, int64_t vocab, std::string* why) {
  const auto no = [&](std::string_view reason) {
    if (why) *why = reason;
    return std::nullopt;
  };
  if (!fs::is_regular_file(path)) return no("");
  MappedFile file(path);
  const std::string_view text = file.text();
  Tail tail;
  if (text.size() < sizeof name + sizeof tail) return no("it is cut short");
  const auto body = int64_t(text.size() - sizeof tail);
  std::memcpy(&tail, text.data() + body, sizeof tail);
  if (std::memcmp(text.data(), name, sizeof name) != 0 || std::memcmp(tail.name, name, sizeof name) != 0) return no("it is no file of tokens of this version");
  if (tail.tokens < 0 || tail.examples < 0 || tail.report < 0 || tail.tokens > body / 4 || tail.examples > body / 8 || tail.report > body ||
      int64_t(sizeof name) + (tail.tokens + 1) / 2 * 8 + tail.examples * 8 + tail.report != body)
    return no("its numbers contradict its size");
  const auto tokens = std::span(reinterpret_cast<const uint32_t*>(text.data() + sizeof name), size_t(tail.tokens));
  const auto ends = std::span(reinterpret_cast<const int64_t*>(text.data() + sizeof name + (tail.tokens + 1) / 2 * 8), size_t(tail.examples));
  constexpr int64_t piece = int64_t{16} << 20;  // whose pages leave memory again
  Xxh64 all;
  for (int64_t at = 0; at < body; at += piece) {
    const int64_t n = std::min(piece, body - at);
    all.add(text.data() + at, n);
    const int64_t first = std::max<int64_t>(0, (at - int64_t(sizeof name)) / 4), last = std::min(tail.tokens, (at + n - int64_t(sizeof name)) / 4);
    for (int64_t t = first; t < last; ++t)
      if (int64_t(tokens[size_t(t)] & ~learned_bit) >= vocab) return no("it holds a token that the model has not");
    file.done_with(at, n);
  }
  all.add(&tail, offsetof(Tail, all));
  if (all.value() != tail.all) return no("its bytes are not those that were written");
  if (!std::is_sorted(ends.begin(), ends.end()) || (ends.empty() ? 0 : ends.back()) != tail.tokens || (!ends.empty() && ends[0] < 0)) return no("its examples overlap");
  Json report = parse_json(std::string_view(text.data() + body - tail.report, size_t(tail.report)), path.string());
  return TokenFile{std::make_shared<TokenPool>(std::move(file), tokens, ends, tail.content), std::move(report)};
}

}  // namespace thimble::data
