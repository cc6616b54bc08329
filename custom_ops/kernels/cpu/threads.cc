// The OpenMP runtime is looked up by name, not linked: there may be several in a process, and the
// one whose functions come first may not be Paddle's. PyTorch brings one, for instance.
#include "threads.h"

#include <dlfcn.h>

#include "../dcn.h"

namespace dcn::cpu {
namespace {

struct OpenMP {
  void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
  int (*max_threads)();
  int (*num_threads)();
  int (*thread_num)();
  int (*num_procs)();
};

template <typename F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
}

const OpenMP* find_openmp() {
  // Intel's, which Paddle computes with on x86-64, if it is loaded; else the first there is.
  void* library = dlopen("libiomp5.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) library = RTLD_DEFAULT;
  static OpenMP found;
  find(library, "GOMP_parallel", found.parallel);
  find(library, "omp_get_max_threads", found.max_threads);
  find(library, "omp_get_num_threads", found.num_threads);
  find(library, "omp_get_thread_num", found.thread_num);
  find(library, "omp_get_num_procs", found.num_procs);
  const bool complete = found.parallel && found.max_threads && found.num_threads &&
                        found.thread_num && found.num_procs;
  return complete ? &found : nullptr;
}

// Null where there is none: then everything runs on one thread.
const OpenMP* openmp() {
  static const OpenMP* const found = find_openmp();
  return found;
}

struct Call {
  void (*body)(void* data, int thread, int threads);
  void* data;
};

void run_in_team(void* call) {
  const Call& c = *static_cast<const Call*>(call);
  c.body(c.data, openmp()->thread_num(), openmp()->num_threads());
}

}  // namespace

int processors() { return openmp() == nullptr ? 1 : openmp()->num_procs(); }

void run_threads(int threads, void (*body)(void* data, int thread, int threads), void* data) {
  if (threads <= 1 || openmp() == nullptr) {
    body(data, 0, 1);
    return;
  }
  Call call{body, data};
  openmp()->parallel(run_in_team, &call, static_cast<unsigned>(threads), 0);
}

}  // namespace dcn::cpu

int dcn_cpu_max_threads() {
  const auto* openmp = dcn::cpu::openmp();
  return openmp == nullptr ? 1 : openmp->max_threads();
}
