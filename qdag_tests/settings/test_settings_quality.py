"""Limits of the checks: of the region, the general ones over them, a universe's own over both."""

from qdag_tests.settings.settings_text import SAMPLE, US


def test_a_universe_has_the_limits_of_its_region_unless_others_are_set(load):
    text = US.replace("XNYS", "XSHG") + SAMPLE + "quality={spike=0.5}\n[quality]\njump=0.6\n"
    limits = load(text).quality_for("us")
    assert [(one.prefix, one.limit) for one in limits.price_limits] == [
        ("", 0.1),
        ("SZ30", 0.2),
        ("SH68", 0.2),
        ("BJ", 0.3),
    ]
    assert (limits.jump, limits.spike) == (0.6, 0.5)
    assert load(US + SAMPLE).quality_for("us").price_limits == ()
    own = load(text + "price_limits=[{limit=0.05}]\n").quality_for("us")
    assert [one.limit for one in own.price_limits] == [0.05]
