// A handler may do almost nothing: it sets a flag, says one line, and hands both signals back to the system.
#include "cli/stop_request.h"

#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace thimble::cli {
namespace {

volatile sig_atomic_t requested = 0;

void on_signal(int) {
  const int error = errno;
  requested = 1;
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  constexpr std::string_view line = "\nstopping after this step, with a checkpoint; once more to stop at once\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
  errno = error;
}

}  // namespace

StopRequest::StopRequest() {
  requested = 0;
  struct sigaction listen {};
  listen.sa_handler = on_signal;
  listen.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &listen, &interrupt_);
  ::sigaction(SIGTERM, &listen, &terminate_);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGXFSZ, &ignore, &too_large_);  // a limit on files is then an error of the write, as a full disk is
}

StopRequest::~StopRequest() {
  ::sigaction(SIGINT, &interrupt_, nullptr);
  ::sigaction(SIGTERM, &terminate_, nullptr);
  ::sigaction(SIGXFSZ, &too_large_, nullptr);
}

bool StopRequest::asked() const { return requested != 0; }

}  // namespace thimble::cli
