// doctor: what this machine has, and which paths are taken on it.
#include <cstdio>

#include "base/threads.h"
#include "cli/commands.h"
#include "cli/run_plan.h"
#include "device/cuda.h"

namespace thimble::cli {
namespace {

void print_gpus() {
#ifdef THIMBLE_CUDA
  const int count = cuda_count();
  if (count == 0) std::printf("CUDA              built in; no GPU answers\n");
  for (int i = 0; i < count; ++i) {
    const auto gpu = this_cuda(i);
    std::printf("GPU %-13d %s, %s, %s free, %lld MiB of context\n", i, gpu.name.c_str(), human_bytes(gpu.memory).c_str(), human_bytes(cuda_free_bytes(i)).c_str(),
                static_cast<long long>(gpu.overhead >> 20));
  }
#else
  std::printf("CUDA              not built in\n");
#endif
}

int doctor() {
  const auto spec = machine("cpu", std::nullopt);
  std::printf("instructions      %s\nthreads           %d\nactivations       %s\nmemory available  %s\n", cpu_instructions().c_str(), thread_count(),
              std::string(name_of(spec.compute)).c_str(), human_bytes(available_bytes()).c_str());
  print_gpus();
  return 0;
}

}  // namespace

void add_machine(CLI::App& app, Run& run) {
  app.add_subcommand("doctor", "what this machine has and which paths are taken on it")->callback([&run] { run = doctor; });
}

}  // namespace thimble::cli
