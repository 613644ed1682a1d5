"""Reads parts of RESULTS.json and of records by their keys."""


def value_at(content, path):
    """Returns what stands at a path such as "best.size" in nested dicts; None if nothing does."""
    for part in path.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def pick(row, keys):
    """Returns these keys of a dict; None where it has not."""
    return {key: row.get(key) for key in keys}


def without_ladder(rows):
    """Returns the rows without those of the model ladder."""
    return [row for row in rows if row.get("suite") != "ladder"]


def is_ngram(name):
    """Returns True for the name of an n-gram with a context."""
    return name.endswith("gram") and name != "unigram"
