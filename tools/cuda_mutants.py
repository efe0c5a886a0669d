"""Defects planted in the CUDA kernels, which are run on the host (see source_mutants.py)."""

from __future__ import annotations

from source_mutants import CUDA_HOST, Mutant

CUDA_LENGTHS = (CUDA_HOST, "-k", "lengths")
CUDA_LAYOUTS = (CUDA_HOST, "-k", "layouts")
CUDA_MANY = (CUDA_HOST, "-k", "many")
CUDA_CLAMPS = (CUDA_HOST, "-k", "clamping")
CUDA_ROOTS = (CUDA_HOST, "-k", "square_root")

CUDA_MUTANTS = [
    Mutant(
        "CUDA: a head of one element is left out", "csrc/cuda/plan.h",
        "if (tile.middle > tile.begin)", "if (tile.middle > tile.begin + 1)", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: a tail is written to the end of its group", "csrc/cuda/fill.cuh",
        "b = group + 4 < to ? group + 4 : to;", "b = group + 4;", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: stores of several elements at any address", "csrc/cuda/fill.cuh",
        " && (reinterpret_cast<uintptr_t>(to) & (aligned - 1)) == 0;", ";", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: units of doubles at any address", "csrc/cuda/plan.h",
        "            ((address - before * item) & 15) == 0;", "            true;", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: the counter's high word is lost in a block", "csrc/cuda/program.cuh",
        "make(high(static_cast<uint32_t>(n >> 32)), ", "make(high(0), ", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: the counter carries within units", "csrc/cuda/plan.h",
        "(block + end * blocks - 1) >> 32;", "(block + first * blocks) >> 32;", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: a round of units repeats its first block", "csrc/cuda/program.cuh",
        "write(u + k * kThreads);", "write(u);", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: no clamping where it is decided when compiling", "csrc/cuda/program.cuh",
        "clamp_ == Clamp::Yes || (clamp_ == Clamp::Ask && clamped)",
        "clamp_ == Clamp::Ask && clamped", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: no clamping where the task is asked", "csrc/cuda/program.cuh",
        "clamp_ == Clamp::Yes || (clamp_ == Clamp::Ask && clamped)", "clamp_ == Clamp::Yes",
        CUDA_LAYOUTS,
    ),
    Mutant(
        "CUDA: bfloat16 is cut off", "csrc/cuda/pack.cuh",
        "return round_bf16<ScalarF32>(first) |", "return ScalarF32::bits(first) >> 16 |",
        CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: two float8 in the wrong order", "csrc/cuda/pack.cuh",
        "round_small<ScalarF32, dtype>(first) | round_small<ScalarF32, dtype>(second) << 8;",
        "round_small<ScalarF32, dtype>(second) | round_small<ScalarF32, dtype>(first) << 8;",
        CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: a stride of the stream for one of memory", "csrc/cuda/plan.h",
        "p.memory += at * r.dims[k].memory;", "p.memory += at * r.dims[k].logical;",
        CUDA_LAYOUTS,
    ),
    Mutant(
        "CUDA: a quotient off by one is not corrected", "csrc/cuda/plan.h",
        "} else if (d.rest >= by.value) {", "} else if (d.rest > by.value) {", CUDA_LAYOUTS,
    ),
    Mutant(
        "CUDA: the search for a tile's task goes one too far", "csrc/cuda/many.cu",
        "if (first_tile[middle] <= tile)", "if (first_tile[middle] <= tile + 1)", CUDA_MANY,
    ),
    Mutant(
        "CUDA: thread blocks forget the odd tiles before theirs", "csrc/cuda/many.cu",
        "(one_more ? blockIdx.x : tasks.more)", "(one_more ? blockIdx.x : 0)", CUDA_MANY,
    ),
    Mutant(
        "CUDA: tasks by value start at the same tile", "csrc/cuda/executor.cu",
        "few.few_first_tile[few.count] + few.few[few.count].tiles;",
        "few.few[few.count].tiles;", CUDA_LAYOUTS,
    ),
    Mutant(
        "CUDA: a table is read from its beginning", "csrc/cuda/executor.cu",
        "reinterpret_cast<const Record*>(device + behind)",
        "reinterpret_cast<const Record*>(device)", CUDA_MANY,
    ),
    Mutant(
        "CUDA: a task takes its neighbour's key", "csrc/cuda/executor.cu",
        "      take(records[k]);",
        "      take(records[k]);\n      if (k > 0) records[k].key = records[k - 1].key;",
        CUDA_MANY,
    ),
    Mutant(
        "CUDA: square roots without their last step", "csrc/core/from_estimate.h",
        "return L::fma(L::negative_fma(g1, g1, x), h1, g1);", "return g1;", CUDA_ROOTS,
    ),
    Mutant(
        "CUDA: reciprocals of all ones are not corrected", "csrc/core/from_estimate.h",
        "L::iselect(all_ones, L::iset(1), L::iset(0))", "L::iset(0)", CUDA_ROOTS,
    ),
    Mutant(
        "CUDA: quantiles from reciprocals as they are estimated", "csrc/core/from_estimate.h",
        "const auto r = L::fma(L::negative_fma(b, y, L::set(1)), y, y);", "const auto r = y;",
        CUDA_ROOTS,
    ),
    Mutant(
        "CUDA: a warp's tails beyond the first 32 are left out", "csrc/cuda/program.cuh",
        "k < all; k += 32)", "k < all && k < 32; k += 32)", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: lanes put their tails over those of the lane before", "csrc/cuda/program.cuh",
        "detour.places + (up_to - mine)", "detour.places + (up_to - up_to)", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: lanes behind the last unit write, too", "csrc/cuda/program.cuh",
        "if (there) store16(", "store16(", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: pairs are clamped in the order of their patterns", "csrc/cuda/pack.cuh",
        "bits & 0x8000u ? 0xffffu - bits : 0x8000u + bits;", "bits;", CUDA_CLAMPS,
    ),
    Mutant(
        "CUDA: zeros of tiny scales lose their signs", "csrc/cuda/plan.h",
        "|| t.f32.lo != 0) return false;", "|| t.f32.lo <= 0) return false;", CUDA_CLAMPS,
    ),
    Mutant(
        "CUDA: the works of a line go to all tiles but the first", "csrc/cuda/fill.cuh",
        "tile.count = number == 0 ? tile.count : 0;", "tile.count = number == 0 ? 0 : tile.count;",
        CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: the last tile of a line goes on", "csrc/cuda/fill.cuh",
        "to < tile.units.end ? to : tile.units.end;", "to;", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: kernels ask for the shared memory of a launch", "csrc/cuda/orthogonal.cu",
        "= allow_shared_memory(kernel);",
        "= cudaFuncSetAttribute(\n"
        "        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);",
        (CUDA_HOST, "-k", "orthogonal"),
    ),
    Mutant(
        "CUDA: tiny quotients from estimates", "csrc/cuda/various.cuh",
        "std::conditional_t<wide, ScalarF64, ScalarF32AnyQuotient>", "L", CUDA_LAYOUTS,
    ),
]  # fmt: skip
