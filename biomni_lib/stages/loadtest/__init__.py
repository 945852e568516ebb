"""Programs of the benchmark of rollouts, each run in a process of its own: a server and its clients.

Apart from `bench`, whose imports would weigh on what is measured here.
"""
