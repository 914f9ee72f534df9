/* The run time of the emulator: one program after the other, all threads of a program in step.

A register is an array with a value for each thread ("lane"). An instruction has the addresses of its operands' arrays;
constants are arrays, too. opcodes.py writes a function for each opcode, which loops over the threads; what touches
memory, crosses lanes or changes the order of instructions is here. machine.py has the same structs. */

#include <stdlib.h>
#include <sys/mman.h>

#include "numbers.h"

enum { MOST_OPERANDS = 10, MOST_FINDINGS = 32, MOST_THREADS = 1024 };
enum { BRANCH = -1, RETURN = -2, BARRIER = -3, WARP_BARRIER = -4 };
enum {
    OUT_OF_BOUNDS = 1,
    MISALIGNED,
    READ_AFTER_WRITE,
    WRITE_AFTER_WRITE,
    WRITE_AFTER_READ,
    BETWEEN_PROGRAMS,
    DIVERGENT,
    DIVISION,
    ENDLESS
};

typedef struct {
    int32_t code;    /* Number of an operation, or one of the above. */
    int32_t negated; /* The guard must not hold. */
    int32_t count;   /* Elements of a vector, or another small number. */
    int32_t unused;
    uint8_t *guard;  /* A value for each thread, or null. */
    int64_t number;  /* Offset of an address, or instruction to go to. */
    void *operand[MOST_OPERANDS];
} Instruction;

/* Of a byte: who wrote it last, and who has read it since. Programs count from 1, 0 is nobody. */
typedef struct {
    uint32_t writer, write_barriers, write_warp_barriers, write_instruction;
    uint32_t reader, read_barriers, read_warp_barriers, read_meetings, read_instruction;
    int16_t write_thread, read_thread, read_warp, unused; /* read_thread, read_warp: SEVERAL. */
} Trace;

enum { SEVERAL = -1 };
#define ANY_PROGRAM 0xffffffffu

/* The addresses [low, high) of tensors that were passed, and the traces of their bytes, or null. */
typedef struct {
    uint64_t low, high;
    Trace *traces;
} Extent;

typedef struct {
    int32_t kind, instruction, other, program, thread, other_thread;
    uint64_t address;
    int64_t times;
} Finding;

typedef struct {
    Instruction *instructions;
    int64_t instruction_count, steps, most_steps;
    int32_t threads, check_races;
    /* Filled with ones, NaN, before each program. A kernel may read what it has not written: the compiler packs a half
       that it does not need from any register. Where it matters it shows. */
    uint8_t *registers;
    int64_t registers_size;
    uint32_t *program_id[3], grid[3];
    int64_t *programs, program_count;
    uint8_t *shared;
    int64_t shared_size;
    Trace *shared_traces;
    Extent *extents;
    int32_t extent_count, finding_count;
    Finding findings[MOST_FINDINGS];
    int32_t program, last_extent;
    uint32_t barriers, warp_barriers[MOST_THREADS / 32], meetings[MOST_THREADS / 32];
    uint8_t outside[64]; /* Where accesses out of bounds go. */
} Machine;

typedef void (*Operation)(Machine *, const Instruction *);

static void find(Machine *m, int kind, const Instruction *i, int64_t other, int thread, int other_thread, uint64_t address) {
    int32_t place = (int32_t)(i - m->instructions);
    for (int k = 0; k < m->finding_count; ++k) {
        Finding *f = m->findings + k;
        if (f->kind == kind && f->instruction == place && f->other == other) {
            ++f->times;
            return;
        }
    }
    if (m->finding_count < MOST_FINDINGS)
        m->findings[m->finding_count++] =
            (Finding){kind, place, (int32_t)other, m->program, thread, other_thread, address, 1};
}

/* ---- memory ---- */

static int is_ordered(const Machine *m, uint32_t barriers, uint32_t warp_barriers, int thread, int other) {
    return thread == other || m->barriers > barriers ||
           (thread / 32 == other / 32 && m->warp_barriers[thread / 32] > warp_barriers);
}

