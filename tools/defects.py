"""Defects for `make mutants`: each breaks one promise, or is a fault that was found in use.

A defect names a file, a symbol in it, tokens inside that symbol (planting.py) and what to put
there. `guards` is the promise that it breaks, P1 to P7 as in the tests, or the fault. `tests` is
handed to pytest: what should catch the defect, not everything that would. Ordinary slips in Python
are the mutation tool's business (`make mutation`); spoilt samples are sample_defects.py's, and
defects of what is shared out between processes shard_defects.py's.
"""

from __future__ import annotations

from dataclasses import dataclass

KNOWN = ("tests/core/test_known_answers.py",)
REFERENCE = "tests/core/test_reference.py"
ACCURACY = ("tests/core/test_accuracy.py", "-k", "test_normal_at_seams")
RADIUS = ("tests/core/test_distributions.py", "-k", "test_normal and radius")
# Forces each capability: the processor's own choice may not be the one with the defect.
CAPABILITIES = ("tests/core/test_promises_capability.py", "-k", "every_capability")
PROGRAMS = ("tests/recording/test_batch_programs.py", "-k", "eager_result")
INITIALIZE = "tests/models/test_initialize.py"
CUDA_HOST = "tests/cuda/test_cuda_host.py"
NATIVE = "tests/core/test_native.py"
NUMBERS = "tests/patch/test_patch_numbers.py"

DEVICE = "P1: one stream on every device"
SCHEDULE = "P2: any schedule"
LAYOUT = "P3: any layout and shard"
SHARDS = "P3: every rank its part of the whole"
DTYPE = "P4: types round the same value"
BOUNDS = "P5: bounds"
STREAM = "P6: the stream is specified"
KEYS = "P6: keys and names"
QUALITY = "P7: quality"


@dataclass(frozen=True)
class Defect:
    """In `symbol` of `path`, `old`, which is there once, becomes `new`."""

    name: str
    guards: str
    path: str
    symbol: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def compiled(self) -> bool:
        """Whether the extension has the defect only after it is compiled again.

        The drivers of some tests are compiled from csrc by the tests themselves.
        """
        return self.path.endswith((".h", ".inl", ".cpp")) and not self.has_driver

    @property
    def has_driver(self) -> bool:
        return self.tests[0] in (CUDA_HOST, NATIVE)


