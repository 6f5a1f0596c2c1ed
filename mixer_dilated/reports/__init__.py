"""Reports, made from result files: plots, the HTML page, terminal tables; nothing here trains."""