static void trace_read(Machine *m, const Instruction *i, Trace *t, int thread, uint64_t address) {
    uint32_t program = (uint32_t)m->program + 1;
    int warp = thread / 32;
    if (t->writer && t->writer != program)
        find(m, BETWEEN_PROGRAMS, i, t->write_instruction, thread, t->write_thread, address);
    else if (t->writer && !is_ordered(m, t->write_barriers, t->write_warp_barriers, thread, t->write_thread))
        find(m, READ_AFTER_WRITE, i, t->write_instruction, thread, t->write_thread, address);
    if (t->reader && t->reader != program) {
        t->reader = ANY_PROGRAM;
        return;
    }
    int again = t->reader == program && t->read_barriers == m->barriers;
    if (again && (t->read_warp == SEVERAL || t->read_warp != warp)) {
        t->read_warp = t->read_thread = SEVERAL;
    } else if (again && t->read_warp_barriers == m->warp_barriers[warp] && t->read_meetings == m->meetings[warp]) {
        if (t->read_thread != thread) t->read_thread = SEVERAL;
    } else {
        t->read_warp = (int16_t)warp;
        t->read_thread = (int16_t)thread;
    }
    t->reader = program;
    t->read_barriers = m->barriers;
    t->read_warp_barriers = m->warp_barriers[warp];
    t->read_meetings = m->meetings[warp];
    t->read_instruction = (uint32_t)(i - m->instructions);
}

/* same: What is written is there already; then it does not matter which of two writes comes last. */
static void trace_write(Machine *m, const Instruction *i, Trace *t, int thread, uint64_t address, int same) {
    uint32_t program = (uint32_t)m->program + 1;
    int warp = thread / 32;
    if (t->writer && t->writer != program)
        find(m, BETWEEN_PROGRAMS, i, t->write_instruction, thread, t->write_thread, address);
    else if (t->writer && !same && !is_ordered(m, t->write_barriers, t->write_warp_barriers, thread, t->write_thread))
        find(m, WRITE_AFTER_WRITE, i, t->write_instruction, thread, t->write_thread, address);
    if (t->reader && t->reader != program)
        find(m, BETWEEN_PROGRAMS, i, t->read_instruction, thread, t->read_thread, address);
    else if (t->reader && t->read_barriers == m->barriers && t->read_thread != thread) {
        /* Within a warp a shuffle suffices, too: it takes part in it with what it has read. */
        int met = t->read_warp == warp && (m->warp_barriers[warp] > t->read_warp_barriers || m->meetings[warp] > t->read_meetings);
        if (!met) find(m, WRITE_AFTER_READ, i, t->read_instruction, thread, t->read_thread, address);
    }
    t->reader = 0;
    t->writer = program;
    t->write_thread = (int16_t)thread;
    t->write_barriers = m->barriers;
    t->write_warp_barriers = m->warp_barriers[warp];
    t->write_instruction = (uint32_t)(i - m->instructions);
}

/* data: What is written to the place, or null. */
static void trace(Machine *m, const Instruction *i, Trace *traces, uint64_t offset, int bytes, int thread,
                  const void *data, const void *place, uint64_t address) {
    int equal = data && !memcmp(data, place, (size_t)bytes);
    for (uint64_t k = offset; k < offset + bytes; ++k)
        if (!data) {
            trace_read(m, i, traces + k, thread, address);
        } else {
            trace_write(m, i, traces + k, thread, address, equal);
        }
}

/* Return where an access of a thread to global memory goes, after looking at it. data: What it will write, or null. */
static uint8_t *reach_global(Machine *m, const Instruction *i, uint64_t address, int bytes, int thread, const void *data) {
    if (address % bytes) find(m, MISALIGNED, i, -1, thread, -1, address);
    const Extent *e = m->extents + m->last_extent;
    if (!m->extent_count || address < e->low || address + bytes > e->high) {
        int k = 0;
        while (k < m->extent_count && (address < m->extents[k].low || address + bytes > m->extents[k].high)) ++k;
        if (k == m->extent_count) {
            find(m, OUT_OF_BOUNDS, i, -1, thread, -1, address);
            memset(m->outside, 0xff, sizeof m->outside);
            return m->outside;
        }
        m->last_extent = k;
        e = m->extents + k;
    }
    uint8_t *place = (uint8_t *)(uintptr_t)address;
    if (e->traces) trace(m, i, e->traces, address - e->low, bytes, thread, data, place, address);
    return place;
}

