// What the ops of this machine were measured to take, kept from one `thimble bench --calibrate` for every plan that follows.
#pragma once
#include <filesystem>

#include "device/profile.h"
#include "quant/weight.h"

namespace thimble::cli {

// By op: the line through its calls' seconds over their floors, where they differ enough in size; else their ratio.
OpRates measured_rates(const Profile&, const DeviceSpec&);
// Of a machine by its name. Reading gives null where there is none, or none that can be read.
void keep_rates(const std::string& folder, const std::string& machine, const OpRates&);
std::shared_ptr<const OpRates> kept_rates(const std::string& folder, const std::string& machine);

// This machine's processor, with its rate at the product of one token with weights of the format that lie in memory: kept, or measured now (a fifth of
// a second) and kept.
std::shared_ptr<const DeviceSpec> processor_that_multiplies(quant::FormatId);

}  // namespace thimble::cli
