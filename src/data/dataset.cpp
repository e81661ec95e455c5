// Rows are taken in blocks: while one block is tokenised by all threads, the next is read. A block is bounded in rows and bytes.
#include "data/dataset.h"

#include <algorithm>
#include <bit>
#include <exception>
#include <future>

#include "base/json.h"
#include "base/log.h"
#include "base/threads.h"
#include "data/token_file.h"

namespace thimble::data {
namespace {

constexpr size_t block_rows = 4096;
constexpr size_t block_bytes = 4 << 20;

struct Work {
  Row row;
  TokenizedChat tokens;
  std::string unusable;
  std::exception_ptr error;
};
using Block = std::vector<Work>;

// What tells that a file was written to while we read it.
struct Stamp {
  uintmax_t bytes;
  fs::file_time_type time;
  explicit Stamp(const fs::path& p) : bytes(fs::file_size(p)), time(fs::last_write_time(p)) {}
  bool operator==(const Stamp&) const = default;
};

void expect_unchanged(const fs::path& file, const Stamp& before) {
  if (Stamp(file) != before)
    throw Error(Fault::bad_input, {.what = "a data file changed while it was read", .where = file.string(), .expected = "the same bytes from beginning to end",
                                   .found = "another size or time of writing", .fix = "start again once it is written"});
}

class Tokenization {
 public:
  Tokenization(const Tokenizer& tokenizer, const Chat& chat, const DatasetOptions& options, const Sink& sink, const OnBadRow& on_bad_row)
      : tokenizer_(tokenizer), chat_(chat), options_(options), sink_(sink), on_bad_row_(on_bad_row), rows_left_(options.max_samples) {
    check(options.cutoff_len >= 2, "an example has room for a token and its target");
    report_.lengths.resize(64);
  }

  // A file's first rows, and what they look like.
  struct Opened {
    std::unique_ptr<RowReader> rows;
    Stamp before;
    Block block;
    std::optional<RowFormat> format;
  };
  Opened open(const fs::path& path, const std::optional<Layout>& layout) {
    Opened file{open_rows(path), Stamp(path), {}, {}};
    file.block = read_block(*file.rows);
    if (file.block.empty() && rows_left_ != 0)
      throw Error(Fault::bad_input, {.what = "a data file has no rows", .where = path.string(), .expected = "at least one row", .found = "an empty file"});
    if (!file.block.empty()) file.format = format_of(*file.rows, file.block, layout);
    return file;
  }

  void add_file(const fs::path& path, const std::optional<Layout>& layout) {
    auto [rows, before, block, format] = open(path, layout);
    while (!block.empty()) {
      auto reading = std::async(std::launch::async, [&rows = *rows, this] { return read_block(rows); });
      tokenize_block(block, *rows, format);
      for (Work& w : block) add(w, rows->at_line(w.row.line));
      block = reading.get();
    }
    expect_unchanged(path, before);
  }

  DatasetReport finish() {
    if (!joined_.empty()) cut_joined(joined_.size());
    while (!report_.lengths.empty() && report_.lengths.back() == 0) report_.lengths.pop_back();
    return std::move(report_);
  }

 private:
  Block read_block(RowReader& rows) {
    Block block;
    size_t bytes = 0;
    for (Work w; block.size() < block_rows && bytes < block_bytes && rows_left_ != 0 && rows.next(w.row); w = {}) {
      bytes += w.row.text.size();
      rows_left_ -= rows_left_ > 0;
      block.push_back(std::move(w));
    }
    return block;
  }

  // Of the first row that can be read, where nothing else says it; of plain text none.
  std::optional<RowFormat> format_of(const RowReader& rows, const Block& block, const std::optional<Layout>& layout) {
    std::optional<RowFormat> format;
    if (layout) format.emplace(*layout);
    for (size_t i = 0; !format && !rows.is_plain_text(); ++i) {
      const std::string where = rows.at_line(block[i].row.line);
      try {
        format.emplace(find_layout(parse_json(block[i].row.text, where), where));
      } catch (const Error&) {
        if (!on_bad_row_ || i + 1 == block.size()) throw;
      }
    }
    if (rows.is_plain_text()) format.reset();
    const bool is_text = !format || format->form() == RowForm::text;
    if (options_.stage == Stage::pretrain && !is_text)
      throw Error(Fault::bad_input, {.what = "stage pt trains on texts", .where = rows.at_line(block[0].row.line), .expected = "rows with the key 'text', or a .txt file",
                                     .found = std::string(name_of(format->form())), .fix = "set stage: sft"});
    if (options_.stage == Stage::sft && !format)
      throw Error(Fault::bad_input, {.what = "stage sft trains on questions and answers", .where = rows.at_line(1), .expected = "a .jsonl, .json, .csv or .parquet file",
                                     .found = "plain text", .fix = "set stage: pt"});
    const std::string form(format ? name_of(format->form()) : "plain text, a document a line");
    std::string& all = report_.form;
    if (all.find(form) == all.npos) all += (all.empty() ? "" : "; ") + form;
    return format;
  }

