/* Cascaded attention: W rows in the lanes against the keys that any of them sees, in tiles, the softmax carried on between tiles.

   The rows of a head are cut into segments. Forward, a segment is an item of work. Backward, a segment adds to the gradients of the
   keys that its rows see; every second segment touches keys of its own, so all even ones run side by side, then all odd ones. A
   head whose gradients must be gathered in a buffer is one item, in the same order: the bits are the same. */
/* for madvise */
#define _DEFAULT_SOURCE
#include "call.h"
#include "parallel.h"
#include "products.h"
#include "rows.h"

#define BAND_TILE 64
/* rows of a segment; backward at least twice the window, or segments would share keys with those after the next */
#define SEGMENT 512

typedef struct {
    const Call *call;
    int64_t D, segment_rows, segments, parity;
    int backward, whole_heads, buffers_key, buffers_grad;
} Plan;

typedef struct {
    int64_t low, high;
} Interval;

/* as pargo_kernels/intervals.py has it; rows after the partial ones see one another */
INLINE Interval seen_by(const Call *call, int64_t row) {
    if (row >= call->num_partial) return (Interval){call->num_partial, call->num_query};
    int64_t start = row - call->window / 2;
    if (call->clamp) {
        start = greater(0, smaller(start, call->num_partial - call->window));
        return (Interval){start, start + call->window};
    }
    return (Interval){greater(0, start), smaller(call->num_partial, start + call->window)};
}

/* rows of a segment; the last one is the global rows', if there are any */
INLINE Interval rows_in(const Plan *plan, int64_t segment) {
    const Call *call = plan->call;
    int64_t first = segment * plan->segment_rows;
    if (first >= call->num_partial) return (Interval){call->num_partial, call->num_query};
    return (Interval){first, smaller(call->num_partial, first + plan->segment_rows)};
}

INLINE Interval keys_in(const Plan *plan, int64_t segment) {
    Interval rows = rows_in(plan, segment);
    return (Interval){seen_by(plan->call, rows.low).low, seen_by(plan->call, rows.high - 1).high};
}

typedef struct {
    vec *query, *grad_out, *columns, *S, *P;
    float *rows_a, *rows_b, *rows_c, *key, *value, *grad_key, *grad_value;
} Buffers;

static size_t buffers_in(const Plan *plan, char *scratch, Buffers *b) {
    uintptr_t at = (uintptr_t)scratch;
    size_t block = plan->D * sizeof(vec), tile = BAND_TILE * sizeof(vec);
    /* keys that a segment sees, or a head has */
    int64_t longest = plan->whole_heads ? plan->call->num_keys : smaller(plan->call->num_keys, plan->segment_rows + plan->call->window);
    longest = greater(longest, plan->call->num_query - plan->call->num_partial);
    size_t keys = longest * plan->D * sizeof(float);
    b->query = take(&at, block);
    b->columns = take(&at, block);
    b->S = take(&at, tile);
    b->rows_a = take(&at, block);
    b->rows_b = take(&at, block);
    b->key = take(&at, plan->buffers_key ? keys : 0);
    b->value = take(&at, plan->buffers_key ? keys : 0);
    if (plan->backward) {
        b->grad_out = take(&at, block);
        b->P = take(&at, tile);
        b->rows_c = take(&at, block);
        b->grad_key = take(&at, plan->buffers_grad ? keys : 0);
        b->grad_value = take(&at, plan->buffers_grad ? keys : 0);
    }
    return at - (uintptr_t)scratch;
}

/* W rows of one head: the keys that any of them sees, and for each lane those that it sees */
typedef struct {
    int64_t first;
    int count;
    Interval any, every;
    ivec low, high;
} Block;

INLINE Block block_of(const Call *call, int64_t first, int64_t end) {
    Block block = {first, (int)smaller(W, end - first), {0, 0}, {0, 0}, {0}, {0}};
    Interval top = seen_by(call, first), bottom = seen_by(call, first + block.count - 1);
    block.any = (Interval){top.low, bottom.high};
    block.every = (Interval){bottom.low, top.high};
    for (int lane = 0; lane < W; lane++) {
        Interval seen = lane < block.count ? seen_by(call, first + lane) : bottom;
        block.low[lane] = (int32_t)(seen.low - block.any.low);
        block.high[lane] = (int32_t)(seen.high - block.any.low);
    }
    return block;
}

/* scores of keys [at, at + n): -inf where a row of the block does not see a key */
INLINE void hide(const Block *block, int64_t at, int n, vec *S) {
    if (at >= block->every.low && at + n <= block->every.high) return;
    for (int j = 0; j < n; j++) {
        ivec key = (ivec){0} + (int32_t)(at + j - block->any.low);
        S[j] = choose((key >= block->low) & (key < block->high), S[j], all(-INFINITY));
    }
}

