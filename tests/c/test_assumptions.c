/* Calls that break what a primitive assumes. Without an argument: a line for each. With a number: that call, which ends the
 * program with status BROKEN where there are assertions; number 0 breaks nothing. */
#include "threads/team.h" /* first: it asks the system headers for more */

#include "primitives.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIDE = 8, ROOM = 1 << 17, BROKEN = 3 };
extern const fbp_kernels fbp_generic_float32;
static const fbp_kernels *const k = &fbp_generic_float32;
static float x[ROOM], y[ROOM], scratch[ROOM];

static void softmax(int64_t label)
{
    const int64_t labels[] = {0, label};
    double errors[2];
    k->softmax_cross_entropy_rows(2, SIDE, x, SIDE, labels, NULL, 1, NULL, NULL, NULL, y, SIDE, errors);
}

static void product(fbp_size K, const fbp_update *update, float *room, fbp_size C_row)
{
    const fbp_epilogue e = {.activation = FBP_IDENTITY, .update = update};
    k->matrix_product(SIDE, SIDE, K, x, 1, SIDE, x, SIDE, 1, &e, room, y, C_row);
}

static void nothing(const void *task, ptrdiff_t i, int thread) { (void)task, (void)i, (void)thread; }

static void share(int threads, ptrdiff_t parts)
{
    fbp_team team;
    team.threads = threads;
    fbp_team_share(&team, nothing, NULL, parts);
}

static const fbp_update SGD = {.rule = FBP_UPDATE_sgd, .learning_rate = 0.1, .bias = {1, 1}, .gradient_scale = 1};
static const fbp_update ADAM = {.rule = FBP_UPDATE_adam, .bias = {0.1, 0.1}, .gradient_scale = 1};

static void adam(void *m, void *v) { k->update(SIDE, x, &ADAM, (void *[FBP_STATES]){m, v}, y); }

static void sound(void)
{
    k->activate(FBP_RELU, SIDE, x, x);
    softmax(SIDE - 1);
    product(k->tile_depth(), &SGD, scratch, SIDE);
    adam(y + SIDE, y + 2 * SIDE);
    share(1, 2);
}
static void size_below_0(void) { k->softmax_row(-1, x, y); }
static void no_array(void) { k->softmax_row(SIDE, NULL, y); }
static void between_elements(void) { k->softmax_row(SIDE, (char *)x + 1, y); }
static void output_within_input(void) { k->softmax_row(SIDE, x, x + 1); }
static void no_activation(void) { k->activate(FBP_ACTIVATIONS, SIDE, x, y); }
static void label_beyond_classes(void) { softmax(SIDE); }
static void no_state(void) { adam(NULL, NULL); }
static void update_of_a_part_of_its_sum(void) { product(k->tile_depth() + 1, &SGD, scratch, SIDE); }
static void rows_that_overlap(void) { product(SIDE, NULL, scratch, SIDE - 1); }
static void scratch_within_output(void) { product(SIDE, NULL, y + SIDE, SIDE); }
static void parts_below_0(void) { share(1, -1); }
static void no_threads(void) { share(0, 1); }

#define CALL(name) {#name, name}
static const struct { const char *name; void (*call)(void); } CALLS[] = {
    CALL(sound), CALL(size_below_0), CALL(no_array), CALL(between_elements), CALL(output_within_input), CALL(no_activation),
    CALL(label_beyond_classes), CALL(no_state), CALL(update_of_a_part_of_its_sum), CALL(rows_that_overlap),
    CALL(scratch_within_output), CALL(parts_below_0), CALL(no_threads),
};
enum { COUNT = sizeof CALLS / sizeof CALLS[0] };

static void broken(int sign) { (void)sign, _Exit(BROKEN); }

int main(int argc, char **argv)
{
    const int number = argc > 1 ? atoi(argv[1]) : -1;
    signal(SIGABRT, broken);
    for (int i = 0; number < 0 && i < COUNT; i++) puts(CALLS[i].name);
    if (number >= 0 && number < COUNT) CALLS[number].call();
    return 0;
}
