// Several datasets to one sequence of examples, and parts of one: which ones is a function of the seed alone.
#pragma once
#include "base/options.h"
#include "data/examples.h"

namespace thimble::data {

// concat: one after another. The others take turns, or draw by probability whose turn it is, until the first one is used up (interleave_under),
// or all are: those that end sooner begin again (interleave_over), or have no more turns (interleave_once).
enum class Mix : uint8_t { concat, under, over, once };
std::span<const Choice> names_of(Mix);

// probabilities: none, or one above 0 for each dataset; they need not add up to 1.
Examples mix(std::span<const Examples>, Mix, std::span<const double> probabilities, uint64_t seed);

// So many of them in a drawn order: all different where there are enough, else each as often as the next or once more.
Examples choose(const Examples&, int64_t samples, uint64_t seed);

// Sets examples aside for evaluation: a share of them where val_size < 1, else a count. Which ones depends on seed alone; both
// parts keep the order they had, and the training part is never left empty. Returns {training, evaluation}.
std::pair<Examples, Examples> split(const Examples&, double val_size, uint64_t seed);

}  // namespace thimble::data
