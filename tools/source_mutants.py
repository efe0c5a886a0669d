"""Defects planted in the sources: one textual change each, and the tests that have to notice.

`tests` is handed to pytest; it names what should catch the defect, not everything that would. A
change whose text is gone from the sources is an error of `make mutants`, and test_mutants.py says
so first: adapt it here.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORT_REFERENCE = (
    "tests/core/test_reference.py",
    "-k",
    "test_uniform or test_normal or mask or corner",
)
# Whichever the processor would choose.
CAPABILITIES = ("tests/core/test_promises_capability.py", "-k", "every_capability")
TRUNCATED = ("tests/core/test_reference.py", "-k", "test_trunc_normal or float64_narrow")
KNOWN = ("tests/core/test_known_answers.py",)
ACCURACY = ("tests/core/test_accuracy.py",)
ARGUMENTS = ("tests/initializers/test_arguments.py",)
LAYOUT = ("tests/core/test_promises_layout.py", "-k", "test_layout")
SHARDS = ("tests/core/test_promises_shards.py", "-k", "parts or block")
ENVIRONMENT = ("tests/core/test_promises_environment.py",)
THREADS = ("tests/core/test_promises_schedule.py", "-k", "more_than_one")
RADIUS = ("tests/core/test_distributions.py", "-k", "test_normal and radius")
TIES = ("tests/core/test_distribution_defects.py", "-k", "ties_go")
FAR = ("tests/core/test_reference.py", "-k", "far")
REFLECTIONS = ("tests/initializers/test_orthogonal.py", "-k", "product_of or signed_zeros")
CUDA_HOST = "tests/cuda/test_cuda_host.py"


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


_CHECKS = """  check_fill(name, self, what);
  if (on == On::Device) {
"""
_RESERVED = """  if (on == On::Device && !key.has_value())
    backend_of(self.device())->reserve_key(name, self.device(), generator);
"""

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
        ("tests/core/test_known_answers.py", "tests/core/test_keys.py"),
    ),
    Mutant(
        "names are folded in as numbers", "csrc/torch/bindings.cpp",
        "Purpose::FoldStr);", "Purpose::FoldInt);", ("tests/core/test_known_answers.py",),
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
        "const auto w = Types::template several<n>(words, k, 1)",
        "const auto w = Types::template several<n>(words, k, 0)",
        RADIUS,
    ),
    Mutant(
        "a low word used twice", "csrc/cpu/fill_kernel.inl",
        "w_low = Types::template several<n>(low, k, 1)",
        "w_low = Types::template several<n>(low, k, 0)",
        ("tests/core/test_distribution_defects.py", "-k", "normal_cells"),
    ),
    Mutant(
        "the standard deviation off by 5e-4", "csrc/core/transforms.h",
        "return L::mul(L::sqrt(square), L::set(t.normal.std));",
        "return L::mul(L::sqrt(square), L::set(t.normal.std * 1.0005f));",
        ("tests/core/test_distributions.py", "-k", "test_normal and moments"),
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
        "early[tails.places[k + lane]] = z[lane];", "early[tails.places[k]] = z[lane];",
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
        "wide intervals taken for narrow ones", "csrc/host/params.h",
        "h * reach <= 0.25", "h * reach <= 2.5", TRUNCATED,
    ),
    Mutant(
        "a unit that is not exact", "csrc/core/transforms.h",
        "return t.uniform.unit * 0x1p24f == t.uniform.scale;", "return true;",
        ("tests/core/test_reference.py", "-k", "corners"),
    ),
    # ---- rounding and bounds
    Mutant(
        "no clamping", "csrc/cpu/fill_kernel.inl",
        "if constexpr (clamped) {", "if constexpr (false) {", ARGUMENTS,
    ),
    Mutant(
        "normals not clamped", "csrc/host/params.h",
        "std::fabs(mean) + 10 * std > f.max", "std::fabs(mean) > f.max", ARGUMENTS,
    ),
    Mutant(
        "the upper bound instead of the value before it", "csrc/host/params.h",
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
        "_mm256_unpacklo_epi32(even, odd)", "_mm256_unpacklo_epi32(odd, even)", CAPABILITIES,
    ),
    Mutant(
        "AVX2 makes blocks in the wrong order", "csrc/cpu/lanes_avx2.h",
        "_mm256_setr_epi64x(0, 2, 1, 3)", "_mm256_setr_epi64x(0, 1, 2, 3)", CAPABILITIES,
    ),
    Mutant(
        "AVX2 does not fuse", "csrc/cpu/lanes_avx2.h",
        "return _mm256_fmadd_ps(a, b, c);", "return _mm256_add_ps(_mm256_mul_ps(a, b), c);",
        CAPABILITIES,
    ),
    Mutant(
        "scalar code stores pairs in the wrong order", "csrc/cpu/lanes_scalar.h",
        "even | odd << 16", "odd | even << 16",
        CAPABILITIES,
    ),
    Mutant(
        "AVX-512 stores bytes in the wrong order", "csrc/cpu/lanes_avx512.h",
        "_mm512_slli_epi32(odd, 8)", "_mm512_slli_epi32(odd, 16)",
        ("tests/core/test_native.py", "-k", "lanes_agree"),
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
        ("tests/core/test_reference.py", "-k", "short_length"),
    ),
    Mutant(
        "complex parts of the full variance", "csrc/torch/tasks.cpp",
        "args[row.shared_scale] /= std::sqrt(2.0);", "args[row.shared_scale] /= 1.0;",
        ("tests/core/test_distributions.py", "-k", "complex"),
    ),
    # ---- execution
    Mutant(
        "one thread", "csrc/cpu/parallel.h",
        "pool.run(workers, work, &shared);", "work(&shared);",
        THREADS,
    ),
    Mutant(
        "tiles left out", "csrc/cpu/parallel.h",
        "compare_exchange_weak(begin, end, ", "compare_exchange_weak(begin, end + 1, ",
        ("tests/core/test_reference.py", "-k", "long"),
    ),
    Mutant(
        "the caller's rounding mode in fills", "csrc/cpu/parallel.h",
        "    const host::FpEnv env;\n", "",
        ENVIRONMENT,
    ),
    Mutant(
        "the caller's rounding mode in constants", "csrc/host/prepare_transform.cpp",
        "  const FpEnv env;\n  return make_transform_here", "  return make_transform_here",
        ENVIRONMENT,
    ),
    Mutant(
        "modes are not restored", "csrc/host/fp_env.h",
        "~FpEnv() { _mm_setcsr(saved_); }", "~FpEnv() { _mm_setcsr(0x1f80); }",
        ENVIRONMENT,
    ),
    Mutant(
        "overlapping tensors in any order", "csrc/torch/tasks.cpp",
        "if (spans[k].begin < spans[k - 1].end) return true;",
        "if (k > spans.size()) return true;",
        ("tests/core/test_promises_overlap.py", "-k", "later or many_times"),
    ),
    Mutant(
        "strides that meet far away are let through", "csrc/host/self_overlap.h",
        "return !nested && returns(0, 0, false);", "return false;",
        ("tests/core/test_self_overlap.py",),
    ),
    Mutant(
        "a forked child waits for threads that are not there", "csrc/torch/thread_pool.cpp",
        "forked ? run_on_own : run_on_torchs", "run_on_torchs", ("tests/operators/test_fork.py",),
    ),
    # ---- operators
    Mutant(
        "lazy views are left to torch's fallback", "csrc/torch/lazy_views.cpp",
        "if (op.device != nullptr)", "if (false)",
        ("tests/operators/test_registry.py",),
    ),
    Mutant(
        "the version counter stands still", "csrc/torch/fills.h",
        "if (!self.is_inference()) self.unsafeGetTensorImpl()->bump_version();",
        "if (self.is_inference()) self.unsafeGetTensorImpl()->bump_version();",
        ("tests/operators/test_ops.py", "-k", "version"),
    ),
    Mutant(
        "a key reserved before the arguments are checked", "csrc/torch/fills.cpp",
        _CHECKS, _RESERVED + _CHECKS,
        ("tests/operators/test_ops.py", "-k", "rejected"),
    ),
    Mutant(
        "empty tensors draw", "csrc/torch/fills.cpp",
        "if (!tasks.empty()) {\n      const Backend&", "{\n      const Backend&",
        ("tests/initializers/test_semantics.py", "-k", "empty"),
    ),
    Mutant(
        "a negative standard deviation is let through", "csrc/host/params.h",
        "if (!(std >= 0)) return", "if (!(std >= -1e300)) return", ARGUMENTS,
    ),
    Mutant(
        "a generator beside a key is ignored", "fastinit/key.py",
        "    if generator is not None:\n        raise ValueError",
        "    if False:\n        raise ValueError",
        ("tests/core/test_keys.py", "-k", "exclude"),
    ),
    Mutant(
        "keys above 2⁶³ wrap wrongly", "fastinit/key.py",
        "value - _WORDS if value >= _SIGN else value)", "value & (_SIGN - 1))",
        ("tests/core/test_keys.py", "-k", "schema or same_values"),
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
        ("tests/initializers/test_orthogonal.py", "-k", "batch"),
    ),
    Mutant(
        "blocks of a batch from the first one's draws", "csrc/torch/orthogonal_groups.cpp",
        "offsets.push_back({piece.first, k, k});", "offsets.push_back({0, k, k});",
        ("tests/initializers/test_orthogonal.py", "-k", "batch"),
    ),
    Mutant(
        "a missed window is taken for a hit", "csrc/cpu/sparse.cpp",
        "if (wanted < 0 || wanted > static_cast<int64_t>(list.size())) {", "if (wanted < 0) {",
        ("tests/initializers/test_structured.py", "-k", "far_off"),
    ),
    Mutant(
        "products in the precision the caller allows", "csrc/torch/full_precision.cpp",
        "if (users++ == 0) exclude();", "++users;",
        ("tests/initializers/test_orthogonal_calls.py", "-k", "meanwhile"),
    ),
    # Last, for it compiles everything anew.
    Mutant(
        "no OpenMP for at::parallel_for", "setup.py",
        '"-ffp-contract=off", "-fopenmp",', '"-ffp-contract=off",',
        THREADS,
    ),
]  # fmt: skip
