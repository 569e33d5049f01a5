/* The GNU C library gives a function a new version when it moves or changes; what is linked against the new one runs with no
 * older library. These are bound to their first versions, which every glibc has, so that a wheel built today runs on systems of
 * 2014 (manylinux_2_17). Their meaning is the same: the pthread functions only moved to another file, and exp and pow lost a
 * wrapper that sets errno. */
#ifndef FASTBP_GLIBC_H
#define FASTBP_GLIBC_H

#include <math.h> /* defines __GLIBC__ */

/* In a shared library: what is linked statically has no versions. */
#if defined(__GLIBC__) && defined(__PIC__) && !defined(__PIE__) && (defined(__x86_64__) || defined(__aarch64__))
#ifdef __x86_64__
#define FBP_FIRST(name, x86_64) __asm__(".symver " #name "," #name "@GLIBC_" x86_64)
#else
#define FBP_FIRST(name, x86_64) __asm__(".symver " #name "," #name "@GLIBC_2.17")
#endif
FBP_FIRST(exp, "2.2.5");
FBP_FIRST(pow, "2.2.5");
FBP_FIRST(pthread_condattr_setclock, "2.3.3");
FBP_FIRST(pthread_create, "2.2.5");
FBP_FIRST(pthread_detach, "2.2.5");
FBP_FIRST(pthread_sigmask, "2.2.5");
#undef FBP_FIRST
#endif

#endif
