/* A library that CUPTI loads into a program: it writes a line for each launch of a kernel to $TRACE_FILE, also for those in
 * graphs, whose overlap it leaves as it is: start and end in ns, name, blocks, threads, registers. How to use it: README.md. */
#include <cupti.h>
#include <stdio.h>
#include <stdlib.h>

static FILE *out;

static void CUPTIAPI want_buffer(uint8_t **buffer, size_t *bytes, size_t *most_records) {
    *bytes = 8 << 20;
    *buffer = aligned_alloc(8, *bytes);
    *most_records = 0;
}

static void CUPTIAPI buffer_is_full(CUcontext context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid) {
    (void)context, (void)stream, (void)bytes;
    CUpti_Activity *record = NULL;
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL)
            continue;
        const KERNEL *kernel = (const KERNEL *)record;
        fprintf(out, "%llu,%llu,%s,%d,%d,%d\n", (unsigned long long)kernel->start, (unsigned long long)kernel->end,
                kernel->name, kernel->gridX * kernel->gridY * kernel->gridZ,
                kernel->blockX * kernel->blockY * kernel->blockZ, kernel->registersPerThread);
    }
    free(buffer);
}

static void finish(void) {
    cuptiActivityFlushAll(1);
    fclose(out);
}

/* The driver calls it when the program initialises CUDA. */
int InitializeInjection(void) {
    const char *path = getenv("TRACE_FILE");
    out = fopen(path ? path : "trace.csv", "w");
    if (!out)
        return 0;
    cuptiActivityRegisterCallbacks(want_buffer, buffer_is_full);
    CUptiResult result = cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    if (result != CUPTI_SUCCESS)
        fprintf(stderr, "no trace: CUPTI error %d\n", (int)result);
    atexit(finish);
    return 1;
}
