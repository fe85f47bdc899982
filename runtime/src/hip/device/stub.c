// A HIP runtime and hipRTC without a GPU, for the tests of the loader, the argument packing and the error
// paths. Memory is the host's; every kernel is `x[i] = x[i] * factor + (shift >> 32)`.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500, CAPTURING = 900 };
enum { ARGUMENTS = 4, LAUNCHES = 16 };

typedef struct { float* x; uint32_t count; float factor; uint64_t shift; } Call;
typedef struct { Call calls[LAUNCHES]; int count; } Graph;

static Graph recording;
static int capturing;
static int alive;
static float now;

int tilekiln_stub_alive(void) { return alive; }

int hipInit(unsigned flags) { return flags == 0 ? OK : INVALID; }
int hipRuntimeGetVersion(int* version) { *version = 71460850; return OK; }
const char* hipGetErrorString(unsigned code) {
    switch (code) {
    case INVALID: return "invalid argument";
    case NO_MEMORY: return "out of memory";
    case NOT_FOUND: return "named symbol not found";
    case CAPTURING: return "operation not permitted when stream is capturing";
    default: return "stub error";
    }
}
int hipGetDeviceCount(int* count) { *count = getenv("TILEKILN_STUB_EMPTY") ? 0 : 1; return OK; }
int hipSetDevice(int device) { return device == 0 ? OK : INVALID; }
int hipDeviceGetName(char* name, int length, int device) {
    strncpy(name, "Stub Graphics", (size_t)length);
    return device == 0 ? OK : INVALID;
}
int hipDeviceTotalMem(size_t* bytes, int device) { *bytes = (size_t)1 << 34; return device == 0 ? OK : INVALID; }
int hipDeviceGetAttribute(int* value, unsigned attribute, int device) {
    switch (attribute) {
    case 16: *value = 1; break;
    case 29: *value = 0x7fffffff; break;
    case 30: case 31: *value = 65536; break;
    case 63: *value = 8; break;
    case 74: *value = 65536; break;
    default: return INVALID;
    }
    return device == 0 ? OK : INVALID;
}
int hipGetDevicePropertiesR0600(void* properties, int device) {
    memset(properties, 0, 1472);
    strcpy((char*)properties, "gfx9999 is not the architecture");
    strcpy((char*)properties + 1160, "gfx1150:sramecc-:xnack-");
    return device == 0 ? OK : INVALID;
}
int hipMemGetInfo(size_t* free, size_t* total) { *free = 1234; *total = (size_t)1 << 34; return OK; }
int hipMalloc(void** pointer, size_t bytes) {
    if (bytes > (size_t)1 << 34) return NO_MEMORY;
    *pointer = malloc(bytes);
    ++alive;
    return OK;
}
int hipFree(void* pointer) { free(pointer); --alive; return OK; }
int hipMemcpyHtoDAsync(void* to, const void* from, size_t bytes, void* stream) {
    if (capturing || !stream) return CAPTURING;
    memcpy(to, from, bytes);
    return OK;
}
int hipMemcpyDtoHAsync(void* to, void* from, size_t bytes, void* stream) {
    return hipMemcpyHtoDAsync(to, from, bytes, stream);
}
int hipMemsetD8Async(void* to, unsigned char byte, size_t bytes, void* stream) {
    if (capturing || !stream) return CAPTURING;
    memset(to, byte, bytes);
    return OK;
}
int hipStreamCreateWithFlags(void** stream, unsigned flags) {
    *stream = malloc(1);
    ++alive;
    return flags == 1 ? OK : INVALID;
}
int hipStreamDestroy(void* stream) { return hipFree(stream); }
int hipStreamSynchronize(void* stream) { return capturing || !stream ? CAPTURING : OK; }

static void execute(const Call* call) {
    for (uint32_t i = 0; i < call->count; ++i)
        call->x[i] = call->x[i] * call->factor + (float)(call->shift >> 32);
    now += 1.5f;
}

