/* Cascaded attention: LANES rows side by side against the keys that any of them sees, in tiles, the softmax carried on between tiles.

   The rows of a head are cut into segments. Forward, a segment is an item of work. Backward, a segment adds to the gradients of the
   keys that its rows see; every second segment touches keys of its own, so all even ones run side by side, then all odd ones. A
   head whose gradients must be gathered in a buffer is one item, in the same order: the bits are the same. */
/* for madvise */
#define _DEFAULT_SOURCE
/* as one vector of 8 rows, narrow windows are hardly faster and wide ones a fifth slower */
#define VECTORS (16 / W)

#include "call.h"
#include "parallel.h"
#include "products.h"
#include "rows.h"

#define BAND_TILE 64
/* Blocks that a tile of keys serves one after another: keys that a window holds more of than the second cache does are fetched
   once for all of them. Blocks of a narrow window have tiles of their own, which are cut where their keys begin. */
#define PANEL_ROWS 128
#define NARROW 512
/* rows of a segment; backward at least twice the window, or segments would share keys with those after the next */
#define SEGMENT 512

typedef struct {
    const Call *call;
    int64_t D, segment_rows, segments, parity, panel;
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

/* rows of one head side by side: the keys that any of them sees, and for each lane those that it sees */
typedef struct {
    int64_t first;
    int count;
    Interval any, every;
    ivec low[VECTORS], high[VECTORS];
} Block;

INLINE Block block_of(const Plan *plan, int64_t first, int64_t end) {
    const Call *call = plan->call;
    Block block = {.first = first, .count = (int)smaller(LANES, end - first)};
    Interval top = seen_by(call, first), bottom = seen_by(call, first + block.count - 1);
    block.any = (Interval){top.low, bottom.high};
    block.every = (Interval){bottom.low, top.high};
    for (int i = 0; i < LANES; i++) {
        Interval seen = i < block.count ? seen_by(call, first + i) : bottom;
        block.low[i / W][i % W] = (int32_t)(seen.low - block.any.low);
        block.high[i / W][i % W] = (int32_t)(seen.high - block.any.low);
    }
    return block;
}

/* what a block carries from tile to tile */
typedef struct {
    Block block;
    vec peak[VECTORS], total[VECTORS], lse[VECTORS], delta[VECTORS];
    vec *query, *grad_out, *columns;
    float *rows_a, *rows_b;
    Rows query_rows, grad_rows;
} Carried;

typedef struct {
    Carried *carried;
    vec *S, *P;
    float *rows, *key, *value, *grad_key, *grad_value;
} Buffers;

static size_t buffers_in(const Plan *plan, char *scratch, Buffers *b) {
    uintptr_t at = (uintptr_t)scratch;
    size_t block = plan->D * VECTORS * sizeof(vec), tile = BAND_TILE * VECTORS * sizeof(vec);
    /* keys that a segment sees, or a head has */
    int64_t longest = plan->whole_heads ? plan->call->num_keys : smaller(plan->call->num_keys, plan->segment_rows + plan->call->window);
    longest = greater(longest, plan->call->num_query - plan->call->num_partial);
    size_t keys = longest * plan->D * sizeof(float);
    b->carried = take(&at, plan->panel * sizeof(Carried));
    b->S = take(&at, tile);
    b->P = take(&at, tile);
    b->rows = take(&at, block);
    b->key = take(&at, plan->buffers_key ? keys : 0);
    b->value = take(&at, plan->buffers_key ? keys : 0);
    b->grad_key = take(&at, plan->buffers_grad ? keys : 0);
    b->grad_value = take(&at, plan->buffers_grad ? keys : 0);
    for (int64_t i = 0; i < plan->panel; i++) {
        Carried unused, *c = scratch ? &b->carried[i] : &unused;
        c->query = take(&at, block);
        c->columns = take(&at, block);
        c->rows_a = take(&at, block);
        if (!plan->backward) continue;
        c->grad_out = take(&at, block);
        c->rows_b = take(&at, block);
    }
    return at - (uintptr_t)scratch;
}

/* where a segment works: rows of a head, and the rows of its keys, which begin at `first_key` */
typedef struct {
    int64_t index, kv_head, first_key;
    Rows key, value, grad_key, grad_value;
} Place;

INLINE float *key_row(const Rows *rows, const Place *place, int64_t key) { return rows->data + (key - place->first_key) * rows->stride; }

/* scores of keys [at, at + n): -inf where a row of the block does not see a key */
INLINE void hide(const Block *block, int64_t at, int n, vec *S) {
    if (at >= block->every.low && at + n <= block->every.high) return;
    for (int j = 0; j < n; j++) {
        ivec key = (ivec){0} + (int32_t)(at + j - block->any.low);
        for (int p = 0; p < VECTORS; p++) {
            vec *x = &S[j * VECTORS + p];
            *x = choose((key >= block->low[p]) & (key < block->high[p]), *x, all(-INFINITY));
        }
    }
}

static void begin_forward(const Plan *plan, const Place *place, int64_t head, Carried *c) {
    const Call *call = plan->call;
    Rows query = rows_at(call, &call->query, place->index, head, c->block.first, c->block.count, 0, c->rows_a);
    columns_of(query.data, query.stride, c->block.count, call->scale, plan->D, c->query);
    for (int p = 0; p < VECTORS; p++) c->peak[p] = all(-INFINITY), c->total[p] = all(0.0f);
    for (int64_t i = 0; i < plan->D * VECTORS; i++) c->columns[i] = all(0.0f);
}

static void forward_tile(const Plan *plan, const Place *place, int64_t at, int n, Carried *c, Buffers *b) {
    vec *S = b->S, keep[VECTORS];
    scores(c->query, key_row(&place->key, place, at), place->key.stride, n, plan->D, S);
    hide(&c->block, at, n, S);
    weigh(S, n, c->peak, c->total, keep);
    gather(c->columns, keep, S, key_row(&place->value, place, at), place->value.stride, n, plan->D);
}

static void end_forward(const Plan *plan, const Place *place, int64_t head, Carried *c) {
    const Call *call = plan->call;
    vec shares[VECTORS], lse[VECTORS];
    for (int p = 0; p < VECTORS; p++) shares[p] = share(c->total[p]), lse[p] = c->peak[p] + log_of(c->total[p]);
    Rows out = place_for(call, &call->out, place->index, head, c->block.first, 0, c->rows_a);
    rows_of(c->columns, shares, c->block.count, plan->D, out.data, out.stride);
    put_back(call, &call->out, place->index, head, c->block.first, c->block.count, 0, out);
    for (int i = 0; i < c->block.count; i++) *number_at(&call->lse, place->index, head, c->block.first + i) = lse[i / W][i % W];
}

static void begin_backward(const Plan *plan, const Place *place, int64_t head, Carried *c, Buffers *b) {
    const Call *call = plan->call;
    int64_t D = plan->D, index = place->index, first = c->block.first;
    int count = c->block.count;
    Rows query = rows_at(call, &call->query, index, head, first, count, 0, c->rows_a);
    Rows grad = rows_at(call, &call->grad_out, index, head, first, count, 0, c->rows_b);
    Rows out = rows_at(call, &call->out, index, head, first, count, 0, b->rows);
    for (int p = 0; p < VECTORS; p++) {
        vec products[W], lse = all(INFINITY);
        for (int i = 0; i < W; i++) {
            int64_t row = p * W + i;
            products[i] = row < count ? by_lanes(grad.data + row * grad.stride, out.data + row * out.stride, D) : all(0.0f);
        }
        vec delta = sums(products);
        for (int i = 0; i < W && p * W + i < count; i++) {
            lse[i] = *number_at(&call->lse, index, head, first + p * W + i);
            if (call->grad_lse.data) delta[i] -= *number_at(&call->grad_lse, index, head, first + p * W + i);
        }
        c->lse[p] = at_least_lowest(lse);
        c->delta[p] = delta;
    }
    columns_of(query.data, query.stride, count, call->scale, D, c->query);
    columns_of(grad.data, grad.stride, count, 1, D, c->grad_out);
    for (int64_t i = 0; i < D * VECTORS; i++) c->columns[i] = all(0.0f);
    c->query_rows = query;
    c->grad_rows = grad;
}

static void backward_tile(const Plan *plan, const Place *place, int64_t at, int n, Carried *c, Buffers *b) {
    int64_t D = plan->D;
    int count = c->block.count;
    const Rows *query = &c->query_rows, *grad = &c->grad_rows;
    const float *key = key_row(&place->key, place, at), *value = key_row(&place->value, place, at);
    vec *S = b->S, *P = b->P;
    scores(c->query, key, place->key.stride, n, D, S);
    scores(c->grad_out, value, place->value.stride, n, D, P);
    hide(&c->block, at, n, S);
    weigh_again(S, P, n, c->lse, c->delta, plan->call->scale);
    spread(P, query->data, query->stride, count, key_row(&place->grad_key, place, at), place->grad_key.stride, n, D);
    spread(S, grad->data, grad->stride, count, key_row(&place->grad_value, place, at), place->grad_value.stride, n, D);
    gather(c->columns, NULL, P, key, place->key.stride, n, D);
}

static void end_backward(const Plan *plan, const Place *place, int64_t head, Carried *c, Buffers *b) {
    const Call *call = plan->call;
    Rows grad_query = place_for(call, &call->grad_query, place->index, head, c->block.first, 0, b->rows);
    rows_of(c->columns, NULL, c->block.count, plan->D, grad_query.data, grad_query.stride);
    put_back(call, &call->grad_query, place->index, head, c->block.first, c->block.count, 0, grad_query);
}

/* keys whose gradients no segment before this one has begun: even ones come first */
INLINE Interval untouched(const Plan *plan, int64_t segment) {
    Interval keys = keys_in(plan, segment);
    if (segment % 2 == 0) return keys;
    keys.low = greater(keys.low, keys_in(plan, segment - 1).high);
    if (rows_in(plan, segment + 1).low < plan->call->num_partial) keys.high = smaller(keys.high, keys_in(plan, segment + 1).low);
    return keys;
}

/* the rows of a segment, panel by panel, against the keys that each sees */
static void work_on(const Plan *plan, const Place *place, int64_t segment, Buffers *b) {
    const Call *call = plan->call;
    Interval rows = rows_in(plan, segment), fresh = plan->backward ? untouched(plan, segment) : (Interval){0, 0};
    int64_t next = fresh.low;
    for (int64_t member = 0; member < call->group; member++)
        for (int64_t row = rows.low; row < rows.high; row += plan->panel * LANES) {
            int64_t head = place->kv_head * call->group + member, blocks = 0;
            for (; blocks < plan->panel && row + blocks * LANES < rows.high; blocks++) {
                Carried *c = &b->carried[blocks];
                c->block = block_of(plan, row + blocks * LANES, rows.high);
                if (plan->backward)
                    begin_backward(plan, place, head, c, b);
                else
                    begin_forward(plan, place, head, c);
            }
            int64_t end = b->carried[blocks - 1].block.any.high;
            for (int64_t tile = b->carried[0].block.any.low; tile < end; tile += BAND_TILE) {
                int64_t tile_end = smaller(end, tile + BAND_TILE);
                /* just before they are needed: they are in the cache then */
                for (; next < smaller(tile_end, fresh.high); next++) {
                    memset(key_row(&place->grad_key, place, next), 0, plan->D * sizeof(float));
                    memset(key_row(&place->grad_value, place, next), 0, plan->D * sizeof(float));
                }
                for (int64_t i = 0; i < blocks; i++) {
                    Carried *c = &b->carried[i];
                    int64_t at = greater(tile, c->block.any.low);
                    int n = (int)(smaller(tile_end, c->block.any.high) - at);
                    if (n <= 0) continue;
                    if (plan->backward)
                        backward_tile(plan, place, at, n, c, b);
                    else
                        forward_tile(plan, place, at, n, c, b);
                }
            }
            for (int64_t i = 0; i < blocks; i++) {
                if (plan->backward)
                    end_backward(plan, place, head, &b->carried[i], b);
                else
                    end_forward(plan, place, head, &b->carried[i]);
            }
        }
}

static void forward_item(const void *state, int64_t item, char *scratch) {
    const Plan *plan = state;
    const Call *call = plan->call;
    int64_t segment = item % plan->segments, head = item / plan->segments;
    Buffers b;
    buffers_in(plan, scratch, &b);
    Interval keys = keys_in(plan, segment);
    Place place = {.index = head / call->num_kv_heads, .kv_head = head % call->num_kv_heads, .first_key = keys.low};
    place.key = rows_at(call, &call->key, place.index, place.kv_head, keys.low, keys.high - keys.low, 1, b.key);
    place.value = rows_at(call, &call->value, place.index, place.kv_head, keys.low, keys.high - keys.low, 1, b.value);
    work_on(plan, &place, segment, &b);
}

static void backward_item(const void *state, int64_t item, char *scratch) {
    const Plan *plan = state;
    const Call *call = plan->call;
    Buffers b;
    buffers_in(plan, scratch, &b);
    int64_t each = plan->whole_heads ? 1 : (plan->segments + 1 - plan->parity) / 2, head = item / each;
    int64_t segment = 2 * (item % each) + plan->parity;
    Interval keys = plan->whole_heads ? (Interval){0, call->num_keys} : keys_in(plan, segment);
    Place place = {.index = head / call->num_kv_heads, .kv_head = head % call->num_kv_heads, .first_key = keys.low};
    place.key = rows_at(call, &call->key, place.index, place.kv_head, keys.low, keys.high - keys.low, 1, b.key);
    place.value = rows_at(call, &call->value, place.index, place.kv_head, keys.low, keys.high - keys.low, 1, b.value);
    place.grad_key = place_for(call, &call->grad_key, place.index, place.kv_head, keys.low, 1, b.grad_key);
    place.grad_value = place_for(call, &call->grad_value, place.index, place.kv_head, keys.low, 1, b.grad_value);
    if (!plan->whole_heads) {
        work_on(plan, &place, segment, &b);
        return;
    }
    for (int64_t parity = 0; parity < 2; parity++)
        for (segment = parity; segment < plan->segments; segment += 2) work_on(plan, &place, segment, &b);
    put_back(call, &call->grad_key, place.index, place.kv_head, 0, call->num_keys, 1, place.grad_key);
    put_back(call, &call->grad_value, place.index, place.kv_head, 0, call->num_keys, 1, place.grad_value);
}

static int run(const Call *call, int backward) {
    Plan plan = {.call = call, .D = whole_vectors(call->head_dim), .backward = backward};
    plan.segment_rows = SEGMENT;
    if (backward) plan.segment_rows = greater(SEGMENT, (2 * call->window + LANES - 1) / LANES * LANES);
    /* global rows see one another, as in a window of them all */
    int64_t widest = greater(call->window, call->num_query - call->num_partial);
    plan.panel = widest > NARROW ? PANEL_ROWS / LANES : 1;
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
