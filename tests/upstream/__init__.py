"""The libraries' own test suites, without and with us: nothing that they test may change.

``python -m tests.upstream.run`` gets the source of each library in the installed version, runs the tests of
its pools, connections and transactions twice, and compares the outcomes test by test. It needs the package
index, and takes some minutes a library; it is no part of the test suite.
"""
