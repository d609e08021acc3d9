/* Partial-global attention: one pass over key and value, in tiles that stay in the first cache.

   A tile serves the partial rows that own it and all global rows. Slices of up to SHORT keys: their cells in the lanes, their softmax
   complete in the tile. Longer ones: W keys in the lanes, the softmax carried on where the slice is longer than a tile. Global
   rows: W rows in the lanes, the softmax carried on from tile to tile.

   An item of work is one chunk of an image's keys for one key/value head. What the global rows get from the chunks is merged in
   their order. The cut depends on the image's own rows and keys alone, so a result depends neither on the batch nor on threads. */
/* for madvise */
#define _DEFAULT_SOURCE
/* of global rows: a tile of W keys is too short for the products of more */
#define VECTORS 1

#include "call.h"
#include "parallel.h"
#include "products.h"
#include "rows.h"

#include <stdlib.h>

/* keys of a tile: few, so that the streams of key, value, rows and gradients all move on steadily, which is what the processor's own
   prefetching follows */
#define TILE W
#define SHORT (W / 2)
/* keys of a chunk, at least; with many global rows more, so that what they get of each is little beside the keys */
#define CHUNK 2048
#define CHUNK_KEYS_A_ROW 16

typedef struct {
    /* keys from `begin` of row `row` of key and value; slices of `rows` rows, the longest `longest` keys */
    int64_t row, begin, keys, rows, longest, rows_per_chunk, chunks, first_item;
    /* of a short slice, rounded up to a power of two */
    int cells;
} Image;

typedef struct {
    const Call *call;
    const Image *images;
    /* of each item, where an image has several chunks: blocks of [columns, peak, total] */
    vec *parts;
    int64_t D, global_rows, blocks;
    int backward;
} Plan;

/* as pargo_kernels/intervals.py has it */
INLINE int64_t slice_start(const Image *image, int64_t row) {
    return row * (image->keys / image->rows) + row * (image->keys % image->rows) / image->rows;
}

static Image image_of(const Call *call, int64_t index) {
    Image image = {index, 0, call->num_keys, 0, 0, 0, 0, 0, 1};
    if (call->cu_seqlens) {
        image.row = 0;
        image.begin = call->cu_seqlens[index];
        image.keys = call->cu_seqlens[index + 1] - image.begin;
    }
    /* without partial rows the keys are cut into tiles as if they had some */
    image.rows = call->num_partial ? call->num_partial : image.keys / TILE + 1;
    image.longest = (image.keys + image.rows - 1) / image.rows;
    while (image.longest <= SHORT && image.cells < image.longest) image.cells *= 2;
    int64_t chunk = greater(CHUNK, CHUNK_KEYS_A_ROW * (call->num_query - call->num_partial));
    image.rows_per_chunk = image.longest < chunk ? chunk / image.longest : 1;
    image.chunks = (image.rows + image.rows_per_chunk - 1) / image.rows_per_chunk;
    return image;
}

/* a partial row whose slice is longer than a tile, between tiles */
typedef struct {
    float peak, total, delta;
} Carried;

/* buffers of one thread */
typedef struct {
    vec *query, *grad_out, *columns, *peak, *total, *lse, *delta, *S, *P;
    float *global_query, *global_grad, *key, *value, *grad_key, *grad_value, *row_a, *row_b, *row_c, *carried_rows;
    Carried *carried;
} Buffers;

static size_t buffers_in(const Plan *plan, char *scratch, Buffers *b) {
    uintptr_t at = (uintptr_t)scratch;
    int64_t blocks = plan->blocks, D = plan->D, group = plan->call->group;
    size_t block = blocks * D * sizeof(vec), one = blocks * sizeof(vec), tile = TILE * D * sizeof(float);
    size_t rows = W * D * sizeof(float);
    b->query = take(&at, block);
    b->columns = take(&at, block);
    b->peak = take(&at, one);
    b->total = take(&at, one);
    b->S = take(&at, TILE * sizeof(vec));
    b->key = take(&at, tile);
    b->value = take(&at, tile);
    b->row_a = take(&at, rows);
    b->row_b = take(&at, rows);
    b->carried_rows = take(&at, group * D * sizeof(float));
    b->carried = take(&at, group * sizeof(Carried));
    if (plan->backward) {
        b->grad_out = take(&at, block);
        b->global_query = take(&at, block);
        b->global_grad = take(&at, block);
        b->lse = take(&at, one);
        b->delta = take(&at, one);
        b->P = take(&at, TILE * sizeof(vec));
        b->grad_key = take(&at, tile);
        b->grad_value = take(&at, tile);
        b->row_c = take(&at, rows);
    }
    return at - (uintptr_t)scratch;
}

