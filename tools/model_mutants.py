"""Defects planted in the model level (see source_mutants.py)."""

from __future__ import annotations

from source_mutants import Mutant

BATCH = ("tests/fills/test_batch.py",)
PROGRAMS = ("tests/fills/test_batch_programs.py", "-k", "eager_result")
INITIALIZE = ("tests/models/test_initialize.py",)
RULES = ("tests/models/test_rules.py",)
MATERIALIZE = ("tests/models/test_materialize.py",)
RECORDING = ("tests/recording/test_recording.py",)
MODELS = ("tests/models/test_models.py", "-k", "gpt2 or gemma2 or rwkv or MultiheadAttention")
DEFERRED = ("tests/models/test_lazy.py",)
REPORT = ("tests/report/test_report.py",)
IMPORT = ("tests/project/test_import.py",)

MODEL_MUTANTS = [
    # ---- import
    Mutant(
        "importing loads torch's compiler",
        "fastinit/_untraced.py",
        'if not hasattr(sys.modules.get("torch._dynamo"), "disable"):',
        "if False:",
        IMPORT,
    ),
    Mutant(
        "a draw of a key is traced",
        "fastinit/_untraced.py",
        "disabled = torch.compiler.disable(function)",
        "disabled = function",
        IMPORT,
    ),
    Mutant(
        "a binary of another torch is loaded",
        "fastinit/_compiled.py",
        'if record["torch"] != _release(torch.__version__):',
        "if False:",
        IMPORT,
    ),
    # ---- batch
    Mutant(
        "a batch that never flushes before an operator",
        "fastinit/_fills/batch.py",
        "                if touched:\n                    self._queue.open(touched)\n",
        "                pass\n",
        PROGRAMS,
    ),
    Mutant(
        "a batch that does not see numpy()",
        "fastinit/_fills/batch.py",
        "if func in ESCAPES or func is torch.Tensor.__deepcopy__:",
        "if False:",
        PROGRAMS,
    ),
    Mutant(
        "any later fill drops an earlier one",
        "fastinit/_fills/batch.py",
        "if not region.covers(other[0])]",
        "if not region.meets(other[0])]",
        PROGRAMS,
    ),
    Mutant(
        "overwritten fills are computed",
        "fastinit/_fills/batch.py",
        "if not region.covers(other[0])]",
        "if True]",
        BATCH,
    ),
    Mutant(
        "memory that waits is not guarded",
        "fastinit/_fills/batch.py",
        "            extension.guard_storage(storage._cdata, True)\n",
        "",
        BATCH,
    ),
    Mutant(
        "overlapping fills in one launch",
        "csrc/torch/fills.cpp",
        "if (!any_overlap(fills.spans)) {",
        "if (true) {",
        BATCH,
    ),
    # ---- names and keys
    Mutant(
        "wrappers change names",
        "fastinit/_models/names.py",
        "path if dropped else _join(path, segment)",
        "_join(path, segment)",
        INITIALIZE,
    ),
    Mutant(
        "every child called module is dropped",
        "fastinit/_models/names.py",
        'segment == "module" and _is_wrapper(current)',
        'segment == "module"',
        INITIALIZE,
    ),
    Mutant(
        "all draws into a parameter under one key",
        "fastinit/_recording/replay.py",
        "self._count[name] = count + 1",
        "self._count[name] = count",
        INITIALIZE,
    ),
    Mutant(
        "overwritten draws count",
        "fastinit/_recording/graph.py",
        "            wanted.difference_update(ref.storage for ref in op.writes if ref.whole)\n",
        "            pass\n",
        INITIALIZE,
    ),
    Mutant(
        "a part counts as the whole",
        "fastinit/_recording/graph.py",
        "for ref in op.writes if ref.whole)",
        "for ref in op.writes)",
        INITIALIZE,
    ),
    Mutant(
        "the last place of a tied parameter decides",
        "fastinit/_models/module_methods.py",
        "with _cleared_flags(module), _untied(module):",
        "with _cleared_flags(module):",
        MODELS,
    ),
    Mutant(
        "transformers skips what it has done before",
        "fastinit/_models/module_methods.py",
        "with _cleared_flags(module), _untied(module):",
        "with _untied(module):",
        MODELS,
    ),
    Mutant(
        "parents before their children",
        "fastinit/_models/module_methods.py",
        "    for child in module.children():\n"
        "        yield from _children_first(child, inside or is_pretrained(module), seen)\n"
        "    yield module, inside\n",
        "    yield module, inside\n"
        "    for child in module.children():\n"
        "        yield from _children_first(child, inside or is_pretrained(module), seen)\n",
        INITIALIZE,
    ),
    # ---- recordings
    Mutant(
        "early values without what they depend on",
        "fastinit/_recording/graph.py",
        "            touched |= own\n",
        "",
        RECORDING,
    ),
    Mutant(
        "constants change after they were used",
        "fastinit/_recording/recorder.py",
        "                    captured.tensor = captured.tensor.clone()\n",
        "                    pass\n",
        RECORDING,
    ),
    Mutant(
        "garbage counts as written",
        "fastinit/_recording/coverage.py",
        "        if any(not self._whole(storage) for storage in op.reads):\n            return\n",
        "",
        MATERIALIZE,
    ),
    Mutant(
        "in-place arithmetic counts as writing",
        "fastinit/_recording/coverage.py",
        "if op.overwrites or all(ref is not w for w in op.writes):",
        "if True:",
        INITIALIZE,
    ),
    Mutant(
        "memory that was handed out is still recorded",
        "fastinit/_recording/modes.py",
        "        storage.escaped = True\n",
        "",
        RECORDING,
    ),
    Mutant(
        "skipped parameters are written",
        "fastinit/_models/initialize.py",
        "if name not in wanted\n",
        "if False\n",
        INITIALIZE,
    ),
    # ---- rules
    Mutant(
        "the last rule wins",
        "fastinit/_models/rules.py",
        "(rule for rule in rules if",
        "(rule for rule in reversed(rules) if",
        RULES,
    ),
    Mutant(
        "any of several selectors",
        "fastinit/_models/rules.py",
        "return all(selects(part, named)",
        "return any(selects(part, named)",
        RULES,
    ),
    # ---- materialize
    Mutant(
        "tied parameters part",
        "fastinit/_models/materialize.py",
        "    for named in tensors.values():\n",
        "    for named in tensors.values():\n        named.others.clear()\n",
        RECORDING,
    ),
    Mutant(
        "a dtype that rotary tables get, too",
        "fastinit/_models/materialize.py",
        "    return isinstance(named.tensor, nn.Parameter) or any(",
        "    return True or any(",
        MATERIALIZE,
    ),
    # ---- deferred, report
    Mutant(
        "the first look at shapes leaves its traces",
        "fastinit/_models/lazy.py",
        "            buffer.copy_(before)\n",
        "            pass\n",
        (*DEFERRED, *REPORT),
    ),
    Mutant(
        "lazy modules draw by themselves",
        "fastinit/_models/lazy.py",
        'vars(lazy)["reset_parameters"] = _ResetWithoutDraws(lazy)',
        "pass",
        DEFERRED,
    ),
    Mutant(
        "moments of parts are added up",
        "fastinit/_report/moments.py",
        "squares += spread * n + off * off * count * n / (count + n)",
        "squares += spread * n",
        REPORT,
    ),
    Mutant(
        "any deviation is chance",
        "fastinit/_report/flags.py",
        "_CHANCE = 6.0",
        "_CHANCE = 6e6",
        REPORT,
    ),
]
