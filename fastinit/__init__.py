"""Fast, reproducible `torch.nn.init`.

Replace `torch.nn.init` by `fastinit` in a script, or run code that you do not own under
`fastinit.patch()`. Pass `key=` to make weights a pure function of a `Key`: the same on any number
of threads, on any device, in any memory layout.
"""

from fastinit import _compiled as _compiled  # first: it says what is missing
from fastinit import init
from fastinit._compiled import STREAM_VERSION
from fastinit._config import Config, show_config
from fastinit._distributed.sharding import shard
from fastinit._models.agreement import check_ranks
from fastinit._models.initialize import initialize_
from fastinit._models.materialize import materialize
from fastinit._models.patch import patch
from fastinit._recording.batch import batch
from fastinit._report.moments import Moments
from fastinit._report.report import Report, report
from fastinit._report.rows import LayerRow, ParameterRow
from fastinit._version import __version__
from fastinit.init import (
    _calculate_correct_fan,
    _calculate_fan_in_and_fan_out,
    calculate_gain,
    constant,
    constant_,
    dirac,
    dirac_,
    eye,
    eye_,
    kaiming_normal,
    kaiming_normal_,
    kaiming_uniform,
    kaiming_uniform_,
    normal,
    normal_,
    ones_,
    orthogonal,
    orthogonal_,
    sparse,
    sparse_,
    trunc_normal_,
    uniform,
    uniform_,
    xavier_normal,
    xavier_normal_,
    xavier_uniform,
    xavier_uniform_,
    zeros_,
)
from fastinit.initializers.elementwise import trunc_normal_tf_
from fastinit.initializers.fans import Fans, fans
from fastinit.initializers.orthogonal import delta_orthogonal_, orthogonal_many_
from fastinit.initializers.variance_scaling import (
    lecun_normal_,
    lecun_uniform_,
    variance_scaling_,
)
from fastinit.key import Key, philox4x32, reserve_key

__all__ = [
    "STREAM_VERSION",
    "Config",
    "Fans",
    "Key",
    "LayerRow",
    "Moments",
    "ParameterRow",
    "Report",
    "__version__",
    "_calculate_correct_fan",
    "_calculate_fan_in_and_fan_out",
    "batch",
    "calculate_gain",
    "check_ranks",
    "constant",
    "constant_",
    "delta_orthogonal_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "fans",
    "init",
    "initialize_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "materialize",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "orthogonal_many_",
    "patch",
    "philox4x32",
    "report",
    "reserve_key",
    "shard",
    "show_config",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "trunc_normal_tf_",
    "uniform",
    "uniform_",
    "variance_scaling_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]
