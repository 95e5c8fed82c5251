"""Verification that no data can tell: one function per sender, behind the generic interface."""
