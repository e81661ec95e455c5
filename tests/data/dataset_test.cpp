// Every accepted form of data gives the same conversation; every damaged file is refused with its line; masks and counts are exact.
#include "data/dataset.h"

#include <fstream>
#include <numeric>

#include "base/threads.h"
#include "data/row_format.h"
#include "data/rows.h"
#include "data/token_file.h"
#include "files.h"

namespace thimble::data {
namespace {

class DatasetTest : public testing::Test {
 protected:
  TemporaryFolder folder;
  std::unique_ptr<Tokenizer> tokenizer = golden_tokenizer("bytelevel_gpt2.json", R"({"eos_token": "<|endoftext|>"})");
  Chat chat{*tokenizer};
  TokenCache cache{.folder = folder.path / "tokens"};

  Dataset read(std::string_view name, std::string_view text, const DatasetOptions& options = {}) const {
    return read_dataset(Source{.name = std::string(name), .files = {folder.write(name, text)}}, *tokenizer, chat, options, cache);
  }
  std::string text_of(const Dataset& d, int64_t i) const { return tokenizer->decode(d.examples[i].ids(), false); }
  std::string learned_of(const Dataset& d, int64_t i) const {
    std::vector<int32_t> ids;
    for (const int32_t id : d.examples[i].targets())
      if (id >= 0) ids.push_back(id);
    return tokenizer->decode(ids, false);
  }
  void expect_error(std::string_view name, std::string_view text, std::string_view place, std::string_view part,
                    const DatasetOptions& options = {}) const {
    const std::string found = error_of([&] { read(name, text, options); });
    EXPECT_NE(found.find(place), std::string::npos) << "expected \"" << place << "\" in: " << found;
    EXPECT_NE(found.find(part), std::string::npos) << "expected \"" << part << "\" in: " << found;
  }
};

}  // namespace

TEST_F(DatasetTest, FormsGiveOneConversation) {
  const std::string expected =
      "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
      "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n";
  for (
      const char* row : {
          R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}, {"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "2"}]}, {"role": "assistant", "content": "A2"}]})",
          R"({"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q1"}, {"from": "gpt", "value": "A1"}, {"from": "human", "value": "Q2"}, {"from": "gpt", "value": "A2"}]})",
          R"({"system": "S", "conversations": [{"from": "human", "value": "Q1"}, {"from": "gpt", "value": "A1"}, {"from": "human", "value": "Q2"}, {"from": "gpt", "value": "A2"}]})",
          R"({"system": "S", "conversation": [{"human": "Q1", "assistant": "A1"}, {"human": "Q2", "assistant": "A2"}]})",
          R"({"instruction": "Q2", "input": "", "output": "A2", "system": "S", "history": [["Q1", "A1"]]})",
          R"({"prompt": "Q2", "completion": "A2", "system": "S", "history": [["Q1", "A1"]]})",
          R"({"query": "Q2", "response": "A2", "system": "S", "history": [["Q1", "A1"]]})",
          R"({"question": "Q2", "answer": "A2", "system": "S", "history": [["Q1", "A1"]]})",
      }) {
    const Dataset d = read("a.jsonl", row);
    ASSERT_EQ(d.examples.size(), 1) << row;
    EXPECT_EQ(text_of(d, 0), expected) << row;
    EXPECT_EQ(learned_of(d, 0), "A1<|im_end|>A2<|im_end|>") << row;
  }
}

TEST_F(DatasetTest, AlpacaInputAndDefaultSystem) {
  const Dataset d = read("a.jsonl", R"({"instruction": "Add", "input": "1 2", "output": "3"})", {.default_system = "S"});
  EXPECT_EQ(text_of(d, 0), "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nAdd\n1 2<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n");
}

// The target at t is the token at t + 1, and only where that token is learned.
TEST_F(DatasetTest, TargetsAreShiftedByOne) {
  const Dataset d = read("a.jsonl", R"({"prompt": "What?", "response": "That."})");
  const Example e = d.examples[0];
  const auto c = chat.encode(std::vector<Message>{{"user", "What?"}, {"assistant", "That."}}, {});
  ASSERT_EQ(e.ids(), c.ids);
  for (size_t t = 0; t < c.ids.size(); ++t) EXPECT_EQ(e.target(int64_t(t)), t + 1 < c.ids.size() && c.trained[t + 1] ? c.ids[t + 1] : -1);
  EXPECT_EQ(e.targets().back(), -1);
}

TEST_F(DatasetTest, LinesAndArraysAgree) {
  const std::string rows = "{\"prompt\": \"a ] } \\\" , \", \"response\": \"b\"}";
  const std::string other = "{\"prompt\":\n\"c\", \"response\": \"[\"}";
  const Dataset array = read("a.json", "\n [" + rows + ",\n" + other + " ]\n");
  const Dataset lines = read("a.jsonl", rows + "\r\n\n  \n{\"prompt\": \"c\", \"response\": \"[\"}");
  const Dataset lines_in_json = read("b.json", rows + "\n{\"prompt\": \"c\", \"response\": \"[\"}\n");
  for (const Dataset* d : {&array, &lines, &lines_in_json}) {
    ASSERT_EQ(d->examples.size(), 2);
    EXPECT_EQ(learned_of(*d, 0), "b<|im_end|>");
    EXPECT_EQ(learned_of(*d, 1), "[<|im_end|>");
    EXPECT_EQ(text_of(*d, 0), text_of(array, 0));
    EXPECT_EQ(d->report.form, "prompt and response");
  }
}

TEST_F(DatasetTest, CountsAndCutting) {
  const std::string text = R"({"prompt": "q", "response": "short"})"
                           "\n" +
                           fmt::format(R"({{"prompt": "q", "response": "{}"}})", std::string(300, '.')) + "\n" +
                           fmt::format(R"({{"prompt": "{}", "response": "never seen"}})", std::string(300, '7')) + "\n" +
                           R"({"messages": 1, "prompt": "x", "response": "y"})"
                           "\n";
  const Dataset d = read("a.jsonl", text, {.cutoff_len = 32});
  EXPECT_EQ(d.report.rows, 4);
  EXPECT_EQ(d.report.examples, 3);
  EXPECT_EQ(d.report.truncated, 1);
  EXPECT_EQ(d.report.dropped.at("the answer begins behind cutoff_len"), 1);
  EXPECT_NE(d.report.first_dropped.find("a.jsonl:3"), std::string::npos);
  EXPECT_EQ(d.examples.length(1), 32);
  EXPECT_EQ(d.report.tokens, d.examples.tokens());
  int64_t learned = 0;
  for (int64_t i = 0; i < d.examples.size(); ++i)
    for (const int32_t id : d.examples[i].targets()) learned += id >= 0;
  EXPECT_EQ(d.report.trained_tokens, learned);
  expect_error("a.jsonl", R"({"prompt": "too long for that", "response": "x"})", "a.jsonl:1", "1 rows: the answer begins behind cutoff_len",
               {.cutoff_len = 2});
  EXPECT_EQ(read("b.jsonl", text, {.cutoff_len = 32, .max_samples = 1}).report.rows, 1);
}

TEST_F(DatasetTest, PretrainingDocuments) {
  const Dataset lines = read("a.txt", "first document\n\nsecond\n", {.stage = Stage::pretrain});
  ASSERT_EQ(lines.examples.size(), 2);
  EXPECT_EQ(text_of(lines, 0), "first document<|endoftext|>");
  EXPECT_EQ(learned_of(lines, 1), text_of(lines, 1).substr(1));  // all but the first token, here the letter s
  const Dataset rows = read("a.jsonl", "{\"text\": \"first document\"}\n{\"text\": \"second\"}\n", {.stage = Stage::pretrain});
  EXPECT_EQ(text_of(rows, 0), text_of(lines, 0));
  EXPECT_EQ(text_of(rows, 1), text_of(lines, 1));
}

TEST_F(DatasetTest, PretrainingPiecesAreExact) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += fmt::format("document {} of fifty\n", i);
  const Dataset whole = read("a.txt", text, {.stage = Stage::pretrain});
  const Dataset cut = read("a.txt", text, {.stage = Stage::pretrain, .cutoff_len = 32, .packing = true});
  std::vector<int32_t> all, joined;
  const auto add = [](std::vector<int32_t>& to, const std::vector<int32_t>& ids) { to.insert(to.end(), ids.begin(), ids.end()); };
  for (int64_t i = 0; i < whole.examples.size(); ++i) add(all, whole.examples[i].ids());
  for (int64_t i = 0; i < cut.examples.size(); ++i) {
    EXPECT_EQ(cut.examples.length(i), std::min<int64_t>(32, cut.examples.tokens() - 32 * i));
    add(joined, cut.examples[i].ids());
  }
  EXPECT_EQ(all, joined);
  EXPECT_EQ(cut.report.trained_tokens, cut.report.tokens - cut.report.examples);
}

