// Rows are taken in blocks: read in order, tokenised by all threads, added in order. A block is bounded in rows and bytes.
#include "data/dataset.h"

#include <algorithm>
#include <exception>
#include <functional>

#include "base/json.h"
#include "base/threads.h"
#include "data/row_format.h"
#include "data/rows.h"

namespace thimble::data {
namespace {

constexpr size_t block_rows = 1024;
constexpr size_t block_bytes = 8 << 20;

struct Work {
  Row row;
  TokenizedChat tokens;
  std::exception_ptr error;
};

std::string text_of_document(const Row& row, bool plain, const RowFormat* format, const std::string& where) {
  return plain ? row.text : *format->read(parse_json(row.text, where), where).text;
}

class Builder {
 public:
  Builder(const Tokenizer& tokenizer, const Chat& chat, const DatasetOptions& options)
      : tokenizer_(tokenizer), chat_(chat), options_(options) {
    check(options.cutoff_len >= 2, "an example has room for a token and its target");
  }

  void add_file(const fs::path& path) {
    RowReader rows(path);
    std::optional<RowFormat> format;
    int64_t taken = 0;
    while (read_block(rows, taken)) {
      if (!rows.is_plain_text() && !format) {
        const std::string where = rows.at_line(block_[0].row.line);
        format.emplace(parse_json(block_[0].row.text, where), where);
      }
      if (taken == int64_t(block_.size())) check_stage(rows, format ? &*format : nullptr);
      tokenize_block(rows, format ? &*format : nullptr);
      for (Work& w : block_) add(w, rows.at_line(w.row.line));
    }
    if (taken == 0 && options_.max_samples != 0)
      throw Error(Fault::bad_input,
                  {.what = "a data file has no rows", .where = path.string(), .expected = "at least one row", .found = "an empty file"});
  }

  Dataset finish() {
    if (!joined_.empty()) cut_joined(joined_.size());
    DatasetReport& r = data_.report;
    r.examples = data_.examples.size();
    r.tokens = data_.examples.tokens();
    if (r.examples == 0) {
      std::string reasons;
      for (const auto& [reason, n] : r.dropped) reasons += fmt::format("{}{} rows: {}", reasons.empty() ? "" : "; ", n, reason);
      throw Error(Fault::bad_input, {.what = "nothing remains to train on",
                                     .where = r.first_dropped,
                                     .expected = "at least one example with a token to learn",
                                     .found = reasons,
                                     .fix = "raise cutoff_len, or check the answers in the data"});
    }
    return std::move(data_);
  }

 private:
  bool read_block(RowReader& rows, int64_t& taken) {
    block_.clear();
    size_t bytes = 0;
    Work w;
    while (block_.size() < block_rows && bytes < block_bytes && (options_.max_samples < 0 || taken < options_.max_samples) &&
           rows.next(w.row)) {
      bytes += w.row.text.size();
      ++taken;
      block_.push_back(std::move(w));
      w = {};
    }
    return !block_.empty();
  }

  void check_stage(const RowReader& rows, const RowFormat* format) {
    const bool is_text = !format || format->form() == RowForm::text;
    if (options_.stage == Stage::pretrain && !is_text)
      throw Error(Fault::bad_input, {.what = "stage pt trains on texts",
                                     .where = rows.at_line(block_[0].row.line),
                                     .expected = "rows with the key 'text', or a .txt file",
                                     .found = std::string(name_of(format->form())),
                                     .fix = "set stage: sft"});
    if (options_.stage == Stage::sft && !format)
      throw Error(Fault::bad_input, {.what = "stage sft trains on questions and answers",
                                     .where = rows.at_line(1),
                                     .expected = "a .jsonl or .json file",
                                     .found = "plain text",
                                     .fix = "set stage: pt"});
    const std::string form(format ? name_of(format->form()) : "plain text, a document a line");
    std::string& all = data_.report.form;
    if (all.find(form) == all.npos) all += (all.empty() ? "" : "; ") + form;
  }

  void tokenize_block(const RowReader& rows, const RowFormat* format) {
    parallel_for(int64_t(block_.size()), 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Work& w = block_[size_t(i)];
        try {
          tokenize(w, format, rows.at_line(w.row.line));
        } catch (...) {
          w.error = std::current_exception();  // thrown again in the order of the rows
        }
      }
    });
  }

  void tokenize(Work& w, const RowFormat* format, const std::string& where) const {
    if (!format || format->form() == RowForm::text) {
      auto& ids = w.tokens.ids;
      ids = tokenizer_.before();
      const auto words = tokenizer_.encode(text_of_document(w.row, !format, format, where), false, false);
      ids.insert(ids.end(), words.begin(), words.end());
      ids.insert(ids.end(), tokenizer_.after().begin(), tokenizer_.after().end());
      if (const auto eos = tokenizer_.eos(); eos && ids.size() > tokenizer_.before().size() && ids.back() != *eos) ids.push_back(*eos);
      w.tokens.trained.assign(ids.size(), 1);
      return;
    }
    Sample sample = format->read(parse_json(w.row.text, where), where);
    if (!options_.default_system.empty() && sample.messages.front().role != "system")
      sample.messages.insert(sample.messages.begin(), {"system", options_.default_system});
    w.tokens = chat_.encode(sample.messages, {.train_on_prompt = options_.train_on_prompt, .mask_history = options_.mask_history});
  }

  void add(Work& w, const std::string& where) {
    if (w.error) std::rethrow_exception(w.error);
    DatasetReport& r = data_.report;
    ++r.rows;
    auto& [ids, trained] = w.tokens;
    r.longest = std::max(r.longest, int64_t(ids.size()));
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
    if (learned == 0) {
      ++r.dropped[learns_something ? "the answer begins behind cutoff_len" : "no token to learn"];
      if (r.first_dropped.empty()) r.first_dropped = where;
      return;
    }
    r.truncated += too_long;
    r.trained_tokens += learned;
    data_.examples.add(ids, trained);
  }

  // Takes pieces of `piece` tokens from the front of what is joined, while there are any.
  void cut_joined(size_t piece) {
    size_t done = 0;
    for (; piece > 0 && joined_.size() - done >= piece; done += piece) {
      if (piece < 2) continue;  // a single token at the end predicts nothing
      data_.examples.add(std::span(joined_).subspan(done, piece), std::vector<uint8_t>(piece, 1));
      data_.report.trained_tokens += int64_t(piece) - 1;
    }
    joined_.erase(joined_.begin(), joined_.begin() + ptrdiff_t(done));
  }

  const Tokenizer& tokenizer_;
  const Chat& chat_;
  const DatasetOptions& options_;
  std::vector<Work> block_;
  std::vector<int32_t> joined_;
  Dataset data_;
};

}  // namespace

Dataset read_dataset(std::span<const fs::path> files, const Tokenizer& tokenizer, const Chat& chat, const DatasetOptions& options) {
  Builder builder(tokenizer, chat, options);
  for (const fs::path& f : files) builder.add_file(f);
  return builder.finish();
}

}  // namespace thimble::data
