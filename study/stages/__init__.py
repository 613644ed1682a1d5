"""The stage contract: arguments, files, manifests, what makes a stage run again."""
