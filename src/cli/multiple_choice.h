// Questions with lettered answers, as MMLU and C-Eval have them: the model's choice is the letter that it finds likeliest.
#pragma once
#include <optional>

#include "base/file.h"
#include "base/json.h"
#include "cli/session.h"

namespace thimble::cli {

struct Question {
  std::string text, subject;
  std::vector<std::string> choices;
  size_t answer = 0;  // of the choices
};

// Rows {question, A, B, C, D, answer: "B"} (as C-Eval's and MMLU's tables are headed) or {question, choices: [...], answer: 1}, with or without
// `subject`. None where the first row is no such question. Throws Error (bad_input) that names the row.
std::optional<std::vector<Question>> read_questions(const fs::path&, int64_t most);

// "The following are ...", the examples with their answers, the question without: what the model goes on from with " A", " B", ...
std::string prompt_of(const Question&, std::span<const Question> examples);

// Prints how many are answered right, in all and by subject.
void print_choices(Session&, std::span<const Question>, std::span<const Question> examples);

}  // namespace thimble::cli
