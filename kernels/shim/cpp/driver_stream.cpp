// Streams, events and graphs.
#include "driver.h"

#include <algorithm>
#include <ctime>

using namespace shim;

namespace {

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

Stream* default_stream(Device& d) {
    if (d.streams.empty()) d.streams.push_back(new Stream{&d, true, {}, nullptr});
    return d.streams[0];
}

/// The streams that the legacy default stream and an ordinary one wait for.
void finish_blocking(Device& d, const Stream* but) {
    for (size_t i = 0; i < d.streams.size(); i++) {
        if (d.streams[i] != but && d.streams[i]->blocking && !d.streams[i]->capture) finish(d.streams[i]);
    }
}

}  // namespace

namespace shim {

Stream* stream_of(void* handle) {
    if ((uintptr_t)handle > 2) return static_cast<Stream*>(handle);
    return context() ? default_stream(*context()) : nullptr;
}

Result put(Stream* s, Work work) {
    if (s->device->sticky) return s->device->sticky;
    if (s->capture) {
        s->capture->graph.work.push_back(std::move(work));
        return OK;
    }
    if (s == default_stream(*s->device)) {
        finish_blocking(*s->device, s);
    } else if (s->blocking) {
        finish(default_stream(*s->device));
    }
    s->queue.push_back(std::move(work));
    return s->device->sticky;
}

Result finish(Stream* s) {
    std::lock_guard<std::recursive_mutex> guard(s->device->lock);
    while (!s->queue.empty()) {
        Work work = std::move(s->queue.front());
        s->queue.pop_front();
        if (!s->device->sticky) work();
    }
    return s->device->sticky;
}

Result finish_all(Device& d) {
    for (size_t i = 0; i < d.streams.size(); i++) finish(d.streams[i]);
    return d.sticky;
}

bool forbidden_in_capture(Device& d) {
    bool any = false;
    for (Stream* s : d.streams) {
        if (s->capture) s->capture->invalid = any = true;
    }
    return any;
}

void reset_streams(Device& d) {
    for (Stream* s : d.streams) {
        s->queue.clear();
        s->capture = nullptr;
    }
}

}  // namespace shim

#define ENTER_STREAM(handle)                   \
    Stream* s = stream_of(handle);             \
    if (!s) return INVALID_CONTEXT;            \
    ENTER(*s->device)

API cuStreamCreate(void** handle, unsigned flags) {
    ENTER_CONTEXT();
    default_stream(*d);
    auto* s = new Stream{d, (flags & 1) == 0, {}, nullptr};
    d->streams.push_back(s);
    *handle = s;
    return d->sticky;
}
API cuStreamCreateWithPriority(void** handle, unsigned flags, int) { return cuStreamCreate(handle, flags); }
API cuStreamDestroy_v2(void* handle) {
    ENTER_STREAM(handle);
    finish(s);
    auto& all = s->device->streams;
    all.erase(std::remove(all.begin(), all.end(), s), all.end());
    delete s;
    return OK;
}
API cuStreamSynchronize(void* handle) {
    ENTER_STREAM(handle);
    if (s->capture) {
        s->capture->invalid = true;
        return CAPTURE_UNSUPPORTED;
    }
    return finish(s);
}
API cuStreamQuery(void* handle) {
    ENTER_STREAM(handle);
    return finish(s);
}
API cuStreamGetPriority(void*, int* priority) {
    *priority = 0;
    return OK;
}
API cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    ENTER_STREAM(handle);
    return put(s, [=] {
        function(data);
        return OK;
    });
}

