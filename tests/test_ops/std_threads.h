// at::parallel_for on threads of the standard library, for a build with ThreadSanitizer; see tools/check_native_scan.sh.
//
// The sanitizer sees what the instrumented code and pthreads do. OpenMP's runtime, which PyTorch brings compiled, is not
// instrumented: its barriers are futexes of its own, so that everything that happens on both sides of one would be called
// a race. Compiled with -fno-openmp and this file included first, PyTorch's header takes the function below in place of the
// one of OpenMP. It cuts the range as that one does; a thread begins after what was before, and ends before what is after.
#pragma once
#define INTRA_OP_PARALLEL

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace at {

__attribute__((visibility("default"))) int get_num_threads();

namespace internal {

template <typename F>
inline void invoke_parallel(int64_t begin, int64_t end, int64_t grain_size, const F& f) {
  int64_t count = get_num_threads();
  if (grain_size > 0) count = std::min(count, (end - begin + grain_size - 1) / grain_size);
  const int64_t chunk = (end - begin + count - 1) / count;
  std::vector<std::exception_ptr> errors(count);
  std::vector<std::thread> threads;
  for (int64_t id = 0; id < count; ++id) {
    const int64_t from = begin + id * chunk, to = std::min(end, from + chunk);
    if (from >= end) break;
    threads.emplace_back([&f, from, to, error = &errors[id]] {
      try {
        f(from, to);
      } catch (...) {
        *error = std::current_exception();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace internal
}  // namespace at
