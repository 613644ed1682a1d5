"""The page of a run, part4_outputs/report.html: `report.py` collects what it shows, `page.html` shows it."""