API cuEventCreate(void** handle, unsigned) {
    ENTER_CONTEXT();
    auto* e = new Event;
    e->device = d;
    *handle = e;
    return d->sticky;
}
API cuEventDestroy_v2(void* handle) {
    auto* e = static_cast<Event*>(handle);
    ENTER(*e->device);
    if (e->stream && e->reached < e->recorded) finish(e->stream);
    delete e;
    return OK;
}
API cuEventRecord(void* handle, void* stream) {
    ENTER_STREAM(stream);
    auto* e = static_cast<Event*>(handle);
    e->capture = s->capture;
    if (s->capture) return OK;
    e->stream = s;
    e->asked = false;
    const uint64_t number = ++e->recorded;
    return put(s, [=] {
        e->reached = number;
        e->seconds = now();
        return OK;
    });
}
API cuEventRecordWithFlags(void* handle, void* stream, unsigned) { return cuEventRecord(handle, stream); }
API cuEventSynchronize(void* handle) {
    auto* e = static_cast<Event*>(handle);
    ENTER(*e->device);
    if (e->capture) return CAPTURE_UNSUPPORTED;
    return e->stream && e->reached < e->recorded ? finish(e->stream) : e->device->sticky;
}
API cuEventQuery(void* handle) {
    auto* e = static_cast<Event*>(handle);
    ENTER(*e->device);
    if (e->capture) return CAPTURE_UNSUPPORTED;
    if (e->reached == e->recorded) return e->device->sticky;
    // A device is seldom done when first asked; a poll must be able to hear no.
    if (!e->asked) {
        e->asked = true;
        return NOT_READY;
    }
    return finish(e->stream);
}
API cuEventElapsedTime_v2(float* ms, void* from, void* to) {
    auto *a = static_cast<Event*>(from), *b = static_cast<Event*>(to);
    ENTER(*a->device);
    if (!a->recorded || !b->recorded) return INVALID_HANDLE;
    if (a->reached < a->recorded || b->reached < b->recorded) return NOT_READY;
    *ms = (float)((b->seconds - a->seconds) * 1e3);
    return OK;
}
API cuEventElapsedTime(float* ms, void* from, void* to) { return cuEventElapsedTime_v2(ms, from, to); }
API cuStreamWaitEvent(void* stream, void* handle, unsigned) {
    ENTER_STREAM(stream);
    auto* e = static_cast<Event*>(handle);
    if (e->capture) {  // a stream that waits for an event of a capture joins it
        if (s->capture && s->capture != e->capture) return CAPTURE_INVALIDATED;
        s->capture = e->capture;
        return OK;
    }
    if (!e->recorded || e->stream == s) return OK;
    const uint64_t number = e->recorded;
    Stream* from = e->stream;
    return put(s, [=] { return e->reached < number ? finish(from) : OK; });
}

API cuStreamBeginCapture_v2(void* handle, int) {
    ENTER_STREAM(handle);
    if (s == default_stream(*s->device)) return CAPTURE_UNSUPPORTED;
    if (s->capture) return INVALID_VALUE;
    s->capture = std::make_shared<Capture>();
    s->capture->origin = s;
    return s->device->sticky;
}
API cuStreamEndCapture(void* handle, void** graph) {
    ENTER_STREAM(handle);
    *graph = nullptr;
    if (!s->capture) return INVALID_VALUE;
    const auto capture = s->capture;
    if (capture->origin != s) return INVALID_VALUE;
    for (Stream* other : s->device->streams) {
        if (other->capture == capture) other->capture = nullptr;
    }
    if (capture->invalid) return CAPTURE_INVALIDATED;
    *graph = new Graph(capture->graph);
    return OK;
}
API cuStreamIsCapturing(void* handle, int* status) {
    ENTER_STREAM(handle);
    *status = !s->capture ? 0 : s->capture->invalid ? 2 : 1;
    return OK;
}
API cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
    *exec = new Graph(*static_cast<Graph*>(graph));
    return OK;
}
API cuGraphInstantiate(void** exec, void* graph, unsigned long long flags) {
    return cuGraphInstantiateWithFlags(exec, graph, flags);
}
API cuGraphLaunch(void* exec, void* handle) {
    ENTER_STREAM(handle);
    const auto work = static_cast<Graph*>(exec)->work;
    Device& d = *s->device;
    look_for_fault(d);
    if (is_refused(d)) {
        note_error(d, d.launch_fault.code, "a graph: a fault that the test planted");
        return d.launch_fault.code;
    }
    return put(s, [work, s] {
        for (const auto& one : work) {
            if (s->device->sticky) break;
            one();
        }
        return s->device->sticky;
    });
}
API cuGraphUpload(void*, void*) { return OK; }
API cuGraphGetNodes(void* graph, void**, size_t* count) {
    *count = static_cast<Graph*>(graph)->work.size();
    return OK;
}
API cuGraphDestroy(void* graph) {
    delete static_cast<Graph*>(graph);
    return OK;
}
API cuGraphExecDestroy(void* exec) {
    delete static_cast<Graph*>(exec);
    return OK;
}
