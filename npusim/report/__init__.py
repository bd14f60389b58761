"""What a person reads: terminal table, workbook, page and data files of a K-Perf run."""
