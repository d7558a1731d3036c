"""Ways to the leading singular subspaces of W, in time and accuracy, beside the eigenvectors that `decompose` takes.

`python tests/benchmarks/bench_eigen.py [n ...] [--float32] [--float64] [--once]`. SSA at one k needs no eigenvector:
with μ between λ_k and λ_{k+1} of G = W Wᵀ, U_k U_kᵀ = (I + sign(G − μI)) / 2, and sign comes from products or inverses
alone. A page asks for CUTS, each from the left, the right and both sides; eigenvectors serve all, a sign one of them.
Seconds are the least of several rounds in which all ways take turns, or of one with --once.
"""

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import scipy.linalg
import torch
from bench_gpu import full_float32, seconds
from tabulate import tabulate
from torch import Tensor

from tuningvec.weights import engine
from tuningvec.weights.subspace import EDGE, Decomposition, decompose

CUTS = (0.01, 0.05, 0.10, EDGE)
SIZES, STACKED, ROUNDS = (576, 1536, 2048), 4, 3
MOST = 100  # iterations
AT_LEAST = 1.3  # times as quick, or nothing is changed


class Given(NamedTuple):
    """A matrix with its Gram matrix, μ at each cut by a decomposition in float64, and tuning vectors."""

    W: Tensor
    G: Tensor
    mus: list[float]
    ks: list[int]
    Ts: list[Tensor]


def given(n: int, dtype: torch.dtype) -> tuple[Given, list[list[float]]]:
    """A matrix with a falling spectrum, and SSA of the vectors at all cuts by its SVD in float64."""
    generator = torch.Generator().manual_seed(n)
    W = torch.randn(n, n, generator=generator) * torch.logspace(0, -1, n)
    Ts = [torch.randn(n, n, generator=generator) + share * W for share in (0, 0.3, 1)]
    W, *Ts = (x.to(engine.device(), torch.float64) for x in (W, *Ts))
    U, S, Vt = torch.linalg.svd(W)
    exact = Decomposition(U, S**2, Vt.T)
    ks = [exact.k(cut) for cut in CUTS]
    mus = [float(exact.S2[k - 1 : k + 1].mean()) for k in ks]
    SSA = [[captured(U, T, k) for T in Ts] for k in ks]
    W, *Ts = (x.to(dtype) for x in (W, *Ts))
    return Given(W, W @ W.T, mus, ks, Ts), SSA


def captured(U: Tensor, T: Tensor, k: int) -> float:
    """SSA = ‖U_kᵀ T‖² / ‖T‖²."""
    return (torch.sum((U[:, :k].T.to(T.dtype) @ T) ** 2, dtype=torch.float64) / energy(T)).item()


def captured_by(P: Tensor, T: Tensor, _: int) -> float:
    """SSA = tr(Tᵀ P T) / ‖T‖²."""
    return (torch.sum(T * (P @ T), dtype=torch.float64) / energy(T)).item()


def energy(T: Tensor) -> Tensor:
    return torch.sum(T**2, dtype=torch.float64)


def newton(X: Tensor) -> Tensor:
    """sign(X) of a symmetric X by Newton's iteration, scaled by norms (Higham, Functions of Matrices, 5.5)."""
    inverse = torch.linalg.inv(X)
    mu = (torch.linalg.matrix_norm(inverse) / torch.linalg.matrix_norm(X)) ** 0.5
    return (mu * X + inverse / mu) / 2


def newton_schulz(X: Tensor) -> Tensor:
    """The same by products alone: X ← X (3I − X²) / 2."""
    return torch.addmm(X, X, X @ X, beta=1.5, alpha=-0.5)


def halley(X: Tensor, least: list[float]) -> Tensor:
    """The same by Halley's iteration with the weights that suit the least |eigenvalue| (QDWH, doi 10.1137/090774999).

    X ← (b/c) X + (a − b/c) X (I + c X²)⁻¹, by Cholesky.
    """
    low = least[0]
    root = (4 * (1 - low**2) / low**4) ** (1 / 3)
    a = (1 + root) ** 0.5 + (8 - 4 * root + 8 * (2 - low**2) / (low**2 * (1 + root) ** 0.5)) ** 0.5 / 2
    b = (a - 1) ** 2 / 4
    c = a + b - 1
    least[0] = min(1.0, low * (a + b * low**2) / (1 + c * low**2))
    factor = torch.linalg.cholesky(torch.addmm(torch.eye(len(X), dtype=X.dtype, device=X.device), X, X, alpha=c))
    return torch.add(X * (b / c), torch.cholesky_solve(X, factor), alpha=a - b / c)


def sign(step: Callable[[Tensor], Tensor], A: Tensor) -> Tensor:
    """The iteration from A over a bound of its largest |eigenvalue|, until it moves by less than rounding's root."""
    X, enough = A / torch.linalg.matrix_norm(A, 1), torch.finfo(A.dtype).eps ** 0.5
    step = partial(halley, least=[enough]) if step is halley else step
    for _ in range(MOST):
        new = step(X)
        new = (new + new.T) / 2
        moved = torch.linalg.matrix_norm(new - X) / torch.linalg.matrix_norm(new)
        X = new
        if moved < enough:
            break
    return X


def projector(step: Callable[[Tensor], Tensor], g: Given, cut: int) -> Tensor:
    """U_k U_kᵀ at one cut."""
    identity = torch.eye(len(g.G), dtype=g.G.dtype, device=g.G.device)
    return (identity + sign(step, g.G - g.mus[cut] * identity)) / 2


