// An OpenMP runtime on std::thread: ThreadSanitizer sees all that it does, where it would report
// races inside a real one. The kernels look these functions up by name.
#include <thread>
#include <vector>

namespace {
thread_local int thread_number = 0;
thread_local int team_size = 1;
}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  const auto run = [=](int number) {
    thread_number = number;
    team_size = static_cast<int>(threads);
    body(data);
  };
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; ++i) others.emplace_back(run, static_cast<int>(i));
  run(0);
  team_size = 1;
  for (std::thread& other : others) other.join();
}

int omp_get_max_threads() { return 1; }
int omp_get_num_threads() { return team_size; }
int omp_get_thread_num() { return thread_number; }
int omp_get_num_procs() { return 1; }  // so that threads do not spin at barriers

}  // extern "C"
#pragma GCC visibility pop
