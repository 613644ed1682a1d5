"""The stage contract: arguments, files, manifests, keys of code."""
