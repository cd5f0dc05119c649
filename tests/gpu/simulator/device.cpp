// Devices, primary contexts, and what every call checks first.
#include <dlfcn.h>
#include <string.h>

#include "machine.h"

Machine machine;
static thread_local std::vector<Context*> stack;

void report(const std::string& violation) { machine.violations.push_back(violation); }

Context* current_context() { return stack.empty() ? nullptr : stack.back(); }

CUresult entered(const char* name) {
    ++machine.counts[name];
    auto fault = machine.faults.find(name);
    if (fault == machine.faults.end() || fault->second.first-- > 0) return SUCCESS;
    CUresult result = fault->second.second;
    machine.faults.erase(fault);
    if (result >= ILLEGAL_ADDRESS && result <= LAUNCH_FAILED && result < HOST_MEMORY_ALREADY_REGISTERED) machine.sticky = result;
    if (result == LAUNCH_FAILED) machine.sticky = result;
    return result;
}

CUresult usable(const char* name) {
    TRY(entered(name));
    Context* context = current_context();
    if (!context || !context->users) {
        report(std::string(name) + (context ? " in a released context" : " on a thread without a context"));
        return INVALID_CONTEXT;
    }
    return machine.sticky;
}

CUresult allowed_outside_capture(const char* name) {
    TRY(usable(name));
    if (!machine.captures) return SUCCESS;
    invalidate_captures();
    return CAPTURE_UNSUPPORTED;
}

static CUresult known(CUdevice device) { return device >= 0 && device < machine.devices ? SUCCESS : INVALID_DEVICE; }

EXPORT CUresult cuInit(unsigned) {
    LOCKED;
    TRY(entered("cuInit"));
    return machine.devices ? SUCCESS : NO_DEVICE;
}

EXPORT CUresult cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }

EXPORT CUresult cuDeviceGetCount(int* count) {
    LOCKED;
    return *count = machine.devices, SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    LOCKED;
    return *device = ordinal, known(ordinal);
}

EXPORT CUresult cuDeviceGetName(char* name, int size, CUdevice device) {
    strncpy(name, "Simulated GPU", (size_t)size);
    return known(device);
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t* size, CUdevice device) { return *size = machine.memory, known(device); }

EXPORT CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice device) {
    return *major = 8, *minor = 6, known(device);
}

EXPORT CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
    static const std::map<int, int> values = {{16, 28}, {75, 8}, {76, 6}};  // multiprocessors, compute capability 8.6
    auto found = values.find(attribute);
    *value = found == values.end() ? 1 : found->second;
    return known(device);
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice device) {
    LOCKED;
    TRY(entered("cuDevicePrimaryCtxRetain"));
    TRY(known(device));
    Context& context = machine.contexts[device];
    context.device = device;
    ++context.users;
    return *out = &context, SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    LOCKED;
    TRY(entered("cuDevicePrimaryCtxRelease"));
    auto found = machine.contexts.find(device);
    if (found == machine.contexts.end() || !found->second.users) return INVALID_CONTEXT;
    --found->second.users;
    return SUCCESS;
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
    LOCKED;
    stack.push_back(context);
    return SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent_v2(CUcontext* out) {
    LOCKED;
    if (stack.empty()) return INVALID_CONTEXT;
    if (out) *out = stack.back();
    stack.pop_back();
    return SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext* out) { return *out = current_context(), SUCCESS; }

EXPORT CUresult cuCtxGetDevice(CUdevice* out) {
    LOCKED;
    TRY(usable("cuCtxGetDevice"));
    return *out = current_context()->device, SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult error, const char** out) {
    static const std::map<CUresult, const char*> texts = {
        {OUT_OF_MEMORY, "out of memory"},
        {NO_DEVICE, "no CUDA-capable device is detected"},
        {INVALID_CONTEXT, "invalid device context"},
        {ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
        {LAUNCH_FAILED, "unspecified launch failure"},
        {CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"},
    };
    static thread_local std::string text;
    auto found = texts.find(error);
    text = found == texts.end() ? "CUDA error " + std::to_string(error) : found->second;
    return *out = text.c_str(), SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult error, const char** out) { return cuGetErrorString(error, out); }

// cuda-bindings looks everything up here, by its name without the version.
EXPORT CUresult cuGetProcAddress_v2(const char* name, void** out, int, unsigned long long, int* status) {
    static void* self = dlopen("libcuda.so.1", RTLD_NOW);
    *out = nullptr;
    for (const char* version : {"_v3", "_v2", ""})
        if (!*out) *out = dlsym(self, (std::string(name) + version).c_str());
    if (status) *status = *out ? 0 : 1;
    return *out ? SUCCESS : NOT_FOUND;
}

EXPORT int sim_context_depth() { return (int)stack.size(); }
EXPORT void sim_forget_contexts() { stack.clear(); }
