/* The arithmetic that the kernels are written for: numbers are rounded to the nearest, and those below the normal ones are not
 * taken for 0. Another library may have set something else for this thread (fesetround, flush-to-zero) or for the program
 * (-ffast-math sets flush-to-zero where it links). A helper begins with what the thread has that makes it. */
#ifndef FASTBP_ARITHMETIC_H
#define FASTBP_ARITHMETIC_H

#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#define FBP_UNUSUAL 0xE040u /* flush-to-zero, two bits of rounding, denormals-are-zero */
static inline uint64_t fbp_control(void) { return _mm_getcsr(); }
static inline void fbp_set_control(uint64_t control) { _mm_setcsr((unsigned)control); }
#elif defined(__aarch64__) && defined(__GNUC__)
#define FBP_UNUSUAL 0x1C00000u /* flush-to-zero, two bits of rounding */
static inline uint64_t fbp_control(void)
{
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return control;
}
static inline void fbp_set_control(uint64_t control) { __asm__ volatile("msr fpcr, %0" : : "r"(control)); }
#else
#define FBP_UNUSUAL 0u
static inline uint64_t fbp_control(void) { return 0; }
static inline void fbp_set_control(uint64_t control) { (void)control; }
#endif

/* Makes arithmetic the usual one in this thread; returns what fbp_arithmetic_as_before() takes. */
static inline uint64_t fbp_usual_arithmetic(void)
{
    const uint64_t before = fbp_control() & FBP_UNUSUAL;
    if (before) fbp_set_control(fbp_control() & ~(uint64_t)FBP_UNUSUAL);
    return before;
}
static inline void fbp_arithmetic_as_before(uint64_t before)
{
    if (before) fbp_set_control((fbp_control() & ~(uint64_t)FBP_UNUSUAL) | before);
}

#endif