/* where an item lies */
typedef struct {
    const Image *image;
    int64_t index, kv_head, first_row, end_row;
    vec *part;
} Place;

static Place place_of(const Plan *plan, int64_t item) {
    const Call *call = plan->call;
    int64_t low = 0, high = call->batch - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (plan->images[middle].first_item <= item)
            low = middle;
        else
            high = middle - 1;
    }
    const Image *image = &plan->images[low];
    int64_t within = item - image->first_item, chunk = within % image->chunks;
    Place place = {image, low, within / image->chunks, chunk * image->rows_per_chunk, 0, NULL};
    place.end_row = smaller(image->rows, place.first_row + image->rows_per_chunk);
    if (image->chunks > 1 && plan->parts) place.part = plan->parts + item * plan->blocks * (plan->D + 2);
    return place;
}

/* global row `index` of a group's heads, side by side */
INLINE int64_t head_of(const Call *call, int64_t kv_head, int64_t index) {
    return kv_head * call->group + index / (call->num_query - call->num_partial);
}

INLINE int64_t row_of(const Call *call, int64_t index) {
    return call->num_partial + index % (call->num_query - call->num_partial);
}

/* a block of global rows of one tensor: row after row, zeros at the end, and by columns times a factor */
static void load_global(const Plan *plan, const Place *place, const Tensor *t, int64_t block, float factor, float *rows,
                        vec *columns) {
    const Call *call = plan->call;
    int64_t D = plan->D;
    for (int64_t i = 0; i < W; i++) {
        int64_t g = block * W + i;
        if (g < plan->global_rows)
            load_row(call, t, offset_of(t, place->index, head_of(call, place->kv_head, g), row_of(call, g)), rows + i * D);
        else
            memset(rows + i * D, 0, D * sizeof(float));
    }
    columns_of(rows, D, W, factor, D, columns);
}

/* columns times a factor for each row, into the global rows of a tensor */
static void store_global(const Plan *plan, int64_t index, int64_t kv_head, const Tensor *t, int64_t block, const vec *columns,
                         vec factor, float *rows) {
    const Call *call = plan->call;
    rows_of(columns, &factor, W, plan->D, rows, plan->D);
    for (int64_t i = 0; i < W && block * W + i < plan->global_rows; i++) {
        int64_t g = block * W + i;
        store_row(call, t, offset_of(t, index, head_of(call, kv_head, g), row_of(call, g)), rows + i * plan->D);
    }
}

static void store_lse(const Plan *plan, int64_t index, int64_t kv_head, int64_t block, vec peak, vec total) {
    const Call *call = plan->call;
    vec lse = peak + log_of(total);
    for (int64_t i = 0; i < W && block * W + i < plan->global_rows; i++) {
        int64_t g = block * W + i;
        *number_at(&call->lse, index, head_of(call, kv_head, g), row_of(call, g)) = lse[i];
    }
}

/* A tile of short slices: cell c of row i in lane c * rows + i, `cells` the longest slice rounded up to a power of two */
typedef struct {
    int rows, cells, count;
    /* from the tile's first key; the key of a lane without one is that of lane 0 */
    int32_t start[W], length[W], key[W];
    ivec seen;
} Slices;

