// dataset_info.json as LLaMA-Factory's users have it, names and paths beside it, and every way in which a description can be wrong.
#include "data/sources.h"

#include "files.h"

namespace thimble::data {
namespace {

class SourcesTest : public testing::Test {
 protected:
  TemporaryFolder folder;
  void describe(std::string_view entries) const { folder.write("dataset_info.json", entries); }
  Sample read(const Source& s, std::string_view row) const { return RowFormat(*s.layout).read(parse_json(row, "row"), "row"); }
  std::string refusal(std::string_view entry) const {
    describe(fmt::format(R"({{"x": {}}})", entry));
    return error_of([&] { find_source("x", folder.path); });
  }
};

TEST_F(SourcesTest, EntriesOfTheirOwnFile) {
  folder.write("identity.json", "[]");
  folder.write("glaive.json", "[]");
  folder.write("c4.jsonl", "");
  describe(R"({
    "identity": {"file_name": "identity.json"},
    "glaive": {"file_name": "glaive.json", "formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}},
    "openai": {"file_name": "glaive.json", "formatting": "sharegpt", "columns": {"messages": "messages"},
               "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}},
    "own": {"file_name": "identity.json", "columns": {"prompt": "frage", "query": "dazu", "response": "antwort", "system": "rolle", "history": "vorher"}, "num_samples": 7},
    "c4": {"file_name": "c4.jsonl", "columns": {"prompt": "text"}, "split": "train"}
  })");
  const Sample alpaca = read(find_source("identity", folder.path), R"({"instruction": "a", "input": "b", "output": "c", "system": "not named"})");
  ASSERT_EQ(alpaca.messages.size(), 2u);
  EXPECT_EQ(alpaca.messages[0].content, "a\nb");
  const Sample calls = read(find_source("glaive", folder.path),
                            R"({"tools": "[{\"name\": \"f\"}]", "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},
                                {"from": "observation", "value": "2"}, {"from": "gpt", "value": "two"}]})");
  ASSERT_EQ(calls.messages.size(), 4u);
  EXPECT_EQ(calls.messages[1].role, "assistant");
  EXPECT_EQ(calls.messages[1].tool_calls[0]["function"], (Json{{"name", "f"}, {"arguments", {{"x", 1}}}}));
  EXPECT_EQ(calls.messages[2].role, "tool");
  EXPECT_EQ(calls.tools[0]["name"], "f");
  EXPECT_EQ(calls.unusable, "");
  const Sample openai = read(find_source("openai", folder.path), R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})");
  EXPECT_EQ(openai.messages[1].content, "a");
  const Source own = find_source("own", folder.path);
  EXPECT_EQ(own.samples, 7);
  const Sample words = read(own, R"({"frage": "q", "dazu": "", "antwort": "a", "rolle": "s", "vorher": [["p", "r"]], "instruction": 3})");
  ASSERT_EQ(words.messages.size(), 5u);
  EXPECT_EQ(words.messages[0].content, "s");
  EXPECT_EQ(words.messages[3].content, "q");
  const Source c4 = find_source("c4", folder.path);
  EXPECT_EQ(read(c4, R"({"text": "words"})").text, "words");
  ASSERT_EQ(c4.notes.size(), 1u);
  EXPECT_NE(c4.notes[0].find("split"), std::string::npos);
}

TEST_F(SourcesTest, OwnWordsForRoles) {
  folder.write("a.json", "[]");
  describe(R"({"x": {"file_name": "a.json", "formatting": "sharegpt", "columns": {"messages": "dialog"}, "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "Kunde", "assistant_tag": "Berater"}}})");
  const Sample s = read(find_source("x", folder.path), R"({"dialog": [{"who": "Kunde", "says": "q"}, {"who": "Berater", "says": "a"}]})");
  EXPECT_EQ(s.messages[0].role, "user");
  EXPECT_EQ(s.messages[1].role, "assistant");
}

TEST_F(SourcesTest, PathsAndCounts) {
  const fs::path file = folder.write("rows.jsonl", "{}");
  for (const std::string& entry : {std::string("rows.jsonl"), std::string("rows"), file.string()}) EXPECT_EQ(find_source(entry, folder.path).files, (std::vector<fs::path>{file}));
  EXPECT_EQ(find_source("rows#12", folder.path).samples, 12);
  EXPECT_EQ(find_source("rows#12", folder.path).name, "rows");
  EXPECT_EQ(find_source(folder.path.string(), "nowhere").files.size(), 1u);
  EXPECT_FALSE(find_source("rows", folder.path).layout);
  EXPECT_THROW(find_source("rows#0", folder.path), Error);
  EXPECT_THROW(find_source("rows#many", folder.path), Error);
  EXPECT_NE(error_of([&] { find_source("other", folder.path); }).find("dataset_dir"), std::string::npos);
}

TEST_F(SourcesTest, WrongDescriptionsAreRefused) {
  folder.write("a.json", "[]");
  const std::pair<const char*, const char*> cases[] = {
      {"3", "an object"},
      {"{}", "file_name"},
      {R"({"file_name": "b.json"})", "no such file"},
      {R"({"file_name": "../a.json"})", "leads out"},
      {R"({"file_name": "x/../../a.json"})", "leads out"},
      {R"({"file_name": ""})", "leads out"},
      {R"({"file_name": 3})", "a string"},
      {R"({"file_name": "a.json", "formatting": "sharegp"})", "alpaca, sharegpt or openai"},
      {R"({"file_name": "a.json", "column": {}})", "did you mean 'columns'"},
      {R"({"file_name": "a.json", "columns": []})", "an object"},
      {R"({"file_name": "a.json", "columns": {"promt": "p"}})", "did you mean 'prompt'"},
      {R"({"file_name": "a.json", "columns": {"response": "p"}})", "prompt"},
      {R"({"file_name": "a.json", "tags": {"user_tg": "p"}})", "did you mean 'user_tag'"},
      {R"({"file_name": "a.json", "columns": {"prompt": "p", "images": "i"}})", "images"},
      {R"({"file_name": "a.json", "ranking": true})", "preference"},
      {R"({"file_name": "a.json", "num_samples": 0})", "num_samples"},
      {R"({"hf_hub_url": "a/b"})", "huggingface-cli download"},
      {R"({"script_url": "a"})", "script_url"},
  };
  for (const auto& [entry, part] : cases) {
    const auto found = refusal(entry);
    EXPECT_NE(found.find(part), std::string::npos) << entry << " gave: " << found;
    EXPECT_NE(found.find("dataset_info.json"), std::string::npos) << found;
  }
  describe(R"({"identity": {"file_name": "a.json"}})");
  EXPECT_NE(error_of([&] { find_source("identiti", folder.path); }).find("did you mean 'identity'"), std::string::npos);
  describe("[]");
  EXPECT_NE(error_of([&] { find_source("x", folder.path); }).find("an object"), std::string::npos);
  describe("{");
  EXPECT_NE(error_of([&] { find_source("x", folder.path); }).find("JSON"), std::string::npos);
}

}  // namespace
}  // namespace thimble::data
