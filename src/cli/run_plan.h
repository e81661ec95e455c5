// From options to a plan: what `plan` prints and `train` runs, by the same calls.
#pragma once
#include "plan/report.h"
#include "train/options.h"
#include "train/trainer.h"

namespace thimble::cli {

struct Planned {
  train::Setup setup;
  plan::Budget budget;       // for arenas: the program's own bytes are off
  int64_t process_bytes = 0;
  plan::Space space;
  plan::Choice choice;
  DeviceSpec spec;
  plan::DryRun dry_run() const;  // while this lives
};

// A command's words: a file, if the first is no override, and the overrides.
std::pair<fs::path, std::vector<std::string>> recipe_and_overrides(std::vector<std::string> words);

// Plans the run that the options describe on this machine. Reads config.json only. With `order` no other is tried.
Planned make_plan(const train::TrainOptions&, std::optional<plan::SumOrder> order = {});
// The error of a plan that does not exist: exit 4, with up to three changes that were tried and fit.
[[noreturn]] void refuse(const train::TrainOptions&, const Planned&);

// Where a user's programs keep what can be made again, as the XDG base directory specification says; empty where there is no home.
std::string cache_folder();
// Resident bytes of this process that are no mapped file; bytes that the machine can still give.
int64_t process_bytes();
int64_t available_bytes();
// What computes: "cpu", "cuda", or "auto" for a GPU where one answers. Sets the thread count too.
DeviceSpec machine(std::string_view device, const std::optional<int64_t>& threads);
// What rates are kept by: the processor and its threads, or the card.
std::string machine_name(const DeviceSpec&);
// What a plan may take of the device tier: what is free, or of what the user named, what the context leaves.
int64_t device_budget(const DeviceSpec&, const std::optional<int64_t>& named);

// The folder goes into the spec. What a plan may take of it: what was named, or what is free, if that is less and the machine is this one.
int64_t disk_budget(DeviceSpec&, const train::DiskSpace&, bool this_machine);

// What may vary of a model that is tuned so; the user's own wishes come on top.
plan::Space space_of(const train::Setup&, const DeviceSpec&);

}  // namespace thimble::cli
