// The executor of csrc/cpu without torch, for tests/test_native.py: driver
// lanes|layouts|threads|orthogonal.
#include <cstdio>
#include <cstring>

namespace native {
int check_lanes();
int check_layouts();
int check_threads();
int check_orthogonal();
}  // namespace native

int main(int argc, char** argv) {
  const char* what = argc == 2 ? argv[1] : "";
  if (std::strcmp(what, "lanes") == 0) return native::check_lanes();
  if (std::strcmp(what, "layouts") == 0) return native::check_layouts();
  if (std::strcmp(what, "threads") == 0) return native::check_threads();
  if (std::strcmp(what, "orthogonal") == 0) return native::check_orthogonal();
  std::fprintf(stderr, "usage: driver lanes|layouts|threads|orthogonal\n");
  return 2;
}
