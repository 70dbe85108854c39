// What sm_90a has beside mma.sync: barriers that count bytes, copies by TMA, products of a warpgroup.
//
// A copy is made at once, or when its barrier is waited for; a product at once, or at the wait that must end it. Both are
// allowed, so both must give the same result. The checker takes the end of a barrier's phase for a block barrier.
#include "fibers.h"

namespace shim {

namespace {

/// A barrier's eight bytes, in a form of our own. What was never made shows: fresh shared memory is all ones.
struct Barrier {
    uint64_t phase : 1, count : 20, pending : 20;
    int64_t bytes : 23;
};
static_assert(sizeof(Barrier) == 8, "a barrier has eight bytes");

Barrier load(const uint64_t* at) {
    if ((uintptr_t)at & 7) fail("an mbarrier at %p is not 8-byte aligned", static_cast<const void*>(at));
    const Barrier barrier = cast_bits<Barrier>(*at);
    if (barrier.count == 0 || barrier.count == 0xfffff) fail("an mbarrier that was never made is used");
    return barrier;
}

/// Lets the fibers look again that wait for a barrier.
void wake(Executor& e) {
    for (uint32_t w = 0; w < e.warp_count; w++) e.warps[w].ready |= e.bulk.waiting[w], e.bulk.waiting[w] = 0;
}

/// Stores the barrier; ends its phase if all have come.
void store(uint64_t* at, Barrier barrier) {
    if (barrier.pending == 0 && barrier.bytes == 0) {
        barrier.phase ^= 1;
        barrier.pending = barrier.count;
        Executor& e = running();
        e.barrier_number++;
        wake(e);
    }
    *at = cast_bits<uint64_t>(barrier);
}

void check_shared(const void* to, size_t bytes, size_t alignment) {
    const Block& block = *current->block;
    const uintptr_t at = (uintptr_t)to, low = (uintptr_t)block.dynamic;
    if (at < low || at + bytes > low + block.dynamic_bytes) fail("TMA: %zu bytes to outside every allocation of shared memory", bytes);
    if (at & (alignment - 1)) fail("TMA: the target is not %zu-byte aligned", alignment);
}

/// The address at which the 128-byte swizzle puts what would lie here.
uintptr_t swizzled(uintptr_t at) { return at ^ (at >> 7 & 7) << 4; }

void move(const Executor& e, unsigned char* to, const unsigned char* from, size_t bytes) {
    if (e.checked) {
        if (from) watch_access((uintptr_t)from, bytes, false);
        watch_access((uintptr_t)to, bytes, true);
    }
    from ? (void)memcpy(to, from, bytes) : (void)memset(to, 0, bytes);
}

void make(const Executor& e, const BulkCopy& copy) {
    if (copy.from) {
        move(e, copy.to, copy.from, copy.bytes);
    } else {
        for (uint64_t r = 0; r < copy.map.box_rows; r++) {
            for (uint64_t part = 0; part < 8; part++) {
                const int64_t row = copy.row + (int64_t)r, column = copy.column + (int64_t)part * 8;
                const bool inside = row >= 0 && row < (int64_t)copy.map.rows && column >= 0 && column < (int64_t)copy.map.columns;
                const auto* from = reinterpret_cast<const unsigned char*>(copy.map.base + row * copy.map.row_bytes + column * 2);
                move(e, reinterpret_cast<unsigned char*>(swizzled((uintptr_t)copy.to + r * 128 + part * 16)), inside ? from : nullptr, 16);
            }
        }
    }
    Barrier barrier = load(copy.barrier);
    barrier.bytes -= copy.bytes;
    store(copy.barrier, barrier);
}

void start(const BulkCopy& copy) {
    Executor& e = running();
    if (!e.bulk.shown) fail("TMA: mbarriers were made and no fence shows them to the copies");
    load(copy.barrier);
    if (e.copies_early) {
        make(e, copy);
    } else {
        e.bulk.under_way.push_back(copy);
        wake(e);
    }
}

const char FENCE = 0, PRODUCT = 0, COMMIT = 0, WAIT = 0;

/// A warp's 16 rows of a product of its group.
void multiply(const Executor& e, Product& product) {
    float a[16][16];
    for (uint32_t lane = 0; lane < 32; lane++) place_a(a, lane, product.a[lane]);
    for (int n = 0; n < product.n; n++) {
        float b[16][8], c[16][8];
        for (int token = 0; token < 8; token++) {
            uint16_t values[16];
            for (int part = 0; part < 2; part++) {
                const uintptr_t from = swizzled((uintptr_t)product.tokens + (uintptr_t)(8 * n + token) * 128 + part * 16);
                if (e.checked) watch_access(from, 16, false);
                memcpy(values + 8 * part, reinterpret_cast<const void*>(from), 16);
            }
            for (int k = 0; k < 16; k++) b[k][token] = widen_f16(values[k]);
        }
        for (int lane = 0; lane < 32; lane++) {
            const float* sum = product.c[lane][n];
            const int g = lane / 4, t = lane % 4 * 2;
            c[g][t] = sum[0], c[g][t + 1] = sum[1], c[g + 8][t] = sum[2], c[g + 8][t + 1] = sum[3];
        }
        add_products(a, b, c);
        for (int lane = 0; lane < 32; lane++) {
            float* sum = product.c[lane][n];
            const int g = lane / 4, t = lane % 4 * 2;
            sum[0] = c[g][t], sum[1] = c[g][t + 1], sum[2] = c[g + 8][t], sum[3] = c[g + 8][t + 1];
        }
    }
    product.done = true;
}

}  // namespace

void mbarrier_init(uint64_t* at, uint32_t arrivals) {
    if ((uintptr_t)at & 7 || !arrivals || arrivals >= 0xfffff) fail("mbarrier.init of %u arrivals at %p", arrivals, static_cast<void*>(at));
    Barrier barrier{};
    barrier.count = barrier.pending = arrivals;
    *at = cast_bits<uint64_t>(barrier);
    running().bulk.shown = false;
}

void mbarrier_fence_init() { running().bulk.shown = true; }

void mbarrier_arrive(uint64_t* at, uint32_t bytes) {
    Barrier barrier = load(at);
    if (!barrier.pending) fail("more arrive at an mbarrier than it was made for");
    barrier.pending--;
    barrier.bytes += bytes;
    store(at, barrier);
}

void mbarrier_wait(uint64_t* at, uint32_t parity) {
    Executor& e = running();
    while (load(at).phase == (parity & 1)) {
        auto& copies = e.bulk.under_way;
        bool found = false;
        for (size_t i = 0; i < copies.size();) {
            if (copies[i].barrier != at) {
                i++;
                continue;
            }
            const BulkCopy copy = copies[i];
            copies.erase(copies.begin() + (ptrdiff_t)i);
            make(e, copy);
            found = true;
        }
        if (found) continue;
        e.bulk.waiting[current->linear / 32] |= 1u << current->lane;
        wait(e, "an mbarrier");
    }
}

void copy_box(void* shared, const void* map, int column, int row, uint64_t* barrier) {
    BulkCopy copy{barrier, static_cast<unsigned char*>(shared), 0, nullptr, {}, column, row};
    memcpy(&copy.map, map, sizeof copy.map);
    if (copy.map.magic != TENSOR_MAP) fail("TMA: no tensor map");
    copy.bytes = (uint32_t)copy.map.box_rows * 128;
    check_shared(shared, copy.bytes, 1024);
    start(copy);
}

void copy_bulk(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
    if ((uintptr_t)global & 15 || !bytes || bytes & 15) fail("cp.async.bulk: %u bytes from %p", bytes, global);
    check_shared(shared, bytes, 16);
    start(BulkCopy{barrier, static_cast<unsigned char*>(shared), bytes, static_cast<const unsigned char*>(global), {}, 0, 0});
}

void wgmma_fence() {
    if (!meet(FULL_MASK, &FENCE, "wgmma.fence")) return;
    current->warp->products.fenced = true;
    end_meeting(*current->warp);
}

void wgmma(float (*c)[4], const uint32_t (&a)[4], const void* tokens, int n) {
    Warp& warp = *current->warp;
    Product mine{};
    mine.c[0] = c, mine.a[0] = a, mine.tokens = tokens, mine.n = n;
    warp.pointer[current->lane] = &mine;
    if (!meet(FULL_MASK, &PRODUCT, "wgmma.mma_async")) return;
    if (!warp.products.fenced) fail("wgmma.mma_async: no wgmma.fence since its registers were free");
    if ((uintptr_t)tokens & 1023 & ~(uintptr_t)127) fail("wgmma.mma_async: tokens that do not begin at a multiple of 1,024 bytes");
    Product product = mine;
    for (int lane = 0; lane < 32; lane++) {
        const Product& one = *static_cast<Product*>(warp.pointer[lane]);
        if (one.tokens != tokens || one.n != n) fail("wgmma.mma_async: lanes name different tokens");
        product.c[lane] = one.c[0], product.a[lane] = one.a[0];
    }
    product.group = warp.products.group;
    warp.products.count++;
    if (running().copies_early) multiply(running(), product);
    warp.products.started.push_back(product);
    end_meeting(warp);
}

void wgmma_commit() {
    if (!meet(FULL_MASK, &COMMIT, "wgmma.commit_group")) return;
    current->warp->products.group++;
    end_meeting(*current->warp);
}

void wgmma_wait(uint32_t groups_left) {
    if (!meet(FULL_MASK, &WAIT, "wgmma.wait_group")) return;
    Products& products = current->warp->products;
    auto& started = products.started;
    while (!started.empty() && started.front().group + groups_left < products.group) {
        if (!started.front().done) multiply(running(), started.front());
        started.erase(started.begin());
    }
    products.fenced = false;
    end_meeting(*current->warp);
}

std::string block_leftovers(Executor& e) {
    if (!e.bulk.under_way.empty()) return "copies by TMA were never waited for";
    for (uint32_t w = 0; w < e.warp_count; w++) {
        if (!e.warps[w].products.started.empty()) return "products of wgmma were never waited for";
        const uint32_t first = w / 4 * 4;
        const bool alone = w >= e.warp_count / 4 * 4 && e.warps[w].products.count > 0;
        if (alone || e.warps[w].products.count != e.warps[first].products.count) return "the warps of a warpgroup started different products";
    }
    return {};
}

}  // namespace shim
