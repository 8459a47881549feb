import json
import re
import sys
from importlib.metadata import EntryPoint

import pytest

from pgcore.errors import DependencyError, PluginError, UnknownNameError
from pgcore.registry.entry_points import HOOKS, KINDS
from pgcore.registry.registry import Registry, default_backend_name, registry

GOOD = """
@hookimpl
def pgcore_backends():
    return [Provider("good", "good_impl:Backend", "a backend that works")]
"""


def add_good(site):
    """Install a plugin that works, to show that a bad neighbour does not harm it."""
    site.plugin("good_plugin", GOOD)
    site.module("good_impl", "class Backend: ...")
    site.distribution("good-dist", {"good": "good_plugin"}, version="2.5")


def add_backend(site, target, **fields):
    """Install a plugin with one backend named `it`."""
    arguments = "".join(f", {name}={value!r}" for name, value in fields.items())
    site.plugin(
        "it_plugin",
        f"@hookimpl\ndef pgcore_backends():\n    return [Provider('it', {target!r}, 'a backend'{arguments})]\n",
    )
    site.distribution("it-dist", {"it": "it_plugin"})


def assert_good_works(found):
    assert found.names("backends") == ["good"]
    assert found.load("backends", "good").__name__ == "Backend"


def test_a_provider_is_listed_with_its_distribution_and_loaded_once(site):
    add_good(site)
    found = site.registry()
    (registration,) = found.providers("backends")
    assert (registration.provider.name, registration.distribution, registration.version) == (
        "good",
        "good-dist",
        "2.5",
    )
    assert (registration.kind, registration.status, registration.reason) == (
        "backends",
        "usable",
        None,
    )
    assert "good_impl" not in sys.modules, "listing must not import the target"
    loaded = found.load("backends", "good")
    assert loaded is sys.modules["good_impl"].Backend
    del sys.modules["good_impl"]
    assert found.load("backends", "good") is loaded, "the second load is not an import"


def test_every_kind_has_a_hook_and_starts_empty(site):
    found = site.registry()
    training = {"before_training", "after_update", "after_training"}
    assert {f"pgcore_{name}" for name in {*KINDS, *training}} == set(HOOKS)
    assert not training & {*KINDS}
    assert all(found.providers(kind) == [] and found.names(kind) == [] for kind in KINDS)


