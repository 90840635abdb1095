"""Tests of Antiphon; `tests.services` are those of the package `services`, and so on."""
