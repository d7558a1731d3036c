"""Frames of k directions in the output space of a matrix, and how much of another matrix lies in their span (§4)."""

import zlib
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from tuningvec.errors import TuningVecError
from tuningvec.weights.delta import Factors, Matrix, dense
from tuningvec.weights.subspace import Decomposition, decompose

LEAST = 1e-5  # of the largest singular value; what is smaller is no direction of a float32 matrix


class Captured(NamedTuple):
    """Energy ‖U Uᵀ T‖² inside a frame and ‖T‖² in all; `null` is k/d_out of the latter."""

    inside: float
    total: float
    null: float


def leading(matrix: Matrix | Decomposition, k: int) -> Float32[Tensor, "d_out k"]:
    """U_k, the first k left singular vectors of a matrix, of one of low rank that is never built, or as decomposed.

    Raises TuningVecError where it has fewer than k directions.
    """
    if isinstance(matrix, Factors):
        Q, R = torch.linalg.qr(matrix.B.double())
        U, S, _ = torch.linalg.svd(R @ matrix.A.double(), full_matrices=False)
        U = Q @ U
    else:
        basis = matrix if isinstance(matrix, Decomposition) else decompose(matrix)
        U, S = basis.U, basis.S2.sqrt()
    found = int(torch.sum(LEAST * S[0] < S))
    if found < k:
        raise TuningVecError(f"k is {k}, and a matrix has {found} directions; take a smaller k")
    return U[:, :k].float().contiguous()


def trailing(basis: Decomposition, k: int, generator: torch.Generator) -> Float32[Tensor, "d_out k"]:
    """k directions that W writes least into: its last k left singular vectors, which are orthogonal to all others.

    A tall W leaves d_out − d_in directions out, and k of those are drawn; raises TuningVecError where these are fewer
    than k and more than none.
    """
    d_out, n = basis.U.shape
    if d_out == n:
        return basis.U[:, -k:].float().contiguous()
    if d_out - n < k:
        raise TuningVecError(f"k is {k}, and a matrix leaves {d_out - n} directions out; take a smaller k")
    U = torch.linalg.qr(basis.U).Q
    free = torch.randn(d_out, k, generator=generator).to(U)
    for _ in range(2):  # the second time takes what rounding left
        free = torch.linalg.qr(free - U @ (U.T @ free)).Q
    return free.float().contiguous()


def drawn(d_out: int, k: int, generator: torch.Generator) -> Float32[Tensor, "d_out k"]:
    """A frame that spans a uniformly random subspace of k dimensions."""
    return torch.linalg.qr(torch.randn(d_out, k, generator=generator)).Q.contiguous()


def seeded(seed: int, name: str) -> torch.Generator:
    """What draws the frame of a tensor: the same for the same seed."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


def captured(U: Float[Tensor, "d_out k"], T: Matrix) -> Captured:
    """How much of T lies in the span of the orthonormal columns of U, and how much does of a T turned at random."""
    (d_out, k), matrix = U.shape, dense(T)
    inside, total = (torch.sum(x**2, dtype=torch.float64).item() for x in (U.T.to(matrix.dtype) @ matrix, matrix))
    return Captured(inside, total, total * k / d_out)
