/* Memory of one call, kept for the next one: fresh pages would cost more than filling them. */
#ifndef VPRM_MEMORY_H
#define VPRM_MEMORY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
    size_t bytes;
    _Alignas(64) uint8_t data[];
} Memory;

/* At least so many bytes, from `spare` if it has them; NULL where memory is not to be had. */
static inline Memory *vprm_take_memory(_Atomic(Memory *) *spare, size_t bytes) {
    Memory *memory = atomic_exchange(spare, NULL);
    if (memory != NULL && memory->bytes >= bytes) return memory;
    free(memory);
    const size_t whole = (sizeof *memory + bytes + 63) / 64 * 64;
    memory = aligned_alloc(64, whole);
    if (memory != NULL) memory->bytes = whole - sizeof *memory;
    return memory;
}

static inline void vprm_give_memory(_Atomic(Memory *) *spare, Memory *memory) { free(atomic_exchange(spare, memory)); }

#endif
