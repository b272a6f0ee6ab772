"""The checks. Each is a function of a `Context`; it raises when it sees something wrong.

A check may return a short remark, such as a time it measured, which is printed beside its verdict.
"""