  void tokenize_block(Block& block, const RowReader& rows, const std::optional<RowFormat>& format) {
    const auto n = int64_t(block.size());
#pragma omp parallel for schedule(dynamic, 8)  // rows differ in length by orders of magnitude; each result has its own place
    for (int64_t i = 0; i < n; ++i) {
      Work& w = block[size_t(i)];
      try {
        tokenize_row(w, format, rows.at_line(w.row.line));
      } catch (...) {
        w.error = std::current_exception();  // thrown again in the order of the rows
      }
    }
  }

  void tokenize_row(Work& w, const std::optional<RowFormat>& format, const std::string& where) const {
    if (!format) return tokenize_text(w.row.text, w.tokens);
    Sample sample = format->read(parse_json(w.row.text, where), where);
    if (sample.text) return tokenize_text(*sample.text, w.tokens);
    w.unusable = std::move(sample.unusable);
    if (!w.unusable.empty()) return;
    if (!chat_.shows_tools() && (!sample.tools.is_null() || std::any_of(sample.messages.begin(), sample.messages.end(), [](const Message& m) { return !m.tool_calls.is_null(); })))
      fail_field(where, "tools", "conversations without calls of tools: the model's folder has no chat template that shows them", &sample.tools);
    if (!options_.default_system.empty() && sample.messages.front().role != "system") sample.messages.insert(sample.messages.begin(), {"system", options_.default_system});
    w.tokens = chat_.encode(sample.messages, {.train_on_prompt = options_.train_on_prompt, .mask_history = options_.mask_history, .tools = sample.tools});
  }

  void tokenize_text(const std::string& text, TokenizedChat& out) const {
    auto& ids = out.ids;
    ids = tokenizer_.before();
    const auto words = tokenizer_.encode(text, false, false);
    ids.insert(ids.end(), words.begin(), words.end());
    ids.insert(ids.end(), tokenizer_.after().begin(), tokenizer_.after().end());
    if (const auto eos = tokenizer_.eos(); eos && ids.size() > tokenizer_.before().size() && ids.back() != *eos) ids.push_back(*eos);
    out.trained.assign(ids.size(), 1);
  }

  void drop(const std::string& reason, const std::string& where) {
    ++report_.dropped[reason];
    if (report_.first_dropped.empty()) report_.first_dropped = where;
  }

  void refuse(const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const Error& e) {
      if (!on_bad_row_) throw;
      on_bad_row_(e);
    }
  }

  void add(Work& w, const std::string& where) {
    ++report_.rows;
    if (w.error) return refuse(w.error);
    if (!w.unusable.empty()) return drop(w.unusable, where);
    DatasetReport& r = report_;
    auto& [ids, trained] = w.tokens;
    r.longest = std::max(r.longest, int64_t(ids.size()));
    if (!ids.empty()) ++r.lengths[size_t(std::bit_width(ids.size()) - 1)];
    if (options_.stage == Stage::pretrain && options_.packing) {
      joined_.insert(joined_.end(), ids.begin(), ids.end());
      cut_joined(size_t(options_.cutoff_len));
      return;
    }
    const bool learns_something = std::find(trained.begin() + (trained.empty() ? 0 : 1), trained.end(), 1) != trained.end();
    const bool too_long = int64_t(ids.size()) > options_.cutoff_len;
    if (too_long) {
      ids.resize(size_t(options_.cutoff_len));
      trained.resize(ids.size());
    }
    const int64_t learned = ids.empty() ? 0 : std::count(trained.begin() + 1, trained.end(), 1);
    if (learned == 0) return drop(learns_something ? "the answer begins behind cutoff_len" : "no token to learn", where);
    r.truncated += too_long;
    hand_out(ids, trained, learned);
  }

  void hand_out(std::span<const int32_t> ids, std::span<const uint8_t> trained, int64_t learned) {
    ++report_.examples;
    report_.tokens += int64_t(ids.size());
    report_.trained_tokens += learned;
    sink_(ids, trained);
  }

  // Takes pieces of `piece` tokens from the front of what is joined, while there are any.
  void cut_joined(size_t piece) {
    size_t done = 0;
    for (; piece > 0 && joined_.size() - done >= piece; done += piece) {
      if (piece < 2) continue;  // a single token at the end predicts nothing
      hand_out(std::span(joined_).subspan(done, piece), std::vector<uint8_t>(piece, 1), int64_t(piece) - 1);
    }
    joined_.erase(joined_.begin(), joined_.begin() + ptrdiff_t(done));
  }