INLINE Slices slices_of(const Image *image, int64_t first, int count, int64_t tile_start) {
    Slices slices = {W / image->cells, image->cells, count, {0}, {0}, {0}, {0}};
    int64_t begin = slice_start(image, first);
    for (int i = 0; i < count; i++) {
        int64_t end = slice_start(image, first + i + 1);
        slices.start[i] = (int32_t)(begin - tile_start);
        slices.length[i] = (int32_t)(end - begin);
        begin = end;
    }
    for (int lane = 0; lane < W; lane++) {
        int i = lane % slices.rows, cell = lane / slices.rows;
        if (i < count && cell < slices.length[i]) {
            slices.key[lane] = slices.start[i] + cell;
            slices.seen[lane] = -1;
        }
    }
    return slices;
}

INLINE vec sum_cells(vec x, int cells) {
    if (cells > 1) x += swap_halves(x);
    if (cells > 2) x += swap_quarters(x);
    if (SHORT > 4 && cells > 4) x += swap_eighths(x);
    return x;
}

INLINE vec largest_cell(vec x, int cells) {
    if (cells > 1) x = larger(x, swap_halves(x));
    if (cells > 2) x = larger(x, swap_quarters(x));
    if (SHORT > 4 && cells > 4) x = larger(x, swap_eighths(x));
    return x;
}

/* rows times keys, cell by cell; `past` where there is no cell */
INLINE vec cell_products(const Slices *slices, const Rows *rows, const Rows *keys, int D, float scale, float past) {
    vec products[W];
    for (int lane = 0; lane < W; lane++)
        products[lane] = by_lanes(rows->data + lane % slices->rows % slices->count * rows->stride,
                                  keys->data + slices->key[lane] * keys->stride, D);
    /* a scale of 0 or below would make NaN or infinity of a minus infinity */
    return choose(slices->seen, sums(products) * scale, all(past));
}

static void short_forward(const Plan *plan, const Place *place, int64_t head, int64_t first, const Slices *slices,
                          const Rows *key, const Rows *value, Buffers *b) {
    const Call *call = plan->call;
    int64_t D = plan->D;
    int64_t index = place->index;
    int n = slices->count, cells = slices->cells;
    Rows query = rows_at(call, &call->query, index, head, first, n, 0, b->row_a);
    Rows out = place_for(call, &call->out, index, head, first, 0, b->row_b);
    vec scores = cell_products(slices, &query, key, D, call->scale, -INFINITY);
    vec peak = largest_cell(scores, cells), weights = exp_of(scores - at_least_lowest(peak)), total = sum_cells(weights, cells);
    vec lse = peak + log_of(total);
    weights *= share(total);
    for (int i = 0; i < n; i++) {
        combine(out.data + i * out.stride, 1, 0, (const float *)&weights + i, slices->rows,
                value->data + slices->start[i] * value->stride, value->stride, slices->length[i], D);
        *number_at(&call->lse, index, head, first + i) = lse[i];
    }
    put_back(call, &call->out, index, head, first, n, 0, out);
}

/* one row times n keys, in lanes; the lanes left over are `past` */
INLINE vec key_products(const float *row, const Rows *keys, int n, int D, float scale, float past) {
    vec products[W], seen = all(past);
    for (int i = 0; i < W; i++) products[i] = i < n ? by_lanes(row, keys->data + i * keys->stride, D) : all(0.0f);
    vec found = sums(products) * scale;
    for (int i = 0; i < n; i++) seen[i] = found[i];
    return seen;
}

static void long_forward(const Plan *plan, const Place *place, int64_t member, int64_t row, int begins, int ends,
                         int n, const Rows *key, const Rows *value, Buffers *b) {
    const Call *call = plan->call;
    int64_t D = plan->D;
    int64_t index = place->index, head = place->kv_head * call->group + member;
    Rows query = rows_at(call, &call->query, index, head, row, 1, 0, b->row_a);
    Carried *carried = b->carried + member;
    float *columns = b->carried_rows + member * D;
    if (begins) *carried = (Carried){-INFINITY, 0, 0};
    vec scores = key_products(query.data, key, n, D, call->scale, -INFINITY), before = all(carried->peak);
    vec peak = all(largest(larger(before, scores))), base = at_least_lowest(peak);
    vec keep = exp_of(before - base), weights = exp_of(scores - base);
    carried->total = carried->total * keep[0] + sum(weights);
    carried->peak = peak[0];
    combine(columns, begins, keep[0], (const float *)&weights, 1, value->data, value->stride, n, D);
    if (!ends) return;
    vec total = all(carried->total), factor = share(total);
    Rows out = place_for(call, &call->out, index, head, row, 0, b->row_b);
    for (int64_t d = 0; d < D; d += W) store(out.data + d, load(columns + d) * factor);
    *number_at(&call->lse, index, head, row) = (peak + log_of(total))[0];
    put_back(call, &call->out, index, head, row, 1, 0, out);
}

