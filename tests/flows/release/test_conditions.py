"""What a candidate is judged on, for every recipe of this repository."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.release.conditions import conditions_of
from relume.params import load_params
from relume.recipes.recipe import names, use

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", names(ROOT / "recipes"))
def test_the_limits_of_this_repository_judge_every_recipe(tmp_path, name):
    """Each recipe with the parameters of this checkout is one that the gate has limits for."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    use(name, "demo", tmp_path, ROOT / "recipes")
    params = load_params(tmp_path)
    conditions = list(conditions_of(params.evaluate))
    assert conditions
    assert all(np.isfinite(condition.limit(params.release)) for condition in conditions)
