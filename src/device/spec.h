// What a machine is, as far as a plan must know it: kind, preferred type of matrix products, caps, rates.
// A real device fills it in from itself; a phantom is given one, so that a laptop plans an H200.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/dtype.h"

namespace thimble {

enum class DeviceKind : uint8_t { cpu, cuda };

// Where bytes can lie. On the cpu device all but disk are RAM, cut into the sizes that the budget names.
enum class Tier : uint8_t { device, pinned, host, disk };
constexpr int tier_count = 4;
constexpr const char* name_of(Tier t) {
  constexpr const char* names[] = {"device", "pinned", "host", "disk"};
  return names[int(t)];
}

// How one op was measured to differ from the roofline: seconds = fixed + roofline / speed + bytes * a_byte.
struct OpRate {
  double fixed = 0, speed = 1, a_byte = 0;
  bool operator==(const OpRate&) const = default;
};
using OpRates = std::map<std::string, OpRate, std::less<>>;  // by the op's name

struct DeviceSpec {
  DeviceKind kind = DeviceKind::cpu;
  std::string name = "cpu";
  DType compute = DType::f32;      // type of activations: bf16 where the matrix units take it, else f16 on a GPU, else f32
  bool sums_int8 = false;          // of a cpu: products of i8 matrices with exact sums, at twice the rate of bf16's (AVX-512 VNNI)
  int capability = 80;             // of a GPU: its compute capability, times ten
  double flops = 1e11;             // matrix products in `compute`, per second
  double vector_flops = 2.5e10;    // all other arithmetic
  double memory_bandwidth = 1e10;  // bytes per second, read or written
  double link_bandwidth = 5e9;     // between the device tier and pinned, each way
  double disk_bandwidth = 3e9;     // between the disk tier and pinned; stated, not measured: what one NVMe drive of PCIe 3 gives
  double op_seconds = 5e-6;        // that an op takes however small it is: launch, or waking the threads
  std::shared_ptr<const OpRates> rates;  // of the ops that were measured on this machine; null: none was
  std::shared_ptr<const DeviceSpec> processor;  // beside a GPU: what computes where host memory is; null: not known, and on the cpu itself
  int64_t matmul_workspace = 0;    // cap on what one matrix product may take as scratch from the arena
  int64_t memory = 0;              // bytes of the device's own memory; 0: the machine's RAM
  int64_t overhead = 0;            // of these, what the driver's context, the libraries and the kernels' code take beside every arena
  int64_t free = 0;                // of these, what nobody had before this process came; 0: not known
  int index = 0;                   // which GPU
  std::string address;             // its place on the PCI bus
  std::string disk;                // folder of the disk tier's file; empty: there is none
  std::string cache;               // folder where what was measured on a device is kept for the next run; empty: none
  bool reads_pinned = true;        // kernels read pinned memory by the host's own addresses
  bool deterministic = false;      // the same bits in every run, at a price on cuda: no way is taken that adds in a varying order, or chosen by timing
  bool operator==(const DeviceSpec&) const = default;
};

// Every allocation of an arena begins at a multiple of this: a cache line, a vector, a cuBLASLt operand.
constexpr int64_t alignment = 256;
constexpr int64_t aligned(int64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// What the driver keeps on the card for pinned memory, which it maps there: an entry of 8 bytes a page of 4 KiB. (H200, 2026-11-21: a run that
// pinned 61 GiB took 0.13 GiB beside its arenas, runs that pinned nothing 0.01 to 0.02.)
constexpr int64_t page_tables(const DeviceSpec& spec, int64_t pinned) { return spec.kind == DeviceKind::cuda ? pinned / 512 : 0; }

}  // namespace thimble