static void global_forward(const Plan *plan, int n, const Rows *key, const Rows *value, Buffers *b) {
    int64_t D = plan->D;
    for (int64_t i = 0; i < plan->blocks; i++) {
        vec keep;
        scores(b->query + i * D, key->data, key->stride, n, D, b->S);
        weigh(b->S, n, b->peak + i, b->total + i, &keep);
        gather(b->columns + i * D, &keep, b->S, value->data, value->stride, n, D);
    }
}

static void forward_item(const void *state, int64_t item, char *scratch) {
    const Plan *plan = state;
    const Call *call = plan->call;
    Place place = place_of(plan, item);
    const Image *image = place.image;
    Buffers b;
    buffers_in(plan, scratch, &b);
    int64_t D = plan->D, blocks = plan->blocks;
    for (int64_t i = 0; i < blocks; i++) {
        load_global(plan, &place, &call->query, i, call->scale, b.row_a, b.query + i * D);
        for (int64_t d = 0; d < D; d++) b.columns[i * D + d] = all(0.0f);
        b.peak[i] = all(-INFINITY);
        b.total[i] = all(0.0f);
    }
    int short_slices = call->num_partial && image->longest <= SHORT;
    int64_t rows_per_tile = short_slices ? W / image->cells : 1;
    for (int64_t row = place.first_row; row < place.end_row; row += rows_per_tile) {
        int64_t end_row = smaller(place.end_row, row + rows_per_tile);
        int64_t first = slice_start(image, row), end = slice_start(image, end_row), at = first;
        do {
            int n = (int)smaller(TILE, end - at);
            Rows key = rows_at(call, &call->key, image->row, place.kv_head, image->begin + at, n, 1, b.key);
            Rows value = rows_at(call, &call->value, image->row, place.kv_head, image->begin + at, n, 1, b.value);
            if (short_slices) {
                Slices slices = slices_of(image, row, (int)(end_row - row), at);
                for (int64_t member = 0; member < call->group; member++)
                    short_forward(plan, &place, place.kv_head * call->group + member, row, &slices, &key, &value, &b);
            } else {
                for (int64_t member = 0; member < call->group && call->num_partial; member++)
                    long_forward(plan, &place, member, row, at == first, at + n == end, n, &key, &value, &b);
            }
            global_forward(plan, n, &key, &value, &b);
            at += n;
        } while (at < end);
    }
    for (int64_t i = 0; i < blocks; i++) {
        if (place.part) {
            vec *part = place.part + i * (D + 2);
            memcpy(part, b.columns + i * D, D * sizeof(vec));
            part[D] = b.peak[i];
            part[D + 1] = b.total[i];
        } else {
            store_global(plan, place.index, place.kv_head, &call->out, i, b.columns + i * D, share(b.total[i]), b.row_a);
            store_lse(plan, place.index, place.kv_head, i, b.peak[i], b.total[i]);
        }
    }
}

