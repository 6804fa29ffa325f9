"""The labelled corpus: small ordinary application modules, and the truth about each of their scenarios.

`scenarios/` has pairs of files: ``exceptions.py`` is application code with one function a scenario, and
``exceptions.toml`` says of each what must be reported, or that nothing may be. ``python -m tests.corpus``
plays every scenario in a process of its own under the real launcher, and compares.
"""
