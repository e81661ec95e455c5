// The commands of the one program, each in its own file; and what several of them share.
#pragma once
#include <CLI/CLI.hpp>

namespace thimble::cli {

// Each adds its subcommand; `run` is set to what it does when chosen.
using Run = std::function<int()>;
void add_train(CLI::App&, Run&);      // train, plan
void add_generate(CLI::App&, Run&);   // generate, chat
void add_eval(CLI::App&, Run&);
void add_folders(CLI::App&, Run&);    // init, inspect
void add_quantize(CLI::App&, Run&);   // quantize, export
void add_machine(CLI::App&, Run&);    // doctor
void add_bench(CLI::App&, Run&);

}  // namespace thimble::cli
