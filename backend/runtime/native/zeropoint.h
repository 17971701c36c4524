/* The player's C interface: devices, programs without ExecuTorch, and a look inside those that ExecuTorch
   loaded.

   Every function is thread-safe and never throws or aborts. Those that return int return a zp_code; those
   that return a string return JSON owned by the calling thread until its next call here, or NULL. After a
   failure zp_last_error() says where, what and why, in one line: of the calling thread's last failure, ExecuTorch's
   calls of the delegate included, since zp_clear_error(). A process forked after the first use of Vulkan gets an error
   from each of them: start it anew. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ZP_API __attribute__((visibility("default")))
#define ZP_MAX_RANK 8

/* ZP_INCOMPATIBLE: a version, a kernel, a dtype or a device fact that is not offered. */
typedef enum zp_code {
  ZP_OK,
  ZP_INVALID_ARGUMENT,
  ZP_INVALID_PROGRAM,
  ZP_INCOMPATIBLE,
  ZP_OUT_OF_MEMORY,
  ZP_DEVICE,
  ZP_NOT_FOUND
} zp_code;

/* Element type of host tensors: HostDType of program.fbs. */
typedef enum zp_dtype { ZP_F32, ZP_F16, ZP_BF16, ZP_I64, ZP_I32, ZP_I8, ZP_U8, ZP_BOOL } zp_dtype;

/* A dense row-major host tensor. An integer input (a symbol's value) is a ZP_I64 of rank 0. */
typedef struct zp_tensor {
  int32_t dtype;
  int32_t rank;
  int64_t dims[ZP_MAX_RANK];
  void* data;
  uint64_t size_bytes; /* of data */
} zp_tensor;

typedef struct zp_constant {
  const char* key;
  const void* data;
  uint64_t size_bytes;
} zp_constant;

/* Flags of a load. */
#define ZP_KEEP_ALL 1u /* arena memory of its own without aliasing, so that every tensor can be read back */
#define ZP_PROFILE 2u  /* GPU time of each call; calls are then serialized */

ZP_API const char* zp_version(void);
ZP_API const char* zp_last_error(void); /* "" when nothing failed */
ZP_API void zp_clear_error(void);
/* [{"index", "name", "type", "driver", "api", "unusable", "facts": {...}}]; ZEROPOINT_DISABLE is applied. */
ZP_API const char* zp_devices(void);
/* The embedded kernel library. */
ZP_API const void* zp_library(uint64_t* size_bytes);

/* Loads a Program blob. Constants are found by key and may be freed afterwards. library: NULL for the
   embedded one, otherwise another kernel library, which is kept for the life of the process. program: NULL to verify
   the blob only, without touching a device. */
ZP_API int zp_load(const void* blob, uint64_t size_bytes, const zp_constant* constants, uint64_t n_constants,
    const void* library, uint64_t library_bytes, uint32_t flags, uint64_t* program);
/* Programs that zp_load made; ExecuTorch's are destroyed by ExecuTorch. */
ZP_API int zp_unload(uint64_t program);

/* {"device": name, "inputs": [dtype, ...], "outputs": [dtype, ...], "tensors": [{...}], "symbols": [value, ...],
   "choices": path, "n_choices": n}; dims and symbols are those of the last execute: -1 and null before the first.
   choices: the file that names algorithms to prefer, "" without a cache; n_choices: its lines at the load. */
ZP_API const char* zp_describe(uint64_t program);
/* Fills dtype, rank, dims and size_bytes of each output for these inputs; data is neither read nor written,
   except that of integer inputs. */
ZP_API int zp_output_shapes(
    uint64_t program, const zp_tensor* inputs, uint64_t n_inputs, zp_tensor* outputs, uint64_t n_outputs);
/* Runs and waits. Each output's data must hold what zp_output_shapes says. */
ZP_API int zp_execute(
    uint64_t program, const zp_tensor* inputs, uint64_t n_inputs, zp_tensor* outputs, uint64_t n_outputs);

/* Gives the states of a program, and of the methods that share them, their first contents. 0: of all live programs. */
ZP_API int zp_reset(uint64_t program);

/* Of the last execute: [{"call", "name", "kernel", "algorithm", "key", "grid", "specs", "time_ns", "signature",
   "candidates"}]; time_ns is null unless the program profiles. signature: what the file of choices knows the call by;
   candidates: the algorithms that the device can run, in the manifest's order, whether their guards hold or not. */
ZP_API const char* zp_picks(uint64_t program);
ZP_API const char* zp_counters(void);
/* {"active", "count", "messages"} of the validation layers; clear != 0 forgets them. */
ZP_API const char* zp_validation(int clear);

/* [{"id", "method", "flags"}] of all live programs. */
ZP_API const char* zp_programs(void);
/* Flags added to every later load, ExecuTorch's included. */
ZP_API void zp_default_flags(uint32_t flags);
/* Copies a tensor's bytes after the last execute: packed elements, for an image component x of each texel.
   size_bytes: in the room, out the bytes written. Needs ZP_KEEP_ALL except for constants and states. */
ZP_API int zp_read_tensor(uint64_t program, uint32_t tensor, void* data, uint64_t* size_bytes);

/* One operation of an expression (Op of library.fbs). */
typedef struct zp_op {
  int64_t value;
  uint16_t arg;
  uint8_t code;
} zp_op;
/* Evaluates an expression over slots (rank < 0: not bound) and integer attributes, for tests. */
ZP_API int zp_evaluate(const zp_op* ops, uint64_t n_ops, const zp_tensor* slots, uint64_t n_slots, const int64_t* attrs,
    uint64_t n_attrs, int64_t* value);

#ifdef __cplusplus
}
#endif