TEST_F(DatasetTest, OrderDoesNotDependOnThreads) {
  std::string text;
  for (int i = 0; i < 3000; ++i)
    text += fmt::format("{{\"prompt\": \"q{}\", \"response\": \"{}\"}}\n", i, std::string(size_t(i % 17) + 1, 'x'));
  const int threads = thread_count();
  set_thread_count(1);
  cache.overwrite = true;
  const Dataset one = read("a.jsonl", text);
  set_thread_count(4);
  const Dataset four = read("a.jsonl", text);
  set_thread_count(threads);
  ASSERT_EQ(one.examples.size(), 3000);
  ASSERT_EQ(four.examples.size(), 3000);
  for (int64_t i = 0; i < 3000; ++i) ASSERT_TRUE(std::ranges::equal(one.examples[i].tokens, four.examples[i].tokens)) << i;
}

TEST_F(DatasetTest, DamagedFilesAreRefusedWithTheirLine) {
  const std::string good = "{\"prompt\": \"a\", \"response\": \"b\"}\n";
  expect_error("a.jsonl", "", "a.jsonl", "no rows");
  expect_error("a.jsonl", "\n \n", "a.jsonl", "no rows");
  expect_error("a.json", "[]", "a.json", "no rows");
  expect_error("a.jsonl", good + "{\"prompt\": \"\xff\"}\n", "a.jsonl:2", "UTF-8");
  expect_error("a.jsonl", std::string("\xff\xfe{\0", 4), "a.jsonl:1", "UTF-16");
  EXPECT_EQ(read("a.jsonl", "\xef\xbb\xbf" + good).report.examples, 1) << "a byte order mark is passed over";
  expect_error("a.jsonl", good + std::string("{\0}\n", 4), "a.jsonl:2", "NUL");
  expect_error("a.jsonl", good + "{\"prompt\": \"a\", \"response\"\n", "a.jsonl:2", "JSON");
  expect_error("a.jsonl", good + "{\"prompt\": \"a\", \"response\": \"b\",}\n", "a.jsonl:2", "JSON");
  expect_error("a.jsonl", good + "{\"prompt\": NaN, \"response\": \"b\"}\n", "a.jsonl:2", "JSON");
  expect_error("a.jsonl", good + "{\"prompt\": \"a\", \"prompt\": \"b\", \"response\": \"b\"}\n", "a.jsonl:2", "twice");
  expect_error("a.jsonl", good + std::string(100000, '[') + "\n", "a.jsonl:2", "deeper");
  expect_error("a.jsonl", good + "[1]\n", "a.jsonl:2", "an object");
  expect_error("a.json", "[" + good + "," + good, "a.json:3", "cut short");
  expect_error("a.json", "[" + good + "," + good + ",]", "a.json:3", "lacks a row");
  expect_error("a.json", "[" + good + "] x", "a.json:2", "follows");
  expect_error("a.json", "[{\"prompt\": \"a", "a.json:1", "cut short");
  expect_error("a.doc", good, "a.doc", ".jsonl");
  expect_error("a.jsonl", "\"" + std::string(longest_row + 10, 'x') + "\"", "a.jsonl:1", "64 MiB");
  const auto absent = [&](const char* name) { return error_of([&] { read_dataset(Source{.name = name, .files = {folder.path / name}}, *tokenizer, chat, {}, cache); }); };
  EXPECT_NE(absent("none.jsonl").find("no such file"), std::string::npos);
  fs::create_directory(folder.path / "d.jsonl");
  EXPECT_NE(absent("d.jsonl").find("a folder"), std::string::npos);
}

