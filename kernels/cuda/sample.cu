// What:    draws the next token of each row from its logits, and reports log-probabilities of the model: bias, penalties and masks,
//          temperature, top-k, top-p, min-p, and a draw keyed by seed and index, in this order, as src/engine/sampling does it.
// Shapes:  logits [rows][V] f32; draws [rows] (RowDraw); edits (LogitEdit), saved as many floats; masks: bit i % 32 of word i / 32
//          allows token i; out [rows][ROW_WORDS] (below). One block a row.
// Source:  Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).
// Twin:    engine::sampling::Sampler: the same token, unless two sums that differ by 1e-7 lie on either side of the drawn number.
// Cost:    4 V bytes, read 3 times for a plain draw, 27 more from L2 for top-k or top-p, once for each likeliest token asked for.
//
// No sum depends on the order of threads: sums of weights go by a token's place, cuts count in integers.
#include "common.cuh"

constexpr int SAMPLE_THREADS = 512, SAMPLE_WARPS = SAMPLE_THREADS / 32;
// Likeliest tokens that a row can report; the rest of a row's words are token, log-probability, rank, one spare.
constexpr int TOP_MAX = 32, ROW_WORDS = 4 + 2 * TOP_MAX;
constexpr uint32_t NOT_FINITE = 0xffffffffu;

struct RowDraw {
    uint32_t is_draw;          // else `target` is reported
    uint32_t wants_logprobs;
    float temperature, top_p;
    uint32_t top_k;
    float min_p;
    uint32_t seed_low, seed_high, index;
    uint32_t edit, edit_end;   // its edits
    int mask;                  // its first word in `masks`, or -1
    uint32_t target, top_count;
    float repetition, presence, frequency;
    uint32_t spare[3];
};

// What happens to one logit; no token twice in a row's edits.
struct LogitEdit {
    uint32_t token;
    float bias;
    uint32_t seen;             // one more than how often it was generated; zero: no penalty
    uint32_t is_masked;
};

