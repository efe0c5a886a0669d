"""`fastinit.initialize_()`: all parameters of a module, each keyed by its name."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple, SupportsIndex, TypeVar

from torch import nn

from fastinit._models import deferred
from fastinit._models import rules as _rules
from fastinit._models.checks import (
    check_module,
    check_plain,
    check_prefix,
    check_stored,
    check_untransformed,
)
from fastinit._models.constructed import initialize_from
from fastinit._models.fully_sharded import reshard
from fastinit._models.held_shards import by_memory, held_shards
from fastinit._models.history import keep_known, still_known
from fastinit._models.lazy import has_lazy
from fastinit._models.loaded import warn_of_loaded
from fastinit._models.names import (
    Named,
    NamedTensors,
    computed_of,
    named_tensors,
    without_wrappers,
)
from fastinit._models.patterns import Pattern, Patterns
from fastinit._models.recording import without_collections
from fastinit._models.renaming import Rename, Renaming
from fastinit._models.request import Request, Result
from fastinit._models.session import (
    complete,
    key_or_drawn,
    run_initialisers,
)
from fastinit._models.sharded import Twins
from fastinit._models.snapshot import Snapshot
from fastinit._recording.recorder import Recorder
from fastinit._tensors import is_closed
from fastinit.key import Key

_M = TypeVar("_M", bound=nn.Module)


def initialize_(
    module: _M,
    rules: _rules.Rules | None = None,
    *,
    key: Key | SupportsIndex | None = None,
    skip: Pattern | Sequence[Pattern] = (),
    factory: Callable[[], nn.Module] | None = None,
    progress: bool = False,
    prefix: str = "",
    rename: Rename | None = None,
) -> _M:
    """Initialise every parameter of a module in place, each under a key of its own name.

    The n-th draw into a parameter called `name` uses `key.fold_in(name).fold_in(n)`, n counting
    from 0 those that its values come from. What is overwritten never is computed, unless something
    else keeps it or what was made of it (another parameter, a buffer, a plain attribute), or
    somebody has looked at it before: then it counts after the others. A draw into memory without a
    name has that of what its values flow into first, as far as torch's operators tell: those that
    go through NumPy, numbers, pickles or files count together, in their order. Otherwise values do
    not depend on the order of modules, on what else the model holds, or on what it is wrapped in
    (the segments that torch.compile, data parallelism, FSDP and checkpointing add to names are
    dropped, and those of subclasses of these; names in a wrapper of your own begin with what it
    calls the module inside; a tied parameter has the first of its names). All fills run together:
    one launch per device.

    Without `rules`, each module runs what it defines itself, without arguments, children first:
    `reset_parameters` or `_reset_parameters`, then `init_weights` or `_init_weights`; a model of
    transformers runs its own initialisation over everything, loaded weights included, and of what
    modules inside it define only what their constructors call, as transformers itself; so do
    classes of diffusers. Those that set a flag of a module to do nothing the next time
    (`self._is_init = True`) run again. Buffers that these write are written, too. Constructors do
    not run again: a UserWarning names those that initialise more than this does, as far as their
    code tells (zero-initialised residuals, say), and those that have been handed weights, frozen or
    not (`Embedding.from_pretrained(table)`, `layer.weight = Parameter(table)`), which are drawn
    over; `factory` gives what they give. Layers that are copies of one, as those of
    `torch.nn.TransformerEncoder`, are drawn apart; a factory, and so `materialize(factory)`, leaves
    them copies.

    A tied parameter gets what is made of the place that others are tied to: the one that
    transformers declares, else an embedding, else the first that is written. What a module that has
    all these places in it defines (`_init_weights` for each module below it, too) finds them tied,
    so what it writes last stays, as after `model.apply(model._init_weights)` in torch. A weight
    that its module computes (`torch.nn.utils.parametrizations`, `weight_norm`, `spectral_norm`,
    `prune`) is initialised as what the module multiplies by, under the name that it has without
    that, and brought back through `right_inverse`; rules may name its parts instead. Nothing is
    written before all of it is known, so an error leaves the module as it was. An initialiser that
    reads what it draws gets it; if that was drawn before it could be told what for, all of them run
    again, from the module as it was; if they communicate with other processes (torch.distributed),
    all of these run theirs again or none does: they ask each other through the store of the process
    group, for a minute at most, and if one is not in an initialiser a UserWarning says that values
    depend on the order. Threads that they start belong to it. Python's and NumPy's own generators
    are seeded from the key meanwhile, and put back.

    A parameter or buffer that is a DTensor (FSDP2, tensor and expert parallelism, their
    combinations) gets on each rank the part of what the unsharded module would get, bit for bit
    (large orthogonal matrices that are spread: to rounding), whatever is done to it: slices,
    padding rows, a product after a draw. Nothing is communicated. Initialisers see ordinary
    tensors of the full size, on the CPU, which take memory only if their values are read.

    A module with uninitialized (lazy) parameters is initialised in its first call, once that has
    shown their shapes: the call is made on zeros first, to see the shapes, then everything is
    initialised as above, then the call is made as asked for. Further calls draw nothing. A call of
    a part that shows the last shapes does the same; one that does not is an error, as the part is
    not initialised yet. What is loaded by `load_state_dict` before stays as it is, and so does a
    part that `initialize_` is called for by itself later. What else is written to parameters
    meanwhile is drawn over, and what a call changes beside tensors it changes twice.

    Args:
        module: a module whose parameters lie on real devices; see `materialize` for the meta
            device.
        rules: an ordered mapping (or pairs) from selectors to initialisers; the first selector that
            matches a parameter decides. A selector is a glob or a compiled regular expression on
            the name (`"*.bias"`), a module class, a number of dimensions, `"default"`, or a tuple
            of these, which all have to match. An initialiser is any callable that fills the tensor
            it is given, `functools.partial` included; if it has a parameter `name`, it is given the
            name, too. None stands for what the module itself defines. Of packed, grouped and
            transposed weights Xavier, Kaiming, LeCun and `variance_scaling_` (also torch's, and in
            `functools.partial`) take the fans that `fastinit.fans` counts. The row of an
            embedding's `padding_idx` is zero afterwards, as torch has it. A UserWarning tells of
            names that match nothing, or nothing that earlier rules do not; classes and numbers of
            dimensions, which rules for any model have, may match nothing.
            A buffer gets a rule only if the selector has the buffer's own name, the last of its
            segments, letter by letter ("*.running_mean"), and matches no parameter.
        key: a `Key` or an int; None draws one from torch's default generator.
        skip: globs or compiled regular expressions; parameters whose names match are left alone.
            Each has to match one. A UserWarning names what transformers has loaded from a
            checkpoint and is overwritten.
        factory: makes a new module with the same parameters; the values are those that
            `materialize(factory, rules=rules, key=key)` gives, and of buffers that both have. Takes
            the memory of a second module meanwhile.
        progress: whether to show a progress bar (needs tqdm).
        prefix: the name of `module` inside a larger one, so that its values match those that the
            whole would get. As in the names of parameters, without what wrappers add to it. Rules,
            patterns and `rename` see names that begin with it.
        rename: from names in this module to those in the whole model, which keys derive from: a
            mapping (names that it has not stay) or a callable. For experts and pipeline stages that
            are shared out by hand: each rank calls its first one `...0`, and the same name under
            one key is the same weight. Rules and patterns see the names before that.

    Returns:
        `module`.

    Raises:
        Exception: whatever an initialiser raises; a note (in Python 3.10, the message) says which
            it was and what for.
        ValueError: if no rule matches a parameter, or nothing that the module defines writes it;
            the message lists these. If a parameter is on the meta device, what is to be skipped
            matches none, `factory` makes parameters of other names or shapes, or `rename` gives two
            the same name or knows one that there is not.
        TypeError: if an argument has the wrong type.
        NotImplementedError: if a parameter is a tensor subclass with memory of its own other than a
            DTensor, or not strided; if a DTensor holds partial sums, or its placements do not say
            what is where; if an initialiser reads a DTensor that is to stay as it is, writes a
            part of a buffer that is one, or uses one that is neither parameter nor buffer; if
            `factory` shards otherwise than the module is sharded.
        RuntimeError: if what is to be written is an inference tensor and this is not called in
            inference mode, or its storage was freed or is too short. In the first call of a module
            with lazy parameters, or a part of it, if it does not show the shapes of all.
        ImportError: if `progress` is asked for and tqdm is missing.

    Examples:
        >>> fastinit.initialize_(model, key=0)
        >>> fastinit.initialize_(
        ...     model,
        ...     {
        ...         "*.bias": torch.nn.init.zeros_,
        ...         torch.nn.Embedding: functools.partial(fastinit.normal_, std=0.02),
        ...         1: torch.nn.init.ones_,
        ...         "default": fastinit.xavier_uniform_,
        ...     },
        ...     key=0,
        ... )
    """
    check_module(module, "initialize_")
    reshard(module)
    check_untransformed("initialize_")
    prefix = check_prefix(prefix, "initialize_")
    checked = None if rules is None else _rules.check(rules)
    renaming = Renaming(rename, "initialize_")
    tensors = named_tensors(module, prefix)
    parameters, patterns = tensors.parameters, Patterns(skip)
    patterns.check(parameters, "fastinit.initialize_: argument 'skip'", "parameter")
    call = _Call(checked, key, patterns, factory, progress, prefix, renaming)
    waits = has_lazy(module)
    if waits:
        call = call._replace(key=key_or_drawn(key, "initialize_"))
    else:
        with deferred.quiet(module):
            call.run(module, tensors)
    skipped = set[int]()
    if patterns:
        skipped = {id(one.tensor) for n, one in parameters.items() if patterns.match(n)}
    deferred.cancel(module, skipped)
    if waits:
        deferred.defer(module, call, call.skips)
    return module


class _Call(NamedTuple):
    """The arguments of `initialize_`, once they have been looked at."""

    rules: list[_rules.Rule] | None
    key: Key | SupportsIndex | None
    skip: Patterns
    factory: Callable[[], nn.Module] | None
    progress: bool
    prefix: str
    renaming: Renaming

    def __deepcopy__(self, memo: dict[int, Any]) -> _Call:
        return self

    def skips(self, name: str) -> bool:
        """Whether a parameter is to be skipped, by its name in the module."""
        return self.skip.match(without_wrappers(f"{self.prefix}.{name}".removeprefix(".")))

    def __call__(self, module: nn.Module, done: Container[int], path: str) -> None:
        """Initialise a module that has waited for its shapes; see `deferred.Run`."""
        prefix = without_wrappers(f"{self.prefix}.{path}".strip("."))
        tensors = named_tensors(module, prefix)
        names = [
            name
            for name, one in tensors.parameters.items()
            if id(one.tensor) in done or self.skip.match(name)
        ]
        self._replace(skip=Patterns.of_names(names), prefix=prefix).run(
            module, tensors, whole=not path
        )

    def run(self, module: nn.Module, tensors: NamedTensors, *, whole: bool = True) -> None:
        """Initialise a module of which these are the parameters and buffers.

        Args:
            module: the module.
            tensors: what it holds.
            whole: whether it is all that rules and names are about.
        """
        parameters, skip = tensors.parameters, self.skip
        check_plain(module, parameters, "initialize_")
        if whole:
            self.renaming.check(tensors.both, computed_of(tensors.both))
        on_meta = [name for name, named in parameters.items() if named.tensor.is_meta]
        if on_meta:
            raise ValueError(
                "fastinit.initialize_: on the meta device, where nothing can be written: "
                + ", ".join(on_meta)
                + "; use fastinit.materialize"
            )
        closed = [
            name
            for name, named in parameters.items()
            if named.tensor.is_inference() and is_closed(named.tensor) and not skip.match(name)
        ]
        if closed:
            raise RuntimeError(
                "fastinit.initialize_: inference tensors, which can be written inside "
                "torch.inference_mode() only: "
                + ", ".join(closed)
                + "; call it there, or clone them"
            )
        if self.rules is not None and whole:
            _rules.warn_of_unused(self.rules, parameters, "initialize_", tensors.buffers)
        wanted = parameters
        if skip:
            wanted = {name: named for name, named in parameters.items() if not skip.match(name)}
        check_stored(wanted, "initialize_")
        if self.factory is None:  # whose values may be loaded, too
            warn_of_loaded(wanted)
        base = key_or_drawn(self.key, "initialize_")
        if self.factory is not None:
            initialize_from(
                module,
                self.factory,
                wanted,
                base,
                rules=self.rules,
                prefix=self.prefix,
                progress=self.progress,
                rename=self.renaming.rename,
            )
            return
        request = Request(
            "initialize_",
            base,
            self.rules,
            skip,
            progress=self.progress,
            prefix=self.prefix,
            rename=self.renaming,
        )
        with without_collections():
            _initialize(module, request, tensors)


def _initialize(module: nn.Module, request: Request, tensors: NamedTensors) -> None:
    parameters = tensors.parameters
    untouched: dict[str, Named] = {}
    if request.skip:
        untouched = {n: named for n, named in parameters.items() if request.skip.match(n)}
    twins = Twins(module, tensors, request.where)
    state = Snapshot(module)
    apart = by_memory(held_shards(module, request.prefix, tensors, state.sharded))

    def run(recorder: Recorder) -> Result:
        recorder.apart = apart
        wanted = parameters.keys() - untouched.keys()
        twins.put_in(recorder, untouched.keys(), twins.named.keys() - parameters.keys())
        placed = NamedTensors(*map(twins.placed, tensors))
        kept = {n: one for n, one in placed.parameters.items() if n in untouched}
        tables = twins.tables()
        result = run_initialisers(
            recorder,
            request,
            module,
            placed,
            kept,
            anew=wanted,
            others=state.tensors,
            arrays=state.arrays,
            is_as_before=lambda: state.is_unchanged(tables),
        )
        for named in untouched.values():
            state.restore_tensor(named.tensor)
        return result

    def undo() -> None:
        try:
            state.restore()
        finally:
            twins.take_out()

    known = still_known(untouched.values())
    found = complete(request, run, undo, twins.divide)
    state.put_versions_back(named.tensor for named in found.result.untouched)
    keep_known(known, found.result.untouched)