TEST_F(DatasetTest, WrongRowsAreRefusedByKey) {
  const auto messages = [](std::string_view list) { return fmt::format(R"({{"messages": {}}})", list); };
  const std::string good = messages(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])") + "\n";
  const auto wrong = [&](std::string_view list, std::string_view part) {
    expect_error("a.jsonl", good + "\n" + messages(list), "a.jsonl:3", part);
  };
  wrong("3", "messages");
  wrong("[3]", "messages");
  wrong("null", "messages");
  wrong(R"([{"role": "user"}])", "content");
  wrong(R"([{"content": "a"}])", "role");
  wrong(R"([{"role": "user", "content": null}])", "content");
  wrong(R"([{"role": "user", "content": {"a": 1}}])", "content");
  wrong(R"([{"role": "user", "content": [{"type": "image_url"}]}])", "parts of type text");
  wrong(R"([{"role": "wizard", "content": "a"}])", "wizard");
  wrong(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}])", "tools");
  expect_error("a.jsonl", good + R"({"prompt": "a", "response": "b"})", "a.jsonl:2", "'messages'");
  expect_error("a.jsonl", R"({"instruction": "a", "output": {"b": 1}})", "a.jsonl:1", "'output'");
  expect_error("a.jsonl", R"({"instruction": "a"})", "a.jsonl:1", "'output'");
  expect_error("a.jsonl", R"({"instruction": "a", "output": "b", "history": [["q"]]})", "a.jsonl:1", "'history'");
  expect_error("a.jsonl", R"({"prompt": "a", "chosen": "b", "rejected": "c"})", "a.jsonl:1", "preference");
  expect_error("a.jsonl", R"({"foo": "a", "bar": "b"})", "a.jsonl:1", "the keys foo, bar");
  expect_error("a.jsonl", good, "a.jsonl:1", "'text'", {.stage = Stage::pretrain});
  expect_error("a.txt", "words", "a.txt:1", "stage: pt");
}

