"""What is known about the numbers of the paper: claims and their formulas, errata, search, citation."""
