// One row a card. The shares of the peaks were measured on an H200 (benchmarks/h200.md); `thimble bench` measures a machine's own.
#include "device/catalogue.h"

#include <algorithm>

namespace thimble {
namespace {

constexpr const char *turing = "NVIDIA T4 datasheet, 2019", *ampere = "NVIDIA Ampere GA102 whitepaper V2.1", *a100 = "NVIDIA A100 datasheet, 2021",
                     *ampere_pro = "NVIDIA datasheets of A10 and RTX A6000", *ada = "NVIDIA Ada GPU architecture whitepaper V2.1",
                     *ada_pro = "NVIDIA datasheets of L4, L40S, RTX 6000 Ada", *hopper = "NVIDIA H100 and H200 datasheets, 2024",
                     *blackwell = "NVIDIA HGX B200 datasheet, 2025", *blackwell_rtx = "NVIDIA RTX Blackwell GPU architecture whitepaper V1.1";

constexpr Gpu table[] = {
    {"t4", "Tesla T4", 75, 15360, 65, 0, 8.1, 320, 16, turing},
    {"rtx3060", "GeForce RTX 3060", 86, 12288, 25.6, 0, 12.7, 360, 32, ampere},
    {"rtx3080", "GeForce RTX 3080", 86, 10240, 59.5, 0, 29.8, 760, 32, ampere},
    {"rtx3090", "GeForce RTX 3090", 86, 24576, 71.2, 0, 35.6, 936, 32, ampere},
    {"a10", "A10", 86, 23028, 125, 0, 31.2, 600, 32, ampere_pro},
    {"a6000", "RTX A6000", 86, 49140, 154.8, 0, 38.7, 768, 32, ampere_pro},
    {"a100-40", "A100-SXM4-40GB", 80, 40960, 312, 0, 19.5, 1555, 32, a100},
    {"a100-80", "A100-SXM4-80GB", 80, 81920, 312, 0, 19.5, 2039, 32, a100},
    {"rtx4060ti", "GeForce RTX 4060 Ti", 89, 16380, 44.1, 88.3, 22.1, 288, 16, ada},
    {"rtx4070", "GeForce RTX 4070", 89, 12282, 58.3, 116.6, 29.1, 504, 32, ada},
    {"rtx4080", "GeForce RTX 4080", 89, 16376, 97.5, 194.9, 48.7, 717, 32, ada},
    {"rtx4090", "GeForce RTX 4090", 89, 24564, 165.2, 330.3, 82.6, 1008, 32, ada},
    {"l4", "L4", 89, 23034, 121, 242, 30.3, 300, 32, ada_pro},
    {"l40s", "L40S", 89, 46068, 362, 733, 91.6, 864, 32, ada_pro},
    {"rtx6000-ada", "RTX 6000 Ada Generation", 89, 49140, 364, 728, 91.1, 960, 32, ada_pro},
    {"rtx5080", "GeForce RTX 5080", 120, 16303, 112.6, 225.1, 56.3, 960, 64, blackwell_rtx},
    {"rtx5090", "GeForce RTX 5090", 120, 32607, 209.5, 419, 104.8, 1792, 64, blackwell_rtx},
    {"h100", "H100 80GB HBM3", 90, 81559, 989, 1979, 67, 3350, 64, hopper},
    {"h100-pcie", "H100 PCIe", 90, 81559, 756, 1513, 51, 2000, 64, hopper},
    {"h200", "H200", 90, 143771, 989, 1979, 67, 4800, 64, hopper},
    {"b200", "B200", 100, 183359, 2250, 4500, 75, 7700, 64, blackwell},
};

// Of the peaks, as bf16 products at the steady rate, kernels that read and write memory, and copies of pinned memory reach them.
constexpr double of_matrix = 0.71, of_memory = 0.83, of_link = 0.78, of_vector = 0.7;

// What ops add to that, as they were profiled on an H200 (benchmarks/h200.md). Attention nears its best with its length, which a price of its
// operands' bytes says; its backward adds up dq.
const std::shared_ptr<const OpRates>& cuda_rates() {
  static const auto rates = [] {
    const double launch = DeviceSpec{}.op_seconds;
    const auto share = [launch](double speed, double a_byte = 0) { return OpRate{launch, speed, a_byte}; };
    return std::make_shared<const OpRates>(OpRates{
        {"attention", share(0.81, 0.9e-12)}, {"attention_backward", share(0.76, 2.45e-12)}, {"cross_entropy", share(0.5)},   {"nf4 unpack", share(0.7)},
        {"rms_norm", share(0.7)},            {"rms_norm_backward", share(0.6)},             {"rope", share(0.84)},           {"rope_backward", share(0.84)},
        {"lora x.A", share(0.85)},           {"lora xa.B", share(0.65)},                    {"lora dB", share(0.7)},         {"lora d xa", share(0.7)},
        {"lora dx", share(0.85)},            {"adamw 8bit", share(0.27)},                   {"embedding_backward", share(0.03)}});
  }();
  return rates;
}

}  // namespace

std::span<const Gpu> gpus() { return table; }

const Gpu* find_gpu(std::string_view key) {
  const auto it = std::find_if(std::begin(table), std::end(table), [&](const Gpu& g) { return key == g.key; });
  return it == std::end(table) ? nullptr : it;
}

const Gpu* gpu_of_driver_name(std::string_view name) {
  const Gpu* best = nullptr;
  for (const Gpu& g : table)
    if (name.ends_with(g.name) && (!best || std::string_view(g.name).size() > std::string_view(best->name).size())) best = &g;
  return best;
}

DeviceSpec spec_of(const Gpu& g) {
  DeviceSpec spec{.kind = DeviceKind::cuda, .name = g.name, .compute = half_of(g.capability), .capability = g.capability, .flops = g.half * 1e12 * of_matrix};
  spec.vector_flops = g.f32 * 1e12 * of_vector;
  spec.memory_bandwidth = g.memory_gb * 1e9 * of_memory;
  spec.link_bandwidth = g.link_gb * 1e9 * of_link;
  spec.matmul_workspace = int64_t{32} << 20;
  spec.memory = g.memory_mib << 20;
  spec.overhead = usual_overhead;
  spec.rates = cuda_rates();
  return spec;
}

}  // namespace thimble
