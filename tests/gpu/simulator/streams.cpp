// Streams and events. Nothing runs when it is enqueued: a lazy machine runs it when the host waits for it, a seeded one
// at random moments in any order that the events allow, an eager one at once. Races are found by clocks in all of them.
#include <algorithm>

#include "machine.h"

void Clock::tick(size_t actor) {
    if (ticks.size() <= actor) ticks.resize(actor + 1);
    ++ticks[actor];
}

void Clock::join(const Clock& other) {
    if (ticks.size() < other.ticks.size()) ticks.resize(other.ticks.size());
    for (size_t i = 0; i < other.ticks.size(); ++i) ticks[i] = std::max(ticks[i], other.ticks[i]);
}

bool Clock::covers(const Clock& other) const {
    for (size_t i = 0; i < other.ticks.size(); ++i)
        if (other.ticks[i] > at(i)) return false;
    return true;
}

static bool ready(const Stream* stream) {
    if (stream->queue.empty()) return false;
    const auto& waits = stream->queue.front().waits;
    return std::all_of(waits.begin(), waits.end(), [](const Point& point) { return point->done; });
}

static CUresult run_first(Stream* stream) {
    Op op = std::move(stream->queue.front());
    stream->queue.pop_front();
    CUresult result = SUCCESS;
    if (op.run && !machine.sticky) {
        open_for(op, true);
        machine.lock.unlock();  // it may call back into Python, whose lock another caller may hold
        result = op.run();
        machine.lock.lock();
        open_for(op, false);
    }
    op.end->done = true;
    if (result && !machine.sticky) machine.sticky = result;
    return machine.sticky;
}

static CUresult run_until(const Point& point, int depth) {  // lazily: only what it needs
    while (!point->done) {
        Stream* stream = point->home;
        if (!stream || stream->queue.empty() || depth > 10000) return machine.sticky = LAUNCH_TIMEOUT;
        auto waits = stream->queue.front().waits;
        for (const Point& wait : waits) TRY(run_until(wait, depth + 1));
        TRY(run_first(stream));
    }
    return SUCCESS;
}

static bool run_any() {
    std::vector<Stream*> choices;
    std::copy_if(machine.streams.begin(), machine.streams.end(), std::back_inserter(choices), ready);
    if (choices.empty()) return false;
    run_first(choices[machine.dice() % choices.size()]);
    return true;
}

CUresult drain(const Point& point) {
    if (machine.order == 0) TRY(run_until(point, 0));
    while (!point->done)
        if (!run_any()) return machine.sticky = LAUNCH_TIMEOUT;  // nothing can run: a real device would hang
    machine.host.join(point->clock);
    guard_host_memory();
    return machine.sticky;
}

CUresult drain_all() {
    auto all = machine.streams;
    for (Stream* stream : all) TRY(drain(stream->last));
    return SUCCESS;
}

CUresult enqueue(Stream* stream, Op op) {
    if (stream->capture) return captured(stream, std::move(op));
    stream->clock.join(machine.host);
    for (const Point& wait : op.waits) stream->clock.join(wait->clock);
    stream->clock.tick(stream->actor);
    note(op, stream->actor, stream->clock);
    op.end = std::make_shared<Marker>(Marker{false, stream->clock, stream});
    stream->last = op.end;
    stream->queue.push_back(std::move(op));
    guard_host_memory();
    if (machine.order < 0)
        while (run_any()) {
        }
    if (machine.order > 0)
        while (machine.dice() % 3 && run_any()) {
        }
    return SUCCESS;
}

Stream* make_stream(Context* context, bool hidden) {
    auto* stream = new Stream{machine.actors++, context, std::this_thread::get_id(), {}, {}};
    stream->hidden = hidden;
    machine.streams.push_back(stream);
    return stream;
}

void drop_stream(Stream* stream) {
    auto& all = machine.streams;
    all.erase(std::remove(all.begin(), all.end(), stream), all.end());
    delete stream;
}

static bool exists(const Stream* stream) {
    auto& all = machine.streams;
    return std::find(all.begin(), all.end(), stream) != all.end();
}

static CUresult of_this_thread(const char* name, Stream* stream) {
    TRY(usable(name));
    if (!exists(stream)) {
        report(std::string(name) + (stream ? " on a destroyed stream" : " on the legacy stream, which orders against nothing here"));
        return INVALID_VALUE;
    }
    if (stream->thread != std::this_thread::get_id()) report(std::string(name) + " from a thread that did not make the stream");
    if (stream->context != current_context()) report(std::string(name) + " in a context that did not make the stream");
    return SUCCESS;
}

CUresult check_stream(const char* name, Stream* stream) { return of_this_thread(name, stream); }

EXPORT CUresult cuStreamCreate(CUstream* out, unsigned flags) {
    LOCKED;
    TRY(allowed_outside_capture("cuStreamCreate"));
    if (flags != STREAM_NON_BLOCKING) report("cuStreamCreate of a stream that waits for the legacy one");
    *out = make_stream(current_context(), false);
    return SUCCESS;
}

EXPORT CUresult cuStreamDestroy_v2(CUstream stream) {
    LOCKED;
    TRY(usable("cuStreamDestroy"));
    if (!exists(stream)) return INVALID_VALUE;
    TRY(drain(stream->last));
    drop_stream(stream);
    return SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(CUstream stream) {
    LOCKED;
    TRY(allowed_outside_capture("cuStreamSynchronize"));
    return drain(stream->last);
}

EXPORT CUresult cuStreamQuery(CUstream stream) {
    LOCKED;
    TRY(usable("cuStreamQuery"));
    return stream->last->done ? SUCCESS : NOT_READY;
}

EXPORT CUresult cuCtxSynchronize() {
    LOCKED;
    TRY(allowed_outside_capture("cuCtxSynchronize"));
    return drain_all();
}

EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    LOCKED;
    TRY(of_this_thread("cuStreamWaitEvent", stream));
    if (stream->capture || event->capture) return captured_wait(stream, event);
    if (!event->point) return SUCCESS;  // an event that was never recorded holds nobody up
    return enqueue(stream, Op{"a wait", {}, {}, {event->point}, {}});
}

EXPORT CUresult cuEventCreate(CUevent* out, unsigned) {
    LOCKED;
    TRY(usable("cuEventCreate"));
    *out = new Event;
    return SUCCESS;
}

EXPORT CUresult cuEventDestroy_v2(CUevent event) {
    LOCKED;
    TRY(usable("cuEventDestroy"));
    delete event;
    return SUCCESS;
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) {
    LOCKED;
    TRY(of_this_thread("cuEventRecord", stream));
    if (stream->capture) return captured_record(stream, event);
    TRY(enqueue(stream, Op{"a record", {}, {}, {}, {}}));
    event->capture = nullptr;
    event->point = stream->last;
    return SUCCESS;
}

EXPORT CUresult cuEventSynchronize(CUevent event) {
    LOCKED;
    TRY(allowed_outside_capture("cuEventSynchronize"));
    if (event->capture) return CAPTURED_EVENT;
    return event->point ? drain(event->point) : SUCCESS;
}

EXPORT CUresult cuEventQuery(CUevent event) {
    LOCKED;
    TRY(usable("cuEventQuery"));
    if (event->capture) return CAPTURED_EVENT;
    if (event->point && !event->point->done) return NOT_READY;
    if (event->point) machine.host.join(event->point->clock);
    guard_host_memory();
    return SUCCESS;
}
