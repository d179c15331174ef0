"""Tables, versions, backups and digests; rows to panels and back."""
