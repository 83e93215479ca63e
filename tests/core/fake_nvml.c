/* NVIDIA's NVML as far as the sampler uses it, with two devices. The second supports neither power
 * nor temperature, and is lost at its third reading. */
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;

enum { SUCCESS = 0, NOT_SUPPORTED = 3, GPU_IS_LOST = 15, VERSION_MISMATCH = 25 };

static int readings[2];

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : "?"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 2;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = &readings[index];
    return SUCCESS;
}

static int index_of(void *device) { return (int)((int *)device - readings); }

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_t *memory) {
    int index = index_of(device);
    if (memory->version != (sizeof(memory_t) | 2u << 24)) return VERSION_MISMATCH;
    if (++readings[index] >= 3 && index == 1) return GPU_IS_LOST;
    memory->total = 80000000000ull;
    memory->reserved = 500000000ull;
    memory->used = (index + 1) * 20000000000ull;
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *utilization) {
    utilization->gpu = 40 + 10 * index_of(device) + readings[index_of(device)];
    utilization->memory = 7;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    *milliwatts = 312500;
    return index_of(device) == 0 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    *celsius = 61 + sensor;
    return index_of(device) == 0 ? SUCCESS : NOT_SUPPORTED;
}
