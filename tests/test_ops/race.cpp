// The control of the build with ThreadSanitizer: `race` must be reported, `own` must not.
#include "std_threads.h"

#include <cstring>

int at::get_num_threads() { return 4; }

int main(int, char** words) {
  const bool race = std::strcmp(words[1], "race") == 0;
  int64_t sums[4] = {};
  at::internal::invoke_parallel(0, 4, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) sums[race ? 0 : i] += i;
  });
  return static_cast<int>(sums[0] & 0);
}
