/* Closes the region that target_begin.h opened. */
#ifdef FBP_TARGET_OPEN
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef FBP_TARGET_OPEN
#endif
