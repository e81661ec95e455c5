// The cuda device: one cudaMalloc a reservation, pinned memory registered once, two copy streams, events as tickets.
#include <nvtx3/nvToolsExt.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cstring>
#include <deque>

#include "base/file.h"
#include "device/card_memory.h"
#include "device/catalogue.h"
#include "device/cuda.cuh"
#include "device/cuda.h"
#include "device/disk.h"

namespace thimble {
namespace {

constexpr int64_t mib = int64_t{1} << 20;
// Kernels' code, which the driver loads when one is first launched, and cuDNN's handle: 10 to 30 MiB measured on H200 (2026-11-21).
constexpr int64_t loaded_later = 64 * mib;

}  // namespace

int cuda_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

int64_t cuda_free_bytes(int index) {
  size_t free = 0, total = 0;
  check_cuda(cudaSetDevice(index), "cudaSetDevice");
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return int64_t(free);
}

DeviceSpec this_cuda(int index) {
  int count = 0, driver = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaDriverGetVersion(&driver);
  if (status == cudaErrorInsufficientDriver && driver > 0)
    throw Error(Fault::usage, {.what = "the NVIDIA driver is older than this build", .expected = std::to_string(CUDART_VERSION), .found = std::to_string(driver), .fix = "update the driver, or use the cpu device"});
  if (status != cudaSuccess || index >= count)
    throw Error(Fault::usage, {.what = driver == 0 ? "no NVIDIA driver answers" : "there is no such GPU", .expected = "GPU " + std::to_string(index), .found = std::to_string(count) + " GPUs", .fix = "use the cpu device"});
  cudaDeviceProp p{};
  check_cuda(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties");
  // The catalogue's rates; an H200's for a card that it does not know.
  const Gpu* known = gpu_of_driver_name(p.name);
  DeviceSpec spec = spec_of(known ? *known : *find_gpu("h200"));
  spec.name = p.name;
  spec.capability = 10 * p.major + p.minor;
  spec.compute = half_of(spec.capability);
  spec.memory = int64_t(p.totalGlobalMem);
  spec.index = index;
  char address[32] = {};
  check_cuda(cudaDeviceGetPCIBusId(address, sizeof address, index), "cudaDeviceGetPCIBusId");
  spec.address = address;
  int reads_pinned = 0;
  check_cuda(cudaDeviceGetAttribute(&reads_pinned, cudaDevAttrCanUseHostPointerForRegisteredMem, index), "cudaDeviceGetAttribute");
  spec.reads_pinned = reads_pinned != 0;  // 0: on the card it has another address
  return spec;
}

DeviceSpec measured_cuda(int index) {
  DeviceSpec spec = this_cuda(index);
  const CardMemory card(spec.address);
  const auto before = card.free_bytes();
  const CudaContext as_in_a_run(spec);
  const auto after = card.free_bytes();
  const int64_t took = before && after ? *before - *after : 0;
  if (took < 64 * mib || took > 2048 * mib) return spec;  // no answer, a context that was there already, or another program that came or went
  spec.free = *before;
  spec.overhead = took + loaded_later;
  return spec;
}

namespace {

__global__ void any_kernel() {}

void check_architecture(const DeviceSpec& spec) {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, any_kernel);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction) {
    cudaDeviceProp p{};
    check_cuda(cudaGetDeviceProperties(&p, spec.index), "cudaGetDeviceProperties");
    throw Error(Fault::usage, {.what = "this build has no code for the GPU's architecture", .where = spec.name, .found = "sm_" + std::to_string(10 * p.major + p.minor),
                               .fix = "build the `release` preset, or name it in CMAKE_CUDA_ARCHITECTURES; or use the cpu device"});
  }
  check_cuda(status, "cudaFuncGetAttributes");
}

class CudaDevice final : public Device {
 public:
  CudaDevice(DeviceSpec spec, DeviceMemory where) : Device(spec, false), context_(spec), where_(where) {
    check_architecture(spec);
    if (keeps_algorithms()) context_.remembered = read_algorithms(algorithm_file(), maker_of_algorithms());
  }
  ~CudaDevice() override {
    disk_.wait_for_all();
    if (keeps_algorithms()) keep_algorithms();
    cudaDeviceSynchronize();
    for (const cudaEvent_t e : events_)
      if (e) cudaEventDestroy(e);
  }