int hipStreamBeginCapture(void* stream, unsigned mode) {
    if (capturing || !stream || mode != 2) return INVALID;
    capturing = 1;
    recording.count = 0;
    return OK;
}
int hipStreamEndCapture(void* stream, void** graph) {
    if (!capturing || !stream) return INVALID;
    capturing = 0;
    *graph = malloc(sizeof recording);
    ++alive;
    memcpy(*graph, &recording, sizeof recording);
    return OK;
}
int hipGraphInstantiate(void** exec, void* graph, void** node, char* log, size_t size) {
    if (node || log || size) return INVALID;
    *exec = malloc(sizeof recording);
    ++alive;
    memcpy(*exec, graph, sizeof recording);
    return OK;
}
int hipGraphLaunch(void* exec, void* stream) {
    if (capturing || !stream) return CAPTURING;
    for (int i = 0; i < ((Graph*)exec)->count; ++i)
        execute(&((Graph*)exec)->calls[i]);
    return OK;
}
int hipGraphDestroy(void* graph) { return hipFree(graph); }
int hipGraphExecDestroy(void* exec) { return hipFree(exec); }
int hipEventCreate(void** event) { *event = calloc(1, sizeof(float)); ++alive; return OK; }
int hipEventDestroy(void* event) { return hipFree(event); }
int hipEventRecord(void* event, void* stream) { *(float*)event = now; return stream ? OK : INVALID; }
int hipEventSynchronize(void* event) { return event ? OK : INVALID; }
int hipEventElapsedTime(float* ms, void* start, void* end) { *ms = *(float*)end - *(float*)start; return OK; }
int hipModuleLoadData(void** module, const void* image) {
    if (memcmp(image, "\x7f" "ELF", 4)) return INVALID;
    *module = malloc(1);
    ++alive;
    return OK;
}
int hipModuleUnload(void* module) { return capturing ? CAPTURING : hipFree(module); }
int hipModuleGetFunction(void** function, void* module, const char* name) {
    *function = module;
    return strcmp(name, "scale") ? NOT_FOUND : OK;
}
int hipModuleLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void* stream, void** parameters, void** extra) {
    if (!function || !stream || extra || gx * gy * gz == 0 || bx != 64 || by != 1 || bz != 1 || shared != 4096)
        return INVALID;
    Call call;
    memcpy(&call.x, parameters[0], sizeof call.x);
    memcpy(&call.count, parameters[1], sizeof call.count);
    memcpy(&call.factor, parameters[2], sizeof call.factor);
    memcpy(&call.shift, parameters[3], sizeof call.shift);
    if (capturing)
        recording.calls[recording.count++] = call;
    else
        execute(&call);
    return OK;
}

// hipRTC
static const char* option_seen;
int hiprtcVersion(int* major, int* minor) { *major = 9; *minor = 0; return OK; }
const char* hiprtcGetErrorString(int code) { return code == 6 ? "HIPRTC_ERROR_COMPILATION" : "HIPRTC_ERROR"; }
int hiprtcCreateProgram(void** program, const char* source, const char* name, int count, const char** headers,
                        const char** includes) {
    if (!name || count || headers || includes) return INVALID;
    *program = strdup(source);
    return OK;
}
int hiprtcDestroyProgram(void** program) { free(*program); *program = NULL; return OK; }
int hiprtcCompileProgram(void* program, int count, const char** options) {
    option_seen = count > 0 && !strcmp(options[0], "--offload-arch=gfx1150") ? "" : "stub.hip:1:1: error: no arch\n";
    return *option_seen || strstr(program, "#error") ? 6 : OK;
}
int hiprtcGetProgramLogSize(void* program, size_t* size) { (void)program; *size = strlen(option_seen) + 1; return OK; }
int hiprtcGetProgramLog(void* program, char* log) { (void)program; strcpy(log, option_seen); return OK; }
int hiprtcGetCodeSize(void* program, size_t* size) { (void)program; *size = 8; return OK; }
int hiprtcGetCode(void* program, char* code) { (void)program; memcpy(code, "\x7f" "ELFstub", 8); return OK; }
