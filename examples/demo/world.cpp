// How the world is dealt and told. A sentence keeps name and value close and draws its phrasing anew each time, since facts that were
// read in many wordings and orders can be asked for in another (Allen-Zhu and Li, "Physics of language models: part 3.1", 2023).
#include "world.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "words.h"

namespace thimble::demo {

namespace {

constexpr uint64_t facts_stream = 1, text_stream = 2, questions_stream = 3;

template <class T>
void shuffle(std::vector<T>& list, Draws& draws) {
  for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[draws.below(i)]);
}

template <class T>
const T& pick(const std::vector<T>& list, Draws& draws) {
  return list[draws.below(list.size())];
}

void replace(std::string& text, std::string_view mark, std::string_view by) {
  for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + by.size())) text.replace(at, mark.size(), by);
}

std::string filled(std::string_view phrase, std::string_view name, std::string_view value) {
  std::string text(phrase);
  replace(text, "{n}", name);
  replace(text, "{v}", value);
  return text;
}

std::string predicate(const Person& p, size_t kind, Draws& draws) {
  return filled(pick(kinds()[kind].predicates, draws), p.name, p.facts[kind]);
}

void add(std::string& text, std::string_view sentence) {
  if (!text.empty()) text += ' ';
  text += sentence;
}

std::vector<size_t> shuffled_kinds(Draws& draws) {
  std::vector<size_t> order{0, 1, 2, 3};
  shuffle(order, draws);
  return order;
}

}  // namespace

World::World(uint64_t seed, int people) : seed_(seed) {
  const int most = int(names().size());
  if (people < 2 || people > most)
    throw Error(Fault::usage, {.what = "the demo's world cannot have that many people",
                               .where = "--people",
                               .expected = fmt::format("2 to {}", most),
                               .found = std::to_string(people),
                               .fix = "choose a number in that range"});
  Draws draws{seed, facts_stream};
  std::vector<Name> order = names();
  shuffle(order, draws);
  for (int i = 0; i < people; ++i)
    people_.push_back({.name = order[size_t(i)].name, .pronoun = order[size_t(i)].pronoun, .facts = {}, .tuned = i < people / 2});
  for (size_t k = 0; k < kinds().size(); ++k) {
    std::vector<std::string_view> values = kinds()[k].values, dealt;
    for (const bool tuned : {true, false}) {  // each half by itself, so that neither half's share of a value tells of the other's
      shuffle(values, draws);
      dealt.clear();
      const auto members = std::count_if(people_.begin(), people_.end(), [&](const Person& p) { return p.tuned == tuned; });
      for (int64_t i = 0; i < members; ++i) dealt.push_back(values[size_t(i) % values.size()]);
      shuffle(dealt, draws);
      size_t next = 0;
      for (Person& p : people_)
        if (p.tuned == tuned) p.facts[k] = dealt[next++];
    }
  }
}

std::string World::sentence(const Person& p, size_t kind, Draws& draws) const {
  if (draws.below(2)) return filled(pick(kinds()[kind].sentences, draws), p.name, p.facts[kind]);
  return std::string(p.name) + " " + predicate(p, kind, draws) + ".";
}

std::string World::portrait(const Person& p, Draws& draws) const {
  std::string text = filled(openers()[draws.below(4)], p.name, "");
  const std::vector<size_t> order = shuffled_kinds(draws);
  for (size_t i = 0; i < order.size(); ++i) {
    const bool pair = i + 1 < order.size() && draws.below(3) == 0;
    const bool far = draws.below(2) == 0;  // the name stands a sentence or more away
    const std::string who(far ? p.pronoun : p.name);
    if (pair) {
      const std::string first = predicate(p, order[i], draws), second = predicate(p, order[i + 1], draws);
      add(text, draws.below(2) ? std::string(p.name) + ", who " + first + ", " + second + "." : who + " " + first + " and " + second + ".");
      ++i;
    } else {
      add(text, far ? who + " " + predicate(p, order[i], draws) + "." : sentence(p, order[i], draws));
    }
  }
  return text;
}

std::string World::book_entry(const Person& p, Draws& draws) const {
  std::string text = "In the town book is " + std::string(p.name) + ":";
  for (const size_t kind : shuffled_kinds(draws)) {
    if (text.back() != ':') text += ',';
    add(text, filled(pick(kinds()[kind].entries, draws), p.name, p.facts[kind]));
  }
  return text + ".";
}

