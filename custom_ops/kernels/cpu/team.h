// The threads of one call, and how they share work. Included like simd.h; needs <omp.h>.

// Work is handed out task by task; what a task computes must not depend on who runs it.
class Team {
 public:
  Team(int thread, int threads, int64_t* counters)
      : thread_(thread), threads_(threads), counters_(counters) {}

  int thread() const { return thread_; }

  // Runs f(task) for every task on some thread, then waits for all of them. Every thread of the
  // team must call it. Two counters alternate: the one just used is reset while no thread can be
  // past the next call's barrier.
  template <typename F>
  void for_each(int64_t tasks, F f) {
    int64_t* counter = counters_ + phase_ * kCounterStride;
    phase_ ^= 1;
    for (;;) {
      const int64_t task = __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
      if (task >= tasks) break;
      f(task);
    }
    barrier();
    if (thread_ == 0) __atomic_store_n(counter, 0, __ATOMIC_RELAXED);
  }

  static constexpr int64_t kCounterStride = 16;  // a cache line pair each

 private:
  void barrier() {
    if (threads_ > 1) {
#pragma omp barrier
    }
  }

  int thread_, threads_;
  int64_t* counters_;
  int phase_ = 0;
};

// Runs f(team) on up to `threads` threads.
template <typename F>
void run_team(int threads, F f) {
  int64_t counters[2 * Team::kCounterStride] = {};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Team team(omp_get_thread_num(), omp_get_num_threads(), counters);
    f(team);
  }
}

// Runs f(image, part's channels, first pixel, pixels) over all pixels of `images` images.
template <typename F>
void for_each_part(const Problem& p, const Parts& parts, int64_t images, Team& team, F f) {
  const int64_t blocks = ceil_div(p.in_pixels(), kPixelBlock);
  team.for_each(images * parts.count * blocks, [&](int64_t task) {
    const int64_t pixel = task % blocks * kPixelBlock;
    f(task / blocks / parts.count, parts[task / blocks % parts.count], pixel,
      smaller(kPixelBlock, p.in_pixels() - pixel));
  });
}

// Copies `images` images of x to the arrangement of the parts, and tells f(values, count) of them.
template <typename Pixel, typename F>
void copy_to_parts(const Problem& p, const void* x, const Parts& parts, int64_t first_image,
                   int64_t images, Team& team, Pixel* target, F f) {
  for_each_part(p, parts, images, team,
                [&](int64_t image, Parts::Range part, int64_t pixel, int64_t pixels) {
                  Pixel* const copy = target + (image * p.channels + part.first) * p.in_pixels() +
                                      pixel * part.count;
                  to_channels_last(p, x, first_image + image, part.first, part.count, pixel, pixels,
                                   copy);
                  f(copy, pixels * part.count);
                });
}
