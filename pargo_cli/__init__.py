"""The command line before a command runs: arguments, their help and their mistakes, in a second and not in ten.

Nothing here imports torch, transformers or another package of this project; a command's own module is imported when it runs.
"""
