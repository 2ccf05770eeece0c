"""The judge of other people's functions: which are right, and which mistake the others make.

Reading order: `child` (the process of a graded file: what it may do, what it says), `process` and `sandbox` (that
process as the judge sees it), `trials` (what a function is called with), `judge` (one answer), `diagnosis` (all of
them), `grader`, `report`; `hints` and `course` are for those who learn.
"""