static void short_backward(const Plan *plan, const Place *place, int64_t head, int64_t first,
                           const Slices *slices, const Rows *key, const Rows *value, const Rows *grad_key, const Rows *grad_value,
                           int fresh, Buffers *b) {
    const Call *call = plan->call;
    int64_t D = plan->D;
    int64_t index = place->index;
    int n = slices->count, cells = slices->cells;
    Rows query = rows_at(call, &call->query, index, head, first, n, 0, b->row_a);
    Rows grad = rows_at(call, &call->grad_out, index, head, first, n, 0, b->row_b);
    Rows grad_query = place_for(call, &call->grad_query, index, head, first, 0, b->row_c);
    vec lse = {0}, grad_lse = {0};
    for (int lane = 0; lane < W; lane++) {
        int64_t row = first + lane % slices->rows % n;
        lse[lane] = *number_at(&call->lse, index, head, row);
        if (call->grad_lse.data) grad_lse[lane] = *number_at(&call->grad_lse, index, head, row);
    }
    vec scores = cell_products(slices, &query, key, D, call->scale, -INFINITY), weights = exp_of(scores - at_least_lowest(lse));
    vec slopes = cell_products(slices, &grad, value, D, 1, 0);
    vec delta = sum_cells(weights * slopes, cells) - grad_lse;
    slopes = weights * (slopes - delta) * call->scale;
    for (int i = 0; i < n; i++) {
        int64_t start = slices->start[i];
        combine(grad_query.data + i * grad_query.stride, 1, 0, (const float *)&slopes + i, slices->rows,
                key->data + start * key->stride, key->stride, slices->length[i], D);
        for (int cell = 0; cell < slices->length[i]; cell++) {
            int lane = cell * slices->rows + i;
            add_row(grad_key->data + (start + cell) * grad_key->stride, fresh, slopes[lane], query.data + i * query.stride, D);
            add_row(grad_value->data + (start + cell) * grad_value->stride, fresh, weights[lane], grad.data + i * grad.stride, D);
        }
    }
    put_back(call, &call->grad_query, index, head, first, n, 0, grad_query);
}

static void long_backward(const Plan *plan, const Place *place, int64_t member, int64_t row, int begins, int ends,
                          int n, const Rows *key, const Rows *value, const Rows *grad_key, const Rows *grad_value, int fresh,
                          Buffers *b) {
    const Call *call = plan->call;
    int64_t D = plan->D;
    int64_t index = place->index, head = place->kv_head * call->group + member;
    Rows query = rows_at(call, &call->query, index, head, row, 1, 0, b->row_a);
    Rows grad = rows_at(call, &call->grad_out, index, head, row, 1, 0, b->row_b);
    Carried *carried = b->carried + member;
    float *columns = b->carried_rows + member * D;
    if (begins) {
        Rows out = rows_at(call, &call->out, index, head, row, 1, 0, b->row_c);
        carried->delta = sum(by_lanes(grad.data, out.data, D));
        if (call->grad_lse.data) carried->delta -= *number_at(&call->grad_lse, index, head, row);
    }
    vec lse = at_least_lowest(all(*number_at(&call->lse, index, head, row)));
    vec weights = exp_of(key_products(query.data, key, n, D, call->scale, -INFINITY) - lse);
    vec slopes = weights * (key_products(grad.data, value, n, D, 1, 0) - carried->delta) * call->scale;
    combine(columns, begins, 1, (const float *)&slopes, 1, key->data, key->stride, n, D);
    for (int j = 0; j < n; j++) {
        add_row(grad_key->data + j * grad_key->stride, fresh, slopes[j], query.data, D);
        add_row(grad_value->data + j * grad_value->stride, fresh, weights[j], grad.data, D);
    }
    if (!ends) return;
    Rows grad_query = place_for(call, &call->grad_query, index, head, row, 0, b->row_c);
    memcpy(grad_query.data, columns, D * sizeof(float));
    put_back(call, &call->grad_query, index, head, row, 1, 0, grad_query);
}

static void global_backward(const Plan *plan, int n, const Rows *key, const Rows *value, const Rows *grad_key,
                            const Rows *grad_value, Buffers *b) {
    int64_t D = plan->D;
    vec *S = b->S, *P = b->P;
    for (int64_t i = 0; i < plan->blocks; i++) {
        int count = (int)smaller(W, plan->global_rows - i * W);
        scores(b->query + i * D, key->data, key->stride, n, D, S);
        scores(b->grad_out + i * D, value->data, value->stride, n, D, P);
        weigh_again(S, P, n, b->lse + i, b->delta + i, plan->call->scale);
        spread(P, b->global_query + i * W * D, D, count, grad_key->data, grad_key->stride, n, D);
        spread(S, b->global_grad + i * W * D, D, count, grad_value->data, grad_value->stride, n, D);
        gather(b->columns + i * D, NULL, P, key->data, key->stride, n, D);
    }
}