def test_the_built_in_plugins_come_through_installed_entry_points():
    found = registry()
    assert {plugin.entry_point for plugin in found.plugins if plugin.distribution == "pgcore"} == {
        "core",
        "check",
        "derive",
        "exact",
        "new",
        "optimizers",
        "numpy",
        "torch",
        "tensorflow",
        "jax",
        "estimators",
        "train",
    }
    assert found.quarantined == ()
    assert "numpy" in found.names("backends")
    assert found is registry()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise RuntimeError('planted failure')", "planted failure"),
        ("import surely_not_installed", "surely_not_installed"),
        ("import sys\nsys.exit('planted exit')", "planted exit"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_plugin_that_fails_to_import_is_quarantined_with_its_traceback(site, source, expected):
    add_good(site)
    site.plugin("bad_plugin", source)
    site.distribution("bad-dist", {"bad": "bad_plugin"})
    found = site.registry()
    (quarantined,) = found.quarantined
    assert (quarantined.entry_point, quarantined.distribution, quarantined.version) == (
        "bad",
        "bad-dist",
        "1.0",
    )
    assert "Traceback (most recent call last)" in quarantined.traceback
    assert "bad_plugin" in quarantined.traceback
    assert expected in quarantined.reason
    assert_good_works(found)


def test_asking_for_a_quarantined_plugin_raises_with_the_traceback(site):
    site.plugin("bad_plugin", "raise RuntimeError('planted failure')")
    site.distribution("bad-dist", {"bad": "bad_plugin"})
    with pytest.raises(
        PluginError,
        match=r"backend 'bad': expected a working plugin.*bad-dist 1\.0.*planted failure",
    ) as caught:
        site.registry().load("backends", "bad")
    assert "\n" not in str(caught.value)
    assert "Traceback (most recent call last)" in "\n".join(caught.value.__notes__)


def test_an_unknown_name_gets_near_matches_all_names_and_the_quarantined_plugins(site):
    add_good(site)
    site.plugin("bad_plugin", "raise RuntimeError('planted failure')")
    site.distribution("bad-dist", {"bad": "bad_plugin"})
    with pytest.raises(UnknownNameError) as caught:
        site.registry().load("backends", "goood")
    message = str(caught.value)
    assert message.startswith(
        "backend: expected a known name, got 'goood'; did you mean 'good'? known: good;"
    )
    assert "bad (bad-dist)" in message


def test_an_unknown_name_without_quarantine_mentions_none(site):
    add_good(site)
    with pytest.raises(UnknownNameError, match=r"known: good$"):
        site.registry().find("backends", "xyzzy")


@pytest.mark.parametrize(
    "ask", [lambda found: found.names("backend"), lambda found: found.providers("backend")]
)
def test_an_unknown_kind_is_refused(site, ask):
    with pytest.raises(UnknownNameError, match="did you mean 'backends'"):
        ask(site.registry())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "@hookimpl\ndef pgcore_backend():\n    return []",
            "got 'pgcore_backend'; did you mean 'pgcore_backends'",
        ),
        ("@hookimpl\ndef pgcore_backends(surplus):\n    return []", "surplus"),
        ("def pgcore_backends():\n    return []", "expected the decorator @hookimpl"),
        ("@hookimpl\ndef pgcore_backends():\n    return 3", "expected a list of Provider, got int"),
        ("@hookimpl\ndef pgcore_backends():\n    return ['torch']", "expected a Provider, got str"),
        (
            "@hookimpl\ndef pgcore_backends():\n    return [Provider(3, 'a:b', '')]",
            "expected Provider.name to be a string, got 3",
        ),
        (
            "@hookimpl\ndef pgcore_backends():\n    return [Provider(None, 'a:b', '')]",
            "expected Provider.name to be a string, got None",
        ),
        (
            "@hookimpl\ndef pgcore_heads():\n    return [Provider('x', 'a:b', '', extra=3)]",
            "Provider.extra to be a string",
        ),
        (
            "@hookimpl\ndef pgcore_heads():\n    return [Provider('x', 'a:b', '', at_least='new')]",
            "Provider.at_least to be numbers and dots, got 'new'",
        ),
        (
            "@hookimpl\ndef pgcore_heads():\n    return [Provider('x', 'a:b', '', distributions='x')]",
            "Provider.distributions to be a tuple of strings, got 'x'",
        ),
        ("@hookimpl\ndef pgcore_backends():\n    raise OSError('planted')", "OSError: planted"),
    ],
)
def test_a_plugin_with_a_wrong_hook_is_refused_alone(site, source, expected):
    add_good(site)
    source = (
        f"@hookimpl\ndef pgcore_estimators():\n    return [Provider('hidden', 'a:b', '')]\n{source}"
    )
    site.plugin("bad_plugin", source)
    site.distribution("bad-dist", {"bad": "bad_plugin"})
    found = site.registry()
    assert [quarantined.entry_point for quarantined in found.quarantined] == ["bad"]
    assert expected in found.quarantined[0].reason
    assert found.names("estimators") == [], "nothing of a refused plugin is registered"
    assert_good_works(found)


def test_an_optional_hook_of_a_newer_pgcore_is_accepted(site):
    site.plugin(
        "new_plugin",
        f"@hookimpl(optionalhook=True)\ndef pgcore_of_the_future():\n    return []\n{GOOD}",
    )
    site.module("good_impl", "class Backend: ...")
    site.distribution("new-dist", {"new": "new_plugin"})
    assert_good_works(site.registry())


