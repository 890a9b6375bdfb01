"""docs/law.html: the paper's numbers and the measured ones as charts to explore, in one file that loads nothing.

`points.py` has the points with their names, `charts.py` what is drawn, `page.py` the page around it.
"""
