// Where an engine's weights lie, by what a budget holds: all on the device; else as many layers as fit, while the others lie in pinned memory. Of
// those, a decoded token brings some over the link and has the processor multiply by the rest, at the same time, in the shares that are fastest.
#pragma once
#include "serve/engine.h"

namespace thimble::serve {

struct Fit {
  EngineShape shape;
  plan::Outcome outcome;
};
// The shape with its residency chosen, by rehearsals; whatever is said of that in `shape` is not read. Where nothing fits, what takes least of the device.
Fit fit(const DeviceSpec&, EngineShape shape, const plan::Budget&);

// "34 of 80 layers on the device, 20 streamed, 26 multiplied by the processor"; empty where all are on the device.
std::string describe(const EngineShape&);

}  // namespace thimble::serve
