"""Where bars come from: kinds, layouts of files, times of the network."""

import pytest

from qdag_tests.settings.settings_text import US

FILES = (
    US + "source={kind='files', path='x', profile='custom', columns={date='d', open='o', high='h', low='l', "
    "close='c', volume='v', date_format='%Y'}}"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (US + "source={kind='files', path='x', profile='custom'}", "custom"),
        (US + "source={path='x'}", "universes.us.source' needs a kind: one of .*'files'.*"),
        (US + "source={kind='nope'}", "universes.us.source: .*'nope'"),
        (US + "source={kind='files', path='http://h/x'}", "universes.us.source.path: must be a path of this machine"),
        (FILES.replace("'%Y'", "'%Y-%m'"), "columns.date_format: must tell year, month and day"),
        (FILES.replace("'%Y'", "'%'"), "columns.date_format: must tell year, month and day"),
        (US + "source={kind='files', path='x', name='DA-{date}'}", "name: must hold {instrument} once"),
        (US + "source={kind='files', path='x', name='{instrument}.csv'}", "name: must be without the suffix"),
        (US + "source={kind='yahoo', timeout=inf}\ninstruments=['A']", "universes.us.source.timeout: .* finite"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(refused, text, says):
    refused(text, says)
