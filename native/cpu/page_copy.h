// Scattered pages from host memory to host memory, with all threads of the device.
#pragma once
#include "command_list.h"
#include "thread_pool.h"

namespace kvasir::cpu {

void copy_pages(ThreadPool& pool, const CopyPagesCommand& command);

}  // namespace kvasir::cpu
