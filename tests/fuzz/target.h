// What every fuzz target shares. A target is a file tests/fuzz/NAME.cpp that defines LLVMFuzzerTestOneInput, a line thimble_fuzz(NAME room)
// in tests/CMakeLists.txt, and seeds in tests/fuzz/seeds/NAME/. Built with clang (preset `fuzz`) it is a libFuzzer program; in every other
// build mutate.cpp drives it, so that the seeds, and what once broke, run with the tests.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace thimble::fuzz {

inline std::string_view text(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// A reader may take an input, or refuse it as a bad file; every other exception, a sanitizer's report, a hang or a flood of memory is a
// find.
template <class F>
int take_or_refuse(F&& read) {
  try {
    read();
  } catch (const Error& e) {
    if (e.fault() != Fault::bad_input) throw;
  }
  return 0;
}

}  // namespace thimble::fuzz
