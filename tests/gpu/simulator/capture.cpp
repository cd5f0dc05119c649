// Stream capture and graphs. A capture is a list of commands on branches, one for each stream that joined it; a launch
// replays them on hidden streams, so that the scheduler and the race detector treat a graph like anything else.
#include <algorithm>

#include "machine.h"

enum class Do { RUN, RECORD, WAIT };

struct Command {
    Do what;
    size_t branch;
    Op op;
    int node;
};

struct Capture {
    std::vector<Stream*> branches;  // the first one began it
    std::vector<Clock> clocks;      // of each branch, in branches
    std::vector<Clock> nodes;       // of each recorded event
    std::vector<Command> commands;
    std::thread::id thread;
    int mode;
    bool valid = true;
};

struct Graph {
    std::vector<Command> commands;
    size_t branches, nodes;
};

struct GraphExec {
    Graph graph;
    std::vector<Stream*> streams;
};

CUresult check_stream(const char* name, Stream* stream);
static std::vector<Capture*> live;

static size_t branch_of(Capture* capture, Stream* stream) {
    auto& all = capture->branches;
    return (size_t)(std::find(all.begin(), all.end(), stream) - all.begin());
}

static CUresult spoil(Capture* capture, CUresult result) {
    capture->valid = false;
    return result;
}

void invalidate_captures() {
    for (Capture* capture : live) capture->valid = false;
}

CUresult captured(Stream* stream, Op op) {
    Capture* capture = stream->capture;
    if (!capture->valid) return CAPTURE_INVALIDATED;
    size_t branch = branch_of(capture, stream);
    capture->clocks[branch].tick(branch);
    capture->commands.push_back({Do::RUN, branch, std::move(op), -1});
    return SUCCESS;
}

CUresult captured_record(Stream* stream, Event* event) {
    Capture* capture = stream->capture;
    if (!capture->valid) return CAPTURE_INVALIDATED;
    size_t branch = branch_of(capture, stream);
    event->capture = capture;
    event->node = (int)capture->nodes.size();
    capture->nodes.push_back(capture->clocks[branch]);
    capture->commands.push_back({Do::RECORD, branch, {}, event->node});
    return SUCCESS;
}

CUresult captured_wait(Stream* stream, Event* event) {
    Capture* capture = event->capture;
    if (!capture) return spoil(stream->capture, CAPTURE_ISOLATION);
    if (std::find(live.begin(), live.end(), capture) == live.end()) return CAPTURED_EVENT;
    if (stream->capture && stream->capture != capture) return spoil(capture, CAPTURE_MERGE);
    if (!capture->valid) return CAPTURE_INVALIDATED;
    if (!stream->capture) {  // a stream joins a capture by waiting for one of its events
        stream->capture = capture;
        capture->branches.push_back(stream);
        capture->clocks.emplace_back();
    }
    size_t branch = branch_of(capture, stream);
    capture->clocks[branch].join(capture->nodes[(size_t)event->node]);
    capture->commands.push_back({Do::WAIT, branch, {}, event->node});
    return SUCCESS;
}

EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, int mode) {
    LOCKED;
    TRY(check_stream("cuStreamBeginCapture", stream));
    if (stream->capture) return ILLEGAL_STATE;
    auto* capture = new Capture{{stream}, {Clock{}}, {}, {}, std::this_thread::get_id(), mode};
    stream->capture = capture;
    live.push_back(capture);
    machine.captures = (int)live.size();
    return SUCCESS;
}

EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph* out) {
    LOCKED;
    TRY(check_stream("cuStreamEndCapture", stream));
    *out = nullptr;
    Capture* capture = stream->capture;
    if (!capture) return ILLEGAL_STATE;
    if (capture->branches[0] != stream) return CAPTURE_UNMATCHED;
    if (capture->thread != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
    for (Stream* branch : capture->branches) branch->capture = nullptr;
    live.erase(std::remove(live.begin(), live.end(), capture), live.end());
    machine.captures = (int)live.size();
    if (!capture->valid) return CAPTURE_INVALIDATED;
    for (const Clock& clock : capture->clocks)
        if (!capture->clocks[0].covers(clock)) return CAPTURE_UNJOINED;
    *out = new Graph{capture->commands, capture->branches.size(), capture->nodes.size()};
    return SUCCESS;  // the capture itself stays: events may still point at it
}

EXPORT CUresult cuStreamIsCapturing(CUstream stream, int* status) {
    LOCKED;
    TRY(check_stream("cuStreamIsCapturing", stream));
    *status = stream->capture ? (stream->capture->valid ? 1 : 2) : 0;
    return SUCCESS;
}

EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long) {
    LOCKED;
    TRY(allowed_outside_capture("cuGraphInstantiate"));
    auto* exec = new GraphExec{*graph, {}};
    for (size_t i = 0; i < graph->branches; ++i) exec->streams.push_back(make_stream(current_context(), true));
    *out = exec;
    return SUCCESS;
}

EXPORT CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    LOCKED;
    TRY(check_stream("cuGraphLaunch", stream));
    if (stream->capture) return spoil(stream->capture, CAPTURE_UNSUPPORTED);
    std::vector<Point> nodes(exec->graph.nodes), ends;
    Point start = stream->last;
    for (Stream* branch : exec->streams) TRY(enqueue(branch, Op{"a graph's start", {}, {}, {start}, {}}));
    for (const Command& command : exec->graph.commands) {
        Stream* branch = exec->streams[command.branch];
        if (command.what == Do::RUN) TRY(enqueue(branch, command.op));
        else if (command.what == Do::RECORD) nodes[(size_t)command.node] = branch->last;
        else TRY(enqueue(branch, Op{"a wait", {}, {}, {nodes[(size_t)command.node]}, {}}));
    }
    for (Stream* branch : exec->streams) ends.push_back(branch->last);
    return enqueue(stream, Op{"a graph's end", {}, {}, ends, {}});
}

EXPORT CUresult cuGraphDestroy(CUgraph graph) {
    LOCKED;
    TRY(usable("cuGraphDestroy"));
    delete graph;
    return SUCCESS;
}

EXPORT CUresult cuGraphExecDestroy(CUgraphExec exec) {
    LOCKED;
    TRY(usable("cuGraphExecDestroy"));
    for (Stream* stream : exec->streams) {
        if (!stream->queue.empty()) report("cuGraphExecDestroy while the graph may still run");
        TRY(drain(stream->last));
        drop_stream(stream);
    }
    delete exec;
    return SUCCESS;
}
