"""Beginnings of settings files that several tests write."""

US = "[universes.us]\ncalendar='XNYS'\nstart=2020-01-01\n"
SAMPLE = "source={kind='sample'}\n"
