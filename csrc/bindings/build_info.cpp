// What the build wants remembered, as JSON; read by googlenet_fast/extension.py.

extern "C" __attribute__((visibility("default"))) const char* googlenet_fast_build_info() {
  return GOOGLENET_FAST_BUILD_INFO;
}
