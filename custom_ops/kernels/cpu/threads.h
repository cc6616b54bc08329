// The threads that the kernels run on.
#pragma once

namespace dcn::cpu {

// Processors that this process may use.
int processors();

// Calls body(data, thread, threads) on up to `threads` threads at once, and waits for them.
void run_threads(int threads, void (*body)(void* data, int thread, int threads), void* data);

}  // namespace dcn::cpu
