// The simulated machine: streams that put work off, memory that is watched, and clocks that know what waits for what.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "abi.h"

// A vector clock: how far each actor had come. Actor 0 is the host, every stream is another.
struct Clock {
    std::vector<unsigned> ticks;
    unsigned at(size_t actor) const { return actor < ticks.size() ? ticks[actor] : 0; }
    void tick(size_t actor);
    void join(const Clock& other);
    bool covers(const Clock& other) const;
};

// The end of one piece of work. Waiting for it orders everything in its clock before the waiter.
struct Marker {
    bool done = false;
    Clock clock;
    Stream* home = nullptr;
};
using Point = std::shared_ptr<Marker>;

struct Access {
    uintptr_t begin;
    size_t size;
    int write;
};

struct Op {
    std::string label;
    std::vector<Access> accesses;
    std::function<CUresult()> run;  // empty: nothing to do but wait
    std::vector<Point> waits;
    Point end;
};

struct Context {
    CUdevice device;
    int users = 0;
};

struct Capture;

struct Stream {
    size_t actor;
    Context* context;
    std::thread::id thread;
    Clock clock;
    std::deque<Op> queue;
    Point last = std::make_shared<Marker>(Marker{true, {}, nullptr});
    Capture* capture = nullptr;
    bool hidden = false;  // a branch of a launched graph
};

struct Event {
    Point point;  // null: never recorded
    Capture* capture = nullptr;
    int node = -1;
};

enum class Kind { DEVICE, PINNED };

struct Past {  // the last access of one actor to one range
    size_t actor;
    unsigned tick;
    Access access;
    std::string label;
};

struct Region {
    Kind kind;
    size_t size, mapped;
    unsigned flags;
    bool owned;   // by the driver; otherwise it was registered
    bool closed;  // freed: nobody may touch it
    std::vector<Past> past;
};

struct Machine {
    std::mutex lock;
    int devices = 0;
    size_t memory = 0, used = 0;
    int order = 0;  // 0 lazy, negative eager, else the seed of a random order
    std::mt19937 dice;
    CUresult sticky = SUCCESS;
    Clock host;
    size_t actors = 1;
    std::vector<Stream*> streams;
    std::map<uintptr_t, Region> regions;
    std::map<CUdevice, Context> contexts;
    std::map<std::string, long> counts;
    std::map<std::string, std::pair<int, CUresult>> faults;  // name: calls until it fails once, and how
    std::vector<std::string> violations;
    int captures = 0;
};

extern Machine machine;

void report(const std::string& violation);
CUresult entered(const char* name);                      // counts a call; the injected fault, if it is due
CUresult usable(const char* name);                       // entered, and a live context is current
CUresult allowed_outside_capture(const char* name);      // usable, and no capture forbids it
Context* current_context();

// memory.cpp
Region* region_of(uintptr_t address, size_t size, Kind kind);
bool is_pinned(const void* address, size_t size);
void note(const Op& op, size_t actor, const Clock& clock);  // reports races, bounds and use after free
void open_for(const Op& op, bool open);                     // lets an operation touch its memory
void guard_host_memory();                                   // closes what is in flight, opens what the host waited for
void check_unused(uintptr_t begin, const char* action);
void forget_memory();
CUresult map_region(Kind kind, size_t size, unsigned flags, uintptr_t* out);

// streams.cpp
CUresult enqueue(Stream* stream, Op op);
CUresult drain(const Point& point);
CUresult drain_all();
Stream* make_stream(Context* context, bool hidden);
void drop_stream(Stream* stream);

// capture.cpp
CUresult captured(Stream* stream, Op op);
CUresult captured_record(Stream* stream, Event* event);
CUresult captured_wait(Stream* stream, Event* event);
void invalidate_captures();

#define LOCKED std::unique_lock<std::mutex> guard(machine.lock)
#define TRY(call)                                  \
    do {                                           \
        if (CUresult failed = (call)) return failed; \
    } while (0)
