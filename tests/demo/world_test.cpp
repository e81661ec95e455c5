// The demo's claim rests on its world: what is asked in the test was read but never asked in tuning, and no text has the form of a question.
// These are the properties that would make the printed score a lie if they failed.
#include "world.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "data/tokenizer.h"
#include "model_files.h"
#include "words.h"

namespace thimble::demo {

namespace {

constexpr int documents = 3000;

std::string whole_text(const World& world) {
  std::string text;
  for (int i = 0; i < documents; ++i) text += world.document(i) + "\n";
  return text;
}

std::string name_in(const World& world, const std::string& prompt) {
  for (const Person& p : world.people())
    for (const std::string_view mark : {" ", "?"})
      if (prompt.find(" " + std::string(p.name) + std::string(mark)) != std::string::npos) return std::string(p.name);
  return "";
}

}  // namespace

TEST(World, IsAFunctionOfItsSeed) {
  const World a(7, 60), b(7, 60), other(8, 60);
  EXPECT_EQ(a.document(5), b.document(5));
  EXPECT_EQ(a.questions(true)[3].prompt, b.questions(true)[3].prompt);
  EXPECT_NE(whole_text(a), whole_text(other));
}

TEST(World, AsksOtherPeopleInTheTest) {
  const World world(1, 64);
  std::set<std::string> shown, held_out;
  for (const Question& q : world.questions(true)) shown.insert(name_in(world, q.prompt));
  for (const Question& q : world.questions(false)) held_out.insert(name_in(world, q.prompt));
  EXPECT_EQ(shown.size(), 32u);
  EXPECT_EQ(held_out.size(), 32u);
  for (const std::string& name : held_out) EXPECT_FALSE(shown.contains(name)) << name;
  EXPECT_EQ(world.questions(true).size(), 128u);
  EXPECT_EQ(world.questions(false).size(), 128u);
}

TEST(World, NoTextHasTheFormOfAQuestionOrAnAnswer) {
  const std::string text = whole_text(World(2, 64));
  for (const std::string_view form : {"?", "Where", "What", "The answer", "answer is"}) EXPECT_EQ(text.find(form), std::string::npos) << form;
}

TEST(World, EveryFactIsReadInManyWordings) {
  const World world(3, 64);
  std::map<std::pair<std::string_view, size_t>, std::set<std::string>> wordings;
  for (const auto& k : kinds()) EXPECT_GE(k.predicates.size() + k.sentences.size() + k.entries.size(), 6u);
  for (int i = 0; i < 8 * documents; ++i) {
    const std::string text = world.document(i);
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find(". ", begin), text.size());
      const std::string sentence = text.substr(begin, end - begin);
      for (const Person& p : world.people())
        if (sentence.find(p.name) != std::string::npos)
          for (size_t k = 0; k < kinds().size(); ++k)
            if (sentence.find(p.facts[k]) != std::string::npos) wordings[{p.name, k}].insert(sentence);
      begin = end + 2;
    }
  }
  EXPECT_EQ(wordings.size(), 64u * kinds().size());
  for (const auto& [fact, sentences] : wordings) EXPECT_GE(sentences.size(), 6u) << fact.first;
}

TEST(World, ChanceIsWhatGuessingWouldGive) {
  const World world(4, 60);
  EXPECT_DOUBLE_EQ(world.chance(), 1.0 / 12);
  for (const bool tuned : {true, false}) {
    EXPECT_GE(world.commonest(tuned), world.chance());
    EXPECT_LE(world.commonest(tuned), 0.11);
  }
  for (const Person& p : world.people())
    for (size_t k = 0; k < kinds().size(); ++k) {
      const auto& values = kinds()[k].values;
      EXPECT_NE(std::find(values.begin(), values.end(), p.facts[k]), values.end());
    }
}

TEST(World, RefusesMorePeopleThanNames) {
  EXPECT_THROW(World(1, int(names().size()) + 1), Error);
  EXPECT_THROW(World(1, 1), Error);
}

TEST(ModelFiles, EveryWordIsOneTokenAndTextComesBack) {
  const World world(1, 64);
  const fs::path folder = fs::path(testing::TempDir()) / "thimble_world_test";
  fs::create_directories(folder);
  const ModelFiles made = write_model_files(folder, words_of(world), {});
  EXPECT_LT(made.vocabulary, 600);
  EXPECT_NEAR(double(made.parameters), 1.7e6, 5e4);

  const auto tokenizer = data::Tokenizer::open(folder);
  EXPECT_EQ(tokenizer->vocab_size(), made.vocabulary);
  for (const Person& p : world.people()) EXPECT_EQ(tokenizer->encode(" " + std::string(p.name), false).size(), 1u) << p.name;
  for (const Kind& k : kinds())
    for (const std::string_view v : k.values) EXPECT_EQ(tokenizer->encode(" " + std::string(v), false).size(), 1u) << v;
  for (int i = 0; i < documents; ++i) {
    const std::string text = world.document(i);
    const auto ids = tokenizer->encode(text, false);
    EXPECT_EQ(tokenizer->decode(ids), " " + text);
    for (const int32_t id : ids) {
      const std::string spelled(*tokenizer->token(id));
      EXPECT_TRUE(spelled.size() > 1 || std::string_view(".,:I").find(spelled[0]) != std::string_view::npos) << "a word fell apart: " << text;
    }
  }
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("Zürich?", false)), " Zürich?") << "words the world does not know fall apart and come back";
  for (const Question& q : world.questions(false))
    EXPECT_EQ(tokenizer->encode(q.response, false).size(), 5u) << "The, answer, is, the value, a full stop";
  fs::remove_all(folder);
}

}  // namespace thimble::demo
