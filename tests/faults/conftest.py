"""Fixtures of the fault tests; see fault_roots.py."""

from fault_roots import before, root_for  # noqa: F401
