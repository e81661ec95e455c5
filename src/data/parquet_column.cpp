// Nothing is allocated before its size is known to be in bounds: a page holds at most 256 MiB, and values are decoded one by one, so that a run
// of a billion equal ones costs what one does.
#include "data/parquet_column.h"

#include <snappy.h>
#include <zlib.h>
#include <zstd.h>

#include <bit>
#include <cstring>

#include "base/error.h"

namespace thimble::data {
namespace {

constexpr int64_t largest_page = int64_t{256} << 20;
constexpr int64_t largest_header = 1 << 20;
enum PageKind : int64_t { data_page = 0, index_page = 1, dictionary_page = 2, data_page_v2 = 3 };  // any number, since a file says it
enum Encoding { plain = 0, plain_dictionary = 2, run_length = 3, rle_dictionary = 8 };
enum Codec { uncompressed = 0, snappy_codec = 1, gzip_codec = 2, zstd_codec = 6 };
constexpr const char* codec_names[] = {"none", "snappy", "gzip", "LZO", "brotli", "LZ4", "zstd", "LZ4_RAW"};
constexpr const char* encoding_names[] = {"PLAIN", "1", "PLAIN_DICTIONARY", "RLE", "BIT_PACKED", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY",
                                          "DELTA_BYTE_ARRAY", "RLE_DICTIONARY", "BYTE_STREAM_SPLIT"};

template <size_t n>
std::string name_in(const char* const (&names)[n], int64_t i) { return i >= 0 && size_t(i) < n ? names[i] : std::to_string(i); }

bool unpack_gzip(std::string_view from, std::string& to) {
  z_stream z{};
  if (::inflateInit2(&z, 15 + 32) != Z_OK) return false;
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(from.data()));
  z.avail_in = uInt(from.size());
  z.next_out = reinterpret_cast<Bytef*>(to.data());
  z.avail_out = uInt(to.size());
  const int end = ::inflate(&z, Z_FINISH);
  ::inflateEnd(&z);
  return end == Z_STREAM_END && z.avail_out == 0;
}

// Into `to`, which has the size that the page claims; false where that is not what comes out.
bool unpack(int codec, std::string_view from, std::string& to) {
  switch (codec) {
    case snappy_codec: {
      size_t size = 0;
      return snappy::GetUncompressedLength(from.data(), from.size(), &size) && size == to.size() && snappy::RawUncompress(from.data(), from.size(), to.data());
    }
    case gzip_codec:
      return unpack_gzip(from, to);
    case zstd_codec:
      return ::ZSTD_decompress(to.data(), to.size(), from.data(), from.size()) == to.size();
  }
  return false;
}

template <class T>
T load(const char* p) {
  T x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

int bits_for(int most) { return int(std::bit_width(unsigned(most))); }

}  // namespace

bool RunReader::next(uint32_t& value) {
  const auto byte = [&](uint64_t& b) {
    if (bytes_.empty()) return false;
    b = static_cast<unsigned char>(bytes_.front());
    bytes_.remove_prefix(1);
    return true;
  };
  uint64_t b = 0;
  while (repeats_ == 0 && packed_ == 0) {
    uint64_t head = 0;
    for (int shift = 0;; shift += 7) {
      if (shift > 28 || !byte(b)) return false;
      head |= (b & 127) << shift;
      if (b < 128) break;
    }
    if (head & 1) {
      packed_ = (head >> 1) * 8;
      bits_ = 0, have_ = 0;
    } else {
      repeats_ = head >> 1;
      value_ = 0;
      for (int i = 0; i < (width_ + 7) / 8; ++i) {
        if (!byte(b)) return false;
        value_ |= uint32_t(b) << (8 * i);
      }
    }
  }
  if (repeats_) {
    --repeats_;
    value = value_;
    return true;
  }
  while (have_ < width_) {
    if (!byte(b)) return false;
    bits_ |= b << have_;
    have_ += 8;
  }
  --packed_;
  value = uint32_t(bits_ & ((uint64_t{1} << width_) - 1));
  bits_ >>= width_;
  have_ -= width_;
  return true;
}

ParquetColumn::ParquetColumn(const fs::path& path, ParquetLeaf leaf) : path_(path), file_(path, std::ios::binary), leaf_(std::move(leaf)) {
  file_bytes_ = int64_t(fs::file_size(path));
}

void ParquetColumn::fail(std::string what, std::string expected, std::string found) const {
  throw Error(Fault::bad_input, {.what = std::move(what), .where = fmt::format("{}, column '{}'", path_.string(), leaf_.name), .expected = std::move(expected),
                                 .found = std::move(found), .fix = "write the file again, as pandas or pyarrow do by default, or as JSON lines"});
}

void ParquetColumn::open(const Thrift& chunk) {
  const Thrift* meta = chunk.find(3);
  if (!meta || chunk.find(8)) fail("a parquet column cannot be read", "its metadata in the footer", chunk.find(8) ? "an encrypted column" : "none");
  codec_ = int(meta->number_or(4, -1));
  if (codec_ != uncompressed && codec_ != snappy_codec && codec_ != gzip_codec && codec_ != zstd_codec)
    fail("a parquet column is compressed in a way that is not read", "none, snappy, gzip or zstd", name_in(codec_names, codec_));
  chunk_values_ = meta->number_or(5, -1);
  const int64_t packed = meta->number_or(7, -1), data = meta->number_or(9, -1), words = meta->number_or(11, 0);
  at_ = words > 0 && words < data ? words : data;
  if (chunk_values_ < 0 || packed < 0 || at_ < 4 || at_ > file_bytes_ || packed > file_bytes_ - at_)
    fail("a parquet column lies outside of its file", fmt::format("at most {} bytes", file_bytes_), fmt::format("{} bytes at {}", packed, at_));
  end_ = at_ + packed;
  page_values_ = 0;
  has_entry_ = false;
  dictionary_.clear();
}

bool ParquetColumn::next_page() {
  while (page_values_ == 0) {
    if (chunk_values_ == 0) return false;
    if (at_ >= end_) fail("a parquet column is cut short", fmt::format("{} more values", chunk_values_), "the end of the column");
    const auto read = [&](std::string& to, int64_t bytes) {
      to.resize(size_t(bytes));
      file_.clear();
      file_.seekg(at_);
      if (!file_.read(to.data(), bytes)) fail("a parquet file cannot be read", fmt::format("{} bytes at {}", bytes, at_), "fewer: did it change?");
    };
    // A header is some tens of bytes; its statistics may hold values.
    Thrift header;
    size_t used = 0;
    for (int64_t bytes = 256;; bytes *= 16) {
      bytes = std::min(bytes, std::min(largest_header, end_ - at_));
      read(packed_, bytes);
      try {
        header = read_thrift(packed_, fmt::format("{}, column '{}'", path_.string(), leaf_.name), &used);
        break;
      } catch (const Error&) {
        if (bytes == std::min(largest_header, end_ - at_)) throw;
      }
    }
    at_ += int64_t(used);
    const int64_t packed = header.number_or(3, -1), size = header.number_or(2, -1);
    if (packed < 0 || packed > end_ - at_ || size < 0 || size > largest_page)
      fail("a page of a parquet column has an impossible size", fmt::format("at most {} bytes, and 256 MiB unpacked", end_ - at_), fmt::format("{}, and {}", packed, size));
    const auto kind = PageKind(header.number_or(1, -1));
    read(packed_, packed);
    at_ += packed;
    if (kind == index_page) continue;
    if (kind != data_page && kind != data_page_v2 && kind != dictionary_page) fail("a page of a parquet column is of no known kind", "data or dictionary", std::to_string(kind));

    // Levels of version 2 lie uncompressed in front.
    const Thrift* v2 = kind == data_page_v2 ? header.find(8) : nullptr;
    const int64_t definitions = v2 ? v2->number_or(5, 0) : 0, repetitions = v2 ? v2->number_or(6, 0) : 0, most = std::min(packed, size);
    if (kind == data_page_v2 && (!v2 || repetitions < 0 || repetitions > most || definitions < 0 || definitions > most - repetitions))
      fail("a page of a parquet column has impossible levels", fmt::format("levels within {} bytes", most), fmt::format("{} and {}", repetitions, definitions));
    const int64_t front = repetitions + definitions;
    std::string& page = kind == dictionary_page ? dictionary_page_ : page_;
    if (codec_ == uncompressed || (v2 && v2->number_or(7, 1) == 0)) {
      page = packed_;
    } else {
      std::string values(size_t(size - front), '\0');
      if (!values.empty() && !unpack(codec_, std::string_view(packed_).substr(size_t(front)), values))
        fail("a page of a parquet column cannot be unpacked", fmt::format("{} bytes of {}", size - front, name_in(codec_names, codec_)), "damaged bytes");
      page = packed_.substr(0, size_t(front)) + values;
    }
    if (kind == dictionary_page) {
      const Thrift* d = header.find(7);
      if (!d || (d->number_or(2, -1) != plain && d->number_or(2, -1) != plain_dictionary)) fail("a parquet dictionary cannot be read", "PLAIN", "another encoding");
      read_dictionary(d->number_or(1, -1));
    } else {
      begin_page(header, kind, page_);
    }
  }
  return true;
}

void ParquetColumn::read_dictionary(int64_t count) {
  plain_ = dictionary_page_;
  dictionary_.clear();
  if (count < 0 || count > int64_t(dictionary_page_.size()) || leaf_.type == Physical::boolean)  // a value takes a byte at least
    fail("a parquet dictionary has an impossible size", fmt::format("at most {}", dictionary_page_.size()), std::to_string(count));
  for (int64_t i = 0; i < count; ++i) dictionary_.push_back(read_plain());
}

std::string_view ParquetColumn::levels(std::string_view& body, int64_t length) {
  if (length < 0) {  // version 1 writes it in front
    if (body.size() < 4) fail("a page of a parquet column is cut short", "levels", "its end");
    length = load<uint32_t>(body.data());
    body.remove_prefix(4);
  }
  if (uint64_t(length) > body.size()) fail("a page of a parquet column is cut short", fmt::format("{} bytes of levels", length), std::to_string(body.size()));
  const std::string_view part = body.substr(0, size_t(length));
  body.remove_prefix(size_t(length));
  return part;
}

void ParquetColumn::begin_page(const Thrift& header, int kind, std::string_view body) {
  const Thrift* h = header.find(kind == data_page ? 5 : 8);
  page_values_ = h ? h->number_or(1, -1) : -1;
  if (page_values_ < 0 || page_values_ > chunk_values_)
    fail("a page of a parquet column has an impossible number of values", fmt::format("at most {}", chunk_values_), std::to_string(page_values_));
  const int64_t encoding = h->number_or(kind == data_page ? 2 : 4, -1);
  if (kind == data_page) {
    for (const int field : {3, 4})
      if ((field == 3 ? leaf_.most_definition : leaf_.most_repetition) && h->number_or(field, run_length) != run_length)
        fail("a page of a parquet column has levels that are not read", "RLE", name_in(encoding_names, h->number_or(field, -1)));
    if (leaf_.most_repetition) repetitions_ = {levels(body, -1), bits_for(leaf_.most_repetition)};
    if (leaf_.most_definition) definitions_ = {levels(body, -1), bits_for(leaf_.most_definition)};
  } else {
    repetitions_ = {levels(body, h->number_or(6, 0)), bits_for(leaf_.most_repetition)};
    definitions_ = {levels(body, h->number_or(5, 0)), bits_for(leaf_.most_definition)};
  }
  by_index_ = encoding == plain_dictionary || encoding == rle_dictionary;
  by_runs_ = encoding == run_length && leaf_.type == Physical::boolean;
  bool_bit_ = 0;
  if (by_index_) {
    const int width = body.empty() ? 0 : static_cast<unsigned char>(body[0]);
    if (width > 32) fail("a page of a parquet column has impossible indexes", "at most 32 bits", std::to_string(width));
    indexes_ = {body.substr(std::min<size_t>(1, body.size())), width};
  } else if (by_runs_) {
    indexes_ = {levels(body, -1), 1};
  } else if (encoding == plain) {
    plain_ = body;
  } else {
    fail("a page of a parquet column is encoded in a way that is not read", "PLAIN or a dictionary", name_in(encoding_names, encoding));
  }
}

ParquetValue ParquetColumn::read_plain() {
  const auto take = [&](size_t n) {
    if (plain_.size() < n) fail("a page of a parquet column is cut short", fmt::format("{} more bytes", n), std::to_string(plain_.size()));
    const std::string_view part = plain_.substr(0, n);
    plain_.remove_prefix(n);
    return part;
  };
  ParquetValue v;
  switch (leaf_.type) {
    case Physical::boolean:
      if (plain_.empty()) take(1);
      v.integer = plain_[0] >> bool_bit_ & 1;
      if (++bool_bit_ == 8) bool_bit_ = 0, take(1);
      break;
    case Physical::int32: v.integer = load<int32_t>(take(4).data()); break;
    case Physical::int64: v.integer = load<int64_t>(take(8).data()); break;
    case Physical::int96: take(12); break;
    case Physical::float32: v.real = double(load<float>(take(4).data())); break;
    case Physical::float64: v.real = load<double>(take(8).data()); break;
    case Physical::bytes: v.bytes = take(load<uint32_t>(take(4).data())); break;
    case Physical::fixed_bytes: v.bytes = take(size_t(leaf_.fixed_bytes)); break;
  }
  return v;
}

ParquetValue ParquetColumn::read_value() {
  if (!by_index_ && !by_runs_) return read_plain();
  uint32_t index = 0;
  if (!indexes_.next(index)) fail("a page of a parquet column is cut short", "an index for each value", "fewer");
  if (by_runs_) return {.integer = index};
  if (index >= dictionary_.size()) fail("an index of a parquet column is not in its dictionary", fmt::format("below {}", dictionary_.size()), std::to_string(index));
  return dictionary_[index];
}

bool ParquetColumn::fetch() {
  if (has_entry_) return true;
  repetition_ = definition_ = 0;
  if (!next_page()) return false;
  uint32_t level = 0;
  const auto read_level = [&](RunReader& levels, int most) {
    if (!most) return 0;
    if (!levels.next(level) || level > uint32_t(most)) fail("a page of a parquet column has impossible levels", fmt::format("at most {}", most), "others, or none");
    return int(level);
  };
  repetition_ = read_level(repetitions_, leaf_.most_repetition);
  definition_ = read_level(definitions_, leaf_.most_definition);
  return has_entry_ = true;
}

const ParquetValue& ParquetColumn::take() {
  if (!fetch()) fail("a parquet column has fewer values than others", "one for each row", "the end of the column");
  if (definition_ == leaf_.most_definition) value_ = read_value();
  has_entry_ = false;
  --page_values_;
  --chunk_values_;
  return value_;
}

}  // namespace thimble::data
