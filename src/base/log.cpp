// One sink on stderr through spdlog, so that lines of several threads never mix.
#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace thimble {
namespace {

spdlog::logger& sink() {
  static spdlog::logger logger = [] {
    spdlog::logger l("thimble", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    l.set_pattern("%v");
    return l;
  }();
  return logger;
}

}  // namespace

void set_log_level(LogLevel level) {
  sink().set_level(level == LogLevel::debug ? spdlog::level::debug : level == LogLevel::info ? spdlog::level::info : spdlog::level::warn);
}

void log_line(LogLevel level, std::string_view text) {
  switch (level) {
    case LogLevel::debug: sink().debug(text); break;
    case LogLevel::info: sink().info(text); break;
    case LogLevel::warning: sink().warn("warning: {}", text); break;
  }
}

}  // namespace thimble
