// A chat template: Jinja2's language as transformers sets it up (trim_blocks, lstrip_blocks, loop controls, {% generation %}, tojson,
// raise_exception, strftime_now), in a sandbox: no files, no Python objects, nothing changed but a template's own variables, and limits on
// steps, depth and bytes. What is left out is an error that names it: other templates (include, import, extends), recursive loops.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/jinja_runtime.h"
#include "data/pattern.h"

namespace thimble::data::jinja {

struct Stmt;

struct Rendering {
  Text text;
  std::vector<Span> generated;  // what stood in {% generation %}: bytes of text, in order
};

class Template {
 public:
  // Throws Error (bad_input) naming the line. At most 1 MiB.
  explicit Template(std::string_view source);
  ~Template();
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  using Variables = std::vector<std::pair<std::string, Value>>;
  // Throws Error (bad_input) naming the line at which the template fails, refuses by raise_exception, or meets a limit. Several threads may render.
  Rendering render(const Variables&, const Limits&, const std::tm& now) const;
  bool marks_generation() const { return marks_generation_; }

 private:
  std::vector<std::unique_ptr<Stmt>> body_;
  bool marks_generation_ = false;
};

}  // namespace thimble::data::jinja
