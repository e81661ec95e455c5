// What tests of hostile files share: a folder that is gone afterwards, safetensors files made by hand, and the look of a good refusal.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "golden_folder.h"
#include "store/safetensors.h"

namespace thimble::store {

inline fs::path golden(std::string_view name) { return golden_folder() / name; }

struct Folder {
  fs::path path;
  Folder() {
    std::string name = (fs::temp_directory_path() / "thimble-store-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
  Folder(const Folder&) = delete;
  fs::path put(std::string_view name, std::string_view text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return path / name;
  }
};

// A file of this header, its length told truly, and `data` zero bytes.
inline std::string file_of(std::string_view header, size_t data = 0) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + std::string(header) + std::string(data, '\0');
}

// One Error, the user's to mend, that says what and where, and what was expected or found. `words` stand somewhere in it.
inline void expect_refused(const std::function<void()>& f, const std::vector<std::string_view>& words, std::string_view of = "") {
  try {
    f();
    ADD_FAILURE() << "accepted: " << of;
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::bad_input) << of << ": " << e.what();
    const auto& p = e.problem();
    EXPECT_FALSE(p.what.empty() || p.where.empty() || (p.expected.empty() && p.found.empty())) << of << ": " << e.what();
    for (const auto w : words)
      EXPECT_NE(std::string_view(e.what()).find(w), std::string_view::npos) << of << ": '" << w << "' in: " << e.what();
    EXPECT_LT(std::strlen(e.what()), 2500u) << of;
    for (const char* c = e.what(); *c; ++c) EXPECT_TRUE(static_cast<unsigned char>(*c) >= 0x20 || *c == '\n') << of;
  } catch (const std::exception& e) {
    ADD_FAILURE() << of << " is no Error: " << e.what();
  }
}

struct Named {
  std::string name;
  DType dtype;
  Shape shape;
};

// Numbers that all three types hold exactly, different in each tensor and place.
inline float number(size_t tensor, int64_t i) { return float((int64_t(tensor) * 37 + i * 5) % 127 - 63) / 4; }

inline void write_numbers(const fs::path& path, const std::vector<Named>& tensors) {
  std::vector<SafetensorsWriter::Declared> declared;
  for (const auto& t : tensors) declared.push_back({t.name, t.dtype, t.shape});
  SafetensorsWriter writer(path, declared);
  for (size_t n = 0; n < tensors.size(); ++n) {
    std::vector<float> room(size_t(tensors[n].shape.count()));
    const Tensor t{room.data(), tensors[n].dtype, tensors[n].shape};
    visit_float(t.dtype, [&]<class T>(T) {
      for (int64_t i = 0; i < t.count(); ++i) t.get<T>()[i] = T(number(n, i));
    });
    writer.write(t);
  }
  writer.commit();
}

}  // namespace thimble::store