static void backward_item(const void *state, int64_t item, char *scratch) {
    const Plan *plan = state;
    const Call *call = plan->call;
    Place place = place_of(plan, item);
    const Image *image = place.image;
    Buffers b;
    buffers_in(plan, scratch, &b);
    int64_t D = plan->D, blocks = plan->blocks;
    for (int64_t i = 0; i < blocks; i++) {
        float *query = b.global_query + i * W * D, *grad = b.global_grad + i * W * D;
        vec *columns = b.query + i * D, lse = all(INFINITY), delta = {0};
        load_global(plan, &place, &call->grad_out, i, 1, grad, b.grad_out + i * D);
        /* out in the place of query, until delta is known */
        load_global(plan, &place, &call->out, i, 1, query, columns);
        for (int64_t d = 0; d < D; d++) delta += columns[d] * b.grad_out[i * D + d];
        for (int64_t lane = 0; lane < W && i * W + lane < plan->global_rows; lane++) {
            int64_t head = head_of(call, place.kv_head, i * W + lane), row = row_of(call, i * W + lane);
            lse[lane] = *number_at(&call->lse, place.index, head, row);
            if (call->grad_lse.data) delta[lane] -= *number_at(&call->grad_lse, place.index, head, row);
        }
        b.lse[i] = at_least_lowest(lse);
        b.delta[i] = delta;
        load_global(plan, &place, &call->query, i, call->scale, query, columns);
        for (int64_t d = 0; d < D; d++) b.columns[i * D + d] = all(0.0f);
    }

    int short_slices = call->num_partial && image->longest <= SHORT;
    int64_t rows_per_tile = short_slices ? W / image->cells : 1;
    for (int64_t row = place.first_row; row < place.end_row; row += rows_per_tile) {
        int64_t end_row = smaller(place.end_row, row + rows_per_tile);
        int64_t first = slice_start(image, row), end = slice_start(image, end_row), at = first;
        do {
            int n = (int)smaller(TILE, end - at);
            int64_t key_row = image->begin + at;
            Rows key = rows_at(call, &call->key, image->row, place.kv_head, key_row, n, 1, b.key);
            Rows value = rows_at(call, &call->value, image->row, place.kv_head, key_row, n, 1, b.value);
            Rows grad_key = place_for(call, &call->grad_key, image->row, place.kv_head, key_row, 1, b.grad_key);
            Rows grad_value = place_for(call, &call->grad_value, image->row, place.kv_head, key_row, 1, b.grad_value);
            if (!call->num_partial)
                for (int j = 0; j < n; j++) {
                    memset(grad_key.data + j * grad_key.stride, 0, D * sizeof(float));
                    memset(grad_value.data + j * grad_value.stride, 0, D * sizeof(float));
                }
            if (short_slices) {
                Slices slices = slices_of(image, row, (int)(end_row - row), at);
                for (int64_t member = 0; member < call->group; member++)
                    short_backward(plan, &place, place.kv_head * call->group + member, row, &slices, &key, &value, &grad_key,
                                   &grad_value, member == 0, &b);
            } else {
                for (int64_t member = 0; member < call->group && call->num_partial; member++)
                    long_backward(plan, &place, member, row, at == first, at + n == end, n, &key, &value, &grad_key,
                                  &grad_value, member == 0, &b);
            }
            global_backward(plan, n, &key, &value, &grad_key, &grad_value, &b);
            put_back(call, &call->grad_key, image->row, place.kv_head, key_row, n, 1, grad_key);
            put_back(call, &call->grad_value, image->row, place.kv_head, key_row, n, 1, grad_value);
            at += n;
        } while (at < end);
    }
    for (int64_t i = 0; i < blocks; i++) {
        if (place.part)
            memcpy(place.part + i * (D + 2), b.columns + i * D, D * sizeof(vec));
        else
            store_global(plan, place.index, place.kv_head, &call->grad_query, i, b.columns + i * D, all(1.0f), b.global_query);
    }
}

