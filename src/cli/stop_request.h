// The first SIGINT or SIGTERM asks a run to stop where nothing is lost; the second ends the program at once, as if nobody listened.
#pragma once
#include <signal.h>

namespace thimble::cli {

class StopRequest {
 public:
  StopRequest();   // one at a time
  ~StopRequest();  // signals do again what they did before
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;
  bool asked() const;

 private:
  struct sigaction interrupt_ {}, terminate_ {}, too_large_ {};
};

}  // namespace thimble::cli
