// A file in pieces of a mebibyte, so that memory does not grow with it.
#include "data/byte_stream.h"

namespace thimble::data {

ByteStream::ByteStream(const fs::path& path) : path_(path), file_(path, std::ios::binary), buffer_(size_t{1} << 20) {
  if (!file_) throw Error(Fault::bad_input, {.what = "cannot open a data file", .where = path.string(), .fix = "check its permissions"});
  const std::string_view head = ahead();
  if (head.starts_with("\xff\xfe") || head.starts_with("\xfe\xff"))
    throw Error(Fault::bad_input, {.what = "a data file is UTF-16", .where = path.string() + ":1", .expected = "UTF-8", .found = "a UTF-16 byte order mark",
                                   .fix = "iconv -f UTF-16 -t UTF-8 FILE > NEW"});
  if (head.starts_with("\xef\xbb\xbf")) skip(3, 0);
}

bool ByteStream::refill() {
  file_.read(buffer_.data(), std::streamsize(buffer_.size()));
  have_ = size_t(file_.gcount());
  at_ = 0;
  if (file_.bad()) throw Error(Fault::bad_input, {.what = "cannot read a data file", .where = fmt::format("{}:{}", path_.string(), line_), .found = "a read error"});
  return have_ > 0;
}

}  // namespace thimble::data
