// What the lanes of a warp do together: barriers, shuffles, votes, matrix products; and copies that end later.
#include "fibers.h"

namespace shim {

bool meet(uint32_t mask, const void* operation, const char* name) {
    Executor& e = running();
    Warp& warp = *current->warp;
    const uint32_t bit = 1u << current->lane;
    if (!(mask & bit)) fail("%s: lane %u is not in its own mask %08x", name, current->lane, mask);
    if (mask & ~warp.alive) fail("%s: mask %08x names lanes that have ended (alive: %08x)", name, mask, warp.alive);
    while (warp.arrived && warp.mask != mask) {
        if (warp.mask & mask) fail("%s: mask %08x overlaps %08x, which others wait with", name, mask, warp.mask);
        warp.behind |= bit;
        wait(e, "another group's warp collective");
    }
    if (warp.arrived && warp.operation != operation) {
        fail("%s: the lanes of the warp have come to different collectives", name);
    }
    warp.mask = mask;
    warp.operation = operation;
    warp.arrived |= bit;
    if (warp.arrived == mask) return true;
    wait(e, name);
    return false;
}

void end_meeting(Warp& warp) {
    warp.arrived = 0;
    warp.ready |= warp.mask | warp.behind;
    warp.behind = 0;
}

namespace {

/// Waits until every lane of the mask has called the same operation; the last one runs `finish` for all.
template <class F>
void collect(uint32_t mask, const void* operation, const char* name, F finish) {
    if (!meet(mask, operation, name)) return;
    finish(*current->warp);
    end_meeting(*current->warp);
}

const char BARRIER = 0, SHUFFLE[4] = {}, BALLOT = 0, MATCH = 0, REDUCE[6] = {}, LDMATRIX[4] = {}, MMA = 0;

int source_lane(Shuffle kind, int lane, int argument, int width) {
    const int base = lane & ~(width - 1);
    int source = lane;
    switch (kind) {
        case Shuffle::Index: return base + (argument & (width - 1));
        case Shuffle::Xor: source = lane ^ argument; break;
        case Shuffle::Down: source = lane + argument; break;
        case Shuffle::Up: source = lane - argument; break;
    }
    if (kind == Shuffle::Up) return source < base ? lane : source;
    return source >= base + width ? lane : source;
}

void check_matrix_row(const void* row) {
    if ((uintptr_t)row & 15) fail("ldmatrix: row at %p is not 16-byte aligned", row);
}

}  // namespace

void warp_barrier(uint32_t mask) {
    collect(mask, &BARRIER, "__syncwarp", [](Warp& warp) { warp.interval++; });
}

uint64_t shuffle(uint32_t mask, uint64_t value, int argument, int width, Shuffle kind) {
    Warp& warp = *current->warp;
    const uint32_t lane = current->lane;
    if (width <= 0 || width > 32 || (width & (width - 1))) fail("shuffle: width %d is no power of two up to 32", width);
    const int source = source_lane(kind, (int)lane, argument, width);
    if (!(mask >> source & 1)) fail("shuffle: lane %u reads lane %d, which is not in the mask %08x", lane, source, mask);
    warp.in[lane] = value;
    warp.argument[lane] = source;
    collect(mask, &SHUFFLE[(int)kind], "a shuffle", [](Warp& w) {
        for (uint32_t left = w.mask; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            w.out[l] = w.in[w.argument[l]];
        }
    });
    return warp.out[lane];
}

uint32_t ballot(uint32_t mask, bool predicate) {
    Warp& warp = *current->warp;
    const uint32_t lane = current->lane;
    warp.in[lane] = predicate;
    collect(mask, &BALLOT, "a vote", [](Warp& w) {
        uint64_t votes = 0;
        for (uint32_t left = w.mask; left; left &= left - 1) votes |= w.in[__builtin_ctz(left)] << __builtin_ctz(left);
        for (uint32_t left = w.mask; left; left &= left - 1) w.out[__builtin_ctz(left)] = votes;
    });
    return (uint32_t)warp.out[lane];
}

uint32_t match_any(uint32_t mask, uint64_t value) {
    Warp& warp = *current->warp;
    const uint32_t lane = current->lane;
    warp.in[lane] = value;
    collect(mask, &MATCH, "__match_any_sync", [](Warp& w) {
        for (uint32_t left = w.mask; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            w.out[l] = 0;
            for (uint32_t other = w.mask; other; other &= other - 1) {
                const int o = __builtin_ctz(other);
                if (w.in[o] == w.in[l]) w.out[l] |= 1ull << o;
            }
        }
    });
    return (uint32_t)warp.out[lane];
}

uint32_t reduce(uint32_t mask, uint32_t value, Reduce kind, bool is_signed) {
    Warp& warp = *current->warp;
    const uint32_t lane = current->lane;
    warp.in[lane] = value;
    collect(mask, &REDUCE[(int)kind], "a warp reduction", [kind, is_signed](Warp& w) {
        const uint32_t flip = is_signed ? 1u << 31 : 0;
        uint32_t all = (uint32_t)w.in[__builtin_ctz(w.mask)];
        for (uint32_t left = w.mask & (w.mask - 1); left; left &= left - 1) {
            const uint32_t v = (uint32_t)w.in[__builtin_ctz(left)];
            switch (kind) {
                case Reduce::Add: all += v; break;
                case Reduce::Min: all = (v ^ flip) < (all ^ flip) ? v : all; break;
                case Reduce::Max: all = (v ^ flip) > (all ^ flip) ? v : all; break;
                case Reduce::And: all &= v; break;
                case Reduce::Or: all |= v; break;
                case Reduce::Xor: all ^= v; break;
            }
        }
        for (uint32_t left = w.mask; left; left &= left - 1) w.out[__builtin_ctz(left)] = all;
    });
    return (uint32_t)warp.out[lane];
}

uint32_t active_mask() { return current->warp->alive; }

// ---- copies

static void do_copy(const Executor& e, const Copy& copy) {
    if (e.checked) {
        if (copy.bytes_read) watch_access((uintptr_t)copy.from, copy.bytes_read, false);
        watch_access((uintptr_t)copy.to, copy.bytes, true);
    }
    memcpy(copy.to, copy.from, copy.bytes_read);
    memset(static_cast<char*>(copy.to) + copy.bytes_read, 0, copy.bytes - copy.bytes_read);
}

void copy_async(void* shared, const void* global, uint32_t bytes, uint32_t bytes_read) {
    const Executor& e = running();
    Fiber& self = self_fiber();
    if (((uintptr_t)shared | (uintptr_t)global) & (bytes - 1)) {
        fail("cp.async: %p or %p is not %u-byte aligned", shared, global, bytes);
    }
    const Copy copy{shared, global, bytes, bytes_read, self.copy_group};
    if (self.copy_count == COPIES_MAX) fail("cp.async: more than %u copies under way in one thread", COPIES_MAX);
    // An early copy is kept too, of no bytes, so that a wait that never comes is noticed under every schedule.
    self.copies[self.copy_count++] = e.copies_early ? Copy{shared, global, 0, 0, self.copy_group} : copy;
    if (e.copies_early) do_copy(e, copy);
}

void copy_async_commit() { self_fiber().copy_group++; }

void copy_async_wait(uint32_t groups_left) {
    const Executor& e = running();
    Fiber& self = self_fiber();
    uint32_t kept = 0;
    for (uint32_t i = 0; i < self.copy_count; i++) {
        const Copy copy = self.copies[i];
        if (copy.group + groups_left < self.copy_group) {
            if (copy.bytes) do_copy(e, copy);
        } else {
            self.copies[kept++] = copy;
        }
    }
    self.copy_count = kept;
}

// ---- matrices

struct LdMatrix {
    uint32_t* fragment;
    const void* row;
};

template <int MATRICES, bool TRANSPOSED>
static void load_matrices(Warp& w) {
    for (int m = 0; m < MATRICES; m++) {
        uint16_t rows[8][8];
        for (int r = 0; r < 8; r++) memcpy(rows[r], static_cast<LdMatrix*>(w.pointer[m * 8 + r])->row, 16);
        for (int lane = 0; lane < 32; lane++) {
            const int g = lane / 4, t = lane % 4 * 2;
            const uint32_t low = TRANSPOSED ? rows[t][g] : rows[g][t], high = TRANSPOSED ? rows[t + 1][g] : rows[g][t + 1];
            static_cast<LdMatrix*>(w.pointer[lane])->fragment[m] = low | high << 16;
        }
    }
}

void ldmatrix(uint32_t* fragment, const void* row, int matrices, bool transposed) {
    LdMatrix mine{fragment, row};
    if ((int)current->lane < matrices * 8) {
        check_matrix_row(row);
        if (running().checked) watch_access((uintptr_t)row, 16, false);
    }
    current->warp->pointer[current->lane] = &mine;
    collect(FULL_MASK, &LDMATRIX[(matrices == 4) * 2 + transposed], "ldmatrix", [matrices, transposed](Warp& w) {
        if (matrices == 4) {
            transposed ? load_matrices<4, true>(w) : load_matrices<4, false>(w);
        } else {
            transposed ? load_matrices<2, true>(w) : load_matrices<2, false>(w);
        }
    });
}

struct Mma {
    float (*c)[4];
    const uint32_t (*a)[4];
    const uint32_t* b;
    int m, n;
};

typedef float Eight __attribute__((vector_size(32)));

static float low_half(uint32_t pair) { return widen_f16((uint16_t)pair); }
static float high_half(uint32_t pair) { return widen_f16((uint16_t)(pair >> 16)); }

void place_a(float (&a)[16][16], uint32_t lane, const uint32_t* from) {
    const uint32_t g = lane / 4, t = lane % 4 * 2;
    for (uint32_t i = 0; i < 4; i++) {
        float* to = &a[g + (i & 1) * 8][t + (i >> 1) * 8];
        to[0] = low_half(from[i]);
        to[1] = high_half(from[i]);
    }
}

void add_products(const float (&a)[16][16], const float (&b)[16][8], float (&c)[16][8]) {
    for (int half = 0; half < 16; half += 8) {
        Eight sums[8];
        for (int r = 0; r < 8; r++) memcpy(&sums[r], c[half + r], 32);
        for (int k = 0; k < 16; k++) {
            Eight column;
            memcpy(&column, b[k], 32);
            for (int r = 0; r < 8; r++) sums[r] += a[half + r][k] * column;
        }
        for (int r = 0; r < 8; r++) memcpy(c[half + r], &sums[r], 32);
    }
}

static void multiply(Warp& w) {
    const Mma& first = *static_cast<Mma*>(w.pointer[0]);
    for (int m = 0; m < first.m; m++) {
        float a[16][16];
        for (uint32_t lane = 0; lane < 32; lane++) place_a(a, lane, static_cast<Mma*>(w.pointer[lane])->a[m]);
        for (int n = 0; n < first.n; n++) {
            float b[16][8], c[16][8];
            for (int lane = 0; lane < 32; lane++) {
                const Mma& mine = *static_cast<Mma*>(w.pointer[lane]);
                const uint32_t* from = mine.b + n * 2;
                const float* sum = mine.c[m * first.n + n];
                const int g = lane / 4, t = lane % 4 * 2;
                b[t][g] = low_half(from[0]), b[t + 1][g] = high_half(from[0]);
                b[t + 8][g] = low_half(from[1]), b[t + 9][g] = high_half(from[1]);
                c[g][t] = sum[0], c[g][t + 1] = sum[1], c[g + 8][t] = sum[2], c[g + 8][t + 1] = sum[3];
            }
            add_products(a, b, c);
            for (int lane = 0; lane < 32; lane++) {
                float* sum = static_cast<Mma*>(w.pointer[lane])->c[m * first.n + n];
                const int g = lane / 4, t = lane % 4 * 2;
                sum[0] = c[g][t], sum[1] = c[g][t + 1], sum[2] = c[g + 8][t], sum[3] = c[g + 8][t + 1];
            }
        }
    }
}

void mma(float (*c)[4], const uint32_t (*a)[4], const uint32_t* b, int m, int n) {
    Mma mine{c, a, b, m, n};
    current->warp->pointer[current->lane] = &mine;
    collect(FULL_MASK, &MMA, "mma.sync", multiply);
}

}  // namespace shim
