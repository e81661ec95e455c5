// A picture is made of strokes alone: a pixel takes as much colour as the nearest stroke covers of it, which smooths every edge.
// Letters are strokes too, of which this file holds the few that the plot needs.
#include "train/loss_plot.h"

#include <png.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace thimble::train {
namespace {

struct Point { double x, y; };
struct Colour { double r, g, b; };
constexpr Colour white{255, 255, 255}, ink{60, 64, 72}, faint{232, 234, 238}, axis{150, 156, 166}, pale{166, 200, 240}, strong{24, 90, 188};
constexpr int width = 960, height = 600;
constexpr double left = 86, right = width - 28, top = 54, bottom = height - 66;

// Strokes of a glyph on a grid: x 0 to 4, y 0 (top of capitals) to 6 (baseline) to 8. Pairs of digits are points; a space lifts the pen.
struct Glyph { char c; int width; std::string_view strokes; };
constexpr Glyph glyphs[] = {
    {'0', 4, "1030414536160501 1 10"}, {'1', 3, "0211 1116"}, {'2', 4, "0110304142060646"}, {'3', 4, "01103041423313 33444536160 5"},
    {'4', 4, "363004 0444"}, {'5', 4, "40000213334445361605"}, {'6', 4, "301001051636454433130 4"}, {'7', 4, "00404116"},
    {'8', 4, "1030414233130201 10"}, {'9', 4, "4233130201103041453616"},
};

}  // namespace
}  // namespace thimble::train