  Storage reserve(Tier tier, int64_t bytes) override {
    if (bytes == 0) return {};
    if (tier == Tier::disk) return disk_.reserve(spec().disk, bytes);
    if (tier == Tier::device && where_ == DeviceMemory::on_card) {
      void* p = nullptr;
      if (cudaMalloc(&p, size_t(bytes)) != cudaSuccess) {
        size_t free = 0, total = 0;
        cudaMemGetInfo(&free, &total);
        throw Error(Fault::does_not_fit, {.what = "the GPU has not the planned bytes", .expected = human_bytes(bytes), .found = human_bytes(int64_t(free)) + " free",
                                          .fix = "close what else uses the card, or name a smaller budget"});
      }
      return Storage(p, bytes, [](void* data, int64_t) { cudaFree(data); });
    }
    void* p = ::mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw Error(Fault::does_not_fit, {.what = "cannot reserve host memory", .expected = human_bytes(bytes)});
    if (tier != Tier::pinned && tier != Tier::device) return Storage(p, bytes, [](void* data, int64_t n) { ::munmap(data, size_t(n)); });
    // Touched by all threads before it is registered: one thread touches 1.2 GB/s.
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < bytes; at += 4096) static_cast<volatile char*>(p)[at] = 0;
    check_cuda(cudaHostRegister(p, size_t(bytes), cudaHostRegisterMapped), "cudaHostRegister");  // mapped: kernels read it too
    return Storage(p, bytes, [](void* data, int64_t n) { cudaHostUnregister(data); ::munmap(data, size_t(n)); });
  }
  Ticket copy(Lane lane, void* to, const void* from, int64_t bytes, Ticket after, Ticket also) override {
    if (lane == Lane::disk) {
      std::array<cudaEvent_t, 2> events{};
      for (size_t i = 0; const Ticket t : {after, also}) events[i++] = t > 0 ? event(t) : nullptr;  // what is before it on its own lane has ended by then
      return -disk_.copy(to, from, bytes, [events] {
        for (const cudaEvent_t e : events)
          if (e) check_cuda(cudaEventSynchronize(e), "cudaEventSynchronize");
      });
    }
    const cudaStream_t stream = context_.lanes[size_t(lane)];
    for (const Ticket t : {after, also}) wait_on(stream, t);
    check_cuda(cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyDefault, stream), "cudaMemcpyAsync");
    return mark(stream);
  }
  Ticket now() override { return mark(context_.stream); }
  void wait(Ticket t) override { wait_on(context_.stream, t); }
  void host_wait(Ticket t) override {
    if (t < 0) wait_for_disk(t);
    if (t > 0) check_cuda(cudaEventSynchronize(event(t)), "cudaEventSynchronize");
  }
  void begin_range(const char* name) override { nvtxRangePushA(name); }
  void end_range() override { nvtxRangePop(); }
  void synchronize() override { check_cuda(cudaStreamSynchronize(context_.stream), "cudaStreamSynchronize"); }
  CudaContext* native() override { return &context_; }
  Device& processor() override {
    if (!processor_) processor_ = cpu_device(spec().processor ? *spec().processor : this_cpu());
    return *processor_;
  }

 private:
  // What a run that is the same every time takes is the library's first choice, so there is nothing to keep.
  bool keeps_algorithms() const { return !spec().cache.empty() && !spec().deterministic; }
  std::string maker_of_algorithms() const {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    return spec().name + ", cuBLASLt " + std::to_string(cublasLtGetVersion()) + ", driver " + std::to_string(driver) +
           ", workspace " + std::to_string(spec().matmul_workspace);
  }
  fs::path algorithm_file() const {
    std::string name = maker_of_algorithms();
    std::replace_if(name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '-');
    return fs::path(spec().cache) / (name + ".json");
  }
  void keep_algorithms() {
    bool any_new = false;
    for (const auto& [key, algorithm] : context_.algorithms) {
      Algorithm& kept = context_.remembered[key];
      const auto bytes = std::bit_cast<Algorithm>(algorithm);
      any_new |= kept != bytes;
      kept = bytes;
    }
    if (any_new) write_algorithms(algorithm_file(), maker_of_algorithms(), context_.remembered);
  }

  // Tickets of the disk lane are below 0, and no event: the host waits for them before it gives a stream what comes after. Streams hold work of earlier
  // layers meanwhile.
  void wait_for_disk(Ticket t) {
    disk_.wait(-t);
    disk_.throw_if_failed();
  }
  void wait_on(cudaStream_t stream, Ticket t) {
    if (t < 0) wait_for_disk(t);
    if (t > 0) check_cuda(cudaStreamWaitEvent(stream, event(t)), "cudaStreamWaitEvent");
  }

  // A ring of events: a ticket that is older than the ring has passed long ago, or its event stands for a later moment, which is as safe.
  static constexpr size_t event_count = 4096;
  cudaEvent_t event(Ticket t) { return events_[size_t(t) % event_count]; }
  Ticket mark(cudaStream_t stream) {
    const Ticket t = ++issued_;
    if (events_.size() <= size_t(t) % event_count) events_.resize(size_t(t) % event_count + 1, nullptr);
    cudaEvent_t& e = events_[size_t(t) % event_count];
    if (!e) check_cuda(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreate");
    check_cuda(cudaEventRecord(e, stream), "cudaEventRecord");
    return t;
  }
  Disk disk_;
  CudaContext context_;
  DeviceMemory where_;
  std::unique_ptr<Device> processor_;
  std::deque<cudaEvent_t> events_;
  Ticket issued_ = 0;
};

}  // namespace

std::unique_ptr<Device> cuda_device(DeviceSpec spec, DeviceMemory where) { return std::make_unique<CudaDevice>(std::move(spec), where); }

}  // namespace thimble
