import numpy as np
import pytest

from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import (
    check_finite,
    check_length,
    numbers_at,
    owned_booleans,
    owned_numbers,
    rows_at,
)


def frozen(array):
    array.flags.writeable = False
    return array


def test_an_array_that_nobody_can_write_to_is_kept():
    array = frozen(np.ones(3))
    assert owned_numbers("x", array) is array
    view = array[1:]
    assert owned_numbers("x", view) is view


@pytest.mark.parametrize(
    "view", [lambda a: a, lambda a: frozen(a[:]), lambda a: frozen(frozen(a[:])[1:])]
)
def test_writing_to_the_callers_array_does_not_reach_the_copy(view):
    array = np.zeros(3)
    kept = owned_numbers("x", view(array))
    array[:] = 7
    assert not kept.any()
    assert not kept.flags.writeable


def test_bytes_in_foreign_order_are_turned_round():
    kept = owned_numbers("x", np.array([1.5, 2.5], ">f4"))
    assert (kept.dtype, kept.dtype.isnative, kept.tolist()) == (np.float32, True, [1.5, 2.5])


def test_numbers_wider_than_float64_are_rounded():
    kept = owned_numbers("x", np.array([np.longdouble(1) / 3, np.longdouble("1e400")]))
    assert (kept.dtype, kept.tolist(), kept.flags.writeable) == (np.float64, [1 / 3, np.inf], False)


def test_subclasses_become_plain_arrays():
    assert type(owned_numbers("x", frozen(np.array([1.0, 2.0]).view(np.recarray)))) is np.ndarray


MASKED = np.ma.masked_array([1.0, 2.0], mask=[False, True])


@pytest.mark.parametrize(
    "value", [MASKED, frozen(MASKED.copy()), [MASKED, MASKED], ([1.0, np.ma.masked],)]
)
def test_a_mask_is_not_dropped(value):
    with pytest.raises(
        BatchError,
        match=r"x: expected an array without a mask, got a masked array.*\.filled\(number\)",
    ):
        owned_numbers("x", value)


class Memory:
    """Another library's memory: an array interface to what it can still write to."""

    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, True)}
        self.array = array


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[1:], lambda a: a.reshape(3, 1)])
def test_a_read_only_view_of_anothers_memory_is_copied(view):
    array = np.zeros(3)
    seen = view(np.asarray(Memory(array)))
    assert not seen.flags.writeable
    kept = owned_numbers("x", seen)
    array[:] = 7
    assert not kept.any()


def test_a_view_of_bytes_is_kept():
    array = np.frombuffer(bytes(8))
    assert owned_numbers("x", array) is array


@pytest.mark.parametrize("value", [[True, False], [1, 0], [1.0, 0.0]])
def test_zeros_and_ones_are_booleans(value):
    kept = owned_booleans("x", value, 1)
    assert (kept.dtype, kept.tolist(), kept.flags.writeable) == (np.bool_, [True, False], False)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([[1], [1, 2]], ShapeError, "x: expected a rectangular array, got one that NumPy refuses"),
        (["a"], BatchError, "x: expected real numbers, got dtype <U1"),
        ([1j], BatchError, "x: expected real numbers, got dtype complex128"),
        ([10**30], BatchError, "x: expected real numbers, got dtype object"),
        (None, BatchError, "x: expected real numbers, got dtype object"),
        (
            1.0,
            ShapeError,
            r"x: expected a 1-dimensional or 2-dimensional array, got shape \[\]; flatten",
        ),
        (np.ones((1, 1, 1)), ShapeError, r"got shape \[1, 1, 1\]"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(value, error, words):
    with pytest.raises(error, match=words):
        owned_numbers("x", value, (1, 2))


def test_other_numbers_than_zero_and_one_are_no_booleans():
    with pytest.raises(
        BatchError, match="x: expected booleans, got dtype int64 with other values than 0 and 1"
    ):
        owned_booleans("x", np.array([0, 2]), 1)


def test_lengths_and_finiteness_name_what_is_wrong():
    check_length("x", np.ones(3), 3, "step")
    check_finite("x", np.ones(3))
    check_finite("x", np.arange(3))
    with pytest.raises(
        ShapeError, match=r"x: expected 4 rows, one for each episode, got shape \[3\]"
    ):
        check_length("x", np.ones(3), 4, "episode")
    with pytest.raises(BatchError, match="x: expected finite numbers, got infinity at step 1;"):
        check_finite("x", np.array([[0.0, 0.0], [0.0, -np.inf], [np.nan, 0.0]]))
    with pytest.raises(
        BatchError,
        match="got NaN at episode 1; find where it came from and drop or mend that episode",
    ):
        check_finite("x", np.array([0.0, np.nan]), "episode")


RECORDS = np.zeros(5, [("camera", "f4", (2, 2)), ("joints", "f8")])
RECORDS["joints"] = np.arange(5)
ROWS = [np.arange(5), np.arange(10.0).reshape(5, 2), np.arange(20).reshape(5, 2, 2), RECORDS]
INDICES = [
    np.array([3, 0, 3]),
    np.array([-1, -5], np.int32),
    np.array([[0, 1], [2, 3]]),
    np.array(2),
    np.array([], np.int64),
    np.array([], np.float64),
    np.array([True, False, True, False, False]),
    np.array([4, 1], np.uint64),
    np.array([1.0]),
    np.array([5]),
    np.array([-6]),
    np.array([True]),
    [0, 2],
    [True, False, False, False, True],
    slice(1, 4, 2),
    range(3),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
@pytest.mark.parametrize("array", ROWS, ids=lambda array: f"{array.dtype.kind}{array.ndim}")
def test_rows_are_those_of_numpys_index(array, index):
    try:
        expected = array[index]
    except IndexError:
        with pytest.raises(IndexError):
            rows_at(array, index)
        return
    found = rows_at(array, index)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    if not isinstance(index, slice):
        assert not np.shares_memory(found, array)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (slice(1, None, 2), [1, 3]),
        ([3, -4], [3, 0]),
        (np.array([True, False, True, False]), [0, 2]),
        (np.array([2, 2], np.uint8), [2, 2]),
    ],
)
def test_numbers_at_an_index_are_those_of_the_rows(index, expected):
    assert numbers_at(4, index).tolist() == expected
    with pytest.raises(IndexError):
        numbers_at(4, [4])


def test_numbers_at_an_index_are_not_written_through():
    with pytest.raises(ValueError, match="read-only"):
        numbers_at(4, slice(2))[0] = 7
    numbers_at(4, [0, 1])[0] = 7
    assert numbers_at(4, slice(2)).tolist() == [0, 1]
