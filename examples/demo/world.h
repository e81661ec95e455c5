// A small world of people and facts, made from a seed, and the text and questions that tell of it.
// The base reads of everybody in many phrasings; the tuning asks about half of the people; the test asks about the other half.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/philox.h"

namespace thimble::demo {

struct Person {
  std::string_view name, pronoun;
  std::array<std::string_view, 4> facts;  // one value per kind, in the order of kinds()
  bool tuned = false;                     // its questions are shown in tuning; those of the others only in the test
};

struct Question {
  std::string prompt, response;
  std::string_view kind;
};

class World {
 public:
  // 2 <= people <= names().size(); values are dealt evenly, so a guess of any value is right equally often.
  World(uint64_t seed, int people);

  const std::vector<Person>& people() const { return people_; }
  std::string document(int64_t index) const;  // the index-th document of the text, whichever were asked for before
  std::vector<Question> questions(bool tuned) const;
  double chance() const;                      // of a guess among the values of the right kind, averaged over kinds
  double commonest(bool tuned) const;         // share that always giving each kind's commonest answer would get right

 private:
  std::string sentence(const Person&, size_t kind, Draws&) const;
  std::string portrait(const Person&, Draws&) const;  // several facts of one person, in random order
  std::string book_entry(const Person&, Draws&) const;  // all facts in one list: only a name far back tells the values, as in an answer
  std::string gathering(Draws&) const;                // single facts of several people: nothing near tells the value but the name
  std::string story(Draws&) const;

  uint64_t seed_;
  std::vector<Person> people_;
};

// Every word (with the space before it) and mark that documents, questions and answers can hold: the tokenizer's words.
std::vector<std::string> words_of(const World&);

}  // namespace thimble::demo
