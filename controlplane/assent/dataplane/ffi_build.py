# SPDX-License-Identifier: Apache-2.0
"""Builds assent._libbpf: the few functions of the system's libbpf that the dataplane calls.

The declarations below are checked by the C compiler against libbpf's own headers; struct members
that are not named here are filled in from there.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cffi import FFI

CDEF = """
/* objects */
struct bpf_object;
struct bpf_map;
struct bpf_program;
struct bpf_object *bpf_object__open(const char *path);
int bpf_object__load(struct bpf_object *obj);
void bpf_object__close(struct bpf_object *obj);
struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);
struct bpf_program *bpf_object__next_program(const struct bpf_object *obj,
                                             struct bpf_program *prog);
const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
uint32_t bpf_map__max_entries(const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, uint32_t max_entries);
int bpf_map__set_pin_path(struct bpf_map *map, const char *path);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
bool bpf_map__is_internal(const struct bpf_map *map);
const char *bpf_program__name(const struct bpf_program *prog);
int bpf_program__fd(const struct bpf_program *prog);

/* maps */
#define BPF_ANY ...
#define BPF_NOEXIST ...
#define BPF_EXIST ...
#define BPF_MAP_TYPE_HASH ...
#define BPF_MAP_TYPE_ARRAY ...
#define BPF_MAP_TYPE_PERCPU_HASH ...
#define BPF_MAP_TYPE_PERCPU_ARRAY ...
#define BPF_MAP_TYPE_LRU_PERCPU_HASH ...
#define BPF_MAP_TYPE_RINGBUF ...
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values,
                         uint32_t *count, const struct bpf_map_batch_opts *opts);
int bpf_map_delete_batch(int fd, const void *keys, uint32_t *count,
                         const struct bpf_map_batch_opts *opts);
int bpf_map_update_batch(int fd, const void *keys, const void *values, uint32_t *count,
                         const struct bpf_map_batch_opts *opts);
int libbpf_num_possible_cpus(void);

/* any kernel object by its file descriptor */
struct bpf_map_info {
    uint32_t type;
    uint32_t id;
    uint32_t key_size;
    uint32_t value_size;
    uint32_t max_entries;
    uint32_t map_flags;
    char name[...];
    uint32_t btf_id;
    uint32_t btf_key_type_id;
    uint32_t btf_value_type_id;
    ...;
};
struct bpf_prog_info {
    uint32_t type;
    uint32_t id;
    uint8_t tag[...];
    uint64_t run_time_ns;
    uint64_t run_cnt;
    ...;
};
int bpf_obj_pin(int fd, const char *path);
int bpf_obj_get(const char *path);
int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *info_len);

/* programs */
#define BPF_STATS_RUN_TIME ...
#define BPF_PROG_TYPE_SCHED_CLS ...
struct __sk_buff {
    uint32_t ifindex;
    ...;
};
struct xdp_md {
    uint32_t data;
    uint32_t data_end;
    uint32_t data_meta;
    uint32_t ingress_ifindex;
    uint32_t rx_queue_index;
    ...;
};
struct bpf_test_run_opts {
    size_t sz;
    const void *data_in;
    void *data_out;
    uint32_t data_size_in;
    uint32_t data_size_out;
    const void *ctx_in;
    void *ctx_out;
    uint32_t ctx_size_in;
    uint32_t ctx_size_out;
    uint32_t retval;
    int repeat;
    uint32_t duration;
    ...;
};
int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *opts);
int bpf_enable_stats(int type);

/* links */
#define BPF_XDP ...
#define XDP_FLAGS_SKB_MODE ...
#define XDP_FLAGS_DRV_MODE ...
#define XDP_ATTACHED_DRV ...
#define XDP_ATTACHED_SKB ...
struct bpf_link_create_opts {
    size_t sz;
    uint32_t flags;
    ...;
};
struct bpf_xdp_query_opts {
    size_t sz;
    uint32_t prog_id;
    uint32_t drv_prog_id;
    uint32_t hw_prog_id;
    uint32_t skb_prog_id;
    uint8_t attach_mode;
    ...;
};
int bpf_link_create(int prog_fd, int target_fd, int attach_type,
                    const struct bpf_link_create_opts *opts);
