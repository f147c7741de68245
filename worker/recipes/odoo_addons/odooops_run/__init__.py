from . import results

results.report_to_file()
