// A device for llama.cpp that holds no bytes and computes nothing: it says of itself what the CUDA backend of v0.5.0
// says, so that llama.cpp places tensors, splits graphs and lays out buffers as it would on a card.
// Build: cc -shared -fPIC -I llama.cpp/ggml/include -I llama.cpp/ggml/src device.c -o libggml-cuda0.so
#include "ggml-backend-impl.h"
#include "ggml-impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEVICES 8
static struct ggml_backend_reg REG;
static struct ggml_backend_device DEVICES[MAX_DEVICES];
static struct ggml_backend_buffer_type TYPES[MAX_DEVICES];
static struct ggml_backend_buffer_type HOST;
static char NAMES[MAX_DEVICES][16];

static int index_of(ggml_backend_dev_t dev) { return (int) (dev - DEVICES); }
static int count(void) { const char * n = getenv("FAKE_DEVICES"); return n ? atoi(n) : 1; }

// Buffers without memory: an address that is never touched.
static void   b_free(ggml_backend_buffer_t b) { (void) b; }
static void * b_base(ggml_backend_buffer_t b) { (void) b; return (void *) 0x100000; }
static void   b_memset(ggml_backend_buffer_t b, struct ggml_tensor * t, uint8_t v, size_t o, size_t n) { (void) b; (void) t; (void) v; (void) o; (void) n; }
static void   b_set(ggml_backend_buffer_t b, struct ggml_tensor * t, const void * d, size_t o, size_t n) { (void) b; (void) t; (void) d; (void) o; (void) n; }
static void   b_get(ggml_backend_buffer_t b, const struct ggml_tensor * t, void * d, size_t o, size_t n) { (void) b; (void) t; (void) o; memset(d, 0, n); }
static bool   b_cpy(ggml_backend_buffer_t b, const struct ggml_tensor * s, struct ggml_tensor * d) { (void) b; (void) s; (void) d; return true; }
static void   b_clear(ggml_backend_buffer_t b, uint8_t v) { (void) b; (void) v; }
static const struct ggml_backend_buffer_i BUFFER = { b_free, b_base, NULL, b_memset, b_set, b_get, NULL, NULL, b_cpy, b_clear, NULL };

static const char * t_name(ggml_backend_buffer_type_t t) { return NAMES[index_of(t->device)]; }
static ggml_backend_buffer_t t_alloc(ggml_backend_buffer_type_t t, size_t n) { return ggml_backend_buffer_init(t, BUFFER, NULL, n); }
static size_t t_align(ggml_backend_buffer_type_t t) { (void) t; return 128; }

static size_t t_size(ggml_backend_buffer_type_t t, const struct ggml_tensor * x) {
    (void) t;
    size_t size = ggml_nbytes(x);
    if (x->op == GGML_OP_FLASH_ATTN_EXT) {
        const struct ggml_tensor * K = x->src[1], * V = x->src[2];
        const bool shared = V->view_src && (V->view_src == K || (V->view_src == K->view_src && V->view_offs == K->view_offs));
        if (K->type != GGML_TYPE_F16) { size = GGML_PAD(size, 128) + ggml_nelements(K)*2; }
        if (V->type != GGML_TYPE_F16 && !shared) { size = GGML_PAD(size, 128) + ggml_nelements(V)*2; }
    }
    if (ggml_is_quantized(x->type) && x->ne[0] % 512 != 0) {
        size += ggml_row_size(x->type, 512 - x->ne[0] % 512);
    }
    return size;
}

static const char * h_name(ggml_backend_buffer_type_t t) { (void) t; return "CUDA_Host"; }
static ggml_backend_buffer_t h_alloc(ggml_backend_buffer_type_t t, size_t n) {
    ggml_backend_buffer_t b = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), n);
    if (b) { b->buft = t; }
    return b;
}
static size_t h_align(ggml_backend_buffer_type_t t) { (void) t; return ggml_backend_buft_get_alignment(ggml_backend_cpu_buffer_type()); }
static bool   h_host(ggml_backend_buffer_type_t t) { (void) t; return true; }

static const char * k_name(ggml_backend_t b) { return NAMES[index_of(b->device)]; }
static void k_free(ggml_backend_t b) { free(b); }
static void k_sync(ggml_backend_t b) { (void) b; }
static enum ggml_status k_compute(ggml_backend_t b, struct ggml_cgraph * g) { (void) b; (void) g; return GGML_STATUS_SUCCESS; }
static void k_record(ggml_backend_t b, ggml_backend_event_t e) { (void) b; (void) e; }
static ggml_guid GUID = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

