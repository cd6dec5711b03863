"""Environments of other packages: a folder for each family, with the names as data and the adapter beside them.

A package is imported when one of its environments is asked for; its names are known before, from
``<family>/environments.json``.
"""
