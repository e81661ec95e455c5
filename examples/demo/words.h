// The words of the demo's world: names, the four kinds of fact with their values, and the ways in which English says each.
// Data only, in plain sight, so that a reader can see that no question is ever part of the text.
#pragma once
#include <array>
#include <string_view>
#include <vector>

namespace thimble::demo {

struct Name {
  std::string_view name;
  std::string_view pronoun;  // "She" or "He": begins the sentences in which the fact lies far from the name
};

// One kind of fact. In every phrase {v} stands for the value and {n} for the name.
struct Kind {
  std::string_view key;                      // "home", as world.json calls it
  std::vector<std::string_view> values;      // the candidates of an answer: chance is one in their number
  std::vector<std::string_view> predicates;  // "lives in {v}": what follows a name or a pronoun
  std::vector<std::string_view> sentences;   // whole sentences, some with the value before the name
  std::vector<std::string_view> entries;     // "home in {v}": how the town book lists it, away from the name
  std::string_view question;                 // the one form in which it is asked; never part of the text
};

const std::vector<Name>& names();
const std::array<Kind, 4>& kinds();
const std::vector<std::string_view>& openers();  // how a document about people begins
const std::vector<std::string_view>& stories();  // {n} {m} two people; {n.home} {m.thing} ... their facts; {v} a value of the world

}  // namespace thimble::demo
