// Units of libvprm. $VPRM_TEST_BUNDLE is the demo PRM's bundle, $VPRM_ORT_LIBRARY an ONNX Runtime.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
