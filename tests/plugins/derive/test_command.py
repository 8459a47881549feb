import json

import pytest

from pgcore.registry.registry import forget_registry, registry

ESTIMATOR = """
from dataclasses import dataclass
import numpy as np
import pgcore as pg

@dataclass(frozen=True)
class Mine(pg.Estimator):
    power: float = 1.0
    name = "mine"

    @property
    def claims(self):
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"advantage": batch.rewards}

    def surrogate(self, xp, *, log_prob, advantage):
        return -self.power * xp.exp(log_prob) * advantage

class Written(Mine):
    name = "written"

    def cotangents(self, *, log_prob, advantage):
        return {"log_prob": -self.power * np.exp(log_prob) * advantage}

class Sign(Written):
    name = "sign"

    def cotangents(self, *, log_prob, advantage):
        return {"log_prob": self.power * np.exp(log_prob) * advantage}

class Refusing(Mine):
    name = "refusing"

    def surrogate(self, xp, *, log_prob, advantage):
        return -np.exp(log_prob) * advantage
"""


@pytest.fixture
def mine(site):
    """A distribution with an estimator that writes no cotangents, and one that cannot be derived."""
    site.plugin(
        "mine_plugin",
        "@hookimpl\ndef pgcore_estimators():\n"
        "    names = ('Mine', 'Refusing', 'Written', 'Sign')\n"
        "    return [Provider(name.lower(), f'mine_estimators:{name}', '') for name in names]",
    )
    site.module("mine_estimators", ESTIMATOR)
    site.distribution("mine-dist", {"mine": "mine_plugin"})
    return site


def test_text_has_the_surrogate_and_each_derivative(pgcore):
    status, out, err = pgcore("derive", "ppo", "--set", "clip=0.25", "--set", "objective=clip")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "surrogate =",
        "    0.25*(value - return_)**2",
        "    plus",
        "    -1.25*advantage                          if advantage >= 0 and log_prob - old_log_prob > 0.223144",
        "    -0.75*advantage                          if advantage < 0 and log_prob - old_log_prob < -0.287682",
        "    -advantage*exp(log_prob - old_log_prob)  otherwise",
        "",
        "d surrogate / d log_prob =",
        "    0                                        if advantage >= 0 and log_prob - old_log_prob > 0.223144",
        "    0                                        if advantage < 0 and log_prob - old_log_prob < -0.287682",
        "    -advantage*exp(log_prob - old_log_prob)  otherwise",
        "",
        "d surrogate / d value =",
        "    0.5*(value - return_)",
        "",
    ]


def test_latex_is_one_display(pgcore):
    status, out, _ = pgcore(
        "derive", "actor_critic", "--latex", "--set", "entropy_coefficient=0.01"
    )
    assert status == 0
    assert out == (
        "% actor_critic; \\usepackage{amsmath}\n"
        "\\begin{align*}\n"
        "  \\ell &= 0.25 \\left(V - R\\right)^{2} - A \\log \\pi - 0.01 H \\\\\n"
        "  \\frac{\\partial \\ell}{\\partial \\log \\pi} &= - A \\\\\n"
        "  \\frac{\\partial \\ell}{\\partial V} &= 0.5 \\left(V - R\\right) \\\\\n"
        "  \\frac{\\partial \\ell}{\\partial H} &= -0.01\n"
        "\\end{align*}\n"
    )


def test_json_has_text_and_latex(pgcore):
    status, out, _ = pgcore("derive", "reinforce", "--json")
    assert status == 0
    assert json.loads(out) == {
        "estimator": "reinforce",
        "surrogate": {"text": "-advantage*log_prob", "latex": r"- A \log \pi"},
        "cotangents": {"log_prob": {"text": "-advantage", "latex": "- A", "symbol": r"\log \pi"}},
    }


@pytest.mark.parametrize("name", registry().names("estimators"))
@pytest.mark.parametrize("form", [[], ["--latex"], ["--json"]])
def test_every_registered_estimator_is_derived(pgcore, name, form):
    status, out, _ = pgcore("derive", name, *form)
    assert status == 0
    assert {"": "surrogate =", "--latex": r"\begin{align*}", "--json": '"cotangents"'}[
        "".join(form)
    ] in out


def test_a_strangers_estimator_is_derived(pgcore, mine):
    status, out, _ = pgcore("derive", "mine", "--set", "power=3")
    assert status == 0
    assert "d surrogate / d log_prob =\n    -3*advantage*exp(log_prob)\n" in out


def test_what_cannot_be_derived_is_one_line(pgcore, mine):
    status, out, err = pgcore("derive", "refusing")
    assert (status, out) == (2, "")
    assert err == (
        "error: refusing.surrogate: expected operations that can be differentiated symbolically, got np.exp; "
        "use xp.exp if there is one, or write `cotangents`\n"
    )


def test_none_is_written_none(pgcore):
    assert pgcore("derive", "ppo", "--set", "value_clip=none")[:2] == pgcore("derive", "ppo")[:2]


def test_an_estimator_that_weighs_scores_is_noted(pgcore):
    status, out, err = pgcore("derive", "reinforce", "--set", "baseline=optimal_per_component")
    assert (status, out.splitlines()[1]) == (0, "    -advantage*log_prob")
    assert (
        err
        == "note: reinforce weighs scores under these hyper-parameters; its gradient is the result of `combine`\n"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pppo"], "estimator: expected a known name, got 'pppo'; did you mean 'ppo'"),
        (
            ["ppo", "--set", "clip"],
            "--set: expected field=value, got 'clip'; write it as in --set clip=0.1",
        ),
        (
            ["ppo", "--set", "=1"],
            "--set: expected field=value, got '=1'; write it as in --set clip=0.1",
        ),
        (
            ["ppo", "--set", "clop=1"],
            "ppo hyper-parameter: expected a known name, got 'clop'; did you mean 'clip'",
        ),
        (["ppo", "--set", "clip=-1"], "PPO.clip: expected a number above 0 or math.inf, got -1;"),
        (["ppo", "--latex", "--json"], "expected --latex or --json, got both; choose one"),
    ],
)
def test_a_wrong_word_is_answered(pgcore, words, told):
    status, out, err = pgcore("derive", *words)
    assert (status, out) == (2, "")
    assert told in err


def test_written_cotangents_are_compared_with_the_derived_ones(pgcore, mine):
    forget_registry()
    assert pgcore("derive", "written")[::2] == (0, "")
    status, out, err = pgcore("derive", "sign")
    assert status == 1
    assert "d surrogate / d log_prob" in out
    words = "error: sign.cotangents['log_prob']: expected the derivative of the surrogate, got one "
    assert err.startswith(words)
