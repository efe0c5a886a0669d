"""Defects for `make mutants` in what is shared out between processes: shards and their ranks.

As in defects.py: each breaks one promise, and names the tests that should catch it.
"""

from __future__ import annotations

from defects import SCHEDULE, SHARDS, Defect

SHARD = "tests/distributed/test_shard.py"
DTENSOR = "tests/distributed/test_dtensor.py"
LAYOUTS = "tests/distributed/test_layout.py"
ORTHOGONAL_PARTS = "tests/distributed/test_orthogonal_parts.py"
ORTHOGONAL_TOGETHER = "tests/distributed/test_orthogonal_together.py"
PROCESSES = "tests/distributed/test_processes.py"
REPORT = "tests/report/test_report_shards.py"

SHARD_DEFECTS = [
    Defect(
        "a key where something is held, not where there is something", SHARDS,
        "csrc/torch/shards.cpp", "fill_shard_",
        "on == On::Device && has_elements(full_size)", "on == On::Device && !found.empty()",
        (DTENSOR, "-k", "one_key"),
    ),
    Defect(
        "a key where something of a range is held", SHARDS, "fastinit/_distributed/fill.py",
        "drawn_on_all",
        "0 in part.size", "part.local.numel() == 0", (SHARD, "-k", "one_key"),
    ),
    Defect(
        "boxes that share an edge are taken for ones apart",
        "fault: overlapping tensors in one call",
        "csrc/host/boxes_apart.h", "BoxesApart::moved",
        "d >= a_[k] ||", "d >= a_[k] - 1 ||", ("tests/operators/test_fill_many.py", "-k", "boxes"),
    ),
    Defect(
        "boxes of one shard wait for each other", SCHEDULE, "csrc/torch/fills.cpp", "may_share",
        "x.strides() != y.strides()", "true", ("tests/operators/test_fill_many.py", "-k", "boxes"),
    ),
    Defect(
        "zeros counted in the rows that are held", SHARDS, "csrc/torch/sparse.cpp", "make_sparse",
        "const int64_t rows = full_size[0]", "const int64_t rows = self.size(0)",
        (SHARD, "-k", "sparse"),
    ),
    Defect(
        "zeros of the first rows, whichever are held", SHARDS, "csrc/cpu/sparse.cpp", "write_zeros",
        "panel.marks.data() + task.whole.first_row * panel.cols", "panel.marks.data()",
        (SHARD, "-k", "sparse"),
    ),
    Defect(
        "a shard's experts numbered from its own first", SHARDS,
        "csrc/torch/orthogonal_shard.cpp", "each_run",
        "number * full_size[0] + offset[0]", "number * full_size[0]", (SHARD, "-k", "experts"),
    ),
    Defect(
        "reflections without their new first elements", SHARDS,
        "csrc/torch/orthogonal_part.cpp", "OrthogonalParts::reflect",
        "s_.narrow(1, begin, count).addcmul_(above, (first - x1).unsqueeze(0));", "",
        (ORTHOGONAL_PARTS, "-k", "by_rows"),
    ),
    Defect(
        "a conjugate that nobody resolves below a mode", SHARDS,
        "csrc/torch/orthogonal_part.cpp", "OrthogonalParts::reflect",
        "at::conj_physical(x.tril(begin - 1)).t()", "x.tril(begin - 1).mH()",
        (ORTHOGONAL_PARTS, "-k", "mode"),
    ),
    Defect(
        "all ranks sum the first one's rows", SHARDS,
        "fastinit/_distributed/orthogonal.py", "fill_together",
        "(sharers.number, sharers.number + 1)", "(0, 1)",
        (ORTHOGONAL_TOGETHER, "-k", "any_layout"),
    ),
    Defect(
        "ranks that differ are not noticed", SHARDS,
        "fastinit/_distributed/orthogonal.py", "_check_alike",
        "squares * sharers.world != total * total", "False",
        (ORTHOGONAL_TOGETHER, "-k", "differ"),
    ),
    Defect(
        "full parameters of FSDP2 are written, and lost", SHARDS,
        "fastinit/_models/fully_sharded.py", "reshard", "owner.reshard()", "pass",
        (PROCESSES, "-k", "trained"),
    ),
    Defect(
        "boxes at offset 0", SHARDS, "fastinit/_distributed/layout.py", "_boxes",
        "(at, n, first) for", "(at, n, at) for", (DTENSOR, "-k", "every_initialiser"),
    ),
    Defect(
        "meshes always divide from left to right", SHARDS,
        "fastinit/_distributed/layout.py", "boxes_of",
        "(True, False) if decode", "(False,) if decode", (LAYOUTS, "-k", "fsdp"),
    ),
    Defect(
        "an order given beside the placements is ignored", SHARDS,
        "fastinit/_distributed/layout.py", "_runs",
        "if order is not None", "if order is None and splits is None", (LAYOUTS, "-k", "generated"),
    ),
    Defect(
        "what nobody can decode is guessed", SHARDS, "fastinit/_distributed/layout.py", "_runs",
        "len(dims) > 1", "len(dims) > 9", (LAYOUTS, "-k", "leave_open"),
    ),
    Defect(
        "fans of the shard", SHARDS, "fastinit/_distributed/part.py", "TensorShard.__new__",
        "wrapper(cls, part.size,", "wrapper(cls, tuple(local.shape),", (SHARD, "-k", "fans"),
    ),
    Defect(
        "partial sums are filled", SHARDS, "fastinit/_distributed/part.py", "splits_of",
        "placement.is_partial()", "False", (LAYOUTS, "-k", "partial"),
    ),
    Defect(
        "a patch leaves shards to torch", SHARDS, "fastinit/_patch/scope.py", "is_ours",
        "or is_sharded(tensor)", "", (DTENSOR, "-k", "test_patch"),
    ),
    Defect(
        "a patch draws shards of DTensors as tensors of their own", SHARDS,
        "fastinit/_patch/functions.py", "_wanted",
        "(*dtensors.factories(), *sharding.functions())", "sharding.functions()",
        (DTENSOR, "-k", "test_patch"),
    ),
    Defect(
        "ranks compare all but keys", SHARDS, "fastinit/_models/agreement.py",
        "check_ranks._note",
        "digest(key)", "''", (PROCESSES, "-k", "seed"),
    ),
    Defect(
        "experts of one name are taken for replicas", SHARDS, "fastinit/_models/noted.py",
        "collision",
        "named.mesh or rank for rank", "named.mesh for rank", (PROCESSES, "-k", "experts"),
    ),
    Defect(
        "ranks outside a group are compared, too", SHARDS, "fastinit/_models/agreement.py",
        "check_ranks._compare_named",
        "store.rank in ranks", "True", (PROCESSES, "-k", "distinct_does_not_meet"),
    ),
    Defect(
        "weights are distinct on ranks beyond their group", SHARDS, "fastinit/_models/noted.py",
        "collision",
        "for r in ranks for named", "for r in range(len(drawn)) for named",
        (PROCESSES, "-k", "replicas_of_experts"),
    ),
    Defect(
        "distinct weights that are not there pass", SHARDS, "fastinit/_models/noted.py",
        "collision",
        "if not found", "if False", (PROCESSES, "-k", "distinct_does_not_meet"),
    ),
    Defect(
        "distinct weights that were not drawn pass", SHARDS, "fastinit/_models/agreement.py",
        "check_ranks.__exit__",
        "self._parts is not None", "self._named",
        (PROCESSES, "-k", "distinct_does_not_meet"),
    ),
    Defect(
        "what is received counts for nothing", SHARDS, "fastinit/_fills/operators.py", "receives",
        '"c10d"', '"c10e"',
        (PROCESSES, "-k", "gives_counts"),
    ),
    Defect(
        "a rank runs initialisers again alone", SHARDS, "fastinit/_models/again.py", "agreed",
        'any(store.collect("again", largest))', "again",
        (PROCESSES, "-k", "a_rank_that_looks"),
    ),
    Defect(
        "shards that share memory are apart", SHARDS, "fastinit/_models/tied_shards.py",
        "Tied.get",
        "known.tensor.shape == sharded.shape", "known.tensor.shape != sharded.shape",
        ("tests/distributed/test_tied_shards.py",),
    ),
    Defect(
        "a shard is divided by what waits alone", SHARDS, "fastinit/_models/sharded.py",
        "_has_more",
        "return storage.known", "return False and storage.known",
        ("tests/distributed/test_sharded_factories_values.py",),
    ),
    Defect(
        "values of other DTensors are taken for those of blank ones", SHARDS,
        "fastinit/_recording/sharding.py", "Sharding.dispatch",
        "new = id(value) in to or", "new = kind.mutable or",
        ("tests/distributed/test_sharded_factories_refused.py", "-k", "other_dtensors"),
    ),
    Defect(
        "draws are told of where they lie in a parameter alone", SHARDS,
        "fastinit/_models/session.py", "_drawn",
        "[*filter(None, [settled.goals.get(op.draw)])]", "[]",
        ("tests/distributed/test_agreement.py", "-k", "values_come_from"),
    ),
    Defect(
        "ranks that draw the same are never too much alike", SHARDS,
        "fastinit/_models/agreement.py", "check_ranks._compare_named",
        "len(different) == 1 and not self._distinct", "len(different) == 1",
        (PROCESSES, "-k", "experts_of_one_name"),
    ),
    Defect(
        "one key for draws of two functions", SHARDS, "fastinit/_models/noted.py", "_ALIKE",
        '"function", "shape"', '"shape"', ("tests/distributed/test_agreement.py",),
    ),
    Defect(
        "generators move by what a rank holds", SHARDS, "fastinit/_distributed/fill.py",
        "drawn_on_all",
        "0 in part.size", "part.local.numel() == 0", ("tests/distributed/test_generators.py",),
    ),
    Defect(
        "a shard is measured as if it were the whole", SHARDS, "fastinit/_report/flags.py",
        "row_of",
        "summary.n //", "named.tensor.numel() * (2 if tensor.is_complex() else 1) //",
        (REPORT, "-k", "no_wrong_draw"),
    ),
    Defect(
        "a report counts replicas as more elements", SHARDS, "fastinit/_report/gather.py",
        "_copy_of",
        "place if placement.is_replicate() else 0", "0", (REPORT, "-k", "hsdp"),
    ),
]  # fmt: skip
