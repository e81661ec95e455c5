// Ends a text where one of some strings begins in it, however tokens cut them: what may be the beginning of one is held back until it is sure.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace thimble::serve {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {}  // none of them empty

  std::string push(std::string_view text);  // what is certain to come before any stop string
  std::string finish();                     // what was held back, since nothing follows
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace thimble::serve