// Nothing can be learned from them, and a run need not end for them: they are counted, and the first is named.
TEST_F(DatasetTest, ConversationsThatTeachNothingAreDropped) {
  const auto messages = [](std::string_view list) { return fmt::format(R"({{"messages": {}}})", list) + "\n"; };
  const std::string good = messages(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])");
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "a conversation has no messages"},
      {R"([{"role": "user", "content": "a"}])", "a conversation does not end with an answer"},
      {R"([{"role": "assistant", "content": "a"}])", "the roles of a conversation are out of order (assistant after the beginning)"},
      {R"([{"role": "user", "content": "a"}, {"role": "system", "content": "s"}, {"role": "assistant", "content": "b"}])", "the roles of a conversation are out of order (system after user)"},
      {R"([{"role": "user", "content": "a"}, {"role": "user", "content": "s"}, {"role": "assistant", "content": "b"}])", "the roles of a conversation are out of order (user after user)"},
  };
  for (const auto& [list, reason] : cases) {
    const Dataset d = read("a.jsonl", good + messages(list));
    EXPECT_EQ(d.report.examples, 1) << list;
    ASSERT_TRUE(d.report.dropped.contains(reason)) << list;
    EXPECT_NE(d.report.first_dropped.find("a.jsonl:2"), std::string::npos);
  }
  expect_error("a.jsonl", messages("[]"), "a.jsonl:1", "1 rows: a conversation has no messages");
}

TEST_F(DatasetTest, BadRowsAreHandedToWhoTakesThem) {
  const Source source{.name = "a", .files = {folder.write("a.jsonl", "{\n{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": 1, \"response\": \"b\"}\n")}};
  std::vector<std::string> places;
  int64_t examples = 0;
  const DatasetReport r = tokenize(source, *tokenizer, chat, {}, [&](auto, auto) { ++examples; }, [&](const Error& e) { places.push_back(e.problem().where); });
  EXPECT_EQ(examples, 1);
  EXPECT_EQ(r.rows, 3);
  ASSERT_EQ(places.size(), 2u);
  EXPECT_TRUE(places[0].ends_with("a.jsonl:1") && places[1].ends_with("a.jsonl:3")) << places[0] << " " << places[1];
}

