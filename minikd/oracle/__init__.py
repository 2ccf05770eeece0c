"""The judge: gradients against differences of the function alone."""

from minikd.oracle.gradcheck import ArgumentReport, CheckReport, assert_vjp, check_vjp

__all__ = ["ArgumentReport", "CheckReport", "assert_vjp", "check_vjp"]
