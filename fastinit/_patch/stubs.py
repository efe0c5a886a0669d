"""Code objects that stand in for a function's own and call something else."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any

_PLACEHOLDER = "fastinit: the dispatching function"


def code_calling(
    dispatch: Callable[..., Any], code: CodeType, parameters: str, arguments: str
) -> CodeType:
    """Make code with these parameters that returns `dispatch(arguments)`, in place of `code`.

    It runs with the other module's globals, so it carries `dispatch` among its constants: nothing
    is added to that module, and a thread that is still inside when the patch ends finds everything
    it needs.
    """
    source = f"def stub({parameters}):\n call = {_PLACEHOLDER!r}\n return call({arguments})\n"
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    stub: CodeType = namespace["stub"].__code__
    # Name and place stay the original's, for tracebacks and inspect.getsource.
    return stub.replace(
        co_consts=tuple(dispatch if c == _PLACEHOLDER else c for c in stub.co_consts),
        co_name=code.co_name,
        co_filename=code.co_filename,
        co_firstlineno=code.co_firstlineno,
    )
