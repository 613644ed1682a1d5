"""Notes and text: reading, writing and measuring music. Nothing here imports torch, common or
study, or writes a file."""
