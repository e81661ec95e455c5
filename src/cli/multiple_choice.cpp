// The prompt is that of MMLU's own evaluation (Hendrycks et al. 2021): plain text, no chat.
#include "cli/multiple_choice.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "data/rows.h"

namespace thimble::cli {
namespace {

std::string letter(size_t i) { return std::string(1, char('A' + i)); }

bool is_question(const Json& row) { return row.is_object() && row.contains("question") && row.contains("answer") && (row.contains("choices") || (row.contains("A") && row.contains("B"))); }

std::string text_of(const Json& v) { return v.is_string() ? v.get<std::string>() : v.dump(); }

Question question_of(const Json& row, const std::string& where) {
  if (!is_question(row)) fail_field(where, "question, answer and choices", "a question with lettered answers", nullptr);
  Question q{.text = text_of(row["question"])};
  if (const auto it = row.find("subject"); it != row.end()) q.subject = text_of(*it);
  if (row.contains("choices"))
    for (const Json& c : row["choices"]) q.choices.push_back(text_of(c));
  else
    for (size_t i = 0; i < 26 && row.contains(letter(i)); ++i) q.choices.push_back(text_of(row[letter(i)]));
  const Json& answer = row["answer"];
  const std::string text = text_of(answer);
  if (text.size() == 1 && text[0] >= 'A' && text[0] <= 'Z') q.answer = size_t(text[0] - 'A');
  else if (answer.is_number_integer() && answer.get<int64_t>() >= 0) q.answer = size_t(answer.get<int64_t>());
  else q.answer = q.choices.size();
  if (q.choices.size() < 2 || q.choices.size() > 26 || q.answer >= q.choices.size())
    fail_field(where, "answer", "the letter, or the number from 0, of one of 2 to 26 choices", &answer);
  return q;
}

std::string asked(const Question& q) {
  std::string text = q.text;
  for (size_t i = 0; i < q.choices.size(); ++i) text += "\n" + letter(i) + ". " + q.choices[i];
  return text + "\nAnswer:";
}

// Log-likelihood of what `whole` says beyond `begin`.
double likelihood(Session& s, const std::vector<int32_t>& begin, const std::vector<int32_t>& whole) {
  size_t same = 0;
  while (same + 1 < std::min(begin.size(), whole.size()) && begin[same] == whole[same]) ++same;
  if (same + 1 == begin.size() && whole.size() > begin.size() && begin[same] == whole[same]) ++same;
  std::vector<int32_t> targets(whole.size(), -1);
  for (size_t t = same; t < whole.size(); ++t) targets[t - 1] = whole[t];
  return -s.engine().score(whole, targets).loss;
}

size_t choice_of(Session& s, const Question& q, std::span<const Question> examples) {
  const std::string prompt = prompt_of(q, examples);
  const auto begin = s.tokenizer().encode(prompt);
  size_t best = 0;
  double most = -INFINITY;
  for (size_t i = 0; i < q.choices.size(); ++i)
    if (const double l = likelihood(s, begin, s.tokenizer().encode(prompt + " " + letter(i))); l > most) most = l, best = i;
  return best;
}

}  // namespace

std::optional<std::vector<Question>> read_questions(const fs::path& file, int64_t most) {
  const auto reader = data::open_rows(file);
  std::vector<Question> questions;
  for (data::Row row; (most < 0 || int64_t(questions.size()) < most) && reader->next(row);) {
    const auto where = reader->at_line(row.line);
    const Json json = parse_json(row.text, where);
    if (questions.empty() && !is_question(json)) return std::nullopt;
    questions.push_back(question_of(json, where));
  }
  if (questions.empty()) return std::nullopt;
  return questions;
}

std::string prompt_of(const Question& q, std::span<const Question> examples) {
  std::string subject = q.subject;
  std::replace(subject.begin(), subject.end(), '_', ' ');
  std::string text = "The following are multiple choice questions (with answers)" + (subject.empty() ? "" : " about " + subject) + ".\n\n";
  for (const Question& e : examples) text += asked(e) + " " + letter(e.answer) + "\n\n";
  return text + asked(q);
}

void print_choices(Session& s, std::span<const Question> questions, std::span<const Question> examples) {
  struct Count { int64_t right = 0, all = 0; };
  std::map<std::string, Count> subjects;
  Count all;
  for (const Question& q : questions) {
    const bool right = choice_of(s, q, examples) == q.answer;
    for (Count* c : {&all, &subjects[q.subject]}) c->right += right, ++c->all;
  }
  const auto print = [](const std::string& name, const Count& c) {
    std::printf("%s: %lld of %lld right (%.1f%%)\n", name.c_str(), static_cast<long long>(c.right), static_cast<long long>(c.all), 100.0 * double(c.right) / double(c.all));
  };
  if (subjects.size() > 1)
    for (const auto& [name, count] : subjects) print(name.empty() ? "(no subject)" : name, count);
  print("multiple choice", all);
}

}  // namespace thimble::cli
