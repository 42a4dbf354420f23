/* Links a model compiled by tenon: no runtime, no allocation, all memory is the caller's. */
#include <stdalign.h>
#include <stdio.h>

#include "digits.h"  /* written by `tenon compile` */
#include "heldout.h" /* digits the network has not seen */

static alignas(DIGITS_ARENA_ALIGN) unsigned char arena[DIGITS_ARENA_BYTES];

int main(void) {
    int right = 0;
    for (int i = 0; i < HELDOUT; i++) {
        float probs[DIGITS_OUTPUT_PROBS_LEN];
        digits_inputs in = {heldout_images[i]};
        digits_outputs out = {probs};
        int32_t status = digits_run(&in, &out, arena, NULL);
        if (status != TENON_OK) {
            fprintf(stderr, "digits_run: status %d\n", (int)status);
            return 2;
        }
        int best = 0;
        for (int k = 1; k < 10; k++) {
            if (probs[k] > probs[best]) best = k;
        }
        right += best == heldout_labels[i];
    }
    printf("%d of %d digits recognised, in %u bytes of memory\n", right, HELDOUT, DIGITS_ARENA_BYTES);
    return right * 100 >= HELDOUT * 95 ? 0 : 1;
}
