// Transfers between JavaScript arrays, files and tensors, and copies of tensors; each in stream order.
#pragma once
#include "wraps.h"

namespace kvasir::addon {

napi_value write_tensor(StreamWrap& self, Call& call);
napi_value read_tensor(StreamWrap& self, Call& call);
napi_value load_tensor(StreamWrap& self, Call& call);
napi_value copy_tensor(StreamWrap& self, Call& call);
napi_value fill_tensor(StreamWrap& self, Call& call);

}  // namespace kvasir::addon
