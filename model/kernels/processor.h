// Whether intrinsics of AVX2 may be used. Without them the kernels of the input path are plain C++ and vectors of the
// compiler, with the same results; CONVNEXT_PORTABLE chooses that on any processor.
#pragma once

#if defined(__AVX2__) && !defined(CONVNEXT_PORTABLE)
#define CONVNEXT_AVX2 1
#include <immintrin.h>
#else
#define CONVNEXT_AVX2 0
#endif
