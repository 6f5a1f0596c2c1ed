"""Reports: tables and pictures of results; nothing here trains."""