int bpf_link_update(int link_fd, int new_prog_fd, const struct bpf_link_update_opts *opts);
int bpf_link_detach(int link_fd);
int bpf_xdp_query(int ifindex, int flags, struct bpf_xdp_query_opts *opts);
int assent_link_info(int link_fd, uint32_t *id, uint32_t *prog_id, uint32_t *ifindex);
int assent_tcx_egress_programs(int ifindex);

/* ring buffers */
struct ring_buffer;
typedef int (*ring_buffer_sample_fn)(void *ctx, void *data, size_t size);
struct ring_buffer *ring_buffer__new(int map_fd, ring_buffer_sample_fn sample_cb, void *ctx,
                                     const struct ring_buffer_opts *opts);
void ring_buffer__free(struct ring_buffer *rb);
int ring_buffer__consume(struct ring_buffer *rb);
int ring_buffer__epoll_fd(const struct ring_buffer *rb);
extern "Python" int assent_on_sample(void *ctx, void *data, size_t size);

/* type information */
struct btf;
struct btf *btf__parse_elf(const char *path, struct btf_ext **btf_ext);
struct btf *btf__load_from_kernel_by_id(uint32_t id);
const void *btf__raw_data(const struct btf *btf, uint32_t *size);
void btf__free(struct btf *btf);

/* log */
void assent_log_start(void);
const char *assent_log_take(void);
void assent_log_to_stderr(int enable);
"""

SOURCE = """
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

/* The tail of what libbpf said on this thread since assent_log_start(). */
#define LOG_LEN 4096
static __thread char log_text[LOG_LEN];
static __thread size_t log_len;
static int log_stderr;

static int log_append(enum libbpf_print_level level, const char *format, va_list args)
{
    char *line = NULL;
    const char *tail;
    int len;

    if (level == LIBBPF_DEBUG)
        return 0;
    len = vasprintf(&line, format, args);
    if (len < 0)
        return 0;
    if (log_stderr)
        fputs(line, stderr);
    tail = line;
    if (len > LOG_LEN - 1) {
        tail += len - (LOG_LEN - 1);
        len = LOG_LEN - 1;
    }
    if (log_len + len > LOG_LEN - 1) {
        size_t keep = LOG_LEN - 1 - len;

        memmove(log_text, log_text + log_len - keep, keep);
        log_len = keep;
    }
    memcpy(log_text + log_len, tail, len);
    log_len += len;
    log_text[log_len] = 0;
    free(line);
    return 0;
}

static void assent_log_start(void)
{
    libbpf_set_print(log_append);
    log_len = 0;
    log_text[0] = 0;
}

static const char *assent_log_take(void)
{
    return log_text;
}

static void assent_log_to_stderr(int enable)
{
    log_stderr = enable;
}

/* cffi does not see members of anonymous unions. */
static int assent_link_info(int link_fd, uint32_t *id, uint32_t *prog_id, uint32_t *ifindex)
{
    struct bpf_link_info info = {0};
    uint32_t len = sizeof(info);
    int err = bpf_obj_get_info_by_fd(link_fd, &info, &len);

    if (err)
        return err;
    *id = info.id;
    *prog_id = info.prog_id;
    *ifindex = info.xdp.ifindex;
    return 0;
}

/* BPF_TCX_EGRESS, which the headers of a kernel before 6.6 do not name. */
#define ASSENT_TCX_EGRESS 47

static int assent_tcx_egress_programs(int ifindex)
{
    uint32_t count = 0;

    return bpf_prog_query(ifindex, ASSENT_TCX_EGRESS, 0, NULL, NULL, &count) ? -1 : (int)count;
}
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "assent._libbpf",
    SOURCE,
    libraries=["bpf"],
    define_macros=[("_GNU_SOURCE", "1")],
    extra_compile_args=["-O2", "-std=gnu11", "-Wall"],
)


def build_in_place() -> Path:
    """Compiles the module beside the package's sources and returns its path.

    Intermediates stay in a temporary directory; only the finished module is copied.
    """
    package = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(ffibuilder.compile(tmpdir=scratch))
        # Copied beside and renamed: a process that has the old module mapped keeps it whole.
        fresh = package / f".{made.name}.new"
        shutil.copy2(made, fresh)
        return fresh.replace(package / made.name)


if __name__ == "__main__":
    print(build_in_place())