static void forward_block(const Plan *plan, const Block *block, int64_t index, int64_t head, const Rows *key,
                          const Rows *value, int64_t first_key, Buffers *b) {
    const Call *call = plan->call;
    int64_t D = plan->D;
    Rows query = rows_at(call, &call->query, index, head, block->first, block->count, 0, b->rows_a);
    Rows out = place_for(call, &call->out, index, head, block->first, 0, b->rows_b);
    columns_of(query.data, query.stride, block->count, call->scale, D, b->query);
    vec *S = b->S, peak = all(-INFINITY), total = {0};
    for (int64_t d = 0; d < D; d++) b->columns[d] = all(0.0f);
    for (int64_t at = block->any.low; at < block->any.high; at += BAND_TILE) {
        int n = (int)smaller(BAND_TILE, block->any.high - at);
        scores(b->query, key->data + (at - first_key) * key->stride, key->stride, n, D, S);
        hide(block, at, n, S);
        vec before = peak, sum = {0};
        for (int j = 0; j < n; j++) peak = larger(peak, S[j]);
        vec base = at_least_lowest(peak), keep = exp_of(before - base);
        for (int j = 0; j < n; j++) sum += S[j] = exp_of(S[j] - base);
        total = total * keep + sum;
        gather(b->columns, keep, S, value->data + (at - first_key) * value->stride, value->stride, n, D);
    }
    rows_of(b->columns, share(total), block->count, D, out.data, out.stride);
    vec lse = peak + log_of(total);
    for (int i = 0; i < block->count; i++) *number_at(&call->lse, index, head, block->first + i) = lse[i];
    put_back(call, &call->out, index, head, block->first, block->count, 0, out);
}

static void forward_item(const void *state, int64_t item, char *scratch) {
    const Plan *plan = state;
    const Call *call = plan->call;
    int64_t segment = item % plan->segments, head = item / plan->segments;
    int64_t index = head / call->num_kv_heads, kv_head = head % call->num_kv_heads;
    Buffers b;
    buffers_in(plan, scratch, &b);
    Interval rows = rows_in(plan, segment), keys = keys_in(plan, segment);
    Rows key = rows_at(call, &call->key, index, kv_head, keys.low, keys.high - keys.low, 1, b.key);
    Rows value = rows_at(call, &call->value, index, kv_head, keys.low, keys.high - keys.low, 1, b.value);
    for (int64_t member = 0; member < call->group; member++)
        for (int64_t row = rows.low; row < rows.high; row += W) {
            Block block = block_of(call, row, rows.high);
            forward_block(plan, &block, index, kv_head * call->group + member, &key, &value, keys.low, &b);
        }
}

static void backward_block(const Plan *plan, const Block *block, int64_t index, int64_t head, const Rows *key,
                           const Rows *value, const Rows *grad_key, const Rows *grad_value, int64_t first_key, Buffers *b) {
    const Call *call = plan->call;
    int64_t D = plan->D;
    int count = block->count;
    Rows query = rows_at(call, &call->query, index, head, block->first, count, 0, b->rows_a);
    Rows grad = rows_at(call, &call->grad_out, index, head, block->first, count, 0, b->rows_b);
    Rows out = rows_at(call, &call->out, index, head, block->first, count, 0, b->rows_c);
    vec products[W], lse = all(INFINITY);
    for (int i = 0; i < W; i++)
        products[i] = i < count ? by_lanes(grad.data + i * grad.stride, out.data + i * out.stride, D) : all(0.0f);
    vec delta = sums(products);
    for (int i = 0; i < count; i++) {
        lse[i] = *number_at(&call->lse, index, head, block->first + i);
        if (call->grad_lse.data) delta[i] -= *number_at(&call->grad_lse, index, head, block->first + i);
    }
    lse = at_least_lowest(lse);
    columns_of(query.data, query.stride, count, call->scale, D, b->query);
    columns_of(grad.data, grad.stride, count, 1, D, b->grad_out);
    vec *S = b->S, *P = b->P;
    for (int64_t d = 0; d < D; d++) b->columns[d] = all(0.0f);
    for (int64_t at = block->any.low; at < block->any.high; at += BAND_TILE) {
        int n = (int)smaller(BAND_TILE, block->any.high - at);
        int64_t j0 = at - first_key;
        scores(b->query, key->data + j0 * key->stride, key->stride, n, D, S);
        scores(b->grad_out, value->data + j0 * value->stride, value->stride, n, D, P);
        hide(block, at, n, S);
        for (int j = 0; j < n; j++) {
            S[j] = exp_of(S[j] - lse);
            P[j] = S[j] * (P[j] - delta) * call->scale;
        }
        spread(P, query.data, query.stride, count, grad_key->data + j0 * grad_key->stride, grad_key->stride, n, D);
        spread(S, grad.data, grad.stride, count, grad_value->data + j0 * grad_value->stride, grad_value->stride, n, D);
        gather(b->columns, all(1.0f), P, key->data + j0 * key->stride, key->stride, n, D);
    }
    Rows grad_query = place_for(call, &call->grad_query, index, head, block->first, 0, b->rows_c);
    rows_of(b->columns, all(1.0f), count, D, grad_query.data, grad_query.stride);
    put_back(call, &call->grad_query, index, head, block->first, count, 0, grad_query);
}

