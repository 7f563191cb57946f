"""Factors of a matrix: W ≈ A B in the norm that matters.

Every decomposition is an SVD of L W R for some invertible L, R, undone afterwards; its singular values are the errors
that cutting the rank would make in that norm. Computed in float64.

| name | L | R | norm kept small | source |
|---|---|---|---|---|
| svd | I | I | ‖W − AB‖ | Eckart–Young; MaKD's start |
| fisher | diag(√Σ_j E[g_ij²]) | I | rows weighted by the loss's gradients | FWSVD (Hsu et al. 2022), eq. 6 |
| whitened | I | chol(C) | ‖X Wᵀ − X (AB)ᵀ‖, the output's error | DRONE (Chen et al. 2021), SVD-LLM (Wang et al. 2025) |

C is E[x xᵀ] in those papers. Where the map has a bias, ours is the covariance E[(x−μ)(x−μ)ᵀ] instead: the error on the
mean input is a constant, (W − AB) μ, which is added to the bias at no cost. No other affine map of
that rank has a smaller output error; activations of Transformers have large means.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Method = Literal["svd", "fisher", "whitened"]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of one matrix W (out, in) on calibration text."""

    inputs: Tensor
    """Second moment of the input, E[x xᵀ] over real tokens; (in, in), float64."""
    mean: Tensor | None = None
    """Mean of the input, μ; (in,), float64. Given where there is a bias."""
    rows: Tensor | None = None
    """Fisher information of each row, Σ_j E[g_ij²]; (out,), float64. Only `fisher` needs it."""

    @property
    def covariance(self) -> Tensor:
        """Second moment around the mean where that is given, around 0 otherwise; (in, in)."""
        return self.inputs if self.mean is None else self.inputs - torch.outer(self.mean, self.mean)


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """L W R = U diag(s) Vᵀ, from which factors of any rank are cut."""

    left: Tensor | None
    """Diagonal of L, (out,); None is the identity."""
    u: Tensor
    """(out, r) with r = min(out, in)."""
    s: Tensor
    """Singular values, falling; (r,)."""
    v: Tensor
    """Vᵀ R⁻¹, (r, in): already undone on the right."""

    @property
    def energy(self) -> Tensor:
        """Squared singular values as shares of their sum: what each rank contributes, (r,)."""
        return self.s.square() / self.s.square().sum().clamp_min(torch.finfo(torch.float64).tiny)

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """A (out, rank) and B (rank, in) in float32, singular values shared evenly between them."""
        root = self.s[:rank].sqrt()
        a = self.u[:, :rank] * root
        if self.left is not None:
            a = a / self.left[:, None]
        return a.float(), (root[:, None] * self.v[:rank]).float()


def decompose(weight: Tensor, method: Method, statistics: Statistics) -> Decomposition:
    """Decomposes W (out, in) by `svd`, `fisher` or `whitened`.

    Raises:
        ValueError: `fisher` without row statistics.
    """
    w = weight.detach().double()
    left, scale = None, None
    if method == "fisher":
        if statistics.rows is None:
            raise ValueError("fisher needs the Fisher information of the rows")
        left = statistics.rows.sqrt()
        left = left.clamp_min(left.max() * 1e-3 + torch.finfo(torch.float64).tiny)  # a dead row must stay solvable
        w = left[:, None] * w
    if method == "whitened":
        scale = cholesky_with_ridge(statistics.covariance)
        w = w @ scale
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    if scale is not None:
        v = torch.linalg.solve_triangular(scale, v, upper=False, left=False)
    return Decomposition(left=left, u=u, s=s, v=v)


def cholesky_with_ridge(moment: Tensor) -> Tensor:
    """Lower factor L of C = L Lᵀ; a ridge grows from 1e-10 of the mean diagonal until C is positive definite."""
    ridge = 0.0
    mean = moment.diagonal().mean().clamp_min(torch.finfo(moment.dtype).tiny)
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    while True:
        factor, failed = torch.linalg.cholesky_ex(moment + ridge * mean * eye)
        if not failed:
            return factor
        ridge = max(ridge * 10, 1e-10)


def bias_shift(weight: Tensor, factors: tuple[Tensor, Tensor], statistics: Statistics) -> Tensor:
    """What is added to the bias so that the mean input has the same output: (W − AB) μ, (out,) in float32."""
    assert statistics.mean is not None, "only a matrix with a bias is shifted"
    return (_approximation_error(weight, factors) @ statistics.mean).float()


def output_error(weight: Tensor, factors: tuple[Tensor, Tensor], statistics: Statistics) -> float:
    """‖X Wᵀ − X (AB)ᵀ‖ / ‖X Wᵀ‖ on the calibration text, around the mean where there is a bias.

    ‖X M‖² = tr(M C Mᵀ) needs only the second moment C.
    """
    matrices = (_approximation_error(weight, factors), weight.detach().double())
    energy = [((m @ statistics.covariance) * m).sum().clamp_min(0) for m in matrices]
    return float((energy[0] / energy[1]).sqrt())


def _approximation_error(weight: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
    return weight.detach().double() - factors[0].double() @ factors[1].double()
