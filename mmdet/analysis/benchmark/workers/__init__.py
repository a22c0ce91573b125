"""Scripts that do one piece of work over and over, each in an interpreter of its own, which need not have this package.

Each is given the number of a pipe for its answers, its settings as JSON, and on standard input lines: 'time' does the
work once and answers with its seconds, 'peak' with the most memory that it holds.
"""
