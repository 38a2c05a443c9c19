"""Builds the optional C form of the page check (``setup.py``). Without a compiler ``pages`` uses NumPy instead.

The loop is the compiled twin of ``pages._bad_pages_numpy``; a test holds both equal.
"""

import cffi  # type: ignore[import-untyped, unused-ignore]

DECLARATIONS = """
size_t icecore_bad_pages(const unsigned char *pages, size_t count, size_t page_bytes,
                         uint32_t first_block, uint32_t *bad);
"""

SOURCE = r"""
#include <stdint.h>
#include <string.h>

#define LANES 32
#define PRIME 16777619u

static const uint32_t seeds[LANES] = {
    0x5B1F36E9u, 0xB8525960u, 0x02AB50AAu, 0x1DE66D2Au, 0x79FF467Au, 0x9BB9F8A3u, 0x217E7CD2u, 0x83E13D2Cu,
    0xF8D4474Fu, 0xE39EB970u, 0x42C6AE16u, 0x993216FAu, 0x7B093B5Du, 0x98DAFF3Cu, 0xF718902Au, 0x0B1C9CDBu,
    0xE58F764Bu, 0x187636BCu, 0x5D7B3BB1u, 0xE73DE7DEu, 0x92BEC979u, 0xCCA6C0B2u, 0x304A0979u, 0x85AA43D4u,
    0x783125BBu, 0x6CA8EAA2u, 0xE407EAC6u, 0x4B5CFC3Eu, 0x9FBF8C76u, 0x15CA20BEu, 0xF2CA9FD3u, 0x959BD756u,
};

/* One row of 32 words, each word mixed into its own lane: the compiler turns this into vector instructions. */
static void mix(uint32_t *lane, const uint32_t *word)
{
    for (int i = 0; i < LANES; i++) {
        uint32_t t = lane[i] ^ word[i];
        lane[i] = (t * PRIME) ^ (t >> 17);
    }
}

static uint16_t checksum(const unsigned char *page, size_t page_bytes, uint32_t block)
{
    static const uint32_t nothing[LANES] = {0};
    uint32_t lane[LANES], row[LANES], sum = 0;

    memcpy(lane, seeds, sizeof lane);
    for (size_t at = 0; at < page_bytes; at += sizeof row) {
        memcpy(row, page + at, sizeof row);
        if (at == 0)
            row[2] &= 0xFFFF0000u; /* pd_checksum, bytes 8 and 9, counts as zero */
        mix(lane, row);
    }
    mix(lane, nothing);
    mix(lane, nothing);
    for (int i = 0; i < LANES; i++)
        sum ^= lane[i];
    return (uint16_t)(((sum ^ block) % 65535u) + 1u);
}

static int all_zero(const unsigned char *page, size_t page_bytes)
{
    return page[0] == 0 && memcmp(page, page + 1, page_bytes - 1) == 0;
}

static size_t icecore_bad_pages(const unsigned char *pages, size_t count, size_t page_bytes,
                                uint32_t first_block, uint32_t *bad)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        const unsigned char *page = pages + i * page_bytes;
        uint16_t stored, upper;
        memcpy(&stored, page + 8, 2);
        memcpy(&upper, page + 14, 2);
        if (upper == 0 ? all_zero(page, page_bytes)
                       : stored == checksum(page, page_bytes, first_block + (uint32_t)i))
            continue;
        bad[found++] = (uint32_t)i;
    }
    return found;
}
"""

ffi = cffi.FFI()
ffi.cdef(DECLARATIONS)
ffi.set_source(
    "icecore.engines.postgresql._pagecheck", SOURCE, extra_compile_args=["-O3"], optional=True, py_limited_api=False
)
