// training_loss.png: the loss of every logged step and its smoothed course, as LLaMA-Factory draws it, without a plotting library.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

namespace thimble::train {

using LossPoint = std::pair<int64_t, double>;  // step, loss

// The exponential mean of LLaMA-Factory's extras/ploting.py, whose weight grows with the number of points; beyond 400 points the mean
// reaches over a fortieth of them.
std::vector<double> smoothed(std::span<const LossPoint>);

// Round steps between ticks, about `wanted` of them from `low` to `high`.
struct Ticks { double first = 0, step = 1; int count = 0, decimals = 0; };
Ticks ticks(double low, double high, int wanted);

// Points that are no numbers are left out; with fewer than two left nothing is drawn and false is returned. Throws Error where the file
// cannot be written.
bool write_loss_plot(const std::filesystem::path&, std::span<const LossPoint>);

}  // namespace thimble::train