def test_two_providers_of_a_name_are_refused_naming_both_distributions(site):
    add_good(site)
    site.plugin(
        "rival_plugin",
        """
        @hookimpl
        def pgcore_backends():
            return [Provider("good", "rival:Backend", ""), Provider("other", "good_impl:Backend", "")]
        """,
    )
    site.distribution("rival-dist", {"rival": "rival_plugin"}, version="0.3")
    found = site.registry()
    assert [
        (row.distribution, row.status)
        for row in found.providers("backends")
        if row.provider.name == "good"
    ] == [
        ("good-dist", "duplicate"),
        ("rival-dist", "duplicate"),
    ]
    for ask in (found.find, found.load):
        with pytest.raises(
            PluginError,
            match=r"backend 'good': expected one provider, got (?=.*good-dist 2\.5)(?=.*rival-dist 0\.3)",
        ):
            ask("backends", "good")
    assert found.names("backends") == ["good", "other"]
    assert found.load("backends", "other").__name__ == "Backend"


def test_one_name_may_be_used_by_two_kinds(site):
    site.plugin(
        "both_plugin",
        """
        @hookimpl
        def pgcore_backends():
            return [Provider("it", "json:loads", "")]
        @hookimpl
        def pgcore_estimators():
            return [Provider("it", "json:dumps", "")]
        """,
    )
    site.distribution("both-dist", {"both": "both_plugin"})
    found = site.registry()
    assert found.load("backends", "it") is not found.load("estimators", "it")


def test_entry_points_of_one_name_from_two_distributions_are_both_loaded(site):
    for owner in ("first", "second"):
        site.plugin(
            f"{owner}_plugin",
            f"@hookimpl\ndef pgcore_backends():\n    return [Provider('{owner}', 'json:loads', '')]",
        )
        site.distribution(f"{owner}-dist", {"same": f"{owner}_plugin"})
    found = site.registry()
    assert found.names("backends") == ["first", "second"]
    assert found.quarantined == ()


def test_one_module_under_two_entry_points_is_one_provider(site):
    add_good(site)
    site.distribution("copy-dist", {"copy": "good_plugin", "again": "good_plugin"})
    found = site.registry()
    assert_good_works(found)
    assert [row.status for row in found.providers("backends")] == ["usable"]
    assert len(found.plugins) == 3
    assert found.quarantined == ()


def test_a_built_in_module_under_a_strangers_entry_point_stays_the_built_in_one(site):
    site.distribution("copy-dist", {"copy": "pgcore.plugin"})
    site.distribution("pgcore", {"core": "pgcore.plugin"})
    rows = site.registry().providers("heads")
    assert {row.distribution for row in rows} == {"pgcore"}
    assert {row.status for row in rows} == {"usable"}


@pytest.mark.parametrize("words", ["good", "other, backends:good", "good-dist:good other"])
def test_a_disabled_provider_is_listed_and_left_out(site, monkeypatch, words):
    monkeypatch.setenv("PGCORE_DISABLE", words)
    add_good(site)
    found = site.registry()
    (row,) = found.providers("backends")
    reason = f"expected it enabled, got PGCORE_DISABLE={words!r}; take it out of the variable"
    assert (row.status, row.reason) == ("disabled", reason)
    assert found.names("backends") == []
    for ask in (found.find, found.load):
        with pytest.raises(PluginError, match=re.escape(f"backend 'good': {reason}")):
            ask("backends", "good")


@pytest.mark.parametrize("words", ["", ",", "goo", "heads:good", "rival-dist:good"])
def test_a_word_of_another_thing_disables_nothing(site, monkeypatch, words):
    monkeypatch.setenv("PGCORE_DISABLE", words)
    add_good(site)
    assert_good_works(site.registry())


def test_a_disabled_duplicate_makes_way_for_the_other(site, monkeypatch):
    monkeypatch.setenv("PGCORE_DISABLE", "a-rival:good")
    add_good(site)
    site.plugin("rival_plugin", GOOD.replace("good_impl", "json"))
    site.distribution("a-rival", {"rival": "rival_plugin"})
    found = site.registry()
    assert [row.status for row in found.providers("backends")] == ["disabled", "usable"]
    assert_good_works(found)


