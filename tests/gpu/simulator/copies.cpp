// Copies. Pageable memory in an asynchronous one is legal CUDA and silently synchronous, hence always a mistake here.
#include <string.h>

#include "machine.h"

CUresult check_stream(const char* name, Stream* stream);

static std::string described(const char* what, size_t size, const Stream* stream) {
    return std::string(what) + " of " + std::to_string(size) + " bytes on stream " + std::to_string(stream->actor);
}

static bool on_device(CUdeviceptr pointer, size_t size, const char* name) {
    if (region_of(pointer, size, Kind::DEVICE)) return true;
    report(std::string(name) + " outside of allocated device memory");
    return false;
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t size, CUstream stream) {
    LOCKED;
    TRY(check_stream("cuMemcpyHtoDAsync", stream));
    if (!on_device(to, size, "cuMemcpyHtoDAsync")) return INVALID_VALUE;
    if (!is_pinned(from, size)) report("cuMemcpyHtoDAsync from pageable memory");
    machine.counts["bytes up"] += (long)size;
    Op op{described("upload", size, stream), {{(uintptr_t)from, size, false}, {(uintptr_t)to, size, true}}, {}, {}, {}};
    op.run = [=] { return memcpy((void*)to, from, size), SUCCESS; };
    return enqueue(stream, std::move(op));
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t size, CUstream stream) {
    LOCKED;
    TRY(check_stream("cuMemcpyDtoHAsync", stream));
    if (!on_device(from, size, "cuMemcpyDtoHAsync")) return INVALID_VALUE;
    if (!is_pinned(to, size)) report("cuMemcpyDtoHAsync to pageable memory");
    machine.counts["bytes down"] += (long)size;
    Op op{described("download", size, stream), {{(uintptr_t)from, size, false}, {(uintptr_t)to, size, true}}, {}, {}, {}};
    op.run = [=] { return memcpy(to, (void*)from, size), SUCCESS; };
    return enqueue(stream, std::move(op));
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t size, CUstream stream) {
    LOCKED;
    TRY(check_stream("cuMemsetD8Async", stream));
    if (!on_device(to, size, "cuMemsetD8Async")) return INVALID_VALUE;
    Op op{described("fill", size, stream), {{(uintptr_t)to, size, true}}, {}, {}, {}};
    op.run = [=] { return memset((void*)to, value, size), SUCCESS; };
    return enqueue(stream, std::move(op));
}

// Synchronous copies run on the legacy stream, which does not wait for non-blocking ones.
static CUresult at_once(const char* name, void* to, const void* from, size_t size, uintptr_t device) {
    TRY(allowed_outside_capture(name));
    if (!on_device(device, size, name)) return INVALID_VALUE;
    Op op{name, {{(uintptr_t)from, size, false}, {(uintptr_t)to, size, true}}, {}, {}, {}};
    machine.host.tick(0);
    note(op, 0, machine.host);
    open_for(op, true);
    memcpy(to, from, size);
    open_for(op, false);
    return SUCCESS;
}

EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t size) {
    LOCKED;
    return at_once("cuMemcpyHtoD", (void*)to, from, size, to);
}

EXPORT CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t size) {
    LOCKED;
    return at_once("cuMemcpyDtoH", to, (const void*)from, size, from);
}
