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
        "CUDA: a head of one element is left out", "csrc/cuda/tiling.h",
        "if (tile.body_begin > tile.begin)", "if (tile.body_begin > tile.begin + 1)", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: a tail is written to the end of its group", "csrc/cuda/tiles.cuh",
        "b = group + 4 < to ? group + 4 : to;", "b = group + 4;", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: stores of several elements at any address", "csrc/cuda/tiles.cuh",
        " && (reinterpret_cast<uintptr_t>(to) & (aligned - 1)) == 0;", ";", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: vectors of doubles at any address", "csrc/cuda/tiling.h",
        "               ((address - before * item_size) & 15) == 0;", "               true;",
        CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: a counter's high word is lost", "csrc/cuda/functors.cuh",
        "generate(high_of(counter), ", "generate(high_of(0), ", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: the counter carries within vectors", "csrc/cuda/tiling.h",
        "(counter + end * counters - 1) >> 32;", "(counter + begin * counters) >> 32;",
        CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: a round repeats its first vector", "csrc/cuda/functors.cuh",
        "store_at(index + k * kBlockThreads);", "store_at(index);", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: no clamping where it is decided when compiling", "csrc/cuda/functors.cuh",
        "clamp_ == Clamp::Always || (clamp_ == Clamp::PerTask && clamped)",
        "clamp_ == Clamp::PerTask && clamped", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: no clamping where the task is asked", "csrc/cuda/functors.cuh",
        "clamp_ == Clamp::Always || (clamp_ == Clamp::PerTask && clamped)",
        "clamp_ == Clamp::Always", CUDA_LAYOUTS,
    ),
    Mutant(
        "CUDA: bfloat16 is cut off", "csrc/cuda/packed4.cuh",
        "return round_bf16<ScalarF32>(first) |", "return ScalarF32::bits(first) >> 16 |",
        CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: two float8 in the wrong order", "csrc/cuda/packed4.cuh",
        "round_small<ScalarF32, dtype>(first) | round_small<ScalarF32, dtype>(second) << 8;",
        "round_small<ScalarF32, dtype>(second) | round_small<ScalarF32, dtype>(first) << 8;",
        CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: a stride of the stream for one of memory", "csrc/cuda/tiling.h",
        "offsets.memory += at * dim.memory;", "offsets.memory += at * dim.logical;",
        CUDA_LAYOUTS,
    ),
    Mutant(
        "CUDA: a quotient off by one is not corrected", "csrc/cuda/fast_division.h",
        "} else if (d.remainder >= by.value) {", "} else if (d.remainder > by.value) {",
        CUDA_LAYOUTS,
    ),
    Mutant(
        "CUDA: the search for a tile's task goes one too far", "csrc/cuda/multi_task.cu",
        "if (first_tile[middle] <= tile)", "if (first_tile[middle] <= tile + 1)", CUDA_MANY,
    ),
    Mutant(
        "CUDA: thread blocks forget the odd tiles before theirs", "csrc/cuda/multi_task.cu",
        "(has_extra ? blockIdx.x : params.extra_tiles)", "(has_extra ? blockIdx.x : 0)", CUDA_MANY,
    ),
    Mutant(
        "CUDA: tasks by value start at the same tile", "csrc/cuda/executor.cu",
        "first_tile[n] + taken[n].tiles;",
        "taken[n].tiles;", CUDA_LAYOUTS,
    ),
    Mutant(
        "CUDA: a table is read from its beginning", "csrc/cuda/executor.cu",
        "reinterpret_cast<const TiledTask*>(device + behind)",
        "reinterpret_cast<const TiledTask*>(device)", CUDA_MANY,
    ),
    Mutant(
        "CUDA: a task takes its neighbour's key", "csrc/cuda/executor.cu",
        "      take(tiled[k]);",
        "      take(tiled[k]);\n      if (k > 0) tiled[k].key = tiled[k - 1].key;",
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
        "CUDA: a warp's tails beyond the first 32 are left out", "csrc/cuda/functors.cuh",
        "k < all; k += 32)", "k < all && k < 32; k += 32)", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: lanes put their tails over those of the lane before", "csrc/cuda/functors.cuh",
        "buffer.tails + (up_to - mine)", "buffer.tails + (up_to - up_to)", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: lanes behind the last vector write, too", "csrc/cuda/functors.cuh",
        "if (there) store16(", "store16(", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: pairs are clamped in the order of their patterns", "csrc/cuda/packed4.cuh",
        "bits & 0x8000u ? 0xffffu - bits : 0x8000u + bits;", "bits;", CUDA_CLAMPS,
    ),
    Mutant(
        "CUDA: zeros of tiny scales lose their signs", "csrc/cuda/tiling.h",
        "|| t.f32.lo != 0) return false;", "|| t.f32.lo <= 0) return false;", CUDA_CLAMPS,
    ),
    Mutant(
        "CUDA: the segments of a row go to all tiles but the first", "csrc/cuda/tiles.cuh",
        "tile.segments = number == 0 ? tile.segments : 0;",
        "tile.segments = number == 0 ? 0 : tile.segments;",
        CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: the last tile of a row goes on", "csrc/cuda/tiles.cuh",
        "to < tile.vectors.end ? to : tile.vectors.end;", "to;", CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: kernels ask for the shared memory of a launch", "csrc/cuda/orthogonal.cu",
        "= allow_shared_memory(kernel);",
        "= cudaFuncSetAttribute(\n"
        "        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);",
        (CUDA_HOST, "-k", "orthogonal"),
    ),
    Mutant(
        "CUDA: tiny quotients from estimates", "csrc/cuda/dynamic_functor.cuh",
        "ScalarF32AnyQuotient, ScalarF32>", "ScalarF32, ScalarF32>", CUDA_LAYOUTS,
    ),
]  # fmt: skip