static uint8_t *reach_shared(Machine *m, const Instruction *i, uint64_t address, int bytes, int thread, const void *data) {
    if (address % bytes) find(m, MISALIGNED, i, -1, thread, -1, address);
    if (address + bytes > (uint64_t)m->shared_size) {
        find(m, OUT_OF_BOUNDS, i, -1, thread, -1, address);
        memset(m->outside, 0xff, sizeof m->outside);
        return m->outside;
    }
    uint8_t *place = m->shared + address;
    if (m->check_races) trace(m, i, m->shared_traces, address, bytes, thread, data, place, address);
    return place;
}

#define ACTIVE(i, l) (!(i)->guard || (i)->guard[l] != (i)->negated)

/* Operands: the vector's registers, then the address. ELEMENT: in memory; REGISTER: in a register. */
#define LOAD_AND_STORE(SPACE, BITS, WIDTH, ELEMENT, REGISTER, ADDRESS)                                 \
    static void ld_##SPACE##_##BITS##_##WIDTH(Machine *m, const Instruction *i) {                      \
        const ADDRESS *base = i->operand[i->count];                                                    \
        for (int l = 0; l < m->threads; ++l)                                                           \
            if (ACTIVE(i, l)) {                                                                        \
                int size = (int)sizeof(ELEMENT);                                                       \
                const uint8_t *from =                                                                  \
                    reach_##SPACE(m, i, (ADDRESS)(base[l] + (ADDRESS)i->number), size * i->count, l, 0); \
                ELEMENT x;                                                                             \
                for (int e = 0; e < i->count; ++e) {                                                   \
                    memcpy(&x, from + e * size, sizeof x);                                             \
                    ((REGISTER *)i->operand[e])[l] = x;                                                \
                }                                                                                      \
            }                                                                                          \
    }                                                                                                  \
    static void st_##SPACE##_##BITS##_##WIDTH(Machine *m, const Instruction *i) {                      \
        const ADDRESS *base = i->operand[i->count];                                                    \
        for (int l = 0; l < m->threads; ++l)                                                           \
            if (ACTIVE(i, l)) {                                                                        \
                ELEMENT data[8];                                                                       \
                for (int e = 0; e < i->count; ++e) data[e] = (ELEMENT)((const REGISTER *)i->operand[e])[l]; \
                int bytes = (int)sizeof(ELEMENT) * i->count;                                           \
                uint64_t address = (ADDRESS)(base[l] + (ADDRESS)i->number);                            \
                memcpy(reach_##SPACE(m, i, address, bytes, l, data), data, (size_t)bytes);             \
            }                                                                                          \
    }

/* A register may be wider than an element, and has zeros above it then. */
#define EVERY_WIDTH(SPACE, ADDRESS)                             \
    LOAD_AND_STORE(SPACE, 8, 16, uint8_t, uint16_t, ADDRESS)   \
    LOAD_AND_STORE(SPACE, 8, 32, uint8_t, uint32_t, ADDRESS)   \
    LOAD_AND_STORE(SPACE, 8, 64, uint8_t, uint64_t, ADDRESS)   \
    LOAD_AND_STORE(SPACE, 16, 16, uint16_t, uint16_t, ADDRESS) \
    LOAD_AND_STORE(SPACE, 16, 32, uint16_t, uint32_t, ADDRESS) \
    LOAD_AND_STORE(SPACE, 16, 64, uint16_t, uint64_t, ADDRESS) \
    LOAD_AND_STORE(SPACE, 32, 32, uint32_t, uint32_t, ADDRESS) \
    LOAD_AND_STORE(SPACE, 32, 64, uint32_t, uint64_t, ADDRESS) \
    LOAD_AND_STORE(SPACE, 64, 64, uint64_t, uint64_t, ADDRESS)