/* keys whose gradients no segment before this one has begun: even ones come first */
INLINE Interval untouched(const Plan *plan, int64_t segment) {
    Interval keys = keys_in(plan, segment);
    if (segment % 2 == 0 || rows_in(plan, segment).low >= plan->call->num_partial) return keys;
    keys.low = greater(keys.low, keys_in(plan, segment - 1).high);
    if (rows_in(plan, segment + 1).low < plan->call->num_partial) keys.high = smaller(keys.high, keys_in(plan, segment + 1).low);
    return keys;
}

/* `first_key` is the key at which the rows of key, value and their gradients begin */
static void backward_segment(const Plan *plan, int64_t segment, int64_t index, int64_t kv_head, const Rows *key,
                             const Rows *value, const Rows *grad_key, const Rows *grad_value, int64_t first_key, Buffers *b) {
    const Call *call = plan->call;
    int64_t D = plan->D;
    Interval rows = rows_in(plan, segment), fresh = untouched(plan, segment);
    int64_t next = fresh.low;
    for (int64_t member = 0; member < call->group; member++)
        for (int64_t row = rows.low; row < rows.high; row += W) {
            Block block = block_of(call, row, rows.high);
            /* just before they are needed: they are in the cache then */
            for (; next < smaller(block.any.high, fresh.high); next++) {
                memset(grad_key->data + (next - first_key) * grad_key->stride, 0, D * sizeof(float));
                memset(grad_value->data + (next - first_key) * grad_value->stride, 0, D * sizeof(float));
            }
            backward_block(plan, &block, index, kv_head * call->group + member, key, value, grad_key, grad_value, first_key, b);
        }
}

static void backward_item(const void *state, int64_t item, char *scratch) {
    const Plan *plan = state;
    const Call *call = plan->call;
    Buffers b;
    buffers_in(plan, scratch, &b);
    int64_t each = plan->whole_heads ? 1 : (plan->segments + 1 - plan->parity) / 2, head = item / each;
    int64_t index = head / call->num_kv_heads, kv_head = head % call->num_kv_heads;
    int64_t segment = 2 * (item % each) + plan->parity;
    Interval keys = plan->whole_heads ? (Interval){0, call->num_keys} : keys_in(plan, segment);
    Rows key = rows_at(call, &call->key, index, kv_head, keys.low, keys.high - keys.low, 1, b.key);
    Rows value = rows_at(call, &call->value, index, kv_head, keys.low, keys.high - keys.low, 1, b.value);
    Rows grad_key = place_for(call, &call->grad_key, index, kv_head, keys.low, 1, b.grad_key);
    Rows grad_value = place_for(call, &call->grad_value, index, kv_head, keys.low, 1, b.grad_value);
    if (!plan->whole_heads) {
        backward_segment(plan, segment, index, kv_head, &key, &value, &grad_key, &grad_value, keys.low, &b);
        return;
    }
    for (int64_t parity = 0; parity < 2; parity++)
        for (segment = parity; segment < plan->segments; segment += 2)
            backward_segment(plan, segment, index, kv_head, &key, &value, &grad_key, &grad_value, 0, &b);
    put_back(call, &call->grad_key, index, kv_head, 0, call->num_keys, 1, grad_key);
    put_back(call, &call->grad_value, index, kv_head, 0, call->num_keys, 1, grad_value);
}

static int run(const Call *call, int backward) {
    Plan plan = {.call = call, .D = whole_vectors(call->head_dim), .backward = backward};
    plan.segment_rows = SEGMENT;
    if (backward) plan.segment_rows = greater(SEGMENT, (2 * call->window + W - 1) / W * W);
    plan.segments = (call->num_partial + plan.segment_rows - 1) / plan.segment_rows + (call->num_query > call->num_partial);
    plan.buffers_key = !(in_place(call, &call->key, 1) && in_place(call, &call->value, 1));
    if (backward) plan.buffers_grad = !(in_place(call, &call->grad_key, 1) && in_place(call, &call->grad_value, 1));
    plan.whole_heads = plan.buffers_grad;
    outputs_in_large_pages(call, backward);
    Buffers unused;
    size_t scratch = buffers_in(&plan, NULL, &unused);
    int64_t heads = call->batch * call->num_kv_heads;
    double seen = (double)call->num_partial * call->window + (double)(call->num_query - call->num_partial) * (call->num_query - call->num_partial);
    double operations = 2.0 * heads * call->group * seen * plan.D * (backward ? 5 : 2);
    if (!backward) return for_each_item(forward_item, &plan, heads * plan.segments, scratch, call->threads, operations);
    if (plan.whole_heads) return for_each_item(backward_item, &plan, heads, scratch, call->threads, operations);
    for (plan.parity = 0; plan.parity < 2; plan.parity++)
        if (for_each_item(backward_item, &plan, heads * ((plan.segments + 1 - plan.parity) / 2), scratch, call->threads, operations)) return 1;
    return 0;
}

int pargo_cascaded_forward(const Call *call) { return run(call, 0); }

int pargo_cascaded_backward(const Call *call) { return run(call, 1); }
