"""What wires the library to a run folder, one module a notebook: caching, resuming, manifests.

The notebooks call the library's parts themselves; a stage module only knows where their results lie (`paths`), which
of them are there already, and how a stage ends (its manifest). `runner` executes the notebooks, `__main__` is the
command line.
"""
