// thimble: one program. Errors end here, in one form, with the exit code of their class.
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  CLI::App app{"thimble " THIMBLE_VERSION ": fine-tunes and serves large language models in the memory you have.\n"
               "Examples:\n"
               "  thimble plan recipe.yaml vram=24GiB          does it fit, how, how fast\n"
               "  thimble train recipe.yaml output_dir=out/a   tune inside the plan\n"
               "  thimble data check FILE --model DIR          what a data file holds, and what would be trained\n"
               "  thimble chat --model DIR --adapter out/a     talk to the result\n"
               "  thimble eval --model DIR --data FILE         loss and exact match on a file"};
  app.set_version_flag("--version", THIMBLE_VERSION);
  app.require_subcommand(1);
  thimble::cli::Run run;
  using namespace thimble::cli;
  for (const auto add : {add_train, add_plan, add_data, add_generate, add_eval, add_folders, add_quantize, add_machine, add_bench}) add(app, run);
  try {
    app.parse(argc, argv);
    return run();
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? 0 : int(thimble::Fault::usage);
  } catch (const thimble::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return int(e.fault());
  } catch (const std::filesystem::filesystem_error& e) {  // a path that the system refuses: too long, not ours to read
    const thimble::Error error(thimble::Fault::bad_input, {.what = "cannot use a file or folder", .where = e.path1().string(), .found = e.code().message()});
    std::fprintf(stderr, "error: %s\n", error.what());
    return int(error.fault());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return int(thimble::Fault::internal);
  }
}
