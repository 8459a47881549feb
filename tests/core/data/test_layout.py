import copy
import pickle

import numpy as np
import pytest

from pgcore.data.layout import Layout
from pgcore.errors import ShapeError


@pytest.fixture
def layout():
    """Five steps in [2, 4], the second row's first."""
    return Layout((2, 4), np.array([4, 6, 7, 0, 1]))


def test_the_way_there_and_back(layout):
    array = np.arange(8.0).reshape(2, 4)
    assert layout.flat(array).tolist() == [4, 6, 7, 0, 1]
    assert layout.spread(layout.flat(array), -1).tolist() == [[0, 1, -1, -1], [4, -1, 6, 7]]
    assert layout.steps.tolist() == [[True, True, False, False], [True, False, True, True]]


def test_further_axes_stay(layout):
    rows = np.arange(16).reshape(2, 4, 2)
    flat = layout.flat(rows)
    assert flat.tolist() == [[8, 9], [12, 13], [14, 15], [0, 1], [2, 3]]
    back = layout.spread(flat)
    assert (back.shape, back.dtype) == ((2, 4, 2), rows.dtype)
    np.testing.assert_array_equal(back, np.where(layout.steps[..., None], rows, 0))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_layout_is_frozen_and_so_is_its_copy(layout, clone):
    for each in (layout, clone(layout)):
        assert each.shape == (2, 4)
        for array in (each.positions, each.steps):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
        with pytest.raises(AttributeError):
            each.shape = (8,)


def test_arrays_of_another_shape_are_refused(layout):
    with pytest.raises(
        ShapeError,
        match=r"Layout\.flat: expected an array of shape \[2, 4, '\.\.\.'\], got \[4, 2\]; pass one",
    ):
        layout.flat(np.zeros((4, 2)))
    for flat in (np.zeros(8), np.float64(1)):
        with pytest.raises(
            ShapeError,
            match=r"Layout\.spread: expected 5 rows, one for each step, got shape \[8?\]",
        ):
            layout.spread(flat)
