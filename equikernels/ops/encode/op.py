"""encode_invariants: learnable powers of invariants, which span many orders of magnitude."""

from __future__ import annotations

from torch import Tensor

from ...backend import COMPOSED, KERNELS, use_shortcut
from ...checks import REAL, check_tensor, fail
from ..autograd import call, register_op
from ..common import promote
from . import reference

OP = "encode_invariants"
KERNELS[OP] = ("cpu", "cuda")
COMPOSED.add(OP)


def encode_invariants(z: Tensor, t: Tensor, angles: bool = False) -> Tensor:
    r"""Powers of invariants, channel by channel, close to a logarithm where t is small:

    .. math:: u_c = \mathrm{sign}(z_c) \frac{(1 + |z_c|)^{t_c} - 1}{t_c}

    PELICAN's input encoder, arXiv 2307.16506, section 3.2, continued to negative z as an odd function.

    Args:
        z: [*, C] float32 or float64; under autocast, lower precision is raised to float32.
        t: [C], > 0.
        angles: ((1e-5 + \|z\|)^t - 1) / t instead, for the IRC-safe angles.

    Returns:
        [*, C] in the dtype of z.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device; the message names the argument.
    """
    z, t = promote(OP, "z", z), promote(OP, "t", t)
    check_tensor(OP, "z", z, dtypes=REAL)
    if z.dim() == 0:
        fail(OP, "z", "shape [*, C]", [])
    check_tensor(OP, "t", t, [z.shape[-1]], like=z)
    if not use_shortcut(OP, z, t):
        return reference.encode(z, t, angles)
    rows = z if z.dim() == 2 else z.reshape(-1, z.shape[-1])
    return call("encode", rows, t, angles).view(z.shape)


register_op("encode", 2, reference.encode, lambda z, t, angles: z.new_empty(z.shape), on_graph=False)
