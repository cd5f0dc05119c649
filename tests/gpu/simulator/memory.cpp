// Memory: every allocation is pages of its own, poisoned, and closed with mprotect whenever the program must not touch
// it. A wrong access by the host is a real page fault, caught here, reported, and let through.
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "machine.h"

static const size_t PAGE = 4096;
static const unsigned char POISON = 0xFF;  // NaN in every float format
static struct sigaction earlier;

static size_t in_pages(size_t size) { return (size + PAGE - 1) / PAGE * PAGE; }

static std::pair<const uintptr_t, Region>* holding(uintptr_t address) {
    auto next = machine.regions.upper_bound(address);
    if (next == machine.regions.begin()) return nullptr;
    auto& entry = *std::prev(next);
    return address < entry.first + entry.second.mapped ? &entry : nullptr;
}

static void on_fault(int, siginfo_t* info, void*) {
    auto* entry = holding((uintptr_t)info->si_addr);
    if (!entry) {  // not ours: the next fault at the same place is the earlier handler's
        sigaction(SIGSEGV, &earlier, nullptr);
        return;
    }
    Region& region = entry->second;
    const char* what = region.closed                   ? "freed memory"
                       : region.kind == Kind::DEVICE ? "device memory"
                                                     : "pinned memory that an operation in flight uses";
    report(std::string("the host touched ") + what);
    mprotect((void*)entry->first, region.mapped, PROT_READ | PROT_WRITE);
}

static void catch_faults() {
    struct sigaction now;
    sigaction(SIGSEGV, nullptr, &now);
    if (now.sa_sigaction == on_fault) return;
    earlier = now;
    struct sigaction ours = {};
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO;  // not SA_ONSTACK: the stack that faulthandler sets up is too small for wide registers
    sigaction(SIGSEGV, &ours, nullptr);
}

Region* region_of(uintptr_t address, size_t size, Kind kind) {
    auto* entry = holding(address);
    if (!entry || entry->second.closed || entry->second.kind != kind) return nullptr;
    return address + size <= entry->first + entry->second.size ? &entry->second : nullptr;
}

bool is_pinned(const void* address, size_t size) { return region_of((uintptr_t)address, size, Kind::PINNED); }

static bool overlap(const Access& a, const Access& b) {
    return a.begin < b.begin + b.size && b.begin < a.begin + a.size;
}

static void check_race(Region& region, const Access& access, const std::string& label, size_t actor, const Clock& clock) {
    for (const Past& past : region.past) {
        bool ordered = past.actor == actor || past.tick <= clock.at(past.actor);
        if (!ordered && (past.access.write || access.write) && overlap(past.access, access)) {
            const char* how = !access.write ? "reads what may not be written yet"
                              : past.access.write ? "overwrites what may still be written"
                                                  : "overwrites what may still be read";
            report("race: " + label + " " + how + " by " + past.label);
        }
    }
    for (Past& past : region.past) {
        bool same = past.actor == actor && past.access.write == access.write;
        if (same && past.access.begin == access.begin && past.access.size == access.size) {
            past.tick = clock.at(actor);
            past.label = label;
            return;
        }
    }
    region.past.push_back({actor, clock.at(actor), access, label});
}

void note(const Op& op, size_t actor, const Clock& clock) {
    for (const Access& access : op.accesses) {
        auto* entry = holding(access.begin);
        if (!entry) continue;  // pageable memory, which was reported where it came in
        Region& region = entry->second;
        if (region.closed) report(op.label + " uses freed memory");
        else if (access.begin + access.size > entry->first + region.size) report(op.label + " reaches out of bounds");
        else check_race(region, access, op.label, actor, clock);
    }
}

static void protect(uintptr_t begin, const Region& region) {
    int rights = PROT_READ | PROT_WRITE;
    if (region.closed || region.kind == Kind::DEVICE) rights = PROT_NONE;
    for (const Past& past : region.past)
        if (past.actor && past.tick > machine.host.at(past.actor)) rights &= past.access.write ? PROT_NONE : PROT_READ;
    mprotect((void*)begin, region.mapped, rights);
}

void guard_host_memory() {
    for (auto& [begin, region] : machine.regions)
        if (region.kind == Kind::PINNED && !region.closed) protect(begin, region);
}

void open_for(const Op& op, bool open) {
    for (const Access& access : op.accesses) {
        auto* entry = holding(access.begin);
        if (!entry || entry->second.closed) continue;
        if (open) mprotect((void*)entry->first, entry->second.mapped, PROT_READ | PROT_WRITE);
        else protect(entry->first, entry->second);
    }
}

