"""The Qlib provider directory: calendars, instruments and one float32 file per instrument and field.

It is derived: it can be rebuilt from raw_ohlcv at any time. How it is written and read back belongs here; the values
come as panels (``qdag.store.bars``). Each module imports only those before it:

``layout``     how things are named in it, and what its files hold
``files``      bytes into files, and onto the disk
``reader``     calendar, instruments, pools and values read back
``listings``   the texts of instruments files and calendars
``scratch``    panels by sessions turned into values by instrument
``plan``       which sessions a write replaces, and what is there
``made``       the data files of a write, made before they are put in place
``writer``     a write
``verify``     every file compared with the table
"""
