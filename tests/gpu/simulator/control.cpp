// What the tests call: set the machine up, enqueue a kernel, and ask what happened.
#include <string.h>

#include "machine.h"

CUresult check_stream(const char* name, Stream* stream);
EXPORT void sim_forget_contexts();

static const char* kept(std::string text) {
    static std::string last;
    last = std::move(text);
    return last.c_str();
}

EXPORT void sim_reset(int devices, size_t memory, int order) {
    LOCKED;
    machine.devices = devices;
    machine.memory = memory;
    machine.order = order;
    machine.dice.seed((unsigned)order);
    machine.sticky = SUCCESS;
    machine.host = {};
    machine.streams.clear();  // leaked, as somebody may still hold them
    forget_memory();
    sim_forget_contexts();
    for (auto& entry : machine.contexts) entry.second.users = 0;
    machine.counts.clear();
    machine.faults.clear();
    machine.violations.clear();
}

EXPORT void sim_order(int order) {
    LOCKED;
    machine.order = order;
    machine.dice.seed((unsigned)order);
}

EXPORT void sim_fail(const char* name, int after, CUresult result) {
    LOCKED;
    machine.faults[name] = {after, result};
}

// A kernel: `run` is called once, when the stream comes to it, with the listed memory open.
EXPORT CUresult sim_launch(CUstream stream, const char* label, const Access* accesses, size_t count, CUresult (*run)(void*), void* user) {
    LOCKED;
    TRY(check_stream("a kernel launch", stream));
    std::string name = std::string(label) + " on stream " + std::to_string(stream->actor);
    return enqueue(stream, Op{name, {accesses, accesses + count}, [=] { return run(user); }, {}, {}});
}

EXPORT const char* sim_violations() {
    LOCKED;
    std::string all;
    for (const std::string& violation : machine.violations) all += violation + "\n";
    machine.violations.clear();
    return kept(all);
}

EXPORT const char* sim_counts() {
    LOCKED;
    std::string all;
    for (auto& [name, count] : machine.counts) all += name + "=" + std::to_string(count) + "\n";
    return kept(all);
}

EXPORT void sim_clear_counts() {
    LOCKED;
    machine.counts.clear();
}

EXPORT size_t sim_live(int kind) {
    LOCKED;
    size_t live = 0;
    for (auto& entry : machine.regions) live += !entry.second.closed && (int)entry.second.kind == kind;
    return live;
}

EXPORT size_t sim_streams() {
    LOCKED;
    return machine.streams.size();
}
