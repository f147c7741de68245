"""Measurements, run by `make bench`; nothing here is a test and no time fails a build."""