TEST_F(DatasetTest, AFileThatChangesWhileItIsReadIsRefused) {
  const fs::path file = folder.write("a.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
  const auto grow = [&](auto, auto) { std::ofstream(file, std::ios::app) << "\n"; };
  EXPECT_NE(error_of([&] { tokenize(Source{.name = "a", .files = {file}}, *tokenizer, chat, {}, grow); }).find("changed while it was read"), std::string::npos);
}

TEST_F(DatasetTest, HistoryMayBeMasked) {
  const std::string row = R"({"instruction": "Q2", "output": "A2", "history": [["Q1", "A1"]]})";
  EXPECT_EQ(learned_of(read("a.jsonl", row, {.mask_history = true}), 0), "A2<|im_end|>");
  EXPECT_EQ(learned_of(read("a.jsonl", row), 0), "A1<|im_end|>A2<|im_end|>");
}

TEST_F(DatasetTest, TablesAndParquetGiveTheSameConversations) {
  const Dataset lines = read("a.jsonl", R"({"instruction": "Add", "input": "1, 2", "output": "3"})");
  const Dataset table = read("a.csv", "instruction,input,output\nAdd,\"1, 2\",3\n");
  EXPECT_EQ(text_of(table, 0), text_of(lines, 0));
  const Dataset jsonl = read("rows.jsonl", read_text(golden("parquet/rows.jsonl")), {.cutoff_len = 512, .max_samples = 3});
  const Dataset parquet = read_dataset(Source{.name = "p", .files = {golden("parquet/snappy.parquet")}}, *tokenizer, chat, {.cutoff_len = 512, .max_samples = 3}, cache);
  EXPECT_EQ(parquet.examples.size(), jsonl.examples.size());
  EXPECT_EQ(parquet.report.dropped, jsonl.report.dropped);
  for (int64_t i = 0; i < parquet.examples.size(); ++i) EXPECT_TRUE(std::ranges::equal(parquet.examples[i].tokens, jsonl.examples[i].tokens));
}

// What makes the tokens is what names them.
TEST_F(DatasetTest, TokensAreKeptByContent) {
  const std::string row = "{\"prompt\": \"a\", \"response\": \"b\"}\n";
  const Dataset first = read("a.jsonl", row);
  EXPECT_FALSE(first.from_cache);
  const Dataset again = read("b.jsonl", row);
  EXPECT_TRUE(again.from_cache) << "the name of the file is not its content";
  EXPECT_EQ(again.examples.hash(), first.examples.hash());
  EXPECT_EQ(to_json(again.report), to_json(first.report));
  EXPECT_FALSE(read("a.jsonl", row + row).from_cache);
  EXPECT_FALSE(read("a.jsonl", row, {.cutoff_len = 100}).from_cache);
  EXPECT_FALSE(read("a.jsonl", row, {.train_on_prompt = true}).from_cache);
  EXPECT_FALSE(read("a.jsonl", row, {.default_system = "S"}).from_cache);
  cache.maker = "another tokenizer";
  EXPECT_FALSE(read("a.jsonl", row).from_cache);
  EXPECT_TRUE(read("a.jsonl", row).from_cache);
  cache.overwrite = true;
  EXPECT_FALSE(read("a.jsonl", row).from_cache);
}

TEST_F(DatasetTest, DamagedTokensAreFoundAndMadeAgain) {
  const std::string row = "{\"prompt\": \"a question\", \"response\": \"b\"}\n";
  const uint64_t hash = read("a.jsonl", row + row).examples.hash();
  fs::path kept;
  for (const auto& entry : fs::directory_iterator(cache.folder)) kept = entry.path();
  const std::string good = read_text(kept);
  const fs::path damaged = folder.path / "damaged.tokens";
  const auto opens = [&](const std::string& bytes) {
    std::ofstream(damaged, std::ios::binary) << bytes;
    return open_tokens(damaged, tokenizer->vocab_size()).has_value();
  };
  ASSERT_TRUE(opens(good));
  EXPECT_FALSE(open_tokens(damaged, 100)) << "ids that the model has not";
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = char(bad[at] ^ 0x41);
    ASSERT_FALSE(opens(bad)) << "byte " << at;
    ASSERT_FALSE(opens(good.substr(0, at))) << "cut at " << at;
  }
  write_atomically(kept, good.substr(1));
  const Dataset again = read("a.jsonl", row + row);
  EXPECT_FALSE(again.from_cache);
  EXPECT_EQ(again.examples.hash(), hash);
  EXPECT_TRUE(read("a.jsonl", row + row).from_cache);
}

}  // namespace thimble::data