def both_sides(step: Callable[[Tensor], Tensor], g: Given, cut: int) -> Tensor:
    """Bases of U_k and V_k from the projector, which SSA_V and SSA_UV take."""
    P = projector(step, g, cut)
    generator = torch.Generator(g.G.device).manual_seed(0)
    some = torch.randn(len(P), g.ks[cut], generator=generator, dtype=P.dtype, device=P.device)
    U_k = torch.linalg.qr(P @ some).Q
    torch.linalg.qr(g.W.T @ U_k)
    return U_k


def by_values(g: Given) -> Tensor:
    """Eigenvalues alone, which tell k and μ."""
    return torch.linalg.eigvalsh(g.G)


def by_vectors(g: Given) -> Tensor:
    return torch.linalg.eigh(g.G).eigenvectors.flip(1)


def stacked(g: Given) -> Tensor:
    """Eigenvectors of STACKED matrices in one call."""
    return torch.linalg.eigh(g.G.expand(STACKED, -1, -1).contiguous()).eigenvectors[0].flip(1)


def by_scipy(driver: str, g: Given) -> Tensor:
    """LAPACK's driver; with `evr` the leading k of the largest cut alone."""
    n = len(g.G)
    some = dict(subset_by_index=(n - max(g.ks), n - 1)) if driver == "evr" else {}
    vectors = scipy.linalg.eigh(g.G.numpy(), driver=driver, check_finite=False, **some)[1]
    return torch.from_numpy(vectors[:, ::-1].copy())


def by_decompose(g: Given) -> Tensor:
    """All of `decompose`: Gram matrix, eigenvectors, V, and σ² summed in float64."""
    return decompose(g.W).U


class Way(NamedTuple):
    """What is timed, how SSA comes from its result, and the cuts at which it does."""

    run: Callable[[Given], Tensor]
    SSA: Callable[[Tensor, Tensor, int], float] = captured
    cuts: Sequence[int] = range(len(CUTS))
    matrices: int = 1


EPSILON = CUTS.index(0.05)
STEPS = {"Newton": newton, "Newton–Schulz": newton_schulz, "QDWH": halley}
VALUES, EIGH = "eigenvalues alone", "eigh one by one"


def ways() -> dict[str, Way]:
    """All of them, by name; signs at ε = .05 alone."""
    found = {VALUES: Way(by_values, cuts=())}
    found |= {EIGH: Way(by_vectors), f"eigh, {STACKED} stacked": Way(stacked, matrices=STACKED)}
    found["decompose"] = Way(by_decompose)
    if not torch.cuda.is_available():
        found |= {f"scipy {driver}": Way(partial(by_scipy, driver)) for driver in ("evd", "evr")}
    for name, step in STEPS.items():
        found[f"{name}: one k"] = Way(partial(projector, step, cut=EPSILON), captured_by, [EPSILON])
        found[f"{name}: one k, U_k and V_k"] = Way(partial(both_sides, step, cut=EPSILON), captured, [EPSILON])
    return found


def compared(n: int, dtype: torch.dtype, rounds: int) -> list[tuple[object, ...]]:
    """A row for each way: seconds a matrix, how many times as quick as `eigh` it is, and the largest error of SSA."""
    g, SSA = given(n, dtype)
    took: dict[str, list[float]] = {name: [] for name in ways()}
    errors = {}
    for _ in range(rounds):
        for name, way in ways().items():
            results: list[Tensor] = []
            took[name].append(seconds(lambda: results.append(way.run(g))) / way.matrices)  # noqa: B023
            found = [way.SSA(results[0], T, g.ks[i]) - SSA[i][j] for i in way.cuts for j, T in enumerate(g.Ts)]
            errors[name] = max(map(abs, found), default=math.nan)
    least = {name: min(times) for name, times in took.items()}
    for name in STEPS:  # the eigenvalues, which tell k and μ, and then a sign with both bases at each cut
        every = f"{name}: all {len(CUTS)} k, U_k and V_k"
        least[every] = least[VALUES] + len(CUTS) * least[f"{name}: one k, U_k and V_k"]
    kind = str(dtype).removeprefix("torch.")
    return [(n, kind, name, s, least[EIGH] / s, errors.get(name, math.nan)) for name, s in least.items()]


def main() -> None:
    full_float32()
    sizes = [int(argument) for argument in sys.argv[1:] if argument.isdigit()] or SIZES
    dtypes = [d for d in (torch.float32, torch.float64) if f"--{d}".replace("torch.", "") in sys.argv]
    rounds = 1 if "--once" in sys.argv else ROUNDS
    print(f"{engine.machine()}; least of {rounds} rounds; cuts {CUTS}", flush=True)
    headers = ["n", "dtype", "way", "seconds", "× as quick as eigh", "SSA apart"]
    for n in sizes:
        for dtype in dtypes or (torch.float32, torch.float64):
            rows = compared(n, dtype, rounds)
            print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=(*("",) * 3, ".3g", ".2f", ".0e")), "\n")
            better = [name for *_, name, _, ratio, _ in rows if ratio >= AT_LEAST and name != VALUES]
            print(f"{n}, {dtype}: at least {AT_LEAST} times as quick: {', '.join(better) or 'none'}", flush=True)


if __name__ == "__main__":
    main()
