"""Matrices with given marginals that are as close as can be to a kernel: entropic transport, and what is made of it."""
