"""The trainable networks, in torch: the one definition of every network of a model.

`looc train` trains them and training/export.py turns them into a codec model of integers, tables and graphs; nothing that
compresses or restores a picture imports them, but for `--effort`, which needs gradients.
"""
