"""Mutation testing of the kernels: small faults put into a copy of the package, one by one, and the tests that must see them.

``python -m tests.mutation`` (``make mutate``) draws a fixed sample of the mutants of every target, runs the target's tests on
each, prints those that survive, and writes the score. The checkout is never touched.
"""
