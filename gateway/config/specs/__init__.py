"""Every key of the configuration, as data: its kind, its default, its meaning.

Reading the file, ``config show``, ``config schema`` and the tables of docs/configuration.md all
follow these sections, so they cannot disagree.
"""