EVERY_WIDTH(global, uint64_t)
EVERY_WIDTH(shared, uint32_t)

/* ldmatrix, stmatrix: lane 8k + r of a warp has the address of row r of matrix k, 8 x 8 numbers of 16 bits. Lane q has
   numbers (q / 4, 2 (q % 4)) and the next; transposed, (2 (q % 4), q / 4) and the one below. */
static void move_matrix(Machine *m, const Instruction *i, int write, int transposed) {
    const uint32_t *base = i->operand[i->count];
    uint32_t rows[MOST_THREADS];
    for (int l = 0; l < m->threads; ++l) {
        rows[l] = base[l] + (uint32_t)i->number;
        if (l % 32 < 8 * i->count && rows[l] % 16) find(m, MISALIGNED, i, -1, l, -1, rows[l]);
    }
    for (int e = 0; e < i->count; ++e) {
        uint32_t *lanes = i->operand[e];
        for (int l = 0; l < m->threads; ++l) {
            int q = l % 32, warp = l - q;
            for (int h = 0; h < 2; ++h) {
                int row = transposed ? 2 * (q % 4) + h : q / 4, column = transposed ? q / 4 : 2 * (q % 4) + h;
                uint16_t x = (uint16_t)(lanes[l] >> (16 * h));
                uint8_t *at = reach_shared(m, i, rows[warp + 8 * e + row] + 2 * column, 2, l, write ? &x : 0);
                if (write) {
                    memcpy(at, &x, 2);
                } else {
                    memcpy(&x, at, 2);
                    lanes[l] = h ? (lanes[l] & 0xffff) | (uint32_t)x << 16 : x;
                }
            }
        }
    }
}

static void ldmatrix(Machine *m, const Instruction *i) { move_matrix(m, i, 0, 0); }
static void ldmatrix_trans(Machine *m, const Instruction *i) { move_matrix(m, i, 0, 1); }
static void stmatrix(Machine *m, const Instruction *i) { move_matrix(m, i, 1, 0); }
static void stmatrix_trans(Machine *m, const Instruction *i) { move_matrix(m, i, 1, 1); }

/* ---- lanes of a warp ---- */

/* Operands: result, value, lane (or distance, or mask), bounds as PTX packs them: clamp, and segments from bit 8 on. */
static inline void shuffle(Machine *m, const Instruction *i, char mode) {
    uint32_t *result = i->operand[0], values[MOST_THREADS];
    const uint32_t *choice = i->operand[2], *bounds = i->operand[3];
    memcpy(values, i->operand[1], sizeof(uint32_t) * (size_t)m->threads);
    for (int l = 0; l < m->threads; ++l) {
        int lane = l % 32, segments = bounds[l] >> 8 & 31, clamp = bounds[l] & 31, from, valid;
        int last = (lane & segments) | (clamp & ~segments), first = lane & segments, b = choice[l] & 31;
        if (mode == 'u') from = lane - b, valid = from >= last;
        else if (mode == 'd') from = lane + b, valid = from <= last;
        else if (mode == 'b') from = lane ^ b, valid = from <= last;
        else from = first | (b & ~segments), valid = from <= last;
        result[l] = values[l - lane + (valid ? from : lane)];
    }
    for (int w = 0; w < m->threads / 32; ++w) ++m->meetings[w];
}

static void shfl_up(Machine *m, const Instruction *i) { shuffle(m, i, 'u'); }
static void shfl_down(Machine *m, const Instruction *i) { shuffle(m, i, 'd'); }
static void shfl_bfly(Machine *m, const Instruction *i) { shuffle(m, i, 'b'); }
static void shfl_idx(Machine *m, const Instruction *i) { shuffle(m, i, 'i'); }

/* ---- integer division, of which PTX says nothing where the divisor is zero ---- */

