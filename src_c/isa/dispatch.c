/* The ordered list of instruction sets; the first one that this CPU can run is in use until fbp_use_isa() says otherwise. */
#include "primitives.h"

#include <string.h>

#include "machine.h"

#define FBP_ISA(name, supported) extern const fbp_kernels fbp_##name##_float32, fbp_##name##_float64;
FBP_ISAS
#undef FBP_ISA

typedef struct {
    const char *name;
    const fbp_kernels *float32, *float64;
} isa;

static const isa ISAS[] = {
#define FBP_ISA(name, supported) {#name, &fbp_##name##_float32, &fbp_##name##_float64},
    FBP_ISAS
#undef FBP_ISA
};
enum { COUNT = sizeof ISAS / sizeof ISAS[0] };

static const isa *in_use;

static int can_run(int i)
{
    int runs[] = {
#define FBP_ISA(name, supported) supported,
        FBP_ISAS
#undef FBP_ISA
    };
    return runs[i];
}

static const isa *chosen(void)
{
    for (int i = 0; !in_use; i++)
        if (can_run(i)) in_use = &ISAS[i];
    return in_use;
}

const fbp_kernels *fbp_kernels_for(size_t element_size)
{
    return element_size == sizeof(float) ? chosen()->float32 : chosen()->float64;
}

const char *fbp_isa_name(int i) { return i >= COUNT ? NULL : can_run(i) ? ISAS[i].name : ""; }

const char *fbp_isa(void) { return chosen()->name; }

const char *fbp_unit(int pieces)
{
#ifdef FBP_X86
    if (strcmp(fbp_isa(), "avx512") == 0) return fbp_unit_name(pieces);
#endif
    return (void)pieces, "";
}

int fbp_use_isa(const char *name)
{
    for (int i = 0; i < COUNT; i++)
        if (can_run(i) && strcmp(ISAS[i].name, name) == 0) {
            in_use = &ISAS[i];
            return 0;
        }
    return -1;
}
