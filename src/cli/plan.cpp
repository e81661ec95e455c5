// plan: what fits, how, how fast and why, from config.json alone; or, of a model and a card and nothing else, what could be done with them.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/run_plan.h"
#include "data/sources.h"

namespace thimble::cli {
namespace {

struct PlanOptions {
  std::string html;
  bool json = false, explain = false;
};

// Rows of the data, where its files are lines and each is a row of its own; 0: not known without reading more of them.
int64_t rows_of(const train::TrainOptions& o) {
  if (o.packing.value_or(false) || o.neat_packing) return 0;
  int64_t rows = 0;
  for (const auto& entry : o.dataset) {
    try {
      const auto source = data::find_source(entry, o.dataset_dir);
      int64_t lines = 0;
      for (const fs::path& file : source.files) {
        if (file.extension() != ".jsonl") return 0;
        std::ifstream in(file);
        lines += std::count(std::istreambuf_iterator<char>(in), {}, char(10));
      }
      rows += source.samples >= 0 ? source.samples : lines;
    } catch (const Error&) {
      return 0;  // the data may be elsewhere: `train` asks for it
    }
  }
  return rows;
}

int plan_one(const train::TrainOptions& o, const PlanOptions& how) {
  const Planned planned = make_plan(o);
  if (!planned.choice.best) refuse(o, planned);
  const auto& best = *planned.choice.best;
  const auto rehearsed = train::Trainer::rehearse_a_step(planned.spec, planned.setup, best.plan);
  const plan::Story story{.choice = planned.choice, .budget = planned.budget, .spec = planned.spec, .process_bytes = planned.process_bytes, .model = o.model_name_or_path,
                          .rows = rows_of(o), .analysis = plan::analyse(rehearsed.ledger, rehearsed.step, planned.spec)};
  if (!how.html.empty()) write_atomically(how.html, plan::to_html(story));
  if (how.json) {
    std::printf("%s\n", plan::to_json(story).dump(2).c_str());
    return 0;
  }
  std::printf("%s\n%s\n%s%d plans tried\n", plan::report(best, planned.budget, planned.spec, planned.process_bytes).c_str(), plan::bars(story).c_str(),
              plan::reasons(story).c_str(), planned.choice.tried);
  if (how.explain) std::printf("\n%s", plan::explain(plan::rungs(planned.space, best.plan, planned.dry_run()), story).c_str());
  return 0;
}

// Methods by lengths of a sequence, one at a time: each cell is the plan of its own search.
int plan_matrix(train::TrainOptions o) {
  struct Method { const char* name; train::Finetuning tuning; std::optional<int64_t> bits; train::Optim optim; };
  constexpr Method methods[] = {{"QLoRA, 4 bits", train::Finetuning::lora, 4, train::Optim::adamw}, {"LoRA, 16 bits", train::Finetuning::lora, std::nullopt, train::Optim::adamw},
                                {"full, 8-bit AdamW", train::Finetuning::full, std::nullopt, train::Optim::adamw_8bit}, {"full, AdamW", train::Finetuning::full, std::nullopt, train::Optim::adamw}};
  constexpr int64_t lengths[] = {1024, 4096, 16384, 65536};
  std::string text = fmt::format("{:<20}", "tokens/s, device");
  for (const int64_t n : lengths) text += fmt::format("{:>22}", fmt::format("{} tokens", n));
  text += "\n";
  o.per_device_train_batch_size = 1;
  Planned p;
  for (const Method& m : methods) {
    text += fmt::format("{:<20}", m.name);
    for (const int64_t n : lengths) {
      o.finetuning_type = m.tuning, o.quantization_bit = m.bits, o.optim = m.optim, o.cutoff_len = n;
      p = make_plan(o);
      text += p.choice.best ? fmt::format("{:>22}", fmt::format("{:.0f}, {}", p.choice.best->outcome.tokens_per_second(p.choice.best->plan), human_bytes(p.choice.best->outcome.device() + p.spec.overhead)))
                            : fmt::format("{:>22}", "does not fit");
    }
    text += "\n";
  }
  std::printf("%s on %s, %s of the device and %s of RAM; one sequence a step, LoRA of rank %lld on all matrices\n\n%s", o.model_name_or_path.c_str(), p.spec.name.c_str(),
              human_bytes(p.budget.device + p.spec.overhead).c_str(), human_bytes(p.budget.ram + p.process_bytes).c_str(), static_cast<long long>(o.lora_rank), text.c_str());
  return 0;
}

// A folder or a config.json in the stead of a recipe, and nothing said but of the machine.
bool is_model(const fs::path& path) { return fs::is_directory(path) || path.filename() == "config.json"; }
bool asks_for_matrix(const std::vector<std::string>& overrides) {
  for (size_t i = 0; i < overrides.size(); ++i) {
    std::string_view word = overrides[i];
    if (word.starts_with("--") && word.find('=') == word.npos) ++i;  // its value is the next word
    word.remove_prefix(std::min(word.find_first_not_of('-'), word.size()));
    const auto key = word.substr(0, word.find('='));
    if (key != "gpu" && key != "vram" && key != "ram" && key != "disk" && key != "device" && key != "threads") return false;
  }
  return true;
}

int run_plan(const PlanOptions& how, const std::vector<std::string>& words) {
  auto [file, overrides] = recipe_and_overrides(words);
  const bool of_model = !file.empty() && is_model(file);
  const bool matrix = of_model && !how.json && how.html.empty() && !how.explain && asks_for_matrix(overrides);
  if (of_model) overrides.push_back("model_name_or_path=" + file.string()), file.clear();
  const auto options = train::read_train_options(file, overrides);
  return matrix ? plan_matrix(options) : plan_one(options, how);
}

}  // namespace

std::pair<fs::path, std::vector<std::string>> recipe_and_overrides(std::vector<std::string> words) {
  fs::path file;
  if (!words.empty() && words[0].find('=') == std::string::npos && !words[0].starts_with("-")) file = words[0], words.erase(words.begin());
  return {file, words};
}

void add_plan(CLI::App& app, Run& run) {
  const auto o = std::make_shared<PlanOptions>();
  auto* c = app.add_subcommand("plan", "what fits, how, how fast and why, from config.json alone: [RECIPE | MODEL] [key=value | --key value]...\nRECIPE: as for train. "
                                       "MODEL: a folder or config.json; with no more than gpu, vram, ram and disk beside it, a matrix of methods by lengths");
  c->add_flag("--json", o->json, "for programs: docs/plan.schema.json");
  c->add_option("--html", o->html, "write a page with the step's memory over time and the alternatives");
  c->add_flag("--explain", o->explain, "walk the ladder of what forward leaves for backward");
  c->allow_extras();
  c->callback([=, &run] { run = [=] { return run_plan(*o, c->remaining()); }; });
}

}  // namespace thimble::cli