#define DIVIDE(TYPE, UNSIGNED, SUFFIX)                                                                 \
    static inline TYPE divide_##SUFFIX(Machine *m, const Instruction *i, int thread, TYPE a, TYPE b) { \
        if (b == 0) {                                                                                  \
            find(m, DIVISION, i, -1, thread, -1, 0);                                                   \
            return 0;                                                                                  \
        }                                                                                              \
        if (#TYPE[0] == 'i' && b == (TYPE)-1) return (TYPE)(0 - (UNSIGNED)a); /* Its smallest stays. */ \
        return a / b;                                                                                  \
    }                                                                                                  \
    static inline TYPE remainder_##SUFFIX(Machine *m, const Instruction *i, int thread, TYPE a, TYPE b) { \
        return (TYPE)((UNSIGNED)a - (UNSIGNED)divide_##SUFFIX(m, i, thread, a, b) * (UNSIGNED)b);      \
    }

DIVIDE(int32_t, uint32_t, s32)
DIVIDE(uint32_t, uint32_t, u32)
DIVIDE(int64_t, uint64_t, s64)
DIVIDE(uint64_t, uint64_t, u64)

/* ---- the loop ---- */

static int64_t end_of(Machine *m, const Instruction *i, int64_t next) {
    int taken = 0;
    for (int l = 0; l < m->threads; ++l) taken += ACTIVE(i, l);
    if (taken && taken < m->threads) {
        find(m, DIVERGENT, i, -1, -1, -1, 0);
        return m->instruction_count;
    }
    return taken ? i->code == RETURN ? m->instruction_count : i->number : next;
}

static void run_program(Machine *m, const Operation *operations) {
    for (int64_t next = 0; next < m->instruction_count;) {
        const Instruction *i = m->instructions + next++;
        if (m->steps++ > m->most_steps) {
            find(m, ENDLESS, i, -1, -1, -1, 0);
            return;
        }
        if (i->code >= 0)
            operations[i->code](m, i);
        else if (i->code == BARRIER)
            ++m->barriers;
        else if (i->code == WARP_BARRIER)
            for (int w = 0; w < m->threads / 32; ++w) ++m->warp_barriers[w];
        else
            next = end_of(m, i, next);
    }
}

static size_t traces_size(const Extent *e) { return (e->high - e->low) * sizeof(Trace); }

/* Run the programs of a launch; 1 if there is no address space for the traces. */
static int run_programs(Machine *m, const Operation *operations) {
    int failed = 0;
    m->shared_traces = 0;
    for (int k = 0; k < m->extent_count; ++k) {
        Extent *e = m->extents + k;
        e->traces = 0;
        if (!m->check_races) continue;
        /* Zeros that take no memory until they are written, so that tensors larger than the memory have traces, too. */
        void *found = mmap(0, traces_size(e), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found == MAP_FAILED) failed = 1;
        else e->traces = found;
    }
    if (m->check_races) m->shared_traces = malloc((size_t)(m->shared_size + 1) * sizeof(Trace));
    for (int64_t k = 0; k < m->program_count && !failed; ++k) {
        uint32_t id = (uint32_t)m->programs[k];
        m->program = (int32_t)id;
        m->barriers = 0;
        memset(m->warp_barriers, 0, sizeof m->warp_barriers);
        memset(m->meetings, 0, sizeof m->meetings);
        memset(m->registers, 0xff, (size_t)m->registers_size);
        memset(m->shared, 0xff, (size_t)m->shared_size);
        if (m->shared_traces) memset(m->shared_traces, 0, (size_t)(m->shared_size + 1) * sizeof(Trace));
        for (int l = 0; l < m->threads; ++l) {
            m->program_id[0][l] = id % m->grid[0];
            m->program_id[1][l] = id / m->grid[0] % m->grid[1];
            m->program_id[2][l] = id / m->grid[0] / m->grid[1];
        }
        run_program(m, operations);
    }
    for (int k = 0; k < m->extent_count; ++k)
        if (m->extents[k].traces) munmap(m->extents[k].traces, traces_size(m->extents + k));
    free(m->shared_traces);
    return failed;
}