def test_an_entry_point_without_distribution_is_read():
    found = Registry([EntryPoint("loose", "pgcore.plugin", "pgcore")])
    assert [(plugin.distribution, plugin.version) for plugin in found.plugins] == [
        ("unknown", "unknown")
    ]
    assert "categorical" in found.names("heads")


def test_a_missing_framework_is_answered_with_the_extra(site):
    add_backend(site, "it_impl:Backend", requires="absent_framework", extra="absent")
    site.module("it_impl", "import absent_framework")
    found = site.registry()
    (registration,) = found.providers("backends")
    assert registration.status == "missing"
    assert "pip install 'pgcore[absent]'" in registration.reason
    with pytest.raises(
        DependencyError,
        match=r"backend 'it': expected the package 'absent_framework'.*pip install 'pgcore\[absent\]'",
    ) as caught:
        found.load("backends", "it")
    assert caught.value.name == "absent_framework"


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ("0.9.1", "too old"),
        ("0.9.99+cpu", "too old"),
        ("0.10", "usable"),
        ("0.10.0rc1", "usable"),
        ("1", "usable"),
    ],
)
def test_a_framework_is_old_enough_or_says_what_it_must_be(site, found, status):
    add_backend(
        site,
        "it_impl:Backend",
        requires="frame",
        extra="frame",
        at_least="0.10",
        distributions=("frame-cpu",),
    )
    site.module("it_impl", "import frame\nclass Backend: pass")
    site.module("frame", "")
    site.distribution("frame-cpu", {}, version=found)
    registry = site.registry()
    (registration,) = registry.providers("backends")
    assert registration.status == status
    assert "frame" not in sys.modules
    if status == "usable":
        assert registry.load("backends", "it").__name__ == "Backend"
        return
    words = f"expected frame 0.10 or later, got {found}; pip install --upgrade 'pgcore[frame]'"
    assert registration.reason == words
    with pytest.raises(DependencyError, match=re.escape(f"backend 'it': {words}")):
        registry.load("backends", "it")


def test_a_framework_without_metadata_counts_as_new_enough(site):
    add_backend(site, "it_impl:Backend", requires="bare_frame", at_least="3.1")
    site.module("bare_frame", "")
    site.module("it_impl", "")
    assert site.registry().providers("backends")[0].status == "usable"
    site.distribution("bare_frame", {}, version="3.0.5")
    (registration,) = site.registry().providers("backends")
    assert (
        registration.reason
        == "expected bare_frame 3.1 or later, got 3.0.5; pip install --upgrade 'bare_frame>=3.1'"
    )


def test_a_missing_framework_without_extra_is_answered_with_its_name(site):
    add_backend(site, "it_impl:Backend", requires="absent.framework")
    site.module("it_impl", "import absent.framework")
    with pytest.raises(DependencyError, match=r"pip install absent\.framework$"):
        site.registry().load("backends", "it")


def test_a_missing_part_of_the_framework_counts_as_the_framework(site):
    add_backend(site, "it_impl:Backend", requires="json", extra="json")
    site.module("it_impl", "import json.absent_part")
    with pytest.raises(DependencyError, match=r"json\.absent_part"):
        site.registry().load("backends", "it")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("import absent_other", ModuleNotFoundError, "No module named 'absent_other'"),
        (
            "import absent_framework_tools",
            ModuleNotFoundError,
            "No module named 'absent_framework_tools'",
        ),
        ("from json import absent_name", ImportError, "cannot import name 'absent_name'"),
        ("raise OSError('libabsent.so')", OSError, "libabsent.so"),
        ("import json\njson.absent_attribute", AttributeError, "absent_attribute"),
    ],
)
def test_any_other_error_of_an_import_is_shown_unchanged(site, source, error, message):
    add_backend(site, "it_impl:Backend", requires="absent_framework", extra="absent")
    site.module("it_impl", source)
    found = site.registry()
    with pytest.raises(error, match=message) as caught:
        found.load("backends", "it")
    assert type(caught.value) is error
    with pytest.raises(error):
        found.load("backends", "it")