DEFECTS = [
    # ---- core
    Defect(
        "LOW = VALUE", STREAM, "csrc/core/philox.h", "Purpose", "Low = 1", "Low = 0", KNOWN
    ),
    Defect(
        "a radius of 24 bits", QUALITY, "csrc/core/transforms.h", "normal_radius",
        "signed_unit<L, -2>(w, low)",
        "signed_unit<L, -2>(L::template word_shl<8>(L::template word_shr<8>(w)), low)", RADIUS,
    ),
    Defect(
        "the edge of the radius' cell, not its middle", QUALITY,
        "csrc/core/transforms.h", "signed_unit",
        "L::set(factor * 0x1p-33f)", "L::set(0.0f)", ACCURACY,
    ),
    Defect(
        "bfloat16 rounds half up", DTYPE, "csrc/core/rounding.h", "round_bf16_high",
        "L::iadd(odd, L::iset(0x7fff))", "L::iset(0x8000)",
        ("tests/core/test_distribution_defects.py", "-k", "ties_go"),
    ),
    Defect(
        "dimensions merged whatever their memory", LAYOUT, "csrc/core/layout.h", "coalesce",
        "outer.memory == d.memory * d.size &&", "",
        ("tests/core/test_promises_layout.py", "-k", "test_layout"),
    ),
    # ---- host
    Defect(
        "uniform returns its upper bound", BOUNDS, "csrc/host/params.h", "make_uniform",
        "next_down(top, f)", "top",
        ("tests/initializers/test_arguments.py", "-k", "short_dtypes"),
    ),
    Defect(
        "strides that meet far away are let through", "fault: self-overlap",
        "csrc/host/self_overlap.h", "OverlapSearch::found",
        "return !nested && returns(0, 0, false)", "return false",
        ("tests/core/test_self_overlap.py",),
    ),
    # ---- CPU
    Defect(
        "nine rounds", STREAM, "csrc/cpu/words.inl", "make_words",
        "int round = 3", "int round = 4", KNOWN,
    ),
    Defect(
        "the high counter word is forgotten after a carry", STREAM,
        "csrc/cpu/fill_kernel.inl", "Writer::use_high",
        "if (wanted == high) return", "return", (REFERENCE, "-k", "far"),
    ),
    Defect(
        "float64: a low word used twice", DTYPE, "csrc/cpu/fill_kernel.inl", "sample_pairs",
        "several<n>(low, k, 1)", "several<n>(low, k, 0)",
        ("tests/core/test_distribution_defects.py", "-k", "normal_cells"),
    ),
    Defect(
        "scalar code stores pairs in the wrong order", DEVICE,
        "csrc/cpu/lanes_scalar.h", "Lanes::store16",
        "even | odd << 16", "odd | even << 16", CAPABILITIES,
    ),
    Defect(
        "AVX2 does not fuse", DEVICE, "csrc/cpu/lanes_avx2.h", "F32::fma",
        "_mm256_fmadd_ps(a, b, c)", "_mm256_add_ps(_mm256_mul_ps(a, b), c)", CAPABILITIES,
    ),
    Defect(
        "AVX-512 stores bytes in the wrong order", DEVICE,
        "csrc/cpu/lanes_avx512.h", "Lanes::store8",
        "_mm512_slli_epi32(odd, 8)", "_mm512_slli_epi32(odd, 16)",
        (NATIVE, "-k", "lanes_agree"),
    ),
    Defect(
        "threads fill in the rounding mode they happen to have", DEVICE,
        "csrc/cpu/parallel.h", "parallel_for",
        "const host::FpEnv env;", "",
        ("tests/core/test_promises_environment.py", "-k", "on_pool_threads"),
    ),
    Defect(
        "tiles left out", SCHEDULE, "csrc/cpu/parallel.h", "Shares::take",
        "compare_exchange_weak(begin, end,", "compare_exchange_weak(begin, end + 1,",
        (REFERENCE, "-k", "long"),
    ),
    Defect(
        "every matrix of a batch from the first one's draws", QUALITY,
        "csrc/cpu/orthogonal.cpp", "Worker::make",
        "batch.first + static_cast<uint64_t>(number * size)", "batch.first",
        ("tests/initializers/test_orthogonal.py", "-k", "batch"),
    ),
    Defect(
        "a missed window is taken for a hit", "fault: sparse rows, missed window",
        "csrc/cpu/sparse.cpp", "settle",
        "|| wanted > static_cast<int64_t>(list.size())", "",
        ("tests/initializers/test_structured.py", "-k", "far_off"),
    ),
    # ---- CUDA, on the host
    Defect(
        "CUDA: bfloat16 is cut off", DEVICE, "csrc/cuda/packed4.cuh", "pack16",
        "round_bf16<ScalarF32>(first)", "ScalarF32::bits(first) >> 16",
        (CUDA_HOST, "-k", "lengths"),
    ),
    Defect(
        "CUDA: a counter's high word is lost", DEVICE,
        "csrc/cuda/functors.cuh", "RandomFunctor::operator()",
        "high_of(counter)", "high_of(0)", (CUDA_HOST, "-k", "lengths"),
    ),
    Defect(
        "CUDA: square roots without their last step", DEVICE,
        "csrc/core/from_estimate.h", "sqrt_from_estimate",
        "L::fma(L::negative_fma(g1, g1, x), h1, g1)", "g1", (CUDA_HOST, "-k", "square_root"),
    ),
    Defect(
        "CUDA: the search for a tile's task goes one too far", SCHEDULE,
        "csrc/cuda/multi_task.cu", "fill_multi_task",
        "first_tile[middle] <= tile", "first_tile[middle] <= tile + 1", (CUDA_HOST, "-k", "many"),
    ),
    Defect(
        "CUDA: a stride of the stream for one of memory", LAYOUT,
        "csrc/cuda/tiling.h", "outer_offsets",
        "at * dim.memory", "at * dim.logical", (CUDA_HOST, "-k", "layouts"),
    ),
    # ---- torch
    Defect(
        "shards start at the beginning", LAYOUT, "csrc/torch/tasks.cpp", "append_tasks",
        "!shard.offset.empty()", "false", KNOWN,
    ),
    Defect(
        "names are folded in as numbers", KEYS, "csrc/torch/bindings.cpp", "purpose_of",
        "Purpose::FoldStr", "Purpose::FoldInt", KNOWN,
    ),
    Defect(
        "overlapping tensors in any order", "fault: overlapping tensors in one call",
        "csrc/torch/tasks.cpp", "any_overlap",
        "spans[k].begin < spans[k - 1].end", "k > spans.size()",
        ("tests/core/test_promises_overlap.py", "-k", "later or many_times"),
    ),
    Defect(
        "a forked child waits for threads that are not there", "fault: fork",
        "csrc/torch/thread_pool.cpp", "torch_pool",
        "forked ? run_on_own : run_on_torchs", "run_on_torchs", ("tests/operators/test_fork.py",),
    ),
    Defect(
        "lazy views are left to torch's fallback", "fault: lazy views, dispatch tables",
        "csrc/torch/lazy_views.cpp", "implement_on_lazy_views",
        "op.device != nullptr", "false", ("tests/operators/test_registry.py",),
    ),
    Defect(
        "a key reserved before the arguments are checked", "errors leave the generator as it was",
        "csrc/torch/fills.cpp", "ops::fill",
        "check_fill(name, self, what);",
        "if (on == On::Device && !key.has_value())\n"
        "    backend_of(self.device())->reserve_key(name, self.device(), generator);\n"
        "  check_fill(name, self, what);",
        ("tests/operators/test_ops.py", "-k", "rejected"),
    ),
    # ---- Python
    Defect(
        "a patch numbers draws by name for all that there were", KEYS,
        "fastinit/_recording/naming.py", "Live.next",
        "min([self._least, *self._under(ref)])", "len(self._regions)",
        (NUMBERS, "-k", "overwritten"),
    ),
    Defect(
        "a patch knows parameters of before by their names", KEYS,
        "fastinit/_models/places.py", "held_at",
        "extension.storage_address(memory) == address", "True",
        ("tests/patch/test_patch_changes.py", "-k", "replaced_untold"),
    ),
    Defect(
        "layers of one kind, whatever rule they are reset by", "reports say what was done",
        "fastinit/_models/repeats.py", "_kind_of",
        "recorder.thread.label", "None", ("tests/models/test_repeats.py", "-k", "noted_as"),
    ),
    Defect(
        "keys above 2⁶³ wrap wrongly", KEYS, "fastinit/key.py", "signed",
        "word - _WORDS if word >= _SIGN else word", "word & (_SIGN - 1)",
        ("tests/core/test_keys.py", "-k", "schema or same_values"),
    ),
    Defect(
        "wrappers change names", KEYS, "fastinit/_models/names.py", "below",
        "path if dropped else _join(path, segment)", "_join(path, segment)",
        (INITIALIZE, "-k", "wrappers"),
    ),
    Defect(
        "all draws into a parameter under one key", KEYS,
        "fastinit/_recording/naming.py", "Keys.next",
        "count + 1", "count", (INITIALIZE, "-k", "nth_draw"),
    ),
    Defect(
        "the last place of a tied parameter decides", "fault: tied parameters",
        "fastinit/_models/module_methods.py", "run",
        "ties.part()", "pass", ("tests/models/test_models.py", "-k", "gemma2"),
    ),
    Defect(
        "garbage counts as written", "fault: parameters that nothing wrote",
        "fastinit/_recording/graph.py", "Storage.has_values",
        "self.written.covers_region(region)", "True",
        ("tests/models/test_materialize.py", "-k", "nobody_wrote"),
    ),
    Defect(
        "what outlives a run is forgotten", "fault: tables in caches",
        "fastinit/_recording/values.py", "Values.restore",
        "s.pending and not s.outside and s.is_alive", "False",
        ("tests/models/test_outlives.py",),
    ),
    Defect(
        "what outlives a run has keys that were guessed", KEYS,
        "fastinit/_recording/left.py", "Left._compute_left",
        "keys.get(op.draw) or", "",
        ("tests/models/test_outlives.py",),
    ),
    Defect(
        "what is hung on a stand-in is thrown away", "fault: hooks of tied parameters",
        "fastinit/_models/marks.py", "Marks.hand_over",
        "if stand_in._backward_hooks:", "if False:",
        ("tests/models/test_marks.py",),
    ),
    Defect(
        "arrays stay as a run has left them", "fault: NumPy's arrays in modules",
        "fastinit/_models/held_state.py", "putting_back",
        "return _putting_array_back(value)", "return None",
        ("tests/models/test_held_arrays.py",),
    ),
    Defect(
        "a patch asks the owner of a parameter alone", KEYS,
        "fastinit/_models/named_memory.py", "NamedMemory._is_there",
        "entry_in(parent._modules, known[2]) is not module", "False",
        (NUMBERS, "-k", "moves_inside"),
    ),
    Defect(
        "a patch sees no ties that are made inside", KEYS,
        "fastinit/_models/named_memory.py", "NamedMemory.note",
        "self._places.tell(module, name, value)", "pass",
        (NUMBERS, "-k", "made_inside or moves_inside"),
    ),
    Defect(
        "a patch takes the first place that it was told of", KEYS,
        "fastinit/_models/named_memory.py", "NamedMemory._follow",
        "self._see_new(places)", "places.new.clear()",
        ("tests/patch/test_patch_changes.py", "-k", "came_untold"),
    ),
    Defect(
        "what has gone from a place untold is looked for elsewhere alone", KEYS,
        "fastinit/_models/places.py", "Places._only",
        "if found is not None or not is_there((owner, name)):\n                raise UntoldError",
        "if not is_there((owner, name)):\n                continue",
        ("tests/patch/test_patch_changes.py", "-k", "each_time"),
    ),
    Defect(
        "a batch that never flushes before an operator", "pending fills are not seen as memory",
        "fastinit/_recording/batch.py", "_DispatchMode.__torch_dispatch__",
        "self._queue.open(touched)", "pass", PROGRAMS,
    ),
    Defect(
        "memory that waits is not guarded", "fault: ways around the dispatcher to pending memory",
        "fastinit/_recording/memory.py", "Memory.close",
        "self.guard(storage)", "pass",
        ("tests/recording/test_batch.py", "-k", "unseen_ways"),
    ),
]  # fmt: skip
