// The commands of the one program, each in its own file; and what several of them share.
#pragma once
#include <CLI/CLI.hpp>

namespace thimble::train {
struct TrainOptions;
}

namespace thimble::cli {

// Each adds its subcommand; `run` is set to what it does when chosen.
using Run = std::function<int()>;
void add_train(CLI::App&, Run&);
void add_plan(CLI::App&, Run&);
void add_data(CLI::App&, Run&);       // data check, data prepare
void add_generate(CLI::App&, Run&);   // generate, chat
void add_eval(CLI::App&, Run&);
void add_folders(CLI::App&, Run&);    // init, inspect
void add_quantize(CLI::App&, Run&);   // quantize, export
void add_machine(CLI::App&, Run&);    // doctor
void add_bench(CLI::App&, Run&);

// A recipe file and key=value (or --key value) over it, as the words behind a command.
void takes_recipe(CLI::App& command, Run&, int (*what)(const train::TrainOptions&));

}  // namespace thimble::cli