def test_a_missing_module_of_a_provider_that_requires_nothing_is_shown_unchanged(site):
    add_backend(site, "it_impl:Backend")
    site.module("it_impl", "import absent_other")
    with pytest.raises(ModuleNotFoundError) as caught:
        site.registry().load("backends", "it")
    assert type(caught.value) is ModuleNotFoundError


def test_a_target_whose_attribute_does_not_exist_is_the_plugins_error(site):
    add_backend(site, "it_impl:Absent")
    site.module("it_impl", "class Backend: ...")
    with pytest.raises(
        PluginError, match="backend 'it': expected 'it_impl:Absent' of it-dist to exist"
    ):
        site.registry().load("backends", "it")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("it_impl", "expected a target 'module:attribute', got 'it_impl'"),
        (":Backend", "expected a target"),
        ("absent_impl:Backend", "expected an importable module 'absent_impl'"),
        (".relative:Backend", "expected an importable module"),
    ],
)
def test_a_target_that_cannot_be_one_is_listed_as_broken_and_refused(site, target, reason):
    add_good(site)
    add_backend(site, target)
    found = site.registry()
    broken = {row.provider.name: row for row in found.providers("backends")}["it"]
    assert broken.status == "broken"
    assert reason in broken.reason
    with pytest.raises(PluginError, match="backend 'it': expected"):
        found.load("backends", "it")
    assert found.load("backends", "good").__name__ == "Backend"


def test_a_framework_made_by_hand_or_blocked_is_told_apart(site, monkeypatch):
    add_backend(site, "json:loads", requires="made_by_hand")
    found = site.registry()
    monkeypatch.setitem(sys.modules, "made_by_hand", type(sys)("made_by_hand"))
    assert found.find("backends", "it").status == "usable"
    monkeypatch.setitem(sys.modules, "made_by_hand", None)
    assert found.find("backends", "it").status == "missing"


def test_a_plugin_cannot_take_the_name_of_one_of_pgcores_own_commands(site):
    site.plugin(
        "list_plugin",
        "@hookimpl\ndef pgcore_commands():\n    return [Provider('list', 'json:loads', '')]",
    )
    site.distribution("list-dist", {"list": "list_plugin"})
    rows = site.registry().providers("commands")
    assert [(row.provider.name, row.status) for row in rows] == [("list-dist:list", "usable")]


def test_a_built_in_keeps_its_name_and_the_strangers_is_prefixed_by_its_distribution(site):
    site.plugin(
        "mine_plugin",
        """
        @hookimpl
        def pgcore_estimators():
            return [Provider('ppo', 'json:loads', ''), Provider('free', 'json:loads', '')]
        """,
    )
    site.distribution("mine-dist", {"mine": "mine_plugin"})
    names = registry().names("estimators")
    assert {"ppo", "mine-dist:ppo", "free"} <= set(names)
    assert registry().load("estimators", "mine-dist:ppo") is json.loads
    assert registry().load("estimators", "ppo").name == "ppo"  # pyright: ignore[reportAttributeAccessIssue]


def test_after_update_reaches_every_plugin(site):
    for owner in ("first", "second"):
        site.plugin(
            f"{owner}_plugin",
            "seen = []\n@hookimpl\ndef pgcore_after_update(metrics):\n    seen.append(metrics)",
        )
        site.distribution(f"{owner}-dist", {"logger": f"{owner}_plugin"})
    site.registry().hook.pgcore_after_update(folder=None, metrics={"loss": 1.5})
    assert sys.modules["first_plugin"].seen == sys.modules["second_plugin"].seen == [{"loss": 1.5}]


def test_the_default_backend_is_the_argument_then_the_environment_then_numpy(monkeypatch):
    monkeypatch.delenv("PGCORE_BACKEND", raising=False)
    assert default_backend_name() == "numpy"
    monkeypatch.setenv("PGCORE_BACKEND", "")
    assert default_backend_name() == "numpy"
    monkeypatch.setenv("PGCORE_BACKEND", "torch")
    assert default_backend_name() == "torch"
    assert default_backend_name("jax") == "jax"
