"""Run and sweep folders in; a tidy CSV, tables, figures and one page out."""
