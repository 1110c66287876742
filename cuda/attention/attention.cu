// The attention op of the CUDA backend: plan, launch, combine.
#include "../../native/core/status.h"
#include "../ops.h"
#include "../runtime/device.h"
#include "params.h"
