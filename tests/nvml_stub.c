/* A libnvidia-ml.so.1 whose answers stand in a file, so that the real pynvml runs without a GPU.

   UNET_BENCH_TEST_NVML names the file: a line KEY=VALUE for each figure. A figure without a line is
   not supported, as on a card or in a container that does not tell it. Without the variable there
   is no driver. Signatures are those of NVIDIA's nvml.h. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNSUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, NO_DRIVER = 9 };
enum { LENGTH = 4096, UNSIGNED_INT = 1 };

typedef int nvmlReturn_t;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long bytes; unsigned instance, compute; } Process;
typedef struct { unsigned long long at_us; union { double d; unsigned u; unsigned long long l; } value; } Sample;

static char value[LENGTH];

/* Finds the value of a key; 0 where it is not told. */
static int find(const char *key) {
    const char *path = getenv("UNET_BENCH_TEST_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LENGTH];
    size_t length = strlen(key);
    int found = 0;
    while (file && !found && fgets(line, LENGTH, file)) {
        if (!strncmp(line, key, length) && line[length] == '=') {
            strcpy(value, line + length + 1);
            value[strcspn(value, "\n")] = 0;
            found = 1;
        }
    }
    if (file) fclose(file);
    return found;
}

static nvmlReturn_t whole(const char *key, unsigned *out) {
    if (!find(key)) return UNSUPPORTED;
    *out = (unsigned)strtoul(value, NULL, 10);
    return OK;
}

static nvmlReturn_t large(const char *key, unsigned long long *out) {
    if (!find(key)) return UNSUPPORTED;
    *out = strtoull(value, NULL, 10);
    return OK;
}

static nvmlReturn_t text(const char *key, char *out, unsigned length) {
    if (!find(key)) return UNSUPPORTED;
    snprintf(out, length, "%s", value);
    return OK;
}

/* Reads "A:B,A:B" of a key into pairs; the number of them. */
static unsigned pairs(const char *key, unsigned long long pair[][2], unsigned most) {
    unsigned count = 0;
    if (!find(key)) return 0;
    for (char *at = strtok(value, ","); at && count < most; at = strtok(NULL, ",")) {
        if (sscanf(at, "%llu:%llu", &pair[count][0], &pair[count][1]) == 2) count++;
    }
    return count;
}

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return getenv("UNET_BENCH_TEST_NVML") ? OK : NO_DRIVER;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *out) { return whole("count", out); }
nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned length) { return text("driver", out, length); }
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *out) { return whole("cuda_driver", (unsigned *)out); }

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    *handle = value;
    return find("uuid") && !strcmp(value, uuid) ? OK : NOT_FOUND;
}

#define TEXT(function, key) \
    nvmlReturn_t function(void *gpu, char *out, unsigned length) { (void)gpu; return text(key, out, length); }
#define WHOLE(function, key) \
    nvmlReturn_t function(void *gpu, unsigned *out) { (void)gpu; return whole(key, out); }
#define WHOLE_OF(function, key) \
    nvmlReturn_t function(void *gpu, unsigned kind, unsigned *out) { (void)gpu, (void)kind; return whole(key, out); }
#define SWITCH(function, key) \
    nvmlReturn_t function(void *gpu, unsigned *now, unsigned *later) { (void)gpu; *later = 0; return whole(key, now); }

TEXT(nvmlDeviceGetName, "name")
WHOLE(nvmlDeviceGetPowerUsage, "power_mw")
WHOLE(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
WHOLE(nvmlDeviceGetDisplayActive, "display_active")
WHOLE(nvmlDeviceGetPersistenceMode, "persistence_mode")
WHOLE(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation")
WHOLE(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width")
WHOLE_OF(nvmlDeviceGetClockInfo, "sm_clock_mhz")
WHOLE_OF(nvmlDeviceGetMaxClockInfo, "max_clock_mhz")
WHOLE_OF(nvmlDeviceGetTemperature, "temperature_c")
SWITCH(nvmlDeviceGetEccMode, "ecc_mode")
SWITCH(nvmlDeviceGetMigMode, "mig_mode")

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *out) {
    (void)gpu;
    return large("throttle_reasons", out);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(void *gpu, Memory *memory) {
    (void)gpu;
    if (large("total_bytes", &memory->total) || large("free_bytes", &memory->free)) return UNSUPPORTED;
    memory->used = memory->total - memory->free;
    return OK;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(void *gpu, Utilization *rates) {
    (void)gpu;
    rates->memory = 0;
    return whole("gpu_percent", &rates->gpu);
}

#ifndef OLD_DRIVER /* which has only earlier versions of it */
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *count, Process *processes) {
    unsigned long long pair[64][2];
    unsigned room = *count;
    (void)gpu;
    if (!find("processes")) return UNSUPPORTED;
    *count = pairs("processes", pair, 64);
    if (*count > (processes ? room : 0)) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < *count; i++) processes[i] = (Process){(unsigned)pair[i][0], pair[i][1], 0, 0};
    return OK;
}
#endif

nvmlReturn_t nvmlDeviceGetSamples(void *gpu, int kind, unsigned long long since_us, int *type, unsigned *count, Sample *samples) {
    unsigned long long pair[64][2];
    unsigned all = pairs("samples", pair, 64), new = 0;
    (void)gpu, (void)kind;
    if (!find("samples")) return UNSUPPORTED;
    for (unsigned i = 0; i < all; i++) {
        if (pair[i][0] <= since_us) continue;
        if (samples) samples[new].at_us = pair[i][0], samples[new].value.u = (unsigned)pair[i][1];
        new++;
    }
    *type = UNSIGNED_INT;
    *count = new;
    return new ? OK : NOT_FOUND;
}
