// Messages for people go to stderr, results to stdout. Three levels are enough; the command line sets which are shown.
#pragma once
#include <fmt/core.h>

#include <string_view>

namespace thimble {

enum class LogLevel { debug, info, warning };
void set_log_level(LogLevel);
void log_line(LogLevel, std::string_view text);

template <class... A> void log_debug(fmt::format_string<A...> f, A&&... a) { log_line(LogLevel::debug, fmt::format(f, std::forward<A>(a)...)); }
template <class... A> void log_info(fmt::format_string<A...> f, A&&... a) { log_line(LogLevel::info, fmt::format(f, std::forward<A>(a)...)); }
template <class... A> void log_warning(fmt::format_string<A...> f, A&&... a) { log_line(LogLevel::warning, fmt::format(f, std::forward<A>(a)...)); }

}  // namespace thimble