CUresult map_region(Kind kind, size_t size, unsigned flags, uintptr_t* out) {
    if (!size) return INVALID_VALUE;
    if (kind == Kind::DEVICE && machine.used + size > machine.memory) return OUT_OF_MEMORY;
    void* pages = mmap(nullptr, in_pages(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return OUT_OF_MEMORY;
    catch_faults();
    memset(pages, POISON, in_pages(size));
    auto made = machine.regions.insert_or_assign((uintptr_t)pages, Region{kind, size, in_pages(size), flags, true, false, {}});
    protect(made.first->first, made.first->second);
    if (kind == Kind::DEVICE) machine.used += size;
    *out = (uintptr_t)pages;
    return SUCCESS;
}

void check_unused(uintptr_t begin, const char* action) {
    for (const Past& past : machine.regions.at(begin).past)
        if (past.actor && past.tick > machine.host.at(past.actor))
            report(std::string(action) + " while " + past.label + " may still use it");
}

static CUresult close_region(uintptr_t begin, Kind kind, const char* action) {
    auto found = machine.regions.find(begin);
    if (found == machine.regions.end() || found->second.closed || found->second.kind != kind) {
        report(std::string(action) + " of memory that is not allocated");
        return INVALID_VALUE;
    }
    check_unused(begin, action);
    Region& region = found->second;
    if (!region.owned) {  // it goes back to whoever registered it
        mprotect((void*)begin, region.mapped, PROT_READ | PROT_WRITE);
        machine.regions.erase(found);
        return SUCCESS;
    }
    if (kind == Kind::DEVICE) machine.used -= region.size;
    region.closed = true;  // its pages stay, closed, so that a late access is noticed
    protect(begin, region);
    return SUCCESS;
}

void forget_memory() {
    for (auto& [begin, region] : machine.regions) {
        if (region.owned) munmap((void*)begin, region.mapped);
        else mprotect((void*)begin, region.mapped, PROT_READ | PROT_WRITE);
    }
    machine.regions.clear();
    machine.used = 0;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t size) {
    LOCKED;
    TRY(allowed_outside_capture("cuMemAlloc"));
    uintptr_t address = 0;
    TRY(map_region(Kind::DEVICE, size, 0, &address));
    *out = address;
    return SUCCESS;
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr pointer) {
    LOCKED;
    TRY(allowed_outside_capture("cuMemFree"));
    TRY(drain_all());  // the driver waits for the device here, too
    return close_region(pointer, Kind::DEVICE, "cuMemFree");
}

EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    LOCKED;
    TRY(usable("cuMemGetInfo"));
    *total = machine.memory;
    *free = machine.memory - machine.used;
    return SUCCESS;
}

EXPORT CUresult cuMemHostAlloc(void** out, size_t size, unsigned flags) {
    LOCKED;
    TRY(allowed_outside_capture("cuMemHostAlloc"));
    return map_region(Kind::PINNED, size, flags, (uintptr_t*)out);
}

EXPORT CUresult cuMemFreeHost(void* pointer) {
    LOCKED;
    TRY(allowed_outside_capture("cuMemFreeHost"));
    return close_region((uintptr_t)pointer, Kind::PINNED, "cuMemFreeHost");
}

EXPORT CUresult cuMemHostRegister_v2(void* pointer, size_t size, unsigned flags) {
    LOCKED;
    TRY(allowed_outside_capture("cuMemHostRegister"));
    if ((uintptr_t)pointer % PAGE || size % PAGE) {
        report("cuMemHostRegister of memory that is not whole pages: its neighbours would be locked with it");
        return INVALID_VALUE;
    }
    if (holding((uintptr_t)pointer)) return HOST_MEMORY_ALREADY_REGISTERED;
    catch_faults();
    machine.regions[(uintptr_t)pointer] = Region{Kind::PINNED, size, size, flags, false, false, {}};
    return SUCCESS;
}

EXPORT CUresult cuMemHostUnregister(void* pointer) {
    LOCKED;
    TRY(allowed_outside_capture("cuMemHostUnregister"));
    return close_region((uintptr_t)pointer, Kind::PINNED, "cuMemHostUnregister");
}

EXPORT CUresult cuMemHostGetFlags(unsigned* flags, void* pointer) {
    LOCKED;
    Region* region = region_of((uintptr_t)pointer, 1, Kind::PINNED);
    if (!region) return INVALID_VALUE;
    *flags = region->flags;
    return SUCCESS;
}
