"""Defects planted in the sources: one textual change each, and the tests that have to notice.

`tests` is handed to pytest; it names what should catch the defect, not everything that would. A
change whose text is gone from the sources is an error of `make mutants`, and test_mutants.py says
so first: adapt it here.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORT_REFERENCE = ("tests/test_reference.py", "-k", "test_uniform or test_normal or mask or corner")
TRUNCATED = ("tests/test_reference.py", "-k", "test_trunc_normal or float64_narrow")
KNOWN = ("tests/test_known_answers.py",)
ACCURACY = ("tests/test_accuracy.py",)
ARGUMENTS = ("tests/test_arguments.py",)
LAYOUT = ("tests/test_promises_layout.py", "-k", "test_layout")
SHARDS = ("tests/test_promises_shards.py", "-k", "parts or block")
ENVIRONMENT = ("tests/test_promises_environment.py",)
THREADS = ("tests/test_promises_schedule.py", "-k", "more_than_one")
RADIUS = ("tests/test_distributions.py", "-k", "test_normal and radius")
TIES = ("tests/test_distribution_defects.py", "-k", "ties_go")
FAR = ("tests/test_reference.py", "-k", "far")
REFLECTIONS = ("tests/test_orthogonal.py", "-k", "product_of or signed_zeros")
CUDA_HOST = "tests/test_cuda_host.py"
CUDA_LENGTHS = (CUDA_HOST, "-k", "lengths")
CUDA_LAYOUTS = (CUDA_HOST, "-k", "layouts")
CUDA_MANY = (CUDA_HOST, "-k", "many")
CUDA_CLAMPS = (CUDA_HOST, "-k", "clamping")
CUDA_ROOTS = (CUDA_HOST, "-k", "square_root")


@dataclass(frozen=True)
class Mutant:
    """In `path`, replace `old`, which occurs once, by `new`."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def native(self) -> bool:
        """Whether the tests compile all they need themselves, so that no extension is built."""
        return self.tests[0] == CUDA_HOST


_CHECKS = """  check_fill(self, fill);
  std::vector<FillTask> tasks;
  append_tasks(tasks, self, fill, 0);
"""
_IF = "  if (!tasks.empty()) {\n"
_KEY = """    const Backend& backend = *backend_of(self.device());
    const uint64_t k = key.has_value() ? static_cast<uint64_t>(*key)
                                       : backend.reserve_key(fill.name, self.device(), generator);
"""
CHECKED_FIRST = f"{_CHECKS}{_IF}{_KEY}"
RESERVED_FIRST = f"{_KEY}{_CHECKS}{_IF}"

