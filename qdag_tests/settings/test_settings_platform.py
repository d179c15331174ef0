"""The machine and the servers."""

import pytest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[automation]\nmaintenance_cron = '0 3 31 2 *'", "automation.maintenance_cron: .* never comes"),
        ("[automation]\nmaintenance_cron = 'weekly'", "automation.maintenance_cron: 'weekly' has 1 fields, not 5"),
        ("[retention]\ndays = 1e300", "retention.days: .* less than or equal to 36525"),
        ("[engine]\nthreads = 0", "engine.threads: .* greater than or equal to 1"),
        ("[dagster]\nallowed_hosts = ['a b']", r"dagster.allowed_hosts\[0\]: .*pattern"),
    ],
)
def test_what_does_not_fit_is_refused(refused, text, says):
    refused(text, says)
