/* From here to target_end.h functions are compiled for FBP_TARGET, so that no file needs compiler flags of its own. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(FBP_TARGET))), apply_to = function)
#define FBP_TARGET_OPEN
#elif defined(__GNUC__)
#define FBP_PRAGMA_(text) _Pragma(#text)
#define FBP_PRAGMA(text) FBP_PRAGMA_(text)
#pragma GCC push_options
FBP_PRAGMA(GCC target(FBP_TARGET))
#define FBP_TARGET_OPEN
#endif
