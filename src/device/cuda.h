// The cuda device as the rest of the program sees it: made here, spoken to through Device. Includes no CUDA header.
#pragma once
#include "device/device.h"

namespace thimble {

// GPU `index`. Throws Error (usage) that says which of these it is: no GPU, no driver, a driver too old for this build.
std::unique_ptr<Device> cuda_device(int index);

}  // namespace thimble