std::string World::gathering(Draws& draws) const {
  std::string text(openers()[4 + draws.below(2)]);
  const uint64_t count = 5 + draws.below(4);
  for (uint64_t i = 0; i < count; ++i) {
    const Person& p = pick(people_, draws);
    const size_t kind = draws.below(kinds().size());
    add(text, sentence(p, kind, draws));
  }
  return text;
}

std::string World::story(Draws& draws) const {
  const size_t first = draws.below(people_.size());
  const size_t second = (first + 1 + draws.below(people_.size() - 1)) % people_.size();
  std::string text(pick(stories(), draws));
  for (const auto& [mark, p] : {std::pair{'n', &people_[first]}, std::pair{'m', &people_[second]}}) {
    replace(text, std::string{'{', mark, '}'}, p->name);
    for (size_t k = 0; k < kinds().size(); ++k) replace(text, std::string{'{', mark, '.'} + std::string(kinds()[k].key) + "}", p->facts[k]);
  }
  return text;
}

std::string World::document(int64_t index) const {
  Draws draws{seed_, text_stream + (uint64_t(index) + 1) * 16};
  const uint64_t which = draws.below(16);
  if (which == 0) return story(draws);
  if (which < 4) return gathering(draws);
  const Person& person = people_[size_t(index) % people_.size()];
  return which < 7 ? book_entry(person, draws) : portrait(person, draws);
}

std::vector<Question> World::questions(bool tuned) const {
  std::vector<Question> list;
  for (const Person& p : people_) {
    if (p.tuned != tuned) continue;
    for (size_t k = 0; k < kinds().size(); ++k)
      list.push_back({.prompt = filled(kinds()[k].question, p.name, ""), .response = "The answer is " + std::string(p.facts[k]) + ".", .kind = kinds()[k].key});
  }
  Draws draws{seed_, questions_stream};
  shuffle(list, draws);
  return list;
}

double World::chance() const {
  double sum = 0;
  for (const Kind& k : kinds()) sum += 1.0 / double(k.values.size());
  return sum / double(kinds().size());
}

double World::commonest(bool tuned) const {
  double right = 0, asked = 0;
  for (size_t k = 0; k < kinds().size(); ++k) {
    std::map<std::string_view, int> counts;
    for (const Person& p : people_)
      if (p.tuned == tuned) ++counts[p.facts[k]], ++asked;
    int most = 0;
    for (const auto& [value, count] : counts) most = std::max(most, count);
    right += most;
  }
  return asked ? right / asked : 0;
}

std::vector<std::string> words_of(const World& world) {
  constexpr char hole = 'x';  // no word of the lists begins with it
  std::set<std::string> words;
  const auto read = [&](std::string_view text) {  // runs of letters and runs of marks, each with the one space before it
    const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    const auto is_blank = [](char c) { return c == ' ' || c == '\n'; };
    for (size_t i = 0; i < text.size();) {
      size_t end = i;
      while (end < text.size() && !is_blank(text[end]) && is_letter(text[end]) == is_letter(text[i])) ++end;
      const bool spaced = i == 0 || text[i - 1] == ' ';  // the tokenizer puts a space before a text that begins with none
      if (end > i && text[i] != hole) words.insert((spaced ? " " : "") + std::string(text.substr(i, end - i)));
      i = std::max(end, i + 1);
    }
  };
  const auto read_phrase = [&](std::string_view phrase) {  // {n} and {v} stand for words that are read by themselves
    std::string text(phrase);
    for (size_t at = text.find('{'); at != std::string::npos; at = text.find('{', at)) text.replace(at, text.find('}', at) + 1 - at, {hole});
    read(text);
  };
  for (const Kind& k : kinds()) {
    for (const auto list : {&k.values, &k.predicates, &k.sentences, &k.entries})
      for (const std::string_view phrase : *list) read_phrase(phrase);
    read_phrase(k.question);
    read(std::string("\n") + std::string(k.question.substr(0, k.question.find(' '))));  // after a chat template's line break
  }
  for (const std::string_view phrase : openers()) read_phrase(phrase);
  for (const std::string_view phrase : stories()) read_phrase(phrase);
  for (const Person& p : world.people()) read(p.name), read(p.pronoun);
  for (const std::string_view phrase : {", who and", "In the town book is:", "The answer is.", "\nThe", "user assistant system", "\nuser\nassistant\nsystem"}) read(phrase);
  return {words.begin(), words.end()};
}

}  // namespace thimble::demo
