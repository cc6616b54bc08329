// The threads of one call, and how they share work.
#pragma once

#include "isa-inl.h"

namespace dcn::cpu::DCN_ISA {

// Work is handed out task by task; what a task computes must not depend on who runs it.
class Team {
 public:
  // What the threads of a team share, each on its own pair of cache lines.
  struct alignas(128) Counter {
    int64_t value = 0;
  };
  struct Shared {
    Counter tasks[2], arrived, phase;
    // How often to look for the others before letting some other thread run: about 0.1 ms, if
    // each has a processor.
    int spins;
  };

  Team(int thread, int threads, Shared& shared)
      : thread_(thread), threads_(threads), shared_(shared) {}

  int thread() const { return thread_; }

  // Runs f(task) for every task on some thread, then waits for all of them. Every thread of the
  // team must call it. Two counters alternate: the one just used is reset while no thread can be
  // past the next call's barrier.
  template <typename F>
  void for_each(int64_t tasks, F f) {
    int64_t* counter = &shared_.tasks[phase_ & 1].value;
    for (;;) {
      const int64_t task = __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
      if (task >= tasks) break;
      f(task);
    }
    barrier();
    if (thread_ == 0) __atomic_store_n(counter, 0, __ATOMIC_RELAXED);
  }

 private:
  // OpenMP's barrier may put a thread to sleep for longer than a small layer takes.
  void barrier() {
    ++phase_;
    if (threads_ == 1) return;
    if (__atomic_add_fetch(&shared_.arrived.value, 1, __ATOMIC_ACQ_REL) == threads_) {
      __atomic_store_n(&shared_.arrived.value, 0, __ATOMIC_RELAXED);
      __atomic_store_n(&shared_.phase.value, phase_, __ATOMIC_RELEASE);
      return;
    }
    for (int i = 0; __atomic_load_n(&shared_.phase.value, __ATOMIC_ACQUIRE) < phase_; ++i) {
      if (i < shared_.spins) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      } else {
        sched_yield();
      }
    }
  }

  int thread_, threads_;
  int64_t phase_ = 0;
  Shared& shared_;
};

// Runs f(team) on up to `threads` threads.
template <typename F>
void run_team(int threads, F f) {
  Team::Shared shared{};
  shared.spins = threads <= processors() ? 4000 : 0;
  struct Call {
    F& f;
    Team::Shared& shared;
  } call{f, shared};
  run_threads(
      threads,
      [](void* data, int thread, int threads) {
        Call& c = *static_cast<Call*>(data);
        Team team(thread, threads, c.shared);
        c.f(team);
      },
      &call);
}

}  // namespace dcn::cpu::DCN_ISA
