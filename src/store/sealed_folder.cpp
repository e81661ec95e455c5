// The order is the promise: files flushed, manifest flushed, folder flushed, renamed, parent flushed. AtomicFile does the first two.
#include "store/sealed_folder.h"

#include <fcntl.h>
#include <stdio.h>

#include <cerrno>
#include <cstring>

#include "base/json.h"

namespace thimble::store {
namespace {

constexpr int64_t manifest_format = 1;

fs::path with_ending(fs::path path, const char* ending) { return path += ending; }

bool is_plain(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\0", 2)) == name.npos;
}

Manifest parse_manifest(const fs::path& folder) {
  const fs::path path = folder / manifest_name;
  const std::string where = path.string();
  const Json json = parse_json(read_text(path, int64_t{1} << 20), where, 8);
  if (!json.is_object()) fail_field(where, "manifest", "an object", &json);
  if (require<int64_t>(json, "format", where) > manifest_format)
    fail_field(where, "format", "1: a newer program wrote this", &json["format"]);
  Manifest m{.serial = require<int64_t>(json, "serial", where)};
  const auto files = json.find("files");
  if (files == json.end() || !files->is_array()) fail_field(where, "files", "an array", files == json.end() ? nullptr : &*files);
  for (const Json& f : *files) {
    if (!f.is_object()) fail_field(where, "files", "objects", &f);
    WrittenFile file{.name = require<std::string>(f, "name", where), .bytes = require<int64_t>(f, "bytes", where)};
    const auto hash = require<std::string>(f, "xxh64", where);
    char* end = nullptr;
    file.xxh64 = std::strtoull(hash.c_str(), &end, 16);
    if (!is_plain(file.name) || hash.size() != 16 || *end) fail_field(where, "files", "a file's name and 16 hexadecimal digits", &f);
    m.files.push_back(std::move(file));
  }
  return m;
}

}  // namespace

SealedFolder::SealedFolder(const fs::path& path) : path_(path), aside_(with_ending(path, partial_ending)) {
  fs::remove_all(aside_);
  fs::create_directories(aside_);
}

SealedFolder::~SealedFolder() {
  std::error_code ignored;
  if (!sealed_) fs::remove_all(aside_, ignored);
}

void SealedFolder::add(WrittenFile file) { manifest_.files.push_back(std::move(file)); }
void SealedFolder::add(const std::vector<WrittenFile>& files) { manifest_.files.insert(manifest_.files.end(), files.begin(), files.end()); }

void SealedFolder::seal(int64_t serial) {
  Json files = Json::array();
  for (const WrittenFile& f : manifest_.files) files.push_back({{"name", f.name}, {"bytes", f.bytes}, {"xxh64", Xxh64::text(f.xxh64)}});
  write_atomically(aside_ / manifest_name, Json{{"format", manifest_format}, {"serial", serial}, {"files", files}}.dump(2) + "\n");
  // Where one of its name stands the two change places in one step, so that there is always one; then it is the old one that lies aside.
  const bool replaces = fs::exists(path_);
  if (::renameat2(AT_FDCWD, aside_.c_str(), AT_FDCWD, path_.c_str(), replaces ? RENAME_EXCHANGE : 0) != 0) {
    if (replaces) remove_sealed(path_);  // a file system without that step
    if (::rename(aside_.c_str(), path_.c_str()) != 0)
      throw Error(Fault::bad_input,
                  {.what = "cannot rename a finished folder into place", .where = path_.string(), .found = std::strerror(errno)});
  }
  sealed_ = true;
  flush_folder(path_.parent_path());
  std::error_code ignored;
  fs::remove_all(aside_, ignored);
}

std::optional<Manifest> read_manifest(const fs::path& folder) {
  try {
    return parse_manifest(folder);
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string damage_of(const fs::path& folder) {
  try {
    const Manifest m = parse_manifest(folder);
    for (const WrittenFile& said : m.files) {
      const int64_t bytes = int64_t(fs::file_size(folder / said.name));  // before gigabytes are read
      if (bytes != said.bytes) return fmt::format("{} has {} bytes, and had {}", said.name, bytes, said.bytes);
      if (measure(folder / said.name).xxh64 != said.xxh64) return fmt::format("{} is not what was written", said.name);
    }
  } catch (const Error& e) {
    const Problem& p = e.problem();
    const std::string file = fs::path(p.where).filename().string();
    return p.found.empty() || p.expected.empty() ? fmt::format("{}: {}", file, p.found.empty() ? p.what : p.found)
                                                 : fmt::format("{}: {}: {}, expected {}", file, p.what, p.found, p.expected);
  } catch (const fs::filesystem_error& e) {
    return fmt::format("{}: {}", e.path1().filename().string(), e.code().message());
  }
  return "";
}

void remove_sealed(const fs::path& folder) {
  // Not the name that a folder being written has: that one may be waiting for this place.
  const fs::path aside = with_ending(with_ending(folder, ".old"), partial_ending);
  std::error_code error;
  fs::remove_all(aside, error);
  fs::rename(folder, aside, error);
  if (!error) fs::remove_all(aside, error);
}

}  // namespace thimble::store