static const char * d_name(ggml_backend_dev_t d) { return NAMES[index_of(d)]; }
// FAKE_MEMORY: MiB that each device has free, comma-separated; 80 GiB where it is not told.
static void d_memory(ggml_backend_dev_t d, size_t * f, size_t * t) {
    const char * n = getenv("FAKE_MEMORY");
    for (int i = index_of(d); n && i > 0; i--) { n = strchr(n, ','); n = n ? n + 1 : n; }
    *f = *t = n ? (size_t) atoll(n) << 20 : (size_t) 80 << 30;
}
static enum ggml_backend_dev_type d_type(ggml_backend_dev_t d) { (void) d; return GGML_BACKEND_DEVICE_TYPE_GPU; }
static void d_props(ggml_backend_dev_t d, struct ggml_backend_dev_props * p) {
    memset(p, 0, sizeof(*p));
    p->name = p->description = d_name(d);
    d_memory(d, &p->memory_free, &p->memory_total);
    p->type = GGML_BACKEND_DEVICE_TYPE_GPU;
    p->caps = (struct ggml_backend_dev_caps) { true, true, false, true, true };
}
static ggml_backend_t d_init(ggml_backend_dev_t d, const char * params) {
    (void) params;
    ggml_backend_t b = calloc(1, sizeof(*b));
    b->guid = &GUID;
    b->iface.get_name = k_name; b->iface.free = k_free; b->iface.synchronize = k_sync; b->iface.graph_compute = k_compute;
    b->iface.event_record = k_record; b->iface.event_wait = k_record;
    b->device = d;
    return b;
}
static ggml_backend_buffer_type_t d_type_of(ggml_backend_dev_t d) { return &TYPES[index_of(d)]; }
static ggml_backend_buffer_type_t d_host(ggml_backend_dev_t d) { (void) d; HOST.device = &DEVICES[0]; return &HOST; }
static bool d_op(ggml_backend_dev_t d, const struct ggml_tensor * x) {
    (void) d;
    if (x->op == GGML_OP_FLASH_ATTN_EXT) {
        const int64_t k = x->src[1]->ne[0], v = x->src[2]->ne[0];
        return (k == v && (k == 40 || k == 64 || k == 72 || k == 80 || k == 96 || k == 112 || k == 128 || k == 256 || k == 512)) || (k == 576 && v == 512) || (k == 192 && v == 128);
    }
    if (x->op == GGML_OP_IM2COL) {
        return ggml_is_contiguous(x->src[0]) && ggml_is_contiguous(x->src[1]);
    }
    return true;
}
static bool d_buft(ggml_backend_dev_t d, ggml_backend_buffer_type_t t) { return t == &TYPES[index_of(d)]; }
static bool d_offload(ggml_backend_dev_t d, const struct ggml_tensor * x) {
    (void) d;
    int64_t n;
    switch (x->op) {
        case GGML_OP_GET_ROWS: n = 0; break;
        case GGML_OP_MUL_MAT: n = x->ne[1]; break;
        case GGML_OP_MUL_MAT_ID: case GGML_OP_ROPE: n = x->ne[2]; break;
        default: n = ggml_nrows(x);
    }
    return n >= 32;
}
static ggml_backend_event_t d_event(ggml_backend_dev_t d) { ggml_backend_event_t e = calloc(1, sizeof(*e)); e->device = d; return e; }
static void d_event_free(ggml_backend_dev_t d, ggml_backend_event_t e) { (void) d; free(e); }
static void d_event_sync(ggml_backend_dev_t d, ggml_backend_event_t e) { (void) d; (void) e; }

static const char * r_name(ggml_backend_reg_t r) { (void) r; return "CUDA"; }
static size_t r_count(ggml_backend_reg_t r) { (void) r; return count(); }
static ggml_backend_dev_t r_get(ggml_backend_reg_t r, size_t i) { (void) r; return &DEVICES[i]; }
static void * r_address(ggml_backend_reg_t r, const char * n) { (void) r; (void) n; return NULL; }

static ggml_backend_reg_t make(void) {
    REG.api_version = GGML_BACKEND_API_VERSION;
    REG.iface.get_name = r_name; REG.iface.get_device_count = r_count; REG.iface.get_device = r_get; REG.iface.get_proc_address = r_address;
    HOST.iface = (struct ggml_backend_buffer_type_i) { h_name, h_alloc, h_align, NULL, NULL, h_host };
    for (int i = 0; i < MAX_DEVICES; i++) {
        snprintf(NAMES[i], sizeof(NAMES[i]), "CUDA%d", i);
        TYPES[i].iface = (struct ggml_backend_buffer_type_i) { t_name, t_alloc, t_align, NULL, t_size, NULL };
        TYPES[i].device = &DEVICES[i];
        DEVICES[i].reg = &REG;
        DEVICES[i].iface = (struct ggml_backend_device_i) { d_name, d_name, d_memory, d_type, d_props, d_init, d_type_of, d_host, NULL, d_op, d_buft, d_offload, d_event, d_event_free, d_event_sync };
    }
    return &REG;
}
__attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) { return make(); }