// A float's order as an integer; zero has no sign.
__device__ __forceinline__ uint32_t order_key(float value) {
    const uint32_t bits = __float_as_uint(value + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// A number in [0, 1) with 53 random bits.
__device__ inline double philox_uniform(uint32_t seed_low, uint32_t seed_high, uint32_t index) {
    uint32_t c[4] = {index, 0, 0, 0}, key[2] = {seed_low, seed_high};
    for (int round = 0; round < 10; round++) {
        const uint64_t first = (uint64_t)0xD2511F53u * c[0], second = (uint64_t)0xCD9E8D57u * c[2];
        const uint32_t next[4] = {(uint32_t)(second >> 32) ^ c[1] ^ key[0], (uint32_t)second, (uint32_t)(first >> 32) ^ c[3] ^ key[1],
                                  (uint32_t)first};
        for (int i = 0; i < 4; i++) c[i] = next[i];
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return (double)((uint64_t)c[0] << 21 | c[1] >> 11) / 9007199254740992.0;
}

// One row of logits, walked by all warps: each takes a range of tokens, its lanes neighbours.
struct Row {
    const float* logits;
    const uint32_t* mask;
    int begin, end, lane, warp;

    __device__ Row(const float* logits, const uint32_t* mask, int vocab) : logits(logits), mask(mask) {
        const int range = (vocab + SAMPLE_THREADS - 1) / SAMPLE_THREADS * 32;
        lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        begin = min(vocab, warp * range), end = min(vocab, begin + range);
    }
    __device__ float at(int token) const {
        return mask && !(mask[token >> 5] >> (token & 31) & 1u) ? -INFINITY : logits[token];
    }
};

template <class T>
__device__ __forceinline__ T warp_total(T value) {
    for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(FULL_WARP, value, step);
    return value;
}

// Space for one number a warp; a barrier stands before each use.
union Parts {
    uint64_t integers[SAMPLE_WARPS];
    double reals[SAMPLE_WARPS];
};
__device__ __forceinline__ uint64_t* parts_of(Parts& parts, uint64_t) { return parts.integers; }
__device__ __forceinline__ double* parts_of(Parts& parts, double) { return parts.reals; }

// The largest of all threads' numbers.
__device__ inline uint64_t block_max(Parts& parts, uint64_t value) {
    for (int step = 16; step > 0; step >>= 1) {
        const uint64_t other = __shfl_xor_sync(FULL_WARP, value, step);
        value = other > value ? other : value;
    }
    __syncthreads();
    if ((threadIdx.x & 31) == 0) parts.integers[threadIdx.x >> 5] = value;
    __syncthreads();
    for (int warp = 0; warp < SAMPLE_WARPS; warp++) value = parts.integers[warp] > value ? parts.integers[warp] : value;
    return value;
}

// The warps' sums, in shared memory; the sum of all.
template <class T>
__device__ __forceinline__ T block_parts(Parts& parts, T value) {
    value = warp_total(value);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) parts_of(parts, T())[threadIdx.x >> 5] = value;
    __syncthreads();
    T sum = 0;
    for (int warp = 0; warp < SAMPLE_WARPS; warp++) sum += parts_of(parts, T())[warp];
    return sum;
}

template <class T, class Measure>
__device__ __forceinline__ T sum_of(Parts& parts, const Row& row, const Measure& measure) {
    T own = 0;
    for (int token = row.begin + row.lane; token < row.end; token += 32) own += measure(token);
    return block_parts(parts, own);
}

// The first token at which the running sum of `measure` exceeds `target`, or the last one with a measure; `parts` are those of
// sum_of.
template <class T, class Measure>
__device__ __forceinline__ int find_token(Parts& parts, int* found, const Row& row, const Measure& measure, T target) {
    T before = 0;
    int owner = 0;
    for (int warp = 0; warp < SAMPLE_WARPS; warp++) {
        const T part = parts_of(parts, T())[warp];
        if (part > 0) owner = warp;
        if (before + part > target) break;
        if (warp + 1 < SAMPLE_WARPS) before += part;
    }
    // The sum before the owner, again: the loop may have gone past it.
    before = 0;
    for (int warp = 0; warp < owner; warp++) before += parts_of(parts, T())[warp];
    if (row.warp == owner) {
        int last = row.begin;
        for (int base = row.begin; base < row.end; base += 32) {
            const int token = base + row.lane;
            const T value = token < row.end ? (T)measure(token) : (T)0;
            T sum = value;
            for (int step = 1; step < 32; step <<= 1) {
                const T left = __shfl_up_sync(FULL_WARP, sum, step);
                if (row.lane >= step) sum += left;
            }
            const uint32_t has = __ballot_sync(FULL_WARP, value > 0);
            const uint32_t beyond = __ballot_sync(FULL_WARP, value > 0 && before + sum > target);
            if (has) last = base + 31 - __clz((int)has);
            if (beyond) {
                last = base + __ffs((int)beyond) - 1;
                break;
            }
            before += __shfl_sync(FULL_WARP, sum, 31);
        }
        if (row.lane == 0) *found = last;
    }
    __syncthreads();
    return *found;
}

// The largest key with which `goal` is reached: measure(tokens whose key is at least it) >= goal.
template <class Measure>
__device__ __forceinline__ uint32_t find_cut(Parts& parts, const Row& row, const Measure& measure, uint64_t goal) {
    constexpr int BITS = 2, STEPS = (1 << BITS) - 1;
    uint32_t cut = 0;
    for (int shift = 32 - BITS; shift >= 0; shift -= BITS) {
        uint64_t own[STEPS] = {};
        for (int token = row.begin + row.lane; token < row.end; token += 32) {
            const uint32_t key = order_key(row.at(token));
            const uint64_t value = measure(token);
#pragma unroll
            for (int i = 0; i < STEPS; i++) own[i] += key >= cut + ((uint32_t)(i + 1) << shift) ? value : 0;
        }
        uint32_t step = 0;
#pragma unroll
        for (int i = 0; i < STEPS; i++)
            if (block_parts(parts, own[i]) >= goal) step = i + 1;
        cut += step << shift;
    }
    return cut;
}

// Tokens that stay in the draw: above the cut, or at it and not after `last`.
struct Kept {
    uint32_t cut = 0;
    int last = 0x7fffffff;
    __device__ bool has(uint32_t key, int token) const { return key > cut || (key == cut && token <= last); }
};

// Narrows `kept` to the likeliest tokens whose measure first reaches `goal`.
template <class Measure>
__device__ __forceinline__ void keep(Parts& parts, int* found, const Row& row, const Measure& measure, uint64_t goal, Kept& kept) {
    kept.cut = find_cut(parts, row, measure, goal);
    const uint32_t cut = kept.cut;
    const uint64_t above = sum_of<uint64_t>(parts, row, [&](int token) { return order_key(row.at(token)) > cut ? measure(token) : (uint64_t)0; });
    // All tokens at the cut have the same logit, so the same measure: the goal is reached with so many of them.
    const auto at_cut = [&](int token) { return (uint64_t)(order_key(row.at(token)) == cut ? 1 : 0); };
    const uint64_t ties_weight = sum_of<uint64_t>(parts, row, [&](int token) { return order_key(row.at(token)) == cut ? measure(token) : (uint64_t)0; });
    const uint64_t ties = sum_of<uint64_t>(parts, row, at_cut), each = ties ? ties_weight / ties : 0;
    const uint64_t needed = each ? (goal - above + each - 1) / each : 1;
    kept.last = find_token<uint64_t>(parts, found, row, at_cut, needed - 1);
}

// Draws from logits whose largest is `max`.
__device__ inline int draw_token(Parts& parts, int* found, const Row& row, const RowDraw& draw, float max, int vocab) {
    const auto weight = [&](int token) { return expf((row.at(token) - max) / draw.temperature); };
    Kept kept;
    const bool by_count = draw.top_k > 0 && draw.top_k < (uint32_t)vocab, by_mass = draw.top_p < 1.0f;
    if (by_count) keep(parts, found, row, [](int) { return (uint64_t)1; }, draw.top_k, kept);
    if (by_mass) {
        // Weights as integers, so that their sums are exact: the whole vocabulary stays below 2^62.
        const double unit = (double)((uint64_t)1 << (62 - (32 - __clz(vocab))));
        const auto mass = [&](int token) { return (uint64_t)((double)weight(token) * unit); };
        const auto kept_mass = [&](int token) { return kept.has(order_key(row.at(token)), token) ? mass(token) : (uint64_t)0; };
        const uint64_t total = sum_of<uint64_t>(parts, row, kept_mass);
        const uint64_t goal = (uint64_t)ceil((double)draw.top_p * (double)total);
        keep(parts, found, row, mass, goal < 1 ? 1 : goal > total ? total : goal, kept);
    }
    const auto share = [&](int token) {
        const float own = weight(token);
        return (double)(own >= draw.min_p && kept.has(order_key(row.at(token)), token) ? own : 0.0f);
    };
    const double total = sum_of<double>(parts, row, share);
    return find_token<double>(parts, found, row, share, philox_uniform(draw.seed_low, draw.seed_high, draw.index) * total);
}

// The largest logit's key with the lower token above equals, over tokens after `bound` in this order; zero if there is none.
__device__ inline uint64_t next_likeliest(Parts& parts, const Row& row, uint64_t bound) {
    uint64_t best = 0;
    for (int token = row.begin + row.lane; token < row.end; token += 32) {
        const uint64_t place = (uint64_t)order_key(row.at(token)) << 32 | (0xffffffffu - (uint32_t)token);
        if (place < bound && place > best) best = place;
    }
    return block_max(parts, best);
}

// Whether a row can be drawn from, and its largest logit.
__device__ inline bool finite_max(Parts& parts, const Row& row, float& max) {
    uint64_t worst = 0;
    max = -INFINITY;
    for (int token = row.begin + row.lane; token < row.end; token += 32) {
        const float logit = row.at(token);
        worst |= logit != logit ? 1u : 0u;
        max = fmaxf(max, logit);
    }
    const bool has_nan = block_max(parts, worst) != 0;
    const uint32_t key = (uint32_t)block_max(parts, order_key(max));
    max = __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
    return !has_nan && max != INFINITY && max != -INFINITY;
}

__device__ __forceinline__ float edited(float logit, const LogitEdit& edit, const RowDraw& draw) {
    float value = logit + edit.bias;
    if (edit.seen > 0) value = value > 0.0f ? value / draw.repetition : value * draw.repetition;
    if (edit.seen > 1) value -= draw.presence + draw.frequency * (float)(edit.seen - 1);
    return edit.is_masked ? -INFINITY : value;
}

// Log-probability and rank of `token`, from raw logits.
__device__ inline void report_token(Parts& parts, const Row& row, uint32_t token, double norm, uint32_t* out) {
    const float logit = row.logits[token];
    const uint64_t before = sum_of<uint64_t>(parts, row, [&](int other) {
        return (uint64_t)(row.logits[other] > logit || (row.logits[other] == logit && (uint32_t)other < token) ? 1 : 0);
    });
    if (threadIdx.x == 0) {
        out[1] = __float_as_uint((float)((double)logit - norm));
        out[2] = (uint32_t)before + 1;
    }
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS)
    sample(uint32_t* __restrict__ out, float* logits, float* __restrict__ saved, const RowDraw* __restrict__ draws,
           const LogitEdit* __restrict__ edits, const uint32_t* __restrict__ masks, int vocab) {
    __shared__ Parts parts;
    __shared__ int found;
    const RowDraw draw = draws[blockIdx.x];
    float* own = logits + (size_t)blockIdx.x * vocab;
    uint32_t* report = out + (size_t)blockIdx.x * ROW_WORDS;
    const Row raw(own, nullptr, vocab), row(own, draw.mask < 0 ? nullptr : masks + draw.mask, vocab);
    float max;
    const bool is_finite = finite_max(parts, raw, max);
    double norm = 0.0;
    if (draw.wants_logprobs) {
        norm = (double)max + log(sum_of<double>(parts, raw, [&](int token) { return (double)expf(own[token] - max); }));
        uint64_t bound = ~(uint64_t)0;
        for (uint32_t i = 0; i < draw.top_count; i++) {
            bound = next_likeliest(parts, raw, bound);
            const uint32_t token = 0xffffffffu - (uint32_t)bound;
            if (threadIdx.x == 0 && bound) {
                report[4 + 2 * i] = token;
                report[5 + 2 * i] = __float_as_uint((float)((double)own[token] - norm));
            }
        }
    }
    uint32_t token = draw.target;
    if (draw.is_draw) {
        __syncthreads();
        for (uint32_t i = draw.edit + threadIdx.x; i < draw.edit_end; i += SAMPLE_THREADS) {
            const LogitEdit edit = edits[i];
            saved[i] = own[edit.token];
            own[edit.token] = edited(saved[i], edit, draw);
        }
        __syncthreads();
        float adjusted_max;
        const bool is_drawable = finite_max(parts, row, adjusted_max) && is_finite;
        token = !is_drawable              ? NOT_FINITE
                : draw.temperature == 0.0f ? 0xffffffffu - (uint32_t)next_likeliest(parts, row, ~(uint64_t)0)
                                          : (uint32_t)draw_token(parts, &found, row, draw, adjusted_max, vocab);
        __syncthreads();
        for (uint32_t i = draw.edit + threadIdx.x; i < draw.edit_end; i += SAMPLE_THREADS) own[edits[i].token] = saved[i];
        __syncthreads();
    }
    if (threadIdx.x == 0) report[0] = token;
    if (draw.wants_logprobs && token != NOT_FINITE) report_token(parts, raw, token, norm, report);
}
KERNEL_EXPORT(sample)