  const Tokenizer& tokenizer_;
  const Chat& chat_;
  const DatasetOptions& options_;
  const Sink& sink_;
  const OnBadRow& on_bad_row_;
  int64_t rows_left_;  // below 0: all
  std::vector<int32_t> joined_;
  DatasetReport report_;
};

fs::path place_in_cache(const Source& source, const DatasetOptions& o, const TokenCache& cache) {
  Json files = Json::array();
  for (const fs::path& f : source.files) {
    const WrittenFile content = measure(f);
    files.push_back({f.extension().string(), content.bytes, Xxh64::text(content.xxh64)});
  }
  const std::string key = Json{{"version", 1}, {"files", files}, {"layout", source.layout ? source.layout->to_json() : Json()}, {"maker", cache.maker},
                               {"stage", int(o.stage)}, {"cutoff_len", o.cutoff_len}, {"packing", o.packing}, {"train_on_prompt", o.train_on_prompt},
                               {"mask_history", o.mask_history}, {"default_system", o.default_system}, {"max_samples", o.max_samples}}
                              .dump(-1, ' ', false, Json::error_handler_t::replace);
  Xxh64 hash;
  hash.add(key.data(), int64_t(key.size()));
  return cache.folder / (Xxh64::text(hash.value()) + ".tokens");
}

[[noreturn]] void fail_empty(const DatasetReport& r) {
  std::string reasons;
  for (const auto& [reason, n] : r.dropped) reasons += fmt::format("{}{} rows: {}", reasons.empty() ? "" : "; ", n, reason);
  throw Error(Fault::bad_input, {.what = "nothing remains to train on", .where = r.first_dropped, .expected = "at least one example with a token to learn",
                                 .found = reasons, .fix = "raise cutoff_len, or check the answers in the data"});
}

}  // namespace

Json to_json(const DatasetReport& r) {
  return {{"form", r.form}, {"rows", r.rows}, {"examples", r.examples}, {"tokens", r.tokens}, {"trained_tokens", r.trained_tokens}, {"truncated", r.truncated},
          {"longest", r.longest}, {"lengths", r.lengths}, {"dropped", r.dropped}, {"first_dropped", r.first_dropped}};
}

DatasetReport report_of(const Json& j, std::string_view where) {
  const auto number = [&](const char* key) { return require<int64_t>(j, key, where); };
  DatasetReport r{.form = require<std::string>(j, "form", where), .rows = number("rows"), .examples = number("examples"), .tokens = number("tokens"),
                  .trained_tokens = number("trained_tokens"), .truncated = number("truncated"), .longest = number("longest"),
                  .first_dropped = require<std::string>(j, "first_dropped", where)};
  for (const Json& n : j.at("lengths")) r.lengths.push_back(read_as<int64_t>(n, "lengths", where));
  for (const auto& [reason, n] : j.at("dropped").items()) r.dropped[reason] = read_as<int64_t>(n, "dropped", where);
  return r;
}

DatasetReport tokenize(const Source& source, const Tokenizer& tokenizer, const Chat& chat, const DatasetOptions& options, const Sink& sink, const OnBadRow& on_bad_row) {
  Tokenization all(tokenizer, chat, options, sink, on_bad_row);
  for (const fs::path& file : source.files) all.add_file(file, source.layout);
  return all.finish();
}

Dataset read_dataset(const Source& source, const Tokenizer& tokenizer, const Chat& chat, const DatasetOptions& options, const TokenCache& cache) {
  const Sink nowhere;
  const OnBadRow nobody;
  Tokenization beginnings(tokenizer, chat, options, nowhere, nobody);
  for (const fs::path& f : source.files) beginnings.open(f, source.layout);  // what cannot be read says so before all of it is hashed
  std::vector<Stamp> before(source.files.begin(), source.files.end());
  const fs::path place = place_in_cache(source, options, cache);
  std::string damage;
  auto tokens = cache.overwrite ? std::nullopt : open_tokens(place, tokenizer.id_limit(), &damage);
  if (!damage.empty()) log_warning("{} cannot be used ({}): the data is tokenised again", place.string(), damage);
  const bool found = tokens.has_value();
  if (!found) {
    fs::create_directories(cache.folder);
    TokenWriter writer(place);
    const DatasetReport report = tokenize(source, tokenizer, chat, options, [&](auto ids, auto learned) { writer.add(ids, learned); });
    for (size_t i = 0; i < before.size(); ++i) expect_unchanged(source.files[i], before[i]);  // since they were hashed
    if (report.examples == 0) fail_empty(report);
    writer.commit(to_json(report));
    tokens = open_tokens(place, tokenizer.id_limit(), &damage);
    if (!tokens)
      throw Error(Fault::bad_input, {.what = "the tokens just written cannot be read", .where = place.string(), .found = damage, .fix = "name another folder: tokenized_path"});
  }
  return {Examples(std::move(tokens->pool)), report_of(tokens->report, place.string()), found};
}

std::string fingerprint_of_tokenizer(const fs::path& folder) {
  Xxh64 hash;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tiktoken.model", "tokenizer_config.json", "config.json", "generation_config.json", "chat_template.jinja", "chat_template.json"}) {
    const bool there = fs::is_regular_file(folder / name);
    const WrittenFile file = there ? measure(folder / name) : WrittenFile{};
    hash.add(&file.bytes, sizeof file.bytes);
    hash.add(&file.xxh64, sizeof file.xxh64);
  }
  return Xxh64::text(hash.value());
}

}  // namespace thimble::data