/* chunks of one image and head into its first, in order */
static void merge_outputs(vec *first, int64_t chunks, int64_t blocks, int64_t block, int64_t D) {
    vec *sum = first + block * (D + 2);
    for (int64_t chunk = 1; chunk < chunks; chunk++) {
        const vec *part = first + (chunk * blocks + block) * (D + 2);
        vec peak = larger(sum[D], part[D]), base = at_least_lowest(peak);
        vec keep = exp_of(sum[D] - base), add = exp_of(part[D] - base);
        for (int64_t d = 0; d < D; d++) sum[d] = sum[d] * keep + part[d] * add;
        sum[D] = peak;
        sum[D + 1] = sum[D + 1] * keep + part[D + 1] * add;
    }
}

static void merge_gradients(vec *first, int64_t chunks, int64_t blocks, int64_t block, int64_t D) {
    vec *sum = first + block * (D + 2);
    for (int64_t chunk = 1; chunk < chunks; chunk++) {
        const vec *part = first + (chunk * blocks + block) * (D + 2);
        for (int64_t d = 0; d < D; d++) sum[d] += part[d];
    }
}

static void merge_chunks(const Plan *plan, float *rows) {
    const Call *call = plan->call;
    for (int64_t index = 0; index < call->batch; index++) {
        const Image *image = &plan->images[index];
        for (int64_t head = 0; head < call->num_kv_heads && image->chunks > 1; head++) {
            vec *first = plan->parts + (image->first_item + head * image->chunks) * plan->blocks * (plan->D + 2);
            for (int64_t block = 0; block < plan->blocks; block++) {
                vec *sum = first + block * (plan->D + 2);
                if (plan->backward) {
                    merge_gradients(first, image->chunks, plan->blocks, block, plan->D);
                    store_global(plan, index, head, &call->grad_query, block, sum, all(1.0f), rows);
                } else {
                    merge_outputs(first, image->chunks, plan->blocks, block, plan->D);
                    vec peak = sum[plan->D], total = sum[plan->D + 1];
                    store_global(plan, index, head, &call->out, block, sum, share(total), rows);
                    store_lse(plan, index, head, block, peak, total);
                }
            }
        }
    }
}

static int run(const Call *call, int backward) {
    Plan plan = {call, NULL, NULL, whole_vectors(call->head_dim), call->group * (call->num_query - call->num_partial), 0, backward};
    plan.blocks = (plan.global_rows + W - 1) / W;
    Image *images = malloc((call->batch + 1) * sizeof(Image));
    if (!images) return 1;
    int64_t items = 0, keys = 0;
    int several = 0;
    for (int64_t index = 0; index < call->batch; index++) {
        images[index] = image_of(call, index);
        images[index].first_item = items;
        items += images[index].chunks * call->num_kv_heads;
        keys += images[index].keys;
        several |= images[index].chunks > 1;
    }
    plan.images = images;
    void *parts = NULL;
    int failed = 0;
    if (several && plan.blocks)
        failed = posix_memalign(&parts, 64, (items * plan.blocks * (plan.D + 2) + plan.D) * sizeof(vec)) != 0;
    plan.parts = parts;
    outputs_in_large_pages(call, backward);
    Buffers unused;
    size_t scratch = buffers_in(&plan, NULL, &unused);
    double operations = 2.0 * keys * call->num_kv_heads * plan.D * (plan.blocks * W + 8 * call->group) * (backward ? 5 : 2);
    if (!failed) failed = for_each_item(backward ? backward_item : forward_item, &plan, items, scratch, call->threads, operations);
    if (!failed && parts) merge_chunks(&plan, (float *)(plan.parts + items * plan.blocks * (plan.D + 2)));
    free(parts);
    free(images);
    return failed;
}

int pargo_partial_global_forward(const Call *call) { return run(call, 0); }

int pargo_partial_global_backward(const Call *call) { return run(call, 1); }
