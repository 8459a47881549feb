"""The array namespace `xp` that heads and surrogates are written against.

Each backend implements these functions with its framework's operations and the subgradients stated
here. Operators, comparisons and `.shape` are the arrays' own. The dtype of a result is its arrays':
numbers beside them have none. NaN in an argument of an elementwise function is NaN in the result,
but for entries that `where` does not select; bounds of `clip` must not be NaN.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["ArrayNamespace"]

# An array of any framework: Python's type system has no name for it.
Native = Any


class ArrayNamespace(Protocol):
    """Functions over a backend's native arrays; all elementwise unless a shape says otherwise."""

    def exp(self, x: Native) -> Native:
        """Return e to the x."""

    def log(self, x: Native) -> Native:
        """Return the natural logarithm."""

    def sqrt(self, x: Native) -> Native:
        """Return the square root; the derivative at 0 is infinite."""

    def tanh(self, x: Native) -> Native:
        """Return the hyperbolic tangent."""

    def sigmoid(self, x: Native) -> Native:
        """Return 1 / (1 + e to the -x); value and derivative overflow nowhere."""

    def relu(self, x: Native) -> Native:
        """Return x if it is positive, else 0; the derivative at 0 is 0, and NaN stays NaN."""

    def abs(self, x: Native) -> Native:
        """Return the absolute value; the derivative at 0 is 0."""

    def maximum(self, x: Native, y: Native) -> Native:
        """Return the larger of two arrays or numbers; on a tie the whole gradient goes to `x`."""

    def minimum(self, x: Native, y: Native) -> Native:
        """Return the smaller; see `maximum`."""

    def clip(self, x: Native, low: Native, high: Native) -> Native:
        """Return x limited to [low, high]; the derivative in x at either bound is 1.

        Args:
            x: An array of any shape.
            low: A number or an array.
            high: See `low`.
        """

    def where(self, condition: Native, x: Native, y: Native) -> Native:
        """Return x for entries that meet the condition, else y.

        Args:
            condition: A bool array.
            x: An array, or a number if `y` is an array; it takes the gradient of its entries.
            y: See `x`.
        """

    def stop_gradient(self, x: Native) -> Native:
        """Return x, held constant: its derivatives of every order are 0."""

    # The functions from here on have shapes of their own.

    def sum(self, x: Native, axis: int) -> Native:
        """Return the sum over one axis."""

    def matmul(self, x: Native, y: Native) -> Native:
        """Return the matrix product of x [B, I] and y [I, O], in full precision on every device."""

    def convolve(self, x: Native, kernel: Native, stride: int) -> Native:
        """Return [B, H', W', K], the products of a kernel with all windows of images.

        A result's pixel is the sum of its window times the kernel, which is not turned around; windows
        lie within the image, so that H' is (H - h) // stride + 1.

        Args:
            x: [B, H, W, C] images.
            kernel: [h, w, C, K].
            stride: Pixels from one window to the next, along both axes.
        """

    def flatten(self, x: Native) -> Native:
        """Return [B, D], the numbers of each row of x [B, ...] side by side, the last axis fastest."""

    def concatenate(self, arrays: tuple[Native, ...], axis: int) -> Native:
        """Join arrays along an existing axis."""

    def broadcast_to(self, x: Native, like: Native) -> Native:
        """Repeat x to the shape of `like`."""

    def log_softmax(self, x: Native, axis: int) -> Native:
        """Return x - logsumexp(x); entries of -inf stay -inf and take no gradient."""

    def take_last(self, x: Native, index: Native) -> Native:
        """Return [B], x[b, index[b]], of x [B, A] and integer index [B]."""

    def take_rows(self, x: Native, index: Native) -> Native:
        """Return [B, A], the rows x[index[b]] of x [S, A], for integer index [B] in [0, S)."""

    def first_largest(self, x: Native) -> Native:
        """Return [B, A] bool, the first of the largest entries of each row; it has no gradient."""

    def episode_sum(self, x: Native, episode: Native) -> Native:
        """Return, for each of B steps, the sum of x over its episode's steps.

        Args:
            x: [B] array.
            episode: [B] integer. The number of each step's episode.
        """

    def episode_mean(self, x: Native, episode: Native) -> Native:
        """Return, for each of B steps, the mean of x over its episode; see `episode_sum`."""

    def full_like(self, x: Native, value: float) -> Native:
        """Return an array of the shape and dtype of `x` that holds one value."""
