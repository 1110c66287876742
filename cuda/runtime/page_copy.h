// copy_pages of the ABI: which memories the pages lie in, and the path they take.
#pragma once
#include "stream.h"

namespace kvasir::cuda {

kvasir_status copy_pages(kvasir_stream& stream, const kvasir_page_copy& copy, kvasir_error* err);

}  // namespace kvasir::cuda
