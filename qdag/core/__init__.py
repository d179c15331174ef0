"""Words of the domain on arrays: windows of sessions. No I/O belongs here."""