MUTANTS = [
    # ---- words
    Mutant("a multiplier of Philox", "csrc/core/philox.h", "0xCD9E8D57u", "0xCD9E8D59u", KNOWN),
    Mutant(
        "the key schedule of the fills", "csrc/core/philox.h",
        "keys.k1[round - 1] + kPhiloxW1;", "keys.k1[round - 1] + kPhiloxW0;", KNOWN,
    ),
    Mutant(
        "nine rounds", "csrc/cpu/words.inl",
        "for (int round = 3; round < kPhiloxRounds - packed; ++round) {",
        "for (int round = 4; round < kPhiloxRounds - packed; ++round) {", KNOWN,
    ),
    Mutant(
        "the counter's product steps by one block too few", "csrc/cpu/words.inl",
        "uint64_t{Lanes::kBlocks} * kPhiloxM0", "uint64_t{Lanes::kBlocks - 1} * kPhiloxM0",
        SHORT_REFERENCE,
    ),
    Mutant("LOW = VALUE", "csrc/core/philox.h", "  Low = 1,", "  Low = 0,", KNOWN),
    Mutant("MASK = VALUE", "csrc/core/philox.h", "  Mask = 2,", "  Mask = 0,", KNOWN),
    Mutant(
        "the low counter word does not carry", "csrc/cpu/fill_kernel.inl",
        "      made = made < 4 * blocks_left - skip ? made : 4 * blocks_left - skip;\n", "",
        FAR,
    ),
    Mutant(
        "the high counter word is forgotten after a carry", "csrc/cpu/fill_kernel.inl",
        "if (wanted == high) return;", "return;", FAR,
    ),
    Mutant(
        "keys of generators are keys of split", "csrc/torch/backend_cpu.cpp",
        "impl->random64(), Purpose::GeneratorCpu", "impl->random64(), Purpose::Split",
        ("tests/test_known_answers.py", "tests/test_keys.py"),
    ),
    Mutant(
        "names are folded in as numbers", "csrc/torch/bindings.cpp",
        "Purpose::FoldStr);", "Purpose::FoldInt);", ("tests/test_known_answers.py",),
    ),
    # ---- transforms
    Mutant(
        "a radius of 24 bits", "csrc/core/transforms.h",
        "signed_unit<L, -2>(w, low);",
        "signed_unit<L, -2>(L::template word_shl<8>(L::template word_shr<8>(w)), low);",
        RADIUS,
    ),
    Mutant(
        "an angle of 12 bits", "csrc/core/transforms.h",
        "cos_sin<L>(angle, angle_low, c, s);",
        "cos_sin<L>(L::template word_shl<20>(L::template word_shr<20>(angle)), angle_low, c, s);",
        RADIUS,
    ),
    Mutant(
        "one word for radius and angle", "csrc/cpu/fill_kernel.inl",
        "const auto w = At::template several<n>(words, k, 1)",
        "const auto w = At::template several<n>(words, k, 0)",
        RADIUS,
    ),
    Mutant(
        "a low word used twice", "csrc/cpu/fill_kernel.inl",
        "w_low = At::template several<n>(low, k, 1)", "w_low = At::template several<n>(low, k, 0)",
        ("tests/test_distribution_defects.py", "-k", "normal_cells"),
    ),
    Mutant(
        "the standard deviation off by 5e-4", "csrc/core/transforms.h",
        "return L::mul(L::sqrt(square), L::set(t.normal.std));",
        "return L::mul(L::sqrt(square), L::set(t.normal.std * 1.0005f));",
        ("tests/test_distributions.py", "-k", "test_normal and moments"),
    ),
    Mutant(
        "the middle of the radius' cell", "csrc/core/transforms.h",
        "L::set(factor * 0x1p-33f)", "L::set(0.0f)", ACCURACY,
    ),
    Mutant(
        "a coefficient of log", "csrc/core/coefficients.h", "-0.100822857", "-0.1004",
        ACCURACY,
    ),
    Mutant(
        "`up` swapped in the centre", "csrc/core/transforms.h",
        "L::select(at.up, L::set(t.central.h_b), L::set(t.central.h_a))",
        "L::select(at.up, L::set(t.central.h_a), L::set(t.central.h_b))", TRUNCATED,
    ),
    Mutant(
        "samples in the tail are put back one place off", "csrc/cpu/fill_kernel.inl",
        "early[detour.places[k + lane]] = z[lane];", "early[detour.places[k]] = z[lane];",
        TRUNCATED,
    ),
    Mutant(
        "tails of central intervals forgotten", "csrc/cpu/fill_kernel.inl",
        "found += L::count(is_tail);", "", TRUNCATED,
    ),
    Mutant(
        "`up` swapped in the tail", "csrc/core/transforms.h",
        "const auto v = L::select(up, n, rest);", "const auto v = L::select(up, rest, n);",
        TRUNCATED,
    ),
    Mutant(
        "low words not mirrored in the tail", "csrc/core/transforms.h",
        "tail_exponent<L>(t.tail.rho, t.tail.omega, L::word_xor(w, flip), L::word_xor(low, flip))",
        "tail_exponent<L>(t.tail.rho, t.tail.omega, L::word_xor(w, flip), low)", ACCURACY,
    ),
    Mutant(
        "wide intervals taken for narrow ones", "csrc/core/params.h",
        "h * reach <= 0.25", "h * reach <= 2.5", TRUNCATED,
    ),
    Mutant(
        "a unit that is not exact", "csrc/core/transforms.h",
        "return t.uniform.unit * 0x1p24f == t.uniform.scale;", "return true;",
        ("tests/test_reference.py", "-k", "corners"),
    ),
    # ---- rounding and bounds
    Mutant(
        "no clamping", "csrc/cpu/fill_kernel.inl",
        "if constexpr (clamped) {", "if constexpr (false) {", ARGUMENTS,
    ),
    Mutant(
        "normals not clamped", "csrc/core/params.h",
        "std::fabs(mean) + 10 * std > f.max", "std::fabs(mean) > f.max", ARGUMENTS,
    ),
    Mutant(
        "the upper bound instead of the value before it", "csrc/core/params.h",
        "next_down(top, f)", "top", ARGUMENTS,
    ),
    Mutant(
        "bfloat16 rounds half up", "csrc/core/rounding.h",
        "L::iadd(i, L::iadd(odd, L::iset(0x7fff)))",
        "L::iadd(i, L::iset(0x8000))", TIES,
    ),
    Mutant(
        "small types round half up", "csrc/core/rounding.h",
        "L::iadd(magnitude, L::iadd(odd, L::iset((1u << (drop - 1)) - 1)))",
        "L::iadd(magnitude, L::iset(1u << (drop - 1)))", TIES,
    ),
    # ---- lanes
    Mutant(
        "AVX2 stores lanes in the wrong order", "csrc/cpu/lanes_avx2.h",
        "_mm256_unpacklo_epi32(even, odd)", "_mm256_unpacklo_epi32(odd, even)", SHORT_REFERENCE,
    ),
    Mutant(
        "AVX2 makes blocks in the wrong order", "csrc/cpu/lanes_avx2.h",
        "_mm256_setr_epi64x(0, 2, 1, 3)", "_mm256_setr_epi64x(0, 1, 2, 3)", SHORT_REFERENCE,
    ),
    Mutant(
        "AVX2 does not fuse", "csrc/cpu/lanes_avx2.h",
        "return _mm256_fmadd_ps(a, b, c);", "return _mm256_add_ps(_mm256_mul_ps(a, b), c);",
        SHORT_REFERENCE,
    ),
    Mutant(
        "scalar code stores pairs in the wrong order", "csrc/cpu/lanes_scalar.h",
        "even | odd << 16", "odd | even << 16",
        ("tests/test_promises_capability.py", "-k", "every_capability"),
    ),
    Mutant(
        "AVX-512 stores bytes in the wrong order", "csrc/cpu/lanes_avx512.h",
        "_mm512_slli_epi32(odd, 8)", "_mm512_slli_epi32(odd, 16)",
        ("tests/test_native.py", "-k", "lanes_agree"),
    ),
    # ---- memory
    Mutant(
        "dimensions merged whatever their memory", "csrc/core/layout.h",
        "outer.memory == d.memory * d.size && outer.logical == d.logical * d.size",
        "outer.logical == d.logical * d.size", LAYOUT,
    ),
    Mutant(
        "dimensions merged whatever their logical strides", "csrc/core/layout.h",
        "outer.memory == d.memory * d.size && outer.logical == d.logical * d.size",
        "outer.memory == d.memory * d.size", SHARDS,
    ),
    Mutant(
        "shards start at the beginning", "csrc/torch/tasks.cpp",
        "if (!shard.offset.empty())\n      task.layout.first +=",
        "if (false)\n      task.layout.first +=", KNOWN,
    ),
    Mutant(
        "the last group of a run is written whole", "csrc/cpu/fill_kernel.inl",
        "      if (cut_tail && g == groups - 1) to = edge[1];\n", "",
        ("tests/test_reference.py", "-k", "short_length"),
    ),
    Mutant(
        "complex parts of the full variance", "csrc/torch/tasks.cpp",
        "args[1] /= std::sqrt(2.0);", "args[1] /= 1.0;",
        ("tests/test_distributions.py", "-k", "complex"),
    ),
    # ---- execution
    Mutant(
        "one thread", "csrc/cpu/executor.cpp",
        "pool.run(workers, work, &job);", "work(&job);",
        THREADS,
    ),
    Mutant(
        "tiles left out", "csrc/cpu/executor.cpp",
        "compare_exchange_weak(begin, end, ", "compare_exchange_weak(begin, end + 1, ",
        ("tests/test_reference.py", "-k", "long"),
    ),
    Mutant(
        "the caller's rounding mode in fills", "csrc/cpu/executor.cpp",
        "  const FpEnv env;\n  alignas(64)", "  alignas(64)",
        ENVIRONMENT,
    ),
    Mutant(
        "the caller's rounding mode in constants", "csrc/cpu/executor.cpp",
        "  const FpEnv env;\n  return make_transform_here", "  return make_transform_here",
        ENVIRONMENT,
    ),
    Mutant(
        "modes are not restored", "csrc/cpu/fp_env.h",
        "~FpEnv() { _mm_setcsr(saved_); }", "~FpEnv() { _mm_setcsr(0x1f80); }",
        ENVIRONMENT,
    ),
    Mutant(
        "overlapping tensors in any order", "csrc/torch/tasks.cpp",
        "if (spans[k].begin < spans[k - 1].end) return true;",
        "if (k > spans.size()) return true;",
        ("tests/test_promises_overlap.py", "-k", "later or many_times"),
    ),
    Mutant(
        "strides that meet far away are let through", "csrc/core/overlap.h",
        "return !nested && returns(0, 0, false);", "return false;",
        ("tests/test_self_overlap.py",),
    ),
    Mutant(
        "a forked child waits for threads that are not there", "csrc/torch/thread_pool.cpp",
        "forked ? run_on_own : run_on_torchs", "run_on_torchs", ("tests/test_fork.py",),
    ),
    # ---- operators
    Mutant(
        "lazy views are left to torch's fallback", "csrc/torch/registry.cpp",
        "TORCH_LIBRARY_IMPL(fastinit, Conjugate, m) {",
        "[[maybe_unused]] static void unused(torch::Library& m) {",
        ("tests/test_registry.py",),
    ),
    Mutant(
        "the version counter stands still", "csrc/torch/support.h",
        "if (!self.is_inference()) self.unsafeGetTensorImpl()->bump_version();",
        "if (self.is_inference()) self.unsafeGetTensorImpl()->bump_version();",
        ("tests/test_ops.py", "-k", "version"),
    ),
    Mutant(
        "a key reserved before the arguments are checked", "csrc/torch/fills.cpp",
        CHECKED_FIRST, RESERVED_FIRST,
        ("tests/test_ops.py", "-k", "rejected"),
    ),
    Mutant(
        "empty tensors draw", "csrc/torch/fills.cpp",
        "  if (!tasks.empty()) {\n    const Backend&", "  {\n    const Backend&",
        ("tests/test_semantics.py", "-k", "empty"),
    ),
    Mutant(
        "a negative standard deviation is let through", "csrc/torch/tasks.cpp",
        "TORCH_CHECK(std >= 0, ", "TORCH_CHECK(std >= -1e300, ", ARGUMENTS,
    ),
    Mutant(
        "a generator beside a key is ignored", "fastinit/key.py",
        "    if generator is not None:\n        raise ValueError",
        "    if False:\n        raise ValueError",
        ("tests/test_keys.py", "-k", "exclude"),
    ),
    Mutant(
        "keys above 2⁶³ wrap wrongly", "fastinit/key.py",
        "value - _WORDS if value >= _SIGN else value)", "value & (_SIGN - 1))",
        ("tests/test_keys.py", "-k", "schema or same_values"),
    ),
    # ---- orthogonal and sparse matrices
    Mutant(
        "reflections to the other side", "csrc/core/reflector.h",
        "L::sign_of_value(x) ? -1.0 : 1.0", "L::sign_of_value(x) ? 1.0 : -1.0", REFLECTIONS,
    ),
    Mutant(
        "columns of large matrices change their signs", "csrc/torch/reflections.cpp",
        "phase.mul_(-gain)", "phase.mul_(gain)", REFLECTIONS,
    ),
    Mutant(
        "the first elements' change is left out of the products", "csrc/core/reflector.h",
        "dot[t][s] += static_cast<double>(row[t]) * more;", "", REFLECTIONS,
    ),
    Mutant(
        "every matrix of a batch from the first one's draws", "csrc/cpu/orthogonal.cpp",
        "batch.first + static_cast<uint64_t>(number * size)", "batch.first",
        ("tests/test_orthogonal.py", "-k", "batch"),
    ),
    Mutant(
        "blocks of a batch from the first one's draws", "csrc/torch/orthogonal_groups.cpp",
        "full.size(1), full.size(2), piece.first, k, k});",
        "full.size(1), full.size(2), 0, k, k});",
        ("tests/test_orthogonal.py", "-k", "batch"),
    ),
    Mutant(
        "a missed window is taken for a hit", "csrc/cpu/sparse.cpp",
        "if (wanted < 0 || wanted > static_cast<int64_t>(list.size())) {", "if (wanted < 0) {",
        ("tests/test_structural.py", "-k", "far_off"),
    ),
    Mutant(
        "products in the precision the caller allows", "csrc/torch/full_precision.cpp",
        "if (users++ == 0) exclude();", "++users;",
        ("tests/test_orthogonal_calls.py", "-k", "meanwhile"),
    ),
    # ---- CUDA kernels, run on the host
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
        "CUDA: bfloat16 is cut off", "csrc/cuda/program.cuh",
        "return round_bf16<ScalarF32>(first) |", "return ScalarF32::bits(first) >> 16 |",
        CUDA_LENGTHS,
    ),
    Mutant(
        "CUDA: two float8 in the wrong order", "csrc/cuda/program.cuh",
        "round_small<ScalarF32, Format>(first) | round_small<ScalarF32, Format>(second) << 8;",
        "round_small<ScalarF32, Format>(second) | round_small<ScalarF32, Format>(first) << 8;",
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
        "CUDA: pairs are clamped in the order of their patterns", "csrc/cuda/program.cuh",
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
    # Last, for it compiles everything anew.
    Mutant(
        "no OpenMP for at::parallel_for", "setup.py",
        '"-ffp-contract=off", "-fopenmp",', '"-ffp-contract=off",',
        THREADS,
    ),
]  # fmt: skip
